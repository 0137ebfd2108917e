//! What can go wrong with the files of a run: each message names the path and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum RunsError {
    /// The output path is a file.
    #[error("output_dir {path} is not a folder; choose another output_dir")]
    NotAFolder {
        /// The output path.
        path: PathBuf,
    },
    /// The folder holds another run.
    #[error(
        "output_dir {path} already holds a run ({found}); choose another output_dir, continue it with \
         `resume_from_checkpoint: true`, or replace it with `overwrite_output_dir: true`"
    )]
    HoldsRun {
        /// The output folder.
        path: PathBuf,
        /// A file of that run.
        found: String,
    },
    /// The folder holds files that are not a run's.
    #[error(
        "output_dir {path} is not empty ({found}) and holds no run; choose another output_dir, or allow \
         writing beside these files with `overwrite_output_dir: true` (files of the same names, such as \
         config.yaml and README.md, are then replaced)"
    )]
    NotEmpty {
        /// The output folder.
        path: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// Overwriting would delete an input of this very run.
    #[error("overwriting {path} would delete {input}, which this run reads; choose another output_dir")]
    InputInside {
        /// The output folder.
        path: PathBuf,
        /// The input that lies in it.
        input: PathBuf,
    },
    /// Another process writes into the folder.
    #[error("another run is writing into {path}; wait for it or choose another output_dir")]
    InUse {
        /// The output folder.
        path: PathBuf,
    },
    /// The folder cannot be written.
    #[error("output_dir {path} cannot be written: {source}; check its permissions or choose another one")]
    NotWritable {
        /// The output folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system is too full for what the run will write.
    #[error(
        "output_dir {path} has {} free and this run needs about {}; free some space, lower save_total_limit \
         or choose another output_dir",
        bytes(*free),
        bytes(*needed)
    )]
    TooLittleSpace {
        /// The output folder.
        path: PathBuf,
        /// Bytes the caller expects to write.
        needed: u64,
        /// Bytes the file system offers.
        free: u64,
    },
    /// A line of metrics.jsonl that is not a metrics row.
    #[error(
        "{path}, line {line}: {reason}; remove the line, or start the run anew with overwrite_output_dir"
    )]
    MetricsLine {
        /// The file.
        path: PathBuf,
        /// Line number from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A JSON file of a run that cannot be understood.
    #[error("{path} is not as a run writes it: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A whole file could not be written; the message names it.
    #[error(transparent)]
    Write(#[from] io::Error),
}

impl RunsError {
    /// Adds the action and the path to what the system said.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// A count of bytes as people say it.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "bytes" { format!("{count} bytes") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
