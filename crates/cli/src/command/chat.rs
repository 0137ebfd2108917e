//! `bso chat --model DIR [--compare DIR]`: one model, or two that answer the same words.

use super::generate::SamplingArgs;
use crate::exit::Outcome;
use crate::signal;
use crate::terminal::{Terminal, clean};
use bso_recipes::generate::{AnswerSettings, ChatModel};
use bso_recipes::location::local_model;
use bso_recipes::{Engine, Message};
use clap::Args;
use owo_colors::OwoColorize;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// What `bso chat` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "Type a message and Enter. /reset forgets the conversation, /quit (or end of input) leaves."
)]
pub struct ChatArgs {
    /// Model directory (Hugging Face layout), or org/name or org/name@revision on the hub
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A second model that answers the same messages
    #[arg(long, value_name = "DIR")]
    compare: Option<PathBuf>,
    /// Sampling
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// A model with its side of the conversation.
struct Side {
    name: String,
    model: ChatModel,
    conversation: Vec<Message>,
}

/// Talks until the input ends.
pub fn run(args: &ChatArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let engine = Arc::new(Engine::on(args.sampling.device, args.sampling.num_threads)?);
    let mut sides = Vec::new();
    for dir in std::iter::once(&args.model).chain(&args.compare) {
        let folder = local_model(dir, terminal)?;
        let mut model = ChatModel::open(&folder, &args.sampling.template(), engine.clone())?;
        model.decoder.compute_in(args.sampling.dtype()?, false)?;
        sides.push(Side { name: dir.display().to_string(), model, conversation: Vec::new() });
    }
    let interrupt = signal::on_ctrl_c()?;
    let settings = args.sampling.settings();
    let asks = std::io::stdin().is_terminal();
    let mut input = std::io::stdin().lock().lines();
    loop {
        if asks {
            write!(anstream::stderr(), "{} ", "you>".bold())?;
            anstream::stderr().flush()?;
        }
        let Some(line) = input.next().transpose()? else { return Ok(Outcome::Done) };
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => return Ok(Outcome::Done),
            "/reset" => sides.iter_mut().for_each(|side| side.conversation.clear()),
            message => {
                for side in &mut sides {
                    answer(side, message, &settings, args.compare.is_some(), &interrupt)?;
                }
            }
        }
        if interrupt.is_raised() {
            return Ok(Outcome::Interrupted);
        }
    }
}

fn answer(
    side: &mut Side,
    message: &str,
    settings: &AnswerSettings,
    named: bool,
    interrupt: &bso_durable::Interrupt,
) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    if named {
        writeln!(out, "{}", clean(&side.name).cyan())?;
    }
    side.conversation.push(Message::user(message));
    let mut failed = None;
    let said = side.model.stream(&side.conversation, settings, interrupt, |text| {
        // A model's words are untrusted: no control characters reach the terminal.
        let written = write!(out, "{}", clean(text)).and_then(|()| out.flush());
        failed = failed.take().or(written.err());
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    writeln!(out)?;
    side.conversation.push(Message::assistant(said.text));
    Ok(())
}
