//! `bso report DIR...`: only writes and prints; what is on the page is `bso_recipes::report`'s.

use crate::terminal::{Terminal, clean};
use anyhow::Context;
use bso_durable::{Event, Observer, atomic_write};
use bso_recipes::report::gather;
use bso_runs::report::render_report;
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What `bso report` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "DIR is a run directory, the output of `bso eval`, a demo's folder, or a folder that holds such folders. A model \
                  that was both trained and evaluated here is shown as one. The page loads nothing from anywhere; docs/report.md \
                  says what is on it. Files that cannot be read are named on the page and on standard error."
)]
pub struct ReportArgs {
    /// Folders to show
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// The page; `-` writes it to standard output
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
}

/// Gathers, renders, writes.
pub fn run(args: &ReportArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let data = gather(&args.dirs)?;
    for problem in &data.problems {
        terminal.event(Event::Warning(problem.clone()));
    }
    let page = render_report(&data);
    let mut out = anstream::stdout().lock();
    if args.output == Path::new("-") {
        out.write_all(page.as_bytes())?;
        return Ok(());
    }
    atomic_write(&args.output, |file| file.write_all(page.as_bytes()))
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    writeln!(out, "report   {}", clean(&args.output.display().to_string()))?;
    Ok(())
}
