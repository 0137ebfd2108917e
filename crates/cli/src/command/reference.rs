//! `bso ref CONFIG.yaml [--key value ...]`.

use super::train::resolve;
use crate::exit::Outcome;
use crate::signal;
use crate::terminal::{Terminal, clean};
use bso_durable::{Event, Observer};
use bso_recipes::reference_log_probs;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

/// What `bso ref` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "The log-probs go into output_dir, under what they depend on (weights, tokenizer, template, sequences); `bso train` \
                        reads them from there.\nCtrl-C keeps what is computed and exits with 130; the same command goes on from it."
)]
pub struct RefArgs {
    /// The run's configuration; `-` reads it from standard input
    #[arg(value_name = "CONFIG.yaml")]
    config: PathBuf,
    /// Settings that win over the file
    #[arg(value_name = "--key value", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) overrides: Vec<String>,
}

/// Computes or checks, and says where the log-probs are.
pub fn run(args: &RefArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let resolved = resolve(&args.config, &args.overrides)?;
    for notice in &resolved.notices {
        terminal.event(Event::Note(format!("note        {notice}")));
    }
    let interrupt = signal::on_ctrl_c()?;
    let folder = reference_log_probs(&resolved.config, &interrupt, terminal)?;
    let mut out = anstream::stdout().lock();
    writeln!(out, "reference log-probs in {}", clean(&folder.display().to_string()))?;
    Ok(Outcome::Done)
}
