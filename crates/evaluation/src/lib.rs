//! What is measured of a model's answers: refusals, degenerate text, lengths, means with intervals, paired tests.
//! Numbers and text only: no model, no tokenizer, no terminal.

mod degenerate;
mod error;
pub mod judge;
mod prompts;
mod refusal;
pub mod statistics;
mod summary;

pub use degenerate::{Degenerate, repeated_share};
pub use error::EvaluationError;
pub use prompts::{Prompt, PromptFormat, PromptKind, PromptSet};
pub use refusal::{Refusal, detect_refusal};
pub use summary::{Comparison, METRICS, Metric, Sample, Summary, summarise};
