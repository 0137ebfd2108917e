//! Writes a report of invented figures, to look at what a report looks like:
//! `cargo run -p bso-runs --example sample_report -- report.html`.

#![expect(clippy::print_stdout, reason = "an example says what it wrote")]

#[path = "../tests/sample/mod.rs"]
mod sample;

use bso_runs::report::write_report;
use std::path::PathBuf;

fn main() -> Result<(), bso_runs::RunsError> {
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("report.html"), PathBuf::from);
    write_report(&path, &sample::sample())?;
    println!("{}", path.display());
    Ok(())
}
