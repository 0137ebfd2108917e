//! What an ending means to the shell: 0 done, 1 failed while running, 2 wrong usage or bad input, 130 interrupted.

use crate::terminal;
use bso_recipes::RecipeError;
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
        Err(error) => {
            terminal::print_error(&error);
            ExitCode::from(if failed_while_running(&error) { 1 } else { 2 })
        }
    }
}

/// `bso ... | head` closes our output early: that is the reader's right, not a failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    io_kinds(error).any(|kind| kind == io::ErrorKind::BrokenPipe)
}

fn failed_while_running(error: &anyhow::Error) -> bool {
    let full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero);
    error.chain().any(|cause| cause.downcast_ref::<RecipeError>().is_some_and(RecipeError::is_failed_run))
        || io_kinds(error).any(full)
}

fn io_kinds(error: &anyhow::Error) -> impl Iterator<Item = io::ErrorKind> {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}
