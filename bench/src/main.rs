//! Benchmarks of `bso`, beside their peers in Python where one is present.
//!
//!     cargo run --release -p bso-bench -- [WORKLOAD ...] [--peer] [--json FILE]
//!
//! Every figure is measured in a process of its own, ours and the peer's alike, so that peak memory means the same
//! on both sides. This program starts them by turns and compares; it computes nothing itself and stays small,
//! because a child's peak memory can never be read as less than its parent's.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own that prints tables")]

mod arguments;
mod flops;
mod inputs;
mod machine;
mod process;
mod row;
mod side;
mod sizes;
mod table;
mod watcher;
mod workload;

use anyhow::Context;
use arguments::Arguments;
use clap::Parser;
use serde_json::json;
use std::path::Path;
use workload::Bench;

fn main() -> anyhow::Result<()> {
    let mut given = std::env::args().skip(1);
    if given.next().as_deref() == Some(side::COMMAND) {
        return side::run(&given.next().unwrap_or_default(), &given.next().unwrap_or_default());
    }
    let arguments = Arguments::parse();
    if !arguments.markdown.is_empty() {
        print!("{}", table::markdown_of_files(&arguments.markdown)?);
        return Ok(());
    }
    let bench = Bench::prepare(&arguments)?;
    let mut rows = Vec::new();
    for workload in arguments.workloads() {
        eprintln!("{}: {}", workload.name(), workload.about());
        rows.extend(workload.run(&bench).with_context(|| workload.name())?);
        if arguments.quick {
            // Tiny sizes say nothing about a target.
            rows.iter_mut().for_each(|row| row.target = None);
        }
        // After each workload, so that an interrupted run leaves what it measured.
        if let Some(file) = &arguments.json {
            write_json(file, &bench, &rows)?;
        }
    }
    print!("{}", table::markdown(&rows));
    Ok(())
}

fn write_json(file: &Path, bench: &Bench, rows: &[row::Row]) -> anyhow::Result<()> {
    let rows: Vec<_> = rows.iter().map(row::Row::with_conclusions).collect();
    let result = json!({"machine": machine::describe(), "settings": bench.settings(), "rows": rows});
    bso_durable::write_json(file, &result).with_context(|| format!("cannot write {}", file.display()))
}
