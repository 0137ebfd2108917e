//! Decoder-only language models: weights in and out, the sequence log-prob and its gradients, generation, and the
//! optimisers. Knows token ids, not text; knows no loss: a loss reaches it as one weight per sequence.
//!
//! The main path: [`ModelConfig`] -> [`Decoder`]; [`PackedBatch`] -> [`Decoder::forward`] -> one log-prob per
//! sequence, or, from a scalar head, one score; one weight per sequence -> [`Decoder::backward`] -> [`Gradients`] -> [`Optimiser::step`].

mod activation;
mod activations;
mod adapter;
mod backward_buffers;
mod batch_size;
mod config;
mod config_fields;
mod config_unknown;
mod decoder;
mod error;
mod families;
mod family;
mod generate;
mod generation_pass;
mod generation_session;
mod gguf;
mod gradients;
mod interpolate;
mod layer;
mod layer_kind;
mod layer_norms;
mod layout;
mod loading;
mod logits;
mod matrix;
mod memory;
mod model_directory;
mod norm;
mod optimiser;
mod optimiser_state;
mod packed_batch;
mod part;
mod quantised_base;
mod rope;
mod rope_fields;
mod row_wise;
mod sample;
mod score_head;
mod scores;
mod sequence_log_prob;
mod stored;
mod weights;

pub use activations::{Activations, Workspace};
pub use adapter::{AdapterConfig, Targets};
pub use batch_size::BatchSize;
pub use bso_engine::{CpuPath, DType, Device, Engine, EngineError, Quantisation};
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use error::ModelError;
pub use generate::{FinishReason, GenerateConfig, Generated, NewToken};
pub use gguf::{GgufMetadata, GgufType, GgufValue};
pub use gradients::Gradients;
pub use interpolate::interpolate_models;
pub use layer_kind::LayerKind;
pub use memory::{ModelMemory, PassMemory, adapter_room, room_for};
pub use model_directory::ModelDirectory;
pub use optimiser::{Optimiser, OptimiserKind};
pub use packed_batch::{PackedBatch, PromptResponse, Reads};
pub use rope::{Rope, RopeScaling};
pub use score_head::{Normaliser, NormaliserRule, ScoreHead, ScoreKind, ScoreLayout};
