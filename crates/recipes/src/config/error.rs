//! What can be wrong with a configuration, said with the place and the remedy.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a file, counted from 1.
    File {
        /// The file as the user named it.
        path: PathBuf,
        /// The line.
        line: u64,
    },
    /// A named part of a file that holds more than one configuration.
    Part(String),
    /// `--key value`.
    CommandLine,
    /// A named preset.
    Preset(&'static str),
    /// Nowhere: the table's default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Part(name) => f.write_str(name),
            Self::CommandLine => f.write_str("command line"),
            Self::Preset(name) => write!(f, "preset {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why a configuration was refused. All of these are wrong usage, never a failed run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is larger than any configuration.
    #[error("{} has {bytes} bytes; a configuration has at most {limit}. Is it the data file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },
    /// Not YAML, or not a mapping, or a key twice.
    #[error("{}: not a valid configuration: {message}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The parser's message with line, column and an excerpt.
        message: String,
    },
    /// A key nobody knows.
    #[error("{place}: unknown key `{key}`.{suggestion} docs/configuration.md lists every key")]
    UnknownKey {
        /// Where.
        place: Place,
        /// As written.
        key: String,
        /// " Did you mean ...?" or empty.
        suggestion: String,
    },
    /// A value of the wrong type or out of range.
    #[error("{place}: `{key}` is {found}; expected {expected}")]
    Value {
        /// Where.
        place: Place,
        /// The canonical key.
        key: String,
        /// As written.
        found: String,
        /// Type, range and examples.
        expected: String,
    },
    /// A key or value that is known and planned, but does nothing yet.
    #[error("{place}: `{what}` is not supported yet: {why}")]
    NotSupported {
        /// Where.
        place: Place,
        /// The key, or key and value.
        what: String,
        /// Reason and what to do instead.
        why: String,
    },
    /// A device that is not there.
    #[error("{place}: {why}")]
    NotHere {
        /// Where.
        place: Place,
        /// What is missing, and what to do.
        why: String,
    },
    /// `${VARIABLE}` without a value.
    #[error("{place}: `{key}` needs the environment variable {variable}, which is not set: {remedy}")]
    MissingVariable {
        /// Where.
        place: Place,
        /// The key whose value names it.
        key: String,
        /// The variable.
        variable: String,
        /// What to set or write.
        remedy: String,
    },
    /// `${` without an end, or an empty name.
    #[error(
        "{place}: `{key}`: {problem} in {found}; write ${{NAME}} or ${{NAME:-default}}, or $${{ for a literal ${{"
    )]
    Expansion {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// What is wrong.
        problem: &'static str,
        /// The text.
        found: String,
    },
    /// A key without a default was not given.
    #[error("`{key}` is missing: add `{key}: {example}` to the configuration or pass `--{key} {example}`")]
    Required {
        /// The key.
        key: &'static str,
        /// A typical value.
        example: &'static str,
    },
    /// Settings that exclude or contradict one another.
    #[error("{place}: {problem}")]
    Conflict {
        /// Where the later one stands.
        place: Place,
        /// The contradiction and how to end it.
        problem: String,
    },
    /// A preset or method that does not exist.
    #[error("unknown {kind} `{name}`.{suggestion} There are: {known}")]
    UnknownName {
        /// "preset" or "method".
        kind: &'static str,
        /// As written.
        name: String,
        /// " Did you mean ...?" or nothing.
        suggestion: String,
        /// All names.
        known: String,
    },
    /// Command-line words that are not `--key value` pairs.
    #[error("command line: {problem}; settings are given as `--key value`, for example `--beta 0.1`")]
    CommandLine {
        /// What is wrong.
        problem: String,
    },
    /// A path of the resolved configuration is not usable.
    #[error("`{key}`: {} {problem}", path.display())]
    Path {
        /// The key.
        key: &'static str,
        /// Where it points.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The objective refused its numbers.
    #[error("the objective cannot be built: {0}")]
    Objective(#[from] bso_objective::ObjectiveError),
    /// A fault of this program's own table.
    #[error("internal fault in the key table: {0}")]
    Table(String),
}

impl ConfigError {
    pub(super) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

/// " Did you mean `x`?" for the nearest of `known`, or nothing when none is near.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let word = word.to_lowercase().replace('-', "_");
    let near = known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(&word, &k.to_lowercase().replace('-', "_")), k))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    near.map(|(_, k)| format!(" Did you mean `{k}`?")).unwrap_or_default()
}
