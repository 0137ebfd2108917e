//! `bso logprobs --model DIR --data FILE`.

use super::scoring::ScoringArgs;
use crate::exit::Outcome;
use crate::signal;
use crate::terminal::Terminal;
use bso_recipes::lines::ReadRows;
use bso_recipes::logprobs::{LogprobsTask, logprobs};
use bso_recipes::{Preference, TemplateChoice};
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
    /// Order PKU-SafeRLHF responses into chosen and rejected by this judgement
    #[arg(long, value_name = "better|safer|safe_better")]
    preference: Option<Preference>,
    #[command(flatten)]
    how: ScoringArgs,
}

/// Scores every row.
pub fn run(args: &LogprobsArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let interrupt = signal::on_ctrl_c()?;
    let task = LogprobsTask {
        model: args.model.clone(),
        data: args.data.clone(),
        output: args.output.clone(),
        template: TemplateChoice::parse(&args.how.template),
        preference: args.preference,
        truncation: args.how.truncation(),
        rows: ReadRows { skip_bad_rows: args.how.skip_bad_rows },
        dtype: bso_recipes::DType::parse(&args.how.dtype)?,
        device: args.how.device,
        num_threads: args.how.num_threads,
    };
    logprobs(&task, &interrupt, terminal)?;
    Ok(Outcome::Done)
}
