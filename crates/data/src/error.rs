//! What can go wrong between a file of rows and tokens. Every message names the place and the remedy.

use crate::origin::Origin;
use std::io;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), remedy_for(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder holds no file that can be read.
    #[error(
        "{} holds no file of rows: .jsonl, .json or .csv (gzip allowed), .parquet or .arrow{hint}",
        path.display()
    )]
    NoFiles {
        /// The folder.
        path: PathBuf,
        /// A remedy, possibly empty.
        hint: String,
    },
    /// A Parquet or Arrow file that cannot be decoded.
    #[error(
        "{}: damaged or unknown {format}{place}: {problem}; compare its size with the original, then download or write it again",
        path.display()
    )]
    Table {
        /// The file.
        path: PathBuf,
        /// Parquet or Arrow.
        format: String,
        /// "after row N", possibly empty.
        place: String,
        /// What the decoder said.
        problem: String,
    },
    /// A row is not what its file format promises.
    #[error("{origin}: {problem}; {remedy}")]
    BadRow {
        /// File and line or element.
        origin: Origin,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The first row fits no schema, or the schema does not fit the purpose.
    #[error("{0}")]
    Schema(String),
    /// Rows without the labels that the loss or the transform needs.
    #[error(
        "{count} of {read} rows lack {what}, which {why} needs; the first: {}. Label them, leave them out, or choose a loss and transform that need no such labels",
        list(first)
    )]
    MissingLabels {
        /// Rows without them.
        count: usize,
        /// Rows read.
        read: usize,
        /// Which labels.
        what: &'static str,
        /// Who needs them.
        why: String,
        /// The first ten.
        first: Vec<Origin>,
    },
    /// No row is left to use.
    #[error("no usable row in {}: {why}", path.display())]
    NothingLeft {
        /// The data.
        path: PathBuf,
        /// The ledger in a sentence.
        why: String,
    },
    /// A tokenizer directory that cannot be used.
    #[error("tokenizer in {}: {problem}", path.display())]
    Tokenizer {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A chat template that does not compile, raises, or cannot be used for scoring.
    #[error("chat template {template}: {problem}")]
    Template {
        /// Where the template came from.
        template: String,
        /// What it said or did.
        problem: String,
    },
    /// A template failed on one row.
    #[error("{origin}: {source}")]
    AtRow {
        /// The row.
        origin: Origin,
        /// What happened.
        source: Box<DataError>,
    },
    /// A row longer than allowed under truncation mode `raise`.
    #[error(
        "{origin}: {tokens} tokens (prompt and response) exceed max_length {max_length}; raise max_length or choose truncation_mode keep_start, keep_end or drop"
    )]
    TooLong {
        /// The row.
        origin: Origin,
        /// Its length.
        tokens: usize,
        /// What is allowed.
        max_length: usize,
    },
    /// A setting out of its range or unknown.
    #[error("{0}")]
    Setting(String),
}

impl DataError {
    pub(crate) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(crate) fn at(self, origin: &Origin) -> Self {
        match self {
            Self::Template { .. } | Self::Tokenizer { .. } => {
                Self::AtRow { origin: origin.clone(), source: Box::new(self) }
            }
            other => other,
        }
    }
}

fn remedy_for(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            " (a truncated gzip file? download or compress it again, then check it with `gzip -t`)"
        }
        io::ErrorKind::NotFound => " (check the path; paths in a config are relative to the config file)",
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            " (a damaged gzip file? check it with `gzip -t`)"
        }
        _ => "",
    }
}

pub(crate) fn list(origins: &[Origin]) -> String {
    let mut text = String::new();
    let mut last: Option<&Origin> = None;
    for origin in origins {
        if !text.is_empty() {
            text.push_str(", ");
        }
        match last {
            Some(l) if l.file == origin.file => text.push_str(&origin.row.to_string()),
            _ => text.push_str(&origin.to_string()),
        }
        last = Some(origin);
    }
    text
}
