//! What a run leaves on disk, and the report made from it. No training code, no tensors, no printing:
//! the procedures hand over numbers and texts, this crate decides where they go and how they look.

mod checkpoints;
mod diagnostics;
mod directory;
mod error;
pub mod frontier;
mod json;
mod manifest;
mod metrics;
mod metrics_log;
mod mlflow;
mod model_card;
pub mod report;
mod results;
mod tensorboard;
mod trainer_state;

pub use checkpoints::{Checkpoint, CheckpointBuilder};
pub use diagnostics::{Change, Evidence, Finding, Symptom, diagnose};
pub use directory::{Existing, Opening, RunDirectory, lock_folder};
pub use error::RunsError;
pub use manifest::{Environment, Fingerprinted, LedgerRow, Manifest, Status};
pub use metrics::{PairMetrics, Quadrant, StepMetrics, key};
pub use metrics_log::{MetricsFile, MetricsLog, Resumed, read_metrics};
pub use mlflow::{Mlflow, MlflowStatus};
pub use model_card::ModelCard;
pub use results::Results;
pub use tensorboard::TensorBoard;
pub use trainer_state::TrainerState;
