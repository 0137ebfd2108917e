//! `bso plan CONFIG.yaml [--key value ...]`: only prints; what is planned is `bso_recipes::plan`'s.

use super::train::resolve;
use crate::terminal::{Terminal, clean};
use anyhow::Context;
use bso_durable::{Event, Observer};
use bso_recipes::plan::{Phase, Plan, plan};
use clap::Args;
use comfy_table::{CellAlignment, Table, TableComponent, presets};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

/// What `bso plan` takes.
#[derive(Args, Debug)]
#[command(after_help = "Any config key can be given after the file as --key value: it wins over the file.\n\
                  Exits with 1 where the run does not fit into memory.")]
pub struct PlanArgs {
    /// The configuration; `-` reads it from standard input
    #[arg(value_name = "CONFIG.yaml")]
    config: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Plan for a machine with so much free memory, GiB, instead of this one
    #[arg(long = "memory_gib", alias = "memory-gib", value_name = "GIB", value_parser = gibibytes)]
    memory: Option<u64>,
    /// Settings that win over the file
    #[arg(value_name = "--key value", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) overrides: Vec<String>,
}

fn gibibytes(text: &str) -> Result<u64, String> {
    let number = text.parse::<f64>().ok().filter(|gib| gib.is_finite() && *gib > 0.0 && *gib < 1e9);
    number.map(|gib| (gib * GIB) as u64).ok_or_else(|| format!("{text:?} is not a positive number of GiB"))
}

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

/// Plans, prints, and says whether the run fits.
pub fn run(args: &PlanArgs, terminal: &Terminal) -> anyhow::Result<bool> {
    let own = take_own_flags(&args.overrides)?;
    let resolved = resolve(&args.config, &own.overrides)?;
    for notice in &resolved.notices {
        terminal.event(Event::Note(format!("note        {notice}")));
    }
    let plan = plan(&resolved.config, own.memory.or(args.memory), terminal)?;
    let text = if args.json || own.json {
        serde_json::to_string(&plan).context("the plan cannot be written as JSON")? + "\n"
    } else {
        text(&plan)?
    };
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(plan.fits != Some(false))
}

/// The command's own flags among what stands after the file, and the settings that are left.
#[derive(Default)]
struct Trailing {
    json: bool,
    memory: Option<u64>,
    overrides: Vec<String>,
}

/// After the file everything is taken as settings: the command's own flags are picked out.
fn take_own_flags(given: &[String]) -> anyhow::Result<Trailing> {
    let (mut taken, mut arguments) = (Trailing::default(), given.iter());
    while let Some(argument) = arguments.next() {
        let name = argument.replace('-', "_");
        match name.split_once('=') {
            _ if name == "__json" => taken.json = true,
            _ if name == "__memory_gib" => {
                let value = arguments.next().context("--memory_gib needs a number")?;
                taken.memory = Some(gibibytes(value).map_err(anyhow::Error::msg)?);
            }
            Some(("__memory_gib", value)) => {
                taken.memory = Some(gibibytes(value).map_err(anyhow::Error::msg)?);
            }
            _ => taken.overrides.push(argument.clone()),
        }
    }
    Ok(taken)
}

fn text(plan: &Plan) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(out, "objective   {}", clean(&plan.objective))?;
    if let Some(reference) = &plan.reference {
        writeln!(out, "reference   {}", clean(reference))?;
    }
    match &plan.adapter {
        None => {
            writeln!(
                out,
                "trained     all {} parameters, products in {}",
                plan.trainable_parameters, plan.dtype
            )?;
        }
        Some(adapter) => {
            let (adapter, count, dtype) = (clean(adapter), plan.trainable_parameters, &plan.dtype);
            writeln!(out, "trained     {count} parameters of an adapter ({adapter}), products in {dtype}")?;
        }
    }
    writeln!(out, "device      {}", clean(&plan.device))?;
    if let Some(kind) = &plan.quantisation {
        writeln!(out, "base        matrices of linear layers in {kind}")?;
    }
    for (label, count, note) in &plan.ledger {
        writeln!(out, "{:<12}{count:>9}  {}", clean(label), clean(note))?;
    }
    let (train, held_out) = plan.examples;
    writeln!(out, "examples    {train} to train on, {held_out} held out")?;
    let (batch, accumulation) = plan.batch;
    writeln!(out, "steps       {} of {batch} x {accumulation} examples", plan.steps)?;
    writeln!(out, "{}\n", padding(plan))?;
    if let Some(phase) = plan.phases.iter().max_by_key(|phase| phase.bytes) {
        writeln!(
            out,
            "Memory{} while {} (the largest batch has {} rows)",
            if plan.device.starts_with("cpu") { "" } else { " of the device" },
            phase.name,
            plan.largest_batch_rows
        )?;
        writeln!(out, "{}\n", components(phase))?;
    }
    let others: Vec<String> =
        plan.phases.iter().map(|p| format!("{} {:.0} MiB", p.name, p.bytes as f64 / MIB)).collect();
    writeln!(out, "phases      {}", others.join(", "))?;
    writeln!(out, "peak        {:.0} MiB", plan.peak_bytes as f64 / MIB)?;
    writeln!(out, "{}", fit(plan))?;
    for suggestion in &plan.suggestions {
        writeln!(out, "try         {}: {:.0} MiB", suggestion.change, suggestion.peak_bytes as f64 / MIB)?;
    }
    let time = &plan.time;
    writeln!(
        out,
        "time        {} in all: tokenising {}, reference {}, training {}, evaluation {}",
        seconds(time.total),
        seconds(time.tokenising),
        seconds(time.reference),
        seconds(time.training),
        seconds(time.evaluation)
    )?;
    writeln!(
        out,
        "rate        {:.0} GFLOP/s while training on {} threads, {:.0} tokens/s (from a calibration of {:.1} s)",
        time.gflops, plan.threads, time.tokens_per_second, time.calibration
    )?;
    Ok(out)
}

fn padding(plan: &Plan) -> String {
    let tokens = &plan.tokens;
    let share = |part: usize| 100.0 * part as f64 / tokens.padded.max(1) as f64;
    format!(
        "padding     {} tokens an epoch; padded batches would compute {}, packed ones compute {} ({:.0} % less; {} rows \
         of it by sharing prompts)",
        tokens.given,
        tokens.padded,
        tokens.packed,
        100.0 - share(tokens.packed),
        tokens.shared
    )
}

fn components(phase: &Phase) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_style(TableComponent::HeaderLines, '─');
    table.set_header(["component", "MiB"]);
    for component in &phase.components {
        table.add_row([component.name.to_owned(), format!("{:.1}", component.bytes as f64 / MIB)]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn fit(plan: &Plan) -> String {
    match (plan.fits, plan.available_bytes) {
        (Some(true), Some(free)) => format!("fits        {:.0} MiB are free", free as f64 / MIB),
        (Some(false), Some(free)) => {
            format!("DOES NOT FIT: {:.0} MiB are free; what would help most comes first", free as f64 / MIB)
        }
        _ => "fits        unknown: the system does not tell what is free".to_owned(),
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 100.0 { format!("{seconds:.1} s") } else { format!("{:.0} min", seconds / 60.0) }
}
