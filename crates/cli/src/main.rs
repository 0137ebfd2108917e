//! The program `bso`: arguments in, exit code out. The only crate that prints or exits.

mod command;
mod exit;
mod signal;
mod terminal;
mod verbosity;
mod view;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    signal::outlive_file_size_limit();
    let arguments = match command::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::usage(&error),
    };
    exit::code(command::run(arguments))
}
