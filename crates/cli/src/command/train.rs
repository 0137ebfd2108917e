//! `bso train CONFIG.yaml [--key value ...]`.

use crate::exit::Outcome;
use crate::signal;
use crate::terminal::{Terminal, clean};
use bso_durable::{Event, Observer};
use bso_recipes::{config, train};
use clap::Args;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// What `bso train` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "Any config key can be given after the file as --key value (snake_case or kebab-case): \
                        it wins over the file.\nThe keys: docs/configuration.md, or `bso config init METHOD`.\n\
                        Ctrl-C writes a checkpoint and exits with 130; a second one exits at once."
)]
pub struct TrainArgs {
    /// The configuration; `-` reads it from standard input
    #[arg(value_name = "CONFIG.yaml")]
    config: PathBuf,
    /// Settings that win over the file
    #[arg(value_name = "--key value", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) overrides: Vec<String>,
}

/// Reads the configuration, trains, and says where the results are.
pub fn run(args: &TrainArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let resolved = resolve(&args.config, &args.overrides)?;
    for notice in &resolved.notices {
        terminal.event(Event::Note(format!("note        {notice}")));
    }
    let interrupt = signal::on_ctrl_c()?;
    let trained = train(&resolved.config, &interrupt, terminal)?;
    if trained.interrupted {
        terminal.event(Event::Note(format!(
            "stopped     after step {}; a checkpoint is in {}; go on with --resume_from_checkpoint auto",
            trained.steps,
            trained.output_dir.display()
        )));
        return Ok(Outcome::Interrupted);
    }
    for finding in &trained.findings {
        terminal.event(Event::Warning(finding.line()));
    }
    let mut out = anstream::stdout().lock();
    let shown = [
        "train_loss",
        "eval_loss",
        "eval_rewards/accuracies",
        "eval_rewards/margins",
        "train_tokens_per_second",
    ];
    for (name, value) in trained.results.iter().filter(|(name, _)| shown.contains(&name.as_str())) {
        writeln!(out, "{name:<24} {value:.4}")?;
    }
    writeln!(out, "{} steps in {:.1} s", trained.steps, trained.seconds)?;
    writeln!(out, "model    {}", clean(&trained.output_dir.display().to_string()))?;
    writeln!(out, "report   {}", clean(&trained.output_dir.join("report.html").display().to_string()))?;
    Ok(Outcome::Done)
}

/// Reads a configuration file (or standard input) with its overrides.
pub fn resolve(file: &Path, overrides: &[String]) -> anyhow::Result<config::Resolved> {
    let overrides = config::parse_overrides(overrides)?;
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(config::load_text(&text, "standard input", &overrides)?);
    }
    Ok(config::load(file, &overrides)?)
}
