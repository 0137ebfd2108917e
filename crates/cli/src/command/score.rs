//! `bso score --model DIR --input FILE --field NAME`.

use super::scoring::ScoringArgs;
use crate::exit::Outcome;
use crate::signal;
use crate::terminal::Terminal;
use bso_recipes::TemplateChoice;
use bso_recipes::lines::ReadRows;
use bso_recipes::score_rows::{ScoreTask, score_rows};
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
    #[command(flatten)]
    how: ScoringArgs,
}

/// Scores every row.
pub fn run(args: &ScoreArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let interrupt = signal::on_ctrl_c()?;
    let task = ScoreTask {
        model: args.model.clone(),
        input: args.input.clone(),
        output: args.output.clone(),
        field: args.field.clone(),
        template: TemplateChoice::parse(&args.how.template),
        truncation: args.how.truncation(),
        rows: ReadRows { skip_bad_rows: args.how.skip_bad_rows },
        dtype: bso_recipes::DType::parse(&args.how.dtype)?,
        device: args.how.device,
        num_threads: args.how.num_threads,
    };
    score_rows(&task, &interrupt, terminal)?;
    Ok(Outcome::Done)
}
