//! What can be wrong with a model's files, a batch or a request. Every message says where, what was expected,
//! what was found and what to do.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// `config.json` cannot be used.
    #[error("{file}: {problem}; {remedy}", file = file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong, naming the field.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A file of weights or of optimiser state cannot be used as a whole.
    #[error("{file}: {problem}; {remedy}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// One tensor of a file is missing, superfluous or of another kind than the model needs.
    #[error("{file}: tensor {tensor}: expected {expected}, found {found}; {remedy}", file = file.display())]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What the model needs.
        expected: String,
        /// What the file has.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// A sequence of a batch cannot be scored or trained on.
    #[error("sequence {sequence} of the batch: {problem}; {remedy}")]
    Sequence {
        /// Its number in the batch, from 0.
        sequence: usize,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A setting is out of its range, or arguments do not fit together.
    #[error("{problem}; {remedy}")]
    Argument {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// Reading or writing failed; the message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// An operation refused its arguments.
    #[error(transparent)]
    Engine(#[from] bso_engine::EngineError),
}

impl ModelError {
    pub(crate) fn argument(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Argument { problem: problem.into(), remedy: remedy.into() }
    }

    pub(crate) fn reading(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Io(std::io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
    }
}
