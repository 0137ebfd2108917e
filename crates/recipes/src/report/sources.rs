//! What a folder holds, told by the names of its files.

use crate::RecipeError;
use bso_runs::RunDirectory;
use std::path::{Path, PathBuf};

/// Folders below a given one that are looked into.
pub(super) const DEEPEST: usize = 4;

/// Something that a page can show.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A training run.
    Run(RunDirectory),
    /// The output of `bso eval`.
    Evaluation(PathBuf),
    /// A report.json: a demo's whole page.
    Page(PathBuf),
}

/// Everything in `dirs`, folder by folder in the order of names; a folder that is reached twice counts once.
///
/// # Errors
/// A path that is no folder.
pub(super) fn find(dirs: &[PathBuf]) -> Result<Vec<Source>, RecipeError> {
    let (mut found, mut seen) = (Vec::new(), Vec::new());
    for dir in dirs {
        if !dir.is_dir() {
            let what = if dir.exists() { "is no folder" } else { "does not exist" };
            return Err(RecipeError::input(format!(
                "{} {what}; give a run directory, the output of `bso eval`, or a folder of them",
                dir.display()
            )));
        }
        search(dir, DEEPEST, &mut seen, &mut found);
    }
    Ok(found)
}

fn search(dir: &Path, depth: usize, seen: &mut Vec<PathBuf>, found: &mut Vec<Source>) {
    let place = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    if seen.contains(&place) {
        return;
    }
    seen.push(place);
    let has = |name: &str| dir.join(name).is_file();
    let run = RunDirectory::at(dir);
    if has("report.json") {
        // The page tells of the runs below it already.
        found.push(Source::Page(dir.join("report.json")));
        return;
    }
    let is_run = run.metrics().is_file() || run.manifest().is_file();
    if is_run {
        found.push(Source::Run(run));
    }
    if has("results.json") || has("samples.jsonl") {
        found.push(Source::Evaluation(dir.to_owned()));
    }
    // Below a run only an evaluation of it may lie: its other folders are weights and logs of one's own kind.
    let depth = if is_run { depth.min(1) } else { depth };
    for below in folders(dir).into_iter().filter(|_| depth > 0) {
        search(&below, depth - 1, seen, found);
    }
}

/// Folders in `dir` by name. One that cannot be read holds nothing.
fn folders(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut folders: Vec<PathBuf> =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
    folders.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with('.') && !name.starts_with("checkpoint-")
    });
    folders.sort();
    folders
}

impl Source {
    /// The files that it is read from; some may be absent.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Run(run) => vec![run.metrics(), run.manifest(), run.config(), run.all_results()],
            Self::Evaluation(dir) => {
                ["results.json", "samples.jsonl", "config.yaml"].map(|name| dir.join(name)).into()
            }
            Self::Page(path) => vec![path.clone()],
        }
    }
}
