//! `bso demo`: SafeWorld from random weights to a table and a report.

use crate::exit::Outcome;
use crate::signal;
use crate::terminal::Terminal;
use bso_recipes::RecipeError;
use bso_recipes::demo::{DemoTask, Estimate, Line, Method, Sizes, demo};
use clap::{Args, ValueEnum};
use comfy_table::{Cell, CellAlignment, Table, presets};
use std::io::Write;
use std::path::PathBuf;

/// What `bso demo` takes.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Where data, models and the report go
    #[arg(long = "output_dir", alias = "output-dir", value_name = "DIR", default_value = "runs/demo")]
    output_dir: PathBuf,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds to run and pool; each takes as long as one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// What is compared: six methods, or every comparator, those of several stages and PPO-Lagrangian included
    #[arg(long, value_enum, default_value_t = Suite::Quick)]
    suite: Suite,
    /// Compare these methods instead: a YAML list of `name`, `about` and `settings` (lines of a config)
    #[arg(long, value_name = "FILE", conflicts_with = "suite")]
    methods: Option<PathBuf>,
    /// Preference pairs to train on
    #[arg(long, default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(40..=1_000_000))]
    pairs: u32,
    /// Share of safety labels that are flipped, 0 to 0.5
    #[arg(long = "safety_noise", alias = "safety-noise", default_value_t = 0.0)]
    safety_noise: f64,
    /// Share of preferences that are flipped, 0 to 0.5
    #[arg(long = "preference_noise", alias = "preference-noise", default_value_t = 0.0)]
    preference_noise: f64,
    /// Threads; default: one per core
    #[arg(long = "num_threads", alias = "num-threads")]
    num_threads: Option<usize>,
    /// Print the table as JSON lines
    #[arg(long)]
    json: bool,
}

/// A list of methods that the program brings along.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Suite {
    /// Six methods of one stage: seconds each
    Quick,
    /// Every comparator: minutes a seed
    Full,
}

/// Runs the demo and prints its table.
pub fn run(args: &DemoArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let task = DemoTask {
        output_dir: args.output_dir.clone(),
        seed: args.seed,
        seeds: args.seeds,
        methods: match (&args.methods, args.suite) {
            (Some(file), _) => Method::from_file(file)?,
            (None, Suite::Quick) => Method::quick()?,
            (None, Suite::Full) => Method::full()?,
        },
        sizes: Sizes {
            pairs: args.pairs as usize,
            safety_noise: args.safety_noise,
            preference_noise: args.preference_noise,
            ..Sizes::default()
        },
        num_threads: args.num_threads,
    };
    let interrupt = signal::on_ctrl_c()?;
    let outcome = match demo(&task, &interrupt, terminal) {
        Err(RecipeError::Interrupted) => return Ok(Outcome::Interrupted),
        outcome => outcome?,
    };
    let mut out = anstream::stdout().lock();
    if args.json {
        for line in &outcome.lines {
            writeln!(out, "{}", serde_json::to_string(line)?)?;
        }
    } else {
        writeln!(out, "{}", table(&outcome.lines))?;
        writeln!(
            out,
            "held-out prompts; 95 % intervals in brackets; safe: answers to unsafe prompts; over-refusal: answers to harmless ones"
        )?;
        writeln!(
            out,
            "TV and KL: exact distance from the optimal safe policy, and KL from the reference in nats; forwards: sequences computed by \
             any model"
        )?;
    }
    writeln!(out, "report   {}", outcome.report.display())?;
    Ok(Outcome::Done)
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "method",
        "reward",
        "safe",
        "over-refusal",
        "TV to optimum",
        "KL from ref.",
        "train s",
        "forwards",
    ]);
    for line in lines {
        let s = &line.scores;
        let percent = |e: Option<Estimate>| figure(e, 100.0, 1);
        let plain = |e: Option<Estimate>| figure(e, 1.0, 2);
        table.add_row(vec![
            Cell::new(&line.name),
            right(plain(s.reward)),
            right(percent(s.safe_rate)),
            right(percent(s.over_refusal)),
            right(plain(s.tv_to_optimum)),
            right(plain(s.kl_from_reference)),
            right(line.seconds.map_or_else(String::new, |s| format!("{s:.0}"))),
            right(line.forwards.map_or_else(String::new, |n| format!("{n:.0}"))),
        ]);
    }
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// "3.91 [3.80, 4.02]", percentages without their sign.
fn figure(estimate: Option<Estimate>, factor: f64, digits: usize) -> String {
    let Some(estimate) = estimate else { return "-".to_owned() };
    let mean = format!("{:.digits$}", estimate.mean * factor);
    match estimate.interval() {
        Some((low, high)) => format!("{mean} [{:.digits$}, {:.digits$}]", low * factor, high * factor),
        None => mean,
    }
}
