//! The run directory: the one file that decides every path of a run, and whether a run may begin in a folder.
//! What stands in the files is decided elsewhere.

use crate::RunsError;
use bso_durable::{atomic_write, ensure_dir};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that show that a folder holds a run, most telling first.
const RECORDS: [&str; 3] = ["manifest.json", "metrics.jsonl", "trainer_state.json"];

/// What a run that has not begun its first step may leave: the next one reads it, or goes on from a part.
const BEGUN: [&str; 6] = [
    "reference_log_probs.jsonl",
    "reference_log_probs.jsonl.part",
    "margin_log_probs.jsonl",
    "margin_log_probs.jsonl.part",
    "replay_log_probs.jsonl",
    "replay_log_probs.jsonl.part",
];

/// Files of a run whose names others use as well. They belong to a run only where a record says so.
const COMMON_FILES: [&str; 6] =
    ["config.yaml", "all_results.json", "report.html", "tensorboard", "mlruns", "README.md"];

/// The exported model's files beside weight shards. They belong to a run only where a record says so.
const MODEL_FILES: [&str; 9] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// What to do when the folder is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Existing {
    /// Stop with an error.
    #[default]
    Refuse,
    /// Delete the run that stands there. Files that no run writes stay.
    Overwrite,
    /// Keep what stands there and continue.
    Resume,
}

/// How a run asks for its folder.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// What to do when the folder is not empty.
    pub existing: Existing,
    /// Bytes that the run expects to write at most at a time, if known: checked against the free space.
    pub needed_bytes: Option<u64>,
    /// Files and folders that the run reads (model, data): never deleted by [`Existing::Overwrite`].
    pub inputs: Vec<PathBuf>,
}

/// A folder that holds, or will hold, one run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    root: PathBuf,
    /// Held while the run writes; released by the system when the process ends in whatever way.
    _lock: Option<Arc<File>>,
}

impl RunDirectory {
    /// Names a run directory for reading; touches nothing.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), _lock: None }
    }

    /// Creates or takes over the folder for writing: checks that it is free to use, writable and roomy enough, and
    /// keeps other runs out until the last clone is dropped.
    ///
    /// # Errors
    /// Every case of [`RunsError`] about `output_dir`; nothing was deleted then.
    pub fn open(root: impl Into<PathBuf>, opening: &Opening) -> Result<Self, RunsError> {
        let root: PathBuf = root.into();
        if root.exists() && !root.is_dir() {
            return Err(RunsError::NotAFolder { path: root });
        }
        ensure_dir(&root).map_err(|source| RunsError::NotWritable { path: root.clone(), source })?;
        let lock = lock_folder(&root)?;
        let run = Self { root, _lock: lock.map(Arc::new) };
        if opening.existing == Existing::Refuse {
            run.refuse_if_used()?;
        }
        run.probe()?;
        run.check_space(opening.needed_bytes)?;
        if opening.existing == Existing::Overwrite {
            run.remove_run(&opening.inputs)?;
        }
        run.remove_leftovers()?;
        Ok(run)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.yaml")
    }

    /// Versions, fingerprints, device, seed.
    pub fn manifest(&self) -> PathBuf {
        self.root.join("manifest.json")
    }

    /// One JSON object per logged step.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// The reference's log-probs of the examples, with what they depend on.
    pub fn reference_log_probs(&self) -> PathBuf {
        self.root.join("reference_log_probs.jsonl")
    }

    /// The same of the model that MODPO's margins come from.
    pub fn margin_log_probs(&self) -> PathBuf {
        self.root.join("margin_log_probs.jsonl")
    }

    /// The reference's log-probs of BFPO's general pairs.
    pub fn replay_log_probs(&self) -> PathBuf {
        self.root.join("replay_log_probs.jsonl")
    }

    /// The Hugging Face trainer's view of the run.
    pub fn trainer_state(&self) -> PathBuf {
        self.root.join("trainer_state.json")
    }

    /// Final figures.
    pub fn all_results(&self) -> PathBuf {
        self.root.join("all_results.json")
    }

    /// The model card.
    pub fn model_card(&self) -> PathBuf {
        self.root.join("README.md")
    }

    /// Event files for TensorBoard.
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("tensorboard")
    }

    /// MLflow's file store.
    pub fn mlruns(&self) -> PathBuf {
        self.root.join("mlruns")
    }

    /// The self-contained report.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// Where the final model goes: the folder itself, so that it opens in transformers unchanged.
    pub fn model(&self) -> &Path {
        &self.root
    }

    /// The checkpoint taken after optimiser step `step`.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.root.join(format!("checkpoint-{step}"))
    }

    /// A file of a run that stands in the folder already, by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn record(&self) -> Result<Option<String>, RunsError> {
        if let Some(name) = RECORDS.iter().find(|name| self.root.join(name).exists()) {
            return Ok(Some((*name).to_owned()));
        }
        Ok(self.checkpoints()?.last().map(|c| format!("checkpoint-{}", c.step)))
    }

    /// Bytes that this process may still write in the folder; none where the system does not tell.
    pub fn free_bytes(&self) -> Option<u64> {
        #[cfg(unix)]
        {
            let space = rustix::fs::statvfs(&self.root).ok()?;
            space.f_bavail.checked_mul(space.f_frsize)
        }
        #[cfg(not(unix))]
        None
    }

    /// Checks that about `needed` bytes can be written now, e.g. before a checkpoint.
    ///
    /// # Errors
    /// [`RunsError::TooLittleSpace`]; silent where the free space is unknown.
    pub fn check_space(&self, needed: Option<u64>) -> Result<(), RunsError> {
        match (needed, self.free_bytes()) {
            (Some(needed), Some(free)) if needed > free => {
                Err(RunsError::TooLittleSpace { path: self.root.clone(), needed, free })
            }
            _ => Ok(()),
        }
    }

    /// Names of the folder's entries, sorted.
    pub(crate) fn entries(&self) -> Result<Vec<String>, RunsError> {
        let read = RunsError::io("read", &self.root);
        let names = fs::read_dir(&self.root).and_then(|entries| {
            entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>, _>>()
        });
        let mut names = names.map_err(read)?;
        names.sort();
        Ok(names)
    }

    fn refuse_if_used(&self) -> Result<(), RunsError> {
        if let Some(found) = self.record()? {
            return Err(RunsError::HoldsRun { path: self.root.clone(), found });
        }
        match self.entries()?.into_iter().find(|name| !is_leftover(name) && !BEGUN.contains(&name.as_str())) {
            Some(found) => Err(RunsError::NotEmpty { path: self.root.clone(), found }),
            None => Ok(()),
        }
    }

    /// Permission bits do not tell (root, read-only mounts, quotas): only writing does.
    fn probe(&self) -> Result<(), RunsError> {
        let probe = self.root.join(".bso-probe.tmp");
        atomic_write(&probe, |out| out.write_all(&[0; 4096]))
            .and_then(|()| fs::remove_file(&probe))
            .map_err(|source| RunsError::NotWritable { path: self.root.clone(), source })
    }

    fn remove_run(&self, inputs: &[PathBuf]) -> Result<(), RunsError> {
        // Without a record the model files here are somebody else's: they are only ever replaced, whole.
        if self.record()?.is_none() {
            let begun = BEGUN.iter().map(|name| self.root.join(name));
            return begun.filter(|path| path.exists()).try_for_each(|path| remove(&path));
        }
        let doomed: Vec<PathBuf> =
            self.entries()?.iter().filter(|name| is_of_run(name)).map(|name| self.root.join(name)).collect();
        for input in inputs {
            let Ok(input) = input.canonicalize() else { continue };
            let root = self.root.canonicalize().map_err(RunsError::io("find", &self.root))?;
            let hit = doomed.iter().filter_map(|d| d.canonicalize().ok()).any(|d| input.starts_with(&d));
            if hit || input == root {
                return Err(RunsError::InputInside { path: self.root.clone(), input });
            }
        }
        doomed.iter().try_for_each(|path| remove(path))
    }

    /// Half-built files of a killed run: the lock says that nobody is still building them.
    fn remove_leftovers(&self) -> Result<(), RunsError> {
        let entries = self.entries()?;
        entries.iter().filter(|name| is_leftover(name)).try_for_each(|name| remove(&self.root.join(name)))
    }
}

/// Removes a file or a folder.
pub(crate) fn remove(path: &Path) -> Result<(), RunsError> {
    let of_link = fs::symlink_metadata(path).map_err(RunsError::io("find", path))?;
    // A link is removed itself; what it points to is not the run's.
    let removed = if of_link.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(RunsError::io("remove", path))
}

fn is_leftover(name: &str) -> bool {
    name.starts_with(".bso-") && name.ends_with(".tmp")
}

fn is_of_run(name: &str) -> bool {
    let is_shard = name.starts_with("model-") && name.ends_with(".safetensors");
    RECORDS.contains(&name)
        || BEGUN.contains(&name)
        || COMMON_FILES.contains(&name)
        || MODEL_FILES.contains(&name)
        || is_shard
        || crate::checkpoints::step_of_name(name).is_some()
}

/// Locks the folder itself, so that no lock file is left behind. None where the system cannot lock folders.
///
/// # Errors
/// [`RunsError::InUse`] where somebody else holds the lock.
pub fn lock_folder(root: &Path) -> Result<Option<File>, RunsError> {
    let Ok(folder) = File::open(root) else { return Ok(None) };
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Err(RunsError::InUse { path: root.to_owned() }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}
