//! all_results.json: the final figures of a run by name (`train_loss`, `train_runtime`, `eval_loss`, ...), flat as
//! transformers writes them.

use crate::RunsError;
use crate::json::read_json;
use bso_durable::write_json;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use std::path::Path;

/// Figures by name, in the order in which they were put.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Results(Map<String, Value>);

impl Results {
    /// No figures.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a figure; one that is not finite is written as `null`.
    pub fn put(&mut self, name: impl Into<String>, value: f64) -> &mut Self {
        self.0.insert(name.into(), Number::from_f64(value).map_or(Value::Null, Value::Number));
        self
    }

    /// Sets a count.
    pub fn put_count(&mut self, name: impl Into<String>, value: u64) -> &mut Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// A figure by name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }

    /// All numbers in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)))
    }

    /// Writes the file whole. Figures of a file that stands there stay unless set anew, so that training and a later
    /// evaluation share one file.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn merge_into(&self, path: &Path) -> Result<(), RunsError> {
        let mut all = if path.exists() { Self::read(path)? } else { Self::new() };
        all.0.extend(self.0.clone());
        Ok(write_json(path, &all)?)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self, RunsError> {
        read_json(path)
    }
}
