//! `bso score --model DIR --input FILE --field NAME`.

use crate::exit::Outcome;
use crate::signal;
use crate::terminal::Terminal;
use bso_recipes::lines::ReadRows;
use bso_recipes::score_rows::{ScoreTask, score_rows};
use bso_recipes::{TemplateChoice, Truncation};
use clap::Args;
use std::path::PathBuf;

/// What `bso score` takes.
#[derive(Args, Debug)]
pub struct ScoreArgs {
    /// Directory of a reward or cost model (...ForSequenceClassification with one label, or safe-rlhf's ...ForScore), or
    /// org/name or org/name@revision on the hub
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Rows: `prompt, response`, or `messages` that end with the assistant's; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Where the rows go, with the score added; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// The field that holds the score
    #[arg(long, value_name = "NAME", default_value = "score")]
    field: String,
    /// Chat template: auto (the tokenizer's), none, a name, or a Jinja file
    #[arg(long, value_name = "NAME|FILE|auto|none", default_value = "auto")]
    template: String,
    /// Arithmetic: f32, or bf16 (products of bf16, sums in f32); the head is in f32
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
pub fn run(args: &ScoreArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let interrupt = signal::on_ctrl_c()?;
    let task = ScoreTask {
        model: args.model.clone(),
        input: args.input.clone(),
        output: args.output.clone(),
        field: args.field.clone(),
        template: TemplateChoice::parse(&args.template),
        truncation: Truncation { max_length: args.max_length, mode: args.truncation_mode },
        rows: ReadRows { skip_bad_rows: args.skip_bad_rows },
        dtype: bso_recipes::DType::parse(&args.dtype)?,
        num_threads: args.num_threads,
    };
    score_rows(&task, &interrupt, terminal)?;
    Ok(Outcome::Done)
}
