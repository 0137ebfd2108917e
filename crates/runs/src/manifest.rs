//! manifest.json: what a run was made of (versions, fingerprints, device, seed), so that it can be repeated and a
//! resume with other ingredients is noticed.

use crate::RunsError;
use crate::json::read_json;
use bso_durable::write_json;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Status {
    /// Under way, or killed.
    Running,
    /// Stopped by the user after a checkpoint.
    Interrupted {
        /// Optimiser steps done.
        step: u64,
    },
    /// Stopped by an error.
    Failed {
        /// Optimiser steps done.
        step: u64,
        /// The error's message.
        reason: String,
    },
    /// Ended as planned.
    Finished {
        /// Optimiser steps done.
        step: u64,
    },
}

/// An ingredient and its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprinted {
    /// Path or name as the user gave it.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// A line of the data ledger: what happened to how many rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// What happened ("read", "swapped", "dropped: both unsafe", ...).
    pub what: String,
    /// To how many rows.
    pub count: u64,
    /// Why, or an example; may be empty.
    #[serde(default)]
    pub note: String,
}

impl LedgerRow {
    /// A line without a note.
    pub fn new(what: impl Into<String>, count: u64) -> Self {
        Self { what: what.into(), count, note: String::new() }
    }
}

/// The machine and the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Program and version.
    pub program: String,
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub arch: String,
    /// Processor model, if the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Processors available to the process.
    pub processors: usize,
}

impl Environment {
    /// Looks at this machine.
    pub fn detect() -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        Self {
            program: format!("bso {}", env!("CARGO_PKG_VERSION")),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpu,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// The content of manifest.json. Keys this version does not know are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// How far the run has come.
    pub status: Status,
    /// When it began (RFC 3339).
    pub started: String,
    /// The machine and the program.
    pub environment: Environment,
    /// `sft`, `preference`, ...
    pub stage: String,
    /// The resolved objective in one line.
    pub objective: String,
    /// The resolved reference in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Device that computed.
    pub device: String,
    /// Number type of the computation.
    pub dtype: String,
    /// Threads that computed; results repeat only for the same number.
    pub num_threads: usize,
    /// The seed.
    pub seed: u64,
    /// Trained parameters.
    #[serde(default)]
    pub trainable_parameters: u64,
    /// Fingerprints by role: `model`, `tokenizer`, `template`, `data`, `reference`, ...
    #[serde(default)]
    pub fingerprints: Vec<(String, Fingerprinted)>,
    /// What happened to the data.
    #[serde(default)]
    pub ledger: Vec<LedgerRow>,
    /// Anything else.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Manifest {
    /// The layout that this version writes.
    pub const FORMAT: u32 = 1;

    /// Writes the file whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RunsError> {
        Ok(write_json(path, self)?)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or is of a later layout.
    pub fn read(path: &Path) -> Result<Self, RunsError> {
        let manifest: Self = read_json(path)?;
        if manifest.format > Self::FORMAT {
            let reason = format!("layout {} is newer than this program ({})", manifest.format, Self::FORMAT);
            return Err(RunsError::Json { path: path.to_owned(), reason });
        }
        Ok(manifest)
    }

    /// What differs from `other` although a resumed run must repeat it, one sentence each.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, was: &str, is: &str| {
            if was != is {
                found.push(format!("{what} was {was} and is now {is}"));
            }
        };
        compare("stage", &self.stage, &other.stage);
        compare("the objective", &self.objective, &other.objective);
        compare("device", &self.device, &other.device);
        compare("dtype", &self.dtype, &other.dtype);
        compare("num_threads", &self.num_threads.to_string(), &other.num_threads.to_string());
        compare("seed", &self.seed.to_string(), &other.seed.to_string());
        for (role, is) in &other.fingerprints {
            if let Some((_, was)) = self.fingerprints.iter().find(|(r, _)| r == role) {
                let short = |f: &Fingerprinted| format!("{} ({:.12})", f.name, f.sha256);
                if was.sha256 != is.sha256 {
                    compare(role, &short(was), &short(is));
                }
            }
        }
        found
    }
}
