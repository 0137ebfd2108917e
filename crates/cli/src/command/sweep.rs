//! `bso sweep SWEEP.yaml [--key value ...]`: only prints; what is run is `bso_recipes::sweep`'s.

use crate::exit::Outcome;
use crate::signal;
use crate::terminal::{Terminal, clean};
use anyhow::Context;
use bso_durable::{Event, Observer};
use bso_recipes::RecipeError;
use bso_recipes::config::parse_overrides;
use bso_recipes::sweep::{EXAMPLE, Frontier, Measured, Schedule, Sweep, SweepConfig};
use clap::Args;
use comfy_table::{CellAlignment, Table, TableComponent, presets};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `bso sweep` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "Keys of the sweep: base, methods, grid, seeds, eval, safety_floor, jobs, output_dir; any other is a key of a training\n\
                  configuration and holds for every run. All can be given after the file as --key value (--eval.KEY for the\n\
                  evaluation's): they win. `bso sweep --example` prints a commented configuration; docs/sweep.md has a whole example.\n\
                  Runs that have ended are not done again, stopped ones go on from their checkpoints: the same command continues.\n\
                  Exits with 1 where a run failed."
)]
pub struct SweepArgs {
    /// The configuration; `-` reads it from standard input
    #[arg(value_name = "SWEEP.yaml", required_unless_present = "example")]
    config: Option<PathBuf>,
    /// Print a commented configuration and end
    #[arg(long)]
    example: bool,
    /// Check everything, list the runs with their memory and time, and end; trains nothing
    #[arg(long = "dry_run", alias = "dry-run")]
    dry_run: bool,
    /// Print frontier.json (with --dry_run: runs and schedule) instead of tables
    #[arg(long)]
    json: bool,
    /// Settings that win over the file
    #[arg(value_name = "--key value", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) overrides: Vec<String>,
}

/// Runs the grid and prints its frontier.
pub fn run(args: &SweepArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let mut out = anstream::stdout();
    let Some(file) = args.config.as_ref().filter(|_| !args.example) else {
        out.write_all(EXAMPLE.as_bytes())?;
        return Ok(Outcome::Done);
    };
    // After the file everything is taken as a setting.
    let (own, settings): (Vec<String>, Vec<String>) = args
        .overrides
        .iter()
        .cloned()
        .partition(|word| ["--json", "--dry_run", "--dry-run"].contains(&word.as_str()));
    let json = args.json || own.iter().any(|word| word == "--json");
    let dry_run = args.dry_run || own.iter().any(|word| word != "--json");
    let sweep = Sweep::prepare(read(file, &settings)?, terminal)?;
    for notice in &sweep.notices {
        terminal.event(Event::Note(format!("note        {notice}")));
    }
    if dry_run {
        let schedule = sweep.schedule()?;
        if json {
            let names: Vec<&str> = sweep.to_do().iter().map(|run| run.name.as_str()).collect();
            serde_json::to_writer(&mut out, &serde_json::json!({"runs": names, "schedule": schedule}))?;
            writeln!(out)?;
        } else {
            list(&sweep, &schedule, &mut out)?;
        }
        return Ok(Outcome::Done);
    }
    let report = sweep.report();
    let interrupt = signal::on_ctrl_c()?;
    let found = match sweep.run(&interrupt, terminal) {
        Err(RecipeError::Interrupted) => {
            terminal.event(Event::Note(
                "stopped     runs that ended are kept, the others have checkpoints where their save_strategy writes them; the \
                 same command goes on"
                    .to_owned(),
            ));
            return Ok(Outcome::Interrupted);
        }
        found => found?,
    };
    if json {
        serde_json::to_writer(&mut out, &found)?;
        writeln!(out)?;
    } else {
        print(&found, &report, &mut out)?;
    }
    Ok(Outcome::passed(found.failed.is_empty()))
}

fn read(file: &Path, settings: &[String]) -> anyhow::Result<SweepConfig> {
    let overrides = parse_overrides(settings)?;
    let here = std::env::current_dir()?;
    let (text, name, folder) = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        (text, "standard input".to_owned(), here)
    } else {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        (text, file.display().to_string(), here.join(file.parent().unwrap_or(Path::new(""))))
    };
    Ok(SweepConfig::read(&text, (&name, &folder), &overrides)?)
}

fn plain_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_style(TableComponent::HeaderLines, '─');
    table.set_header(header.map(clean));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn list(sweep: &Sweep, schedule: &Schedule, out: &mut dyn Write) -> anyhow::Result<()> {
    const MIB: f64 = (1 << 20) as f64;
    let to_do = sweep.to_do();
    let mut table = plain_table(["run", "steps", "peak MiB", "time"]);
    for run in sweep.runs() {
        let cells = match to_do.iter().position(|other| other.name == run.name) {
            None => ["".to_owned(), "".to_owned(), "has ended".to_owned()],
            Some(index) => match schedule.costs[index] {
                None => ["".to_owned(), "".to_owned(), "not known before".to_owned()],
                Some(cost) => [
                    cost.steps.to_string(),
                    format!("{:.0}", cost.peak_bytes as f64 / MIB),
                    duration(cost.seconds),
                ],
            },
        };
        table.add_row(std::iter::once(clean(&run.name)).chain(cells));
    }
    writeln!(out, "{table}\n")?;
    let free = schedule.available_bytes.map(|free| format!(", {:.0} MiB are free", free as f64 / MIB));
    writeln!(
        out,
        "{} of {} runs to do, {} at a time{}; then all are evaluated",
        to_do.len(),
        sweep.runs().len(),
        schedule.jobs,
        free.unwrap_or_default()
    )?;
    if let Some(seconds) = schedule.seconds() {
        writeln!(out, "training takes about {} in all", duration(seconds))?;
    }
    Ok(())
}

fn duration(seconds: f64) -> String {
    crate::terminal::seconds(Duration::from_secs_f64(seconds.max(0.0)))
}

fn print(found: &Frontier, report: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let (helpfulness, safety) = (&found.axes.0, &found.axes.1);
    let mut table = plain_table(["point", "", helpfulness, safety, "over-refusal", "KL", "train s"]);
    let figures = |m: &Measured| {
        let (h, s) = (&m.helpfulness, &m.safety);
        [
            figure([h.mean, h.low, h.high], 3),
            figure([s.mean, s.low, s.high].map(|share| 100.0 * share), 1),
            m.over_refusal.as_ref().map_or("-".to_owned(), |e| format!("{:.1}", 100.0 * e.mean)),
            m.kl.as_ref().map_or("-".to_owned(), |e| format!("{:.2}", e.mean)),
        ]
    };
    if let Some(reference) = &found.reference {
        let cells = ["reference".to_owned(), String::new()].into_iter().chain(figures(reference));
        table.add_row(cells.chain([String::new()]));
    }
    for point in &found.points {
        let mark = if point.non_dominated { "*" } else { "" };
        let seconds = point.seconds.map_or(String::new(), |s| format!("{s:.1}"));
        let cells = [clean(&point.name), mark.to_owned()].into_iter().chain(figures(&point.measured));
        table.add_row(cells.chain([seconds]));
    }
    writeln!(out, "{table}\n")?;
    let floor = format!("best at {safety} >= {:.3}", found.safety_floor);
    let mut table = plain_table(["method", "points", "hypervolume", &floor, "interval above it"]);
    let named = |name: &Option<String>| {
        let Some(name) = name else { return "none".to_owned() };
        let point = found.points.iter().find(|point| point.name == *name);
        let figures = point.map(|p| {
            let Measured { helpfulness, safety, .. } = &p.measured;
            format!(" ({:.3}, {:.1} %)", helpfulness.mean, 100.0 * safety.mean)
        });
        clean(name) + &figures.unwrap_or_default()
    };
    for family in &found.methods {
        table.add_row([
            clean(&family.name),
            family.points.to_string(),
            format!("{:.3}", family.hypervolume),
            named(&family.at_floor),
            named(&family.surely_at_floor),
        ]);
    }
    let all = ["all", "", ""].map(str::to_owned).into_iter();
    table.add_row(all.chain([named(&found.at_floor), named(&found.surely_at_floor)]));
    writeln!(out, "{table}\n")?;
    writeln!(
        out,
        "*        no other point is better in one and as good in the other; means with 95 % intervals over prompts, seeds pooled;\n         \
         hypervolume from {helpfulness} {:.3} and {safety} 0 on",
        found.least_helpfulness
    )?;
    for (run, reason) in &found.failed {
        writeln!(out, "failed   {}: {}", clean(run), clean(reason))?;
    }
    writeln!(out, "report   {}", clean(&report.display().to_string()))?;
    Ok(())
}

/// "3.91 [3.80, 4.02]"
fn figure([mean, low, high]: [f64; 3], digits: usize) -> String {
    format!("{mean:.digits$} [{low:.digits$}, {high:.digits$}]")
}
