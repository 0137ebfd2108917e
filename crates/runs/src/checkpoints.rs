//! Checkpoints of a run: written whole, listed, recognised as complete, pruned. What a checkpoint holds is the
//! business of whoever trains; here it is a folder of files with a list of them.

use crate::directory::remove;
use crate::json::read_json;
use crate::{RunDirectory, RunsError};
use bso_durable::{AtomicDir, write_json};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The file written last into a checkpoint: its step and the size of every other file in it. A folder that a
/// copy or a killed deletion left incomplete does not match it.
const LIST: &str = "checkpoint.json";

#[derive(Serialize, Deserialize)]
struct List {
    step: u64,
    /// Bytes by path relative to the checkpoint, with `/` between folders.
    files: BTreeMap<String, u64>,
}

/// One checkpoint on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Optimiser steps done when it was taken.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// Whether every file that was written is still there with its size.
    pub complete: bool,
}

/// A checkpoint being written; nothing is visible before [`CheckpointBuilder::commit`].
pub struct CheckpointBuilder {
    building: AtomicDir,
    step: u64,
    place: PathBuf,
}

impl CheckpointBuilder {
    /// The folder to write into.
    pub fn path(&self) -> &Path {
        self.building.path()
    }

    /// Lists the files, syncs them and gives the folder its name.
    ///
    /// # Errors
    /// When something cannot be written; no checkpoint of this step appears then.
    pub fn commit(self) -> Result<Checkpoint, RunsError> {
        let files = files_of(self.path())?;
        write_json(&self.path().join(LIST), &List { step: self.step, files })?;
        self.building.commit()?;
        Ok(Checkpoint { step: self.step, path: self.place, complete: true })
    }
}

impl RunDirectory {
    /// Begins the checkpoint after optimiser step `step`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn begin_checkpoint(&self, step: u64) -> Result<CheckpointBuilder, RunsError> {
        let place = self.checkpoint(step);
        Ok(CheckpointBuilder { building: AtomicDir::begin(&place)?, step, place })
    }

    /// All checkpoints by rising step, the incomplete ones included.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>, RunsError> {
        let mut found: Vec<Checkpoint> = self
            .entries()?
            .iter()
            .filter_map(|name| step_of_name(name))
            .map(|step| (step, self.checkpoint(step)))
            .filter(|(_, path)| path.is_dir())
            .map(|(step, path)| Checkpoint { step, complete: is_complete(&path, step), path })
            .collect();
        found.sort_by_key(|c| c.step);
        Ok(found)
    }

    /// The last checkpoint that is complete.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn latest_checkpoint(&self) -> Result<Option<Checkpoint>, RunsError> {
        Ok(self.checkpoints()?.into_iter().rfind(|c| c.complete))
    }

    /// The checkpoint after optimiser step `step`, if it is there and complete.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn complete_checkpoint(&self, step: u64) -> Result<Option<Checkpoint>, RunsError> {
        Ok(self.checkpoints()?.into_iter().find(|c| c.step == step && c.complete))
    }

    /// Removes all but the last `limit` complete checkpoints (`save_total_limit`). `best`, where given, is kept and
    /// counts towards the limit unless that would leave no room for the latest. Returns the removed steps.
    ///
    /// # Errors
    /// When a folder cannot be removed; it is then no longer complete.
    pub fn prune_checkpoints(&self, limit: NonZeroUsize, best: Option<u64>) -> Result<Vec<u64>, RunsError> {
        let all = self.checkpoints()?;
        let Some(latest) = all.iter().rfind(|c| c.complete).map(|c| c.step) else { return Ok(Vec::new()) };
        let mut kept = vec![latest];
        kept.extend(best.filter(|b| *b != latest && all.iter().any(|c| c.step == *b && c.complete)));
        for c in all.iter().rev().filter(|c| c.complete) {
            if kept.len() < limit.get() && !kept.contains(&c.step) {
                kept.push(c.step);
            }
        }
        let mut removed = Vec::new();
        for c in all.iter().filter(|c| c.step < latest && !kept.contains(&c.step)) {
            self.remove_checkpoint(c.step)?;
            removed.push(c.step);
        }
        Ok(removed)
    }

    /// Removes the checkpoint of step `step`, if there is one.
    ///
    /// # Errors
    /// When it cannot be removed; it is then no longer complete.
    pub fn remove_checkpoint(&self, step: u64) -> Result<(), RunsError> {
        let path = self.checkpoint(step);
        // The list goes first, so that a killed removal leaves a folder known to be incomplete.
        for part in [path.join(LIST), path] {
            if part.exists() {
                remove(&part)?;
            }
        }
        Ok(())
    }
}

/// The step in a folder name such as `checkpoint-500`; none for any other name, `checkpoint-007` included.
pub(crate) fn step_of_name(name: &str) -> Option<u64> {
    let step: u64 = name.strip_prefix("checkpoint-")?.parse().ok()?;
    (name == format!("checkpoint-{step}")).then_some(step)
}

fn is_complete(path: &Path, step: u64) -> bool {
    let Ok(list) = read_json::<List>(&path.join(LIST)) else { return false };
    let is_inside = |name: &str| !name.is_empty() && name.split('/').all(|p| !matches!(p, "" | "." | ".."));
    list.step == step
        && list.files.iter().all(|(name, size)| {
            is_inside(name) && fs::metadata(path.join(name)).is_ok_and(|m| m.is_file() && m.len() == *size)
        })
}

fn files_of(root: &Path) -> Result<BTreeMap<String, u64>, RunsError> {
    let mut files = BTreeMap::new();
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(RunsError::io("read", &folder))? {
            let entry = entry.map_err(RunsError::io("read", &folder))?;
            let metadata = entry.metadata().map_err(RunsError::io("read", &folder))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if metadata.is_dir() {
                folders.push((entry.path(), format!("{name}/")));
            } else {
                files.insert(name, metadata.len());
            }
        }
    }
    Ok(files)
}
