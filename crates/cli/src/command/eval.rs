//! `bso eval CONFIG.yaml [--key value ...]`: only prints; what is measured is `bso_recipes::eval`'s.

use crate::exit::Outcome;
use crate::signal;
use crate::terminal::{Terminal, clean};
use anyhow::Context;
use bso_recipes::config::parse_overrides;
use bso_recipes::eval::{EXAMPLE, EvalConfig, Results, evaluate};
use clap::Args;
use comfy_table::{Table, TableComponent, presets};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// What `bso eval` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "Every key of the file can be given after it as --key value (--judge.model NAME inside a mapping): it wins.\n\
                  Keys: models, baseline, ref_model, kl, prompt_sets, max_prompts, reward_model, cost_model, temperature, top_p,\n\
                  top_k, max_new_tokens, seed, batch_size, chat_template, dtype, device, num_threads, resamples, judge, output_dir.\n\
                  `bso eval --example` prints a commented configuration; docs/evaluation.md defines every metric.\n\
                  Answers of an earlier call with the same settings are kept."
)]
pub struct EvalArgs {
    /// The configuration; `-` reads it from standard input
    #[arg(value_name = "CONFIG.yaml", required_unless_present = "example")]
    config: Option<PathBuf>,
    /// Print a commented configuration and end
    #[arg(long)]
    example: bool,
    /// Print results.json instead of tables
    #[arg(long)]
    json: bool,
    /// Settings that win over the file
    #[arg(value_name = "--key value", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) overrides: Vec<String>,
}

/// Evaluates and prints the tables.
pub fn run(args: &EvalArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let mut out = anstream::stdout().lock();
    let Some(file) = args.config.as_ref().filter(|_| !args.example) else {
        out.write_all(EXAMPLE.as_bytes())?;
        return Ok(Outcome::Done);
    };
    // After the file everything is taken as a setting.
    let (own, settings): (Vec<String>, Vec<String>) =
        args.overrides.iter().cloned().partition(|word| word == "--json");
    let overrides = parse_overrides(&settings)?;
    let (text, base) = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        (text, std::env::current_dir()?)
    } else {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        (text, std::env::current_dir()?.join(file.parent().unwrap_or(Path::new(""))))
    };
    let config = EvalConfig::read(&text, &base, &overrides)?;
    let interrupt = signal::on_ctrl_c()?;
    let results = evaluate(&config, &interrupt, terminal)?;
    if args.json || !own.is_empty() {
        serde_json::to_writer(&mut out, &results)?;
        writeln!(out)?;
    } else {
        print(&results, &config.output_dir, &mut out)?;
    }
    Ok(Outcome::Done)
}

fn print(results: &Results, output_dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    for rows in [results.table(None), results.wins(None)] {
        let Some((header, rows)) = rows.split_first() else { continue };
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_style(TableComponent::HeaderLines, '─');
        table.set_header(header.iter().map(|text| clean(text)));
        rows.iter().for_each(|row| {
            table.add_row(row.iter().map(|text| clean(text)));
        });
        writeln!(out, "{table}\n")?;
    }
    if let Some(judge) = &results.judge {
        writeln!(
            out,
            "judge    {} questions, {} from the cache, {} without a verdict, {} failed, {} over the budget",
            judge.questions, judge.cached, judge.unparsed, judge.failed, judge.over_budget
        )?;
    }
    writeln!(out, "baseline {}; differences and sets in results.md", clean(&results.baseline))?;
    writeln!(out, "results  {}", clean(&output_dir.display().to_string()))?;
    Ok(())
}
