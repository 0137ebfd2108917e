//! `bso logprobs --model DIR --data FILE`.

use crate::exit::Outcome;
use crate::signal;
use crate::terminal::Terminal;
use bso_recipes::lines::ReadRows;
use bso_recipes::logprobs::{LogprobsTask, logprobs};
use bso_recipes::{Preference, TemplateChoice, Truncation};
use clap::Args;
use std::path::PathBuf;

/// What `bso logprobs` takes.
#[derive(Args, Debug)]
pub struct LogprobsArgs {
    /// Model directory (Hugging Face layout), or org/name or org/name@revision on the hub
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Rows: `prompt, chosen, rejected`; PKU-SafeRLHF; or `prompt, response`; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    data: PathBuf,
    /// Where the rows go, with the log-probs added; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Chat template: auto (the tokenizer's), none, a name, or a Jinja file
    #[arg(long, value_name = "NAME|FILE|auto|none", default_value = "auto")]
    template: String,
    /// Order PKU-SafeRLHF responses into chosen and rejected by this judgement
    #[arg(long, value_name = "better|safer|safe_better")]
    preference: Option<Preference>,
    /// Arithmetic: f32, or bf16 (products of bf16, sums in f32)
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    dtype: String,
    /// Longest sequence in tokens; default: no limit
    #[arg(long = "max_length", alias = "max-length")]
    max_length: Option<usize>,
    /// What happens to longer ones: keep_start, keep_end, drop, raise
    #[arg(long = "truncation_mode", alias = "truncation-mode", default_value = "keep_start")]
    truncation_mode: bso_recipes::TruncationMode,
    /// Count rows that cannot be used instead of stopping at the first
    #[arg(long = "skip_bad_rows", alias = "skip-bad-rows")]
    skip_bad_rows: bool,
    /// Threads; default: one per core
    #[arg(long = "num_threads", alias = "num-threads")]
    num_threads: Option<usize>,
}

/// Scores every row.
pub fn run(args: &LogprobsArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let interrupt = signal::on_ctrl_c()?;
    let task = LogprobsTask {
        model: args.model.clone(),
        data: args.data.clone(),
        output: args.output.clone(),
        template: TemplateChoice::parse(&args.template),
        preference: args.preference,
        truncation: Truncation { max_length: args.max_length, mode: args.truncation_mode },
        rows: ReadRows { skip_bad_rows: args.skip_bad_rows },
        dtype: bso_recipes::DType::parse(&args.dtype)?,
        num_threads: args.num_threads,
    };
    logprobs(&task, &interrupt, terminal)?;
    Ok(Outcome::Done)
}
