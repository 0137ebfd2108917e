//! The procedures: what a command does, from checked input to files on disk. They tie data, objective, model and
//! runs together; none of these knows another.
//!
//! The main path: [`train::train`] -> `session` -> `step` -> the model's log-probs -> `objective` -> the model's
//! gradients and optimiser.

pub mod artefacts;
mod batches;
mod best;
mod checkpoint;
pub mod config;
pub mod dataset;
pub mod demo;
mod error;
pub mod eval;
mod evaluation;
pub mod example;
mod first_steps;
mod fitting;
pub mod generate;
mod gguf;
pub mod lines;
mod loaded;
pub mod location;
pub mod logprobs;
pub mod merge;
pub mod objective;
pub mod plan;
mod policy;
pub mod ppo;
mod recipe;
mod reference;
pub mod report;
mod run_log;
mod scaled_gradients;
mod schedule;
mod score;
pub mod score_rows;
mod session;
mod shared_reference;
pub mod step;
mod step_metrics;
pub mod sweep;
pub mod train;

pub use error::{RecipeError, is_full};
pub use objective::TrainingObjective;
pub use train::{Trained, reference_log_probs, train};

pub use bso_data::{Message, Preference, TemplateChoice, Truncation, TruncationMode};
pub use bso_model::{DType, Device, Engine, GenerateConfig, GgufType};
