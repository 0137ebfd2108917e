//! Names on the hub.

use std::fmt;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoKind {
    /// A model with its tokenizer.
    Model,
    /// A data set.
    Dataset,
}

impl RepoKind {
    /// For messages.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "data set",
        }
    }

    /// The first part of API paths and, before `--`, of cache folders.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// `org/name`, or `org/name@revision` (a branch, tag or commit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `org/name`.
    pub repo: String,
    /// The revision; `main` where none is named.
    pub revision: String,
}

/// Endings of files of rows, weights and configs: no repository is meant by them.
const FILES: [&str; 12] = [
    ".jsonl",
    ".ndjson",
    ".json",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".gz",
    ".safetensors",
    ".gguf",
    ".yaml",
    ".txt",
];

impl Name {
    /// Reads a name; `None` where `text` cannot be one (no or several slashes, other characters, a file's ending).
    pub fn parse(text: &str) -> Option<Self> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = repo.split_once('/')?;
        let word = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.len() <= 96
                && part.chars().all(allowed)
        };
        let branch = |part: &str| !part.is_empty() && part.split('/').all(word);
        let is_file = FILES.iter().any(|end| name.to_lowercase().ends_with(end));
        (word(owner) && word(name) && branch(revision) && !is_file)
            .then(|| Self { repo: repo.to_owned(), revision: revision.to_owned() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.repo),
            revision => write!(f, "{}@{revision}", self.repo),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        for (text, name) in [
            ("PKU-Alignment/PKU-SafeRLHF", Some("PKU-Alignment/PKU-SafeRLHF")),
            ("Qwen/Qwen2.5-0.5B@main", Some("Qwen/Qwen2.5-0.5B")),
            ("a/b@refs/pr/1", Some("a/b@refs/pr/1")),
            ("model", None),
            ("./runs/sft", None),
            ("/models/m", None),
            ("a/b/c", None),
            ("../b", None),
            ("a/..", None),
            ("data/train.jsonl", None),
            ("a/b@", None),
            ("a/b@../x", None),
            ("a/b c", None),
        ] {
            assert_eq!(Name::parse(text).map(|n| n.to_string()).as_deref(), name, "{text}");
        }
    }
}
