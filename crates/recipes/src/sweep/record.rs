//! sweep.json: which runs a sweep has begun under which settings, from which files, and which of them have ended.

use super::runs::Run;
use crate::RecipeError;
use crate::reference::fingerprint_model;
use crate::train::Trained;
use bso_durable::{Fingerprint, ensure_dir, fingerprint_file, write_json};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A run as far as it has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// Every setting that its weights depend on.
    pub settings: BTreeMap<String, String>,
    /// What it came to, once it has ended.
    pub ended: Option<Ended>,
    /// Why it failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Seconds of training, in the call that ended it.
    pub seconds: f64,
    /// Sequences that models computed for it in that call.
    pub forwards: u64,
    /// Optimiser steps.
    pub steps: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Content {
    /// Threads of each run whose configuration does not say: results repeat only with the same number.
    num_threads: Option<usize>,
    /// Fingerprints of the files and models that runs read, by path.
    inputs: BTreeMap<String, String>,
    runs: BTreeMap<String, Begun>,
}

/// The file with its content.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    content: Content,
}

impl Record {
    /// Takes up the record in `output_dir`, or stands for one that is not written yet.
    ///
    /// # Errors
    /// A folder that holds something else; a record that cannot be read.
    pub fn open(output_dir: &Path) -> Result<Self, RecipeError> {
        let path = output_dir.join("sweep.json");
        let content = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| {
                RecipeError::input(format!("{}: {e}; choose another output_dir", path.display()))
            })?,
            Err(_) if std::fs::read_dir(output_dir).is_ok_and(|mut entries| entries.next().is_some()) => {
                return Err(RecipeError::input(format!(
                    "{} is not empty and holds no sweep; choose another output_dir",
                    output_dir.display()
                )));
            }
            Err(_) => Content::default(),
        };
        Ok(Self { path, content })
    }

    /// Threads that an earlier call decided on.
    pub fn num_threads(&self) -> Option<usize> {
        self.content.num_threads
    }

    /// How far the run has come.
    pub fn of(&self, name: &str) -> Option<&Begun> {
        self.content.runs.get(name)
    }

    /// What the run came to; none also where its model is no longer there.
    pub fn ended(&self, run: &Run) -> Option<&Ended> {
        let ended = self.of(&run.name)?.ended.as_ref()?;
        let holds = |name| run.config.run.output_dir.join(name).is_file();
        (holds("config.json") || holds("adapter_config.json")).then_some(ended)
    }

    /// Names of runs that are recorded and are none of `runs`.
    pub fn others(&self, runs: &[Run]) -> usize {
        self.content.runs.keys().filter(|name| !runs.iter().any(|run| run.name == **name)).count()
    }

    /// Refuses runs that were begun under other settings or from other files; nothing is changed then. Then notes them all.
    ///
    /// # Errors
    /// The differences, run by run; files that cannot be read or written.
    pub fn begin(&mut self, runs: &[Run], num_threads: usize) -> Result<(), RecipeError> {
        let mut differing: Vec<String> = Vec::new();
        for run in runs {
            let is = settings(run);
            // A run whose folder the user deleted begins anew.
            let there = run.config.run.output_dir.exists();
            let Some(begun) = self.content.runs.get(&run.name).filter(|_| there) else { continue };
            let keys: std::collections::BTreeSet<&String> = begun.settings.keys().chain(is.keys()).collect();
            let none = || "not set".to_owned();
            let changed =
                keys.into_iter().filter(|key| begun.settings.get(*key) != is.get(*key)).map(|key| {
                    let of = |map: &BTreeMap<String, String>| map.get(key).cloned().unwrap_or_else(none);
                    format!("{key} was {} and is now {}", of(&begun.settings), of(&is))
                });
            let changed: Vec<String> = changed.collect();
            if !changed.is_empty() {
                differing.push(format!("{}: {}", run.name, changed.join(", ")));
            }
        }
        let inputs = inputs(runs)?;
        differing.extend(
            inputs
                .iter()
                .filter(|(path, print)| self.content.inputs.get(*path).is_some_and(|was| was != *print))
                .map(|(path, _)| format!("{path} is not what it was")),
        );
        if !differing.is_empty() {
            let (count, root) = (differing.len(), self.path.parent().unwrap_or(Path::new("")));
            differing.truncate(5);
            return Err(RecipeError::input(format!(
                "{} holds runs that were begun otherwise ({count} differences):\n  {}\nrestore that, delete the \
                 folders of these runs below runs/ to train them anew, or choose another output_dir",
                root.display(),
                differing.join("\n  ")
            )));
        }
        self.content.num_threads = Some(num_threads);
        self.content.inputs.extend(inputs);
        for run in runs {
            let begun = self.content.runs.entry(run.name.clone()).or_default();
            if !run.config.run.output_dir.exists() {
                *begun = Begun::default();
            }
            begun.settings = settings(run);
        }
        ensure_dir(self.path.parent().unwrap_or(Path::new("")))?;
        self.write()
    }

    /// Notes how a run ended.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn end(&mut self, name: &str, outcome: Result<&Trained, &RecipeError>) -> Result<(), RecipeError> {
        let begun = self.content.runs.entry(name.to_owned()).or_default();
        (begun.ended, begun.failed) = match outcome {
            Ok(Trained { seconds, forwards, steps, .. }) => {
                (Some(Ended { seconds: *seconds, forwards: *forwards, steps: *steps }), None)
            }
            Err(error) => (None, Some(error.to_string())),
        };
        self.write()
    }

    fn write(&self) -> Result<(), RecipeError> {
        Ok(write_json(&self.path, &self.content)?)
    }
}

/// Every setting that the run's weights depend on.
fn settings(run: &Run) -> BTreeMap<String, String> {
    let deciding: Vec<&str> =
        run.config.settings().iter().filter(|(key, _)| key.decides_result).map(|(key, _)| key.name).collect();
    let parameters = run.config.parameters().into_iter();
    parameters.filter(|(key, _)| deciding.contains(&key.as_str()) || key == "num_threads").collect()
}

/// Fingerprints of all models and rows that the runs name and that are there, each read once.
fn inputs(runs: &[Run]) -> Result<BTreeMap<String, String>, RecipeError> {
    let mut found = BTreeMap::new();
    for run in runs {
        let config = &run.config;
        let own = std::iter::once(&config.model.model_name_or_path).chain(&config.model.ref_model);
        let scorers = config.objective.models().into_iter().map(|(_, dir)| dir);
        for dir in own.chain(scorers).filter(|dir| dir.is_dir()) {
            if let std::collections::btree_map::Entry::Vacant(new) = found.entry(dir.display().to_string()) {
                new.insert(fingerprint_model(dir)?);
            }
        }
        let replayed = config.objective.datasets().1.iter();
        for file in config.data.datasets.iter().chain(replayed).map(|source| &source.path) {
            if let (true, std::collections::btree_map::Entry::Vacant(new)) =
                (file.exists(), found.entry(file.display().to_string()))
            {
                new.insert(fingerprint_rows(file)?);
            }
        }
    }
    Ok(found)
}

/// Of a file of rows, or of all files in a folder and the folders in it, by name.
fn fingerprint_rows(path: &Path) -> Result<String, RecipeError> {
    if path.is_file() {
        return Ok(fingerprint_file(path)?);
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|e| RecipeError::input(format!("cannot read the folder {}: {e}", path.display())))?;
    entries.sort();
    let mut fingerprint = Fingerprint::new();
    for entry in entries {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fingerprint.part(name).part(fingerprint_rows(&entry)?);
    }
    Ok(fingerprint.finish())
}
