//! What an ending means to the shell: 0 done, 1 failed while running, 2 wrong usage or bad input, 130 interrupted.

use crate::terminal;
use bso_recipes::{RecipeError, is_full};
use std::io;
use std::process::ExitCode;

/// How a command ended when it did not fail with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done.
    Done,
    /// It ran to its end, and a figure was out of bounds.
    CheckFailed,
    /// The user asked it to stop, and it stopped at a safe point.
    Interrupted,
}

impl Outcome {
    /// Done when `passed`, else a failed check.
    pub fn passed(passed: bool) -> Self {
        if passed { Self::Done } else { Self::CheckFailed }
    }
}

/// Prints clap's message in its own colours; help and version are not errors.
pub fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe while printing help is not worth a second message.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// The exit code of a finished command; errors are printed with their causes.
pub fn code(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if is_interrupted(&error) => {
            terminal::print_stopped(
                "stopped before the end; files appear whole or not at all: the same command starts again",
            );
            ExitCode::from(130)
        }
        Err(error) => {
            terminal::print_error(&error);
            if io_kinds(&error).any(is_full) {
                terminal::print_hint("free some space or write elsewhere; what was written before is whole");
            }
            ExitCode::from(if failed_while_running(&error) { 1 } else { 2 })
        }
    }
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    recipe_errors(error).any(|e| matches!(e, RecipeError::Interrupted))
}

/// `bso ... | head` closes our output early: that is the reader's right, not a failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    io_kinds(error).any(|kind| kind == io::ErrorKind::BrokenPipe)
}

fn failed_while_running(error: &anyhow::Error) -> bool {
    recipe_errors(error).any(RecipeError::is_failed_run) || io_kinds(error).any(is_full)
}

fn recipe_errors(error: &anyhow::Error) -> impl Iterator<Item = &RecipeError> {
    error.chain().filter_map(|cause| cause.downcast_ref())
}

/// Errors that pass another's message on as their own do not show it in the chain: recipes are asked for theirs.
fn io_kinds(error: &anyhow::Error) -> impl Iterator<Item = io::ErrorKind> {
    let plain = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    plain.chain(recipe_errors(error).filter_map(RecipeError::io_kind))
}
