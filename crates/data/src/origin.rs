//! Where a row came from, so that every message about it can say so.

use serde::{Serialize, Serializer};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A file and a row in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The file as the user named it (or as found in the folder the user named).
    pub file: Arc<Path>,
    /// Counted from 1: the line of a JSON-lines file, the element of a JSON array, the record of a CSV file (its first line
    /// not counted), the row of a Parquet or Arrow file.
    pub row: usize,
}

impl Origin {
    /// Row `row` (from 1) of `file`.
    pub fn new(file: impl AsRef<Path>, row: usize) -> Self {
        Self { file: Arc::from(file.as_ref()), row }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.row)
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
