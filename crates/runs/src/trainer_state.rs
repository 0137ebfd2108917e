//! trainer_state.json in the layout of Hugging Face transformers' `TrainerState`, so that tools that read the
//! history of a run find it where they expect it. It is a view of metrics.jsonl, not a source of truth.

use crate::json::read_json;
use crate::{RunsError, StepMetrics, key};
use bso_durable::write_json;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The fields of transformers' `TrainerState` (version 4.57), by their names there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "names and meanings are those of transformers.TrainerState")]
#[serde(default)]
pub struct TrainerState {
    pub best_global_step: Option<u64>,
    pub best_metric: Option<f64>,
    pub best_model_checkpoint: Option<String>,
    pub epoch: f64,
    pub eval_steps: u64,
    pub global_step: u64,
    pub is_hyper_param_search: bool,
    pub is_local_process_zero: bool,
    pub is_world_process_zero: bool,
    pub log_history: Vec<StepMetrics>,
    pub logging_steps: u64,
    pub max_steps: u64,
    pub num_input_tokens_seen: u64,
    pub num_train_epochs: u64,
    pub save_steps: u64,
    pub stateful_callbacks: Map<String, Value>,
    pub total_flos: f64,
    pub train_batch_size: u64,
    pub trial_name: Option<String>,
    pub trial_params: Option<Map<String, Value>>,
}

impl Default for TrainerState {
    fn default() -> Self {
        Self {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: 500,
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: 500,
            max_steps: 0,
            num_input_tokens_seen: 0,
            num_train_epochs: 0,
            save_steps: 500,
            stateful_callbacks: Map::new(),
            total_flos: 0.0,
            train_batch_size: 0,
            trial_name: None,
            trial_params: None,
        }
    }
}

impl TrainerState {
    /// The state of a run that ended with the last of `rows`; steps, epoch and tokens are taken from it.
    #[must_use]
    pub fn after(self, rows: Vec<StepMetrics>) -> Self {
        let last = |name: &str| rows.iter().rev().find_map(|row| row.get(name));
        let steps = rows.last().map_or(0, StepMetrics::step);
        Self {
            global_step: steps,
            max_steps: steps,
            epoch: last(key::EPOCH).unwrap_or(0.0),
            num_input_tokens_seen: last(key::NUM_TOKENS).map_or(0, |n| n as u64),
            log_history: rows,
            ..self
        }
    }

    /// Writes the file whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RunsError> {
        Ok(write_json(path, self)?)
    }

    /// Reads the file, transformers' own included.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self, RunsError> {
        read_json(path)
    }
}
