//! Arrays and a closed set of operations, each with its explicit backward. This crate knows shapes, kernels
//! and threads; it knows no model, no token meaning, no loss and no file.
//!
//! One operation per file, its backward directly under it. All operations are methods of [`Engine`]: outputs are
//! passed in (allocated once, reused every step), shapes are checked first and refused with an [`EngineError`],
//! and results are the same bytes for the same inputs, machine, thread count and [`CpuPath`].

mod accelerator;
mod array;
mod attention;
mod attention_backward;
mod attention_forward;
mod bf16_kernel;
mod bf16_panels;
mod bf16_product;
mod bf16_round;
mod cached_attention;
mod cpu;
mod cuda;
mod device;
mod device_memory;
mod dora;
mod dropout;
mod each;
mod element;
mod elementwise;
mod embedding;
mod engine;
mod error;
mod gelu;
mod head_update;
mod kv_cache;
mod layer_norm;
mod linear;
mod low_rank;
mod matmul;
mod nested_scales;
mod nf4;
mod norm;
mod optimiser_update;
mod packed_weight;
mod project;
mod quantised_product;
mod quantised_weight;
mod rms_norm;
mod rotary;
mod row_products;
mod rows;
mod score_head;
mod scratch;
mod segments;
mod selected_log_prob;
mod self_test;
mod shared;
mod soft_cap;
mod swiglu;
#[cfg(test)]
mod testing;
mod tile;
mod tile_product;
mod tile_strips;
mod tile_transpose;
mod vector;

pub use accelerator::RoomFor;
pub use array::Array;
pub use attention::{AttentionForward, AttentionGrads, AttentionShape, Qkv};
pub use cpu::CpuPath;
pub use device::{DType, Device};
pub use dora::{Dora, DoraGrads, RowLengths};
pub use dropout::Dropout;
pub use engine::Engine;
pub use error::EngineError;
pub use gelu::{Gelu, GeluGrads};
pub use head_update::{HeadAdapter, HeadAdapterGrads};
pub use kv_cache::{CachedRows, KvCache};
pub use layer_norm::LayerNormGrads;
pub use linear::{Accumulate, LinearGrads};
pub use low_rank::{LowRank, LowRankGrads};
pub use optimiser_update::{AdamW, AdamWState, RmsProp, Sgd};
pub use packed_weight::{PackedWeight, Weight};
pub use project::Projection;
pub use quantised_weight::{Quantisation, QuantisedWeight};
pub use rms_norm::{NormWeight, RmsNormGrads};
pub use rotary::RotaryTable;
pub use score_head::ScoreGrads;
pub use segments::{Segment, Segments};
pub use selected_log_prob::{HeadInputs, SelectedLogProbGrads};
pub use swiglu::SwigluGrads;
