//! `bso report` and what `bso watch` shows: one page from run directories, evaluations and demo folders. A pure function of
//! the files; what cannot be read is named on the page and never ends it.

mod evaluations;
mod joined;
mod server;
mod sources;
mod watch;

pub use server::serve;
pub use watch::{Look, Watched};

use crate::RecipeError;
use bso_runs::report::{ReportData, salvaged_report};
use joined::Joined;
use sources::{Source, find};
use std::path::PathBuf;

/// Gathers everything that `dirs` hold: a run directory, the output of `bso eval`, a demo's folder, or a folder of such folders.
///
/// # Errors
/// A path that is no folder, or folders without anything to show.
pub fn gather(dirs: &[PathBuf]) -> Result<ReportData, RecipeError> {
    let sources = find(dirs)?;
    if sources.is_empty() {
        let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        return Err(RecipeError::input(format!(
            "nothing to show in {}: expected run directories (metrics.jsonl), outputs of `bso eval` (results.json, samples.jsonl) \
             or demo folders (report.json), at most {} folders deep",
            names.join(", "),
            sources::DEEPEST
        )));
    }
    Ok(of_sources(dirs, &sources))
}

fn of_sources(dirs: &[PathBuf], sources: &[Source]) -> ReportData {
    let mut joined = Joined::default();
    // Runs first: models of an evaluation are then known by their folders.
    for source in sources {
        if let Source::Run(run) = source {
            joined.add_run(run.root(), salvaged_report(run));
        }
    }
    joined.tell_names_apart();
    for source in sources {
        match source {
            Source::Run(_) => {}
            Source::Page(path) => joined.add_page(path),
            Source::Evaluation(dir) => joined.add_evaluation(dir),
        }
    }
    joined.into_page(dirs)
}
