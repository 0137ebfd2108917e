//! The commands: one file each. Here is only the list and the way to them.

mod chat;
mod completions;
mod config;
mod data;
mod demo;
#[cfg(test)]
mod documented;
mod eval;
mod export;
mod generate;
mod logprobs;
mod loss;
mod merge;
mod plan;
mod reference;
mod report;
mod score;
mod scoring;
mod sweep;
mod train;
mod verify;
mod watch;

use crate::exit::Outcome;
use crate::verbosity::Verbosity;
use clap::{Parser, Subcommand};

/// Align language models to be helpful and safe, in one stage, from preference pairs with safety labels.
#[derive(Parser, Debug)]
#[command(
    name = "bso",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    verbosity: Verbosity,
}

/// Every command.
#[expect(clippy::large_enum_variant, reason = "one value a process, parsed once")]
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Watch a small language model become helpful and safe: the whole pipeline on a synthetic world with known truth
    Demo(demo::DemoArgs),
    /// Train by a YAML config: a language model (SFT, preference) or a scalar head (reward, cost)
    Train(train::TrainArgs),
    /// Say what a run will take before it is started: memory, time, padding, truncation, objective; loads no weights
    Plan(plan::PlanArgs),
    /// Compute the reference's log-probs that a run needs, or check those in its folder
    Ref(reference::RefArgs),
    /// Talk to a model, or to two side by side
    Chat(chat::ChatArgs),
    /// Look at preference data before training on it
    Data(data::DataArgs),
    /// Write a commented config for a method, or show a resolved one
    Config(config::ConfigArgs),
    /// Add the log-probs of responses under a model to rows
    Logprobs(logprobs::LogprobsArgs),
    /// Add the score of every row under a reward or cost model
    Score(score::ScoreArgs),
    /// Answer prompts with a model
    Generate(generate::GenerateArgs),
    /// Measure models on prompts: refusals, reward, cost, KL, win rates, with intervals; with a judge if one is named
    Eval(eval::EvalArgs),
    /// Train a grid of methods, penalties and seeds, evaluate all, and say what each demanded safety costs
    Sweep(sweep::SweepArgs),
    /// Put runs and evaluations on one HTML page: frontier, tables, curves, samples, settings
    Report(report::ReportArgs),
    /// The same page, or a view in the terminal, of a run that goes on
    Watch(watch::WatchArgs),
    /// Merge an adapter into its base, or combine models linearly
    Merge(merge::MergeArgs),
    /// Write a model in another number type, or as GGUF
    Export(export::ExportArgs),
    /// Evaluate a loss and its derivatives on rows of log-probs
    Loss(loss::LossArgs),
    /// Check that every generator's optimum is the safe optimum, in worlds where it is known exactly
    Verify(verify::VerifyArgs),
    /// Print completions for a shell, or the manual page
    Completions(completions::CompletionsArgs),
}

/// Runs the command.
pub fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    let Arguments { mut command, mut verbosity } = arguments;
    // What stands after a configuration file is a setting unless it is one of these flags.
    match &mut command {
        Command::Train(args) => verbosity.take(&mut args.overrides),
        Command::Plan(args) => verbosity.take(&mut args.overrides),
        Command::Ref(args) => verbosity.take(&mut args.overrides),
        Command::Eval(args) => verbosity.take(&mut args.overrides),
        Command::Sweep(args) => verbosity.take(&mut args.overrides),
        _ => {}
    }
    let terminal = verbosity.start();
    match command {
        Command::Demo(args) => demo::run(&args, &terminal),
        Command::Train(args) => train::run(&args, &terminal),
        Command::Plan(args) => plan::run(&args, &terminal).map(Outcome::passed),
        Command::Ref(args) => reference::run(&args, &terminal),
        Command::Chat(args) => chat::run(&args, &terminal),
        Command::Data(args) => data::run(args, &terminal).map(|()| Outcome::Done),
        Command::Config(args) => config::run(args, &terminal).map(|()| Outcome::Done),
        Command::Logprobs(args) => logprobs::run(&args, &terminal),
        Command::Score(args) => score::run(&args, &terminal),
        Command::Generate(args) => generate::run(&args, &terminal),
        Command::Eval(args) => eval::run(&args, &terminal),
        Command::Sweep(args) => sweep::run(&args, &terminal),
        Command::Report(args) => report::run(&args, &terminal).map(|()| Outcome::Done),
        Command::Watch(args) => watch::run(&args, &terminal),
        Command::Merge(args) => merge::run(&args, &terminal),
        Command::Export(args) => export::run(&args, &terminal),
        Command::Loss(args) => loss::run(args, &terminal).map(|()| Outcome::Done),
        Command::Verify(args) => verify::run(args).map(Outcome::passed),
        Command::Completions(args) => completions::run(&args).map(|()| Outcome::Done),
    }
}
