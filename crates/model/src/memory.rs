//! How much memory training and scoring take, from a model's shape and a batch's size: no weights, no tokens. The
//! sizes are those by which the memory is taken, in [`crate::activations`] and [`crate::layout`].

use crate::activations::{BackwardBuffers, HeadActivations, KeptActivations, PassingActivations, bytes};
use crate::batch_size::BatchSize;
use crate::config::ModelConfig;
use crate::layout::{Layout, TensorSpec};
use crate::optimiser::OptimiserKind;
use bso_engine::{DType, PackedWeight};

/// Bytes of the parts of a decoder that do not depend on a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelMemory {
    /// Parameters in f32.
    pub weights: usize,
    /// Their rounded copies; none in f32.
    pub packed: usize,
}

/// Bytes of what a pass over a batch keeps and computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassMemory {
    /// What layers keep for the backward, or, without gradients, one layer's worth.
    pub activations: usize,
    /// Gradients on their way down.
    pub backward: usize,
}

impl ModelMemory {
    /// Of a decoder that computes in `dtype`; without `gradients` as the reference.
    pub fn of(config: &ModelConfig, dtype: DType, gradients: bool) -> Self {
        let layout = Layout::of(config);
        let size = |spec: &TensorSpec| spec.rows_cols();
        let weights = layout.tensors.iter().map(size).map(|(rows, cols)| 4 * rows * cols).sum();
        let copy = |place: usize| {
            let (rows, cols) = size(&layout.tensors[place]);
            PackedWeight::bytes_of(rows, cols, gradients)
        };
        let packed = if dtype == DType::F32 { 0 } else { layout.products().into_iter().map(copy).sum() };
        Self { weights, packed }
    }

    /// Of gradients, and of an optimiser's state.
    pub fn gradients_and_state(self, optimiser: OptimiserKind) -> (usize, usize) {
        (self.weights, self.weights * optimiser.slots().len())
    }
}

impl PassMemory {
    /// Of a forward and a backward pass; `checkpointed` keeps each layer's input only.
    pub fn of_training(config: &ModelConfig, dtype: DType, checkpointed: bool, size: BatchSize) -> Self {
        let (layers, hidden) = (config.layers, config.hidden_size);
        let kept = |mlp_rows: usize| {
            bytes(dtype, &KeptActivations::USES, &KeptActivations::shapes(size.rows, mlp_rows, config))
        };
        let stored = if checkpointed && layers > 1 {
            kept(size.rows)
        } else {
            (layers - 1) * kept(size.rows) + kept(size.head_rows)
        };
        let streams = 4 * hidden * (layers * size.rows + size.head_rows);
        let backward = bytes(dtype, &BackwardBuffers::USES, &BackwardBuffers::shapes(size, config));
        Self {
            activations: stored + streams + passing(config, dtype, size) + head(config, dtype, size),
            backward,
        }
    }

    /// Of a pass without gradients.
    pub fn of_scoring(config: &ModelConfig, dtype: DType, size: BatchSize) -> Self {
        let rows = if config.layers > 1 { size.rows } else { size.head_rows };
        let kept = bytes(dtype, &KeptActivations::USES, &KeptActivations::shapes(size.rows, rows, config));
        let streams = 2 * 4 * config.hidden_size * size.rows;
        let activations = kept + streams + passing(config, dtype, size) + head(config, dtype, size);
        Self { activations, backward: 0 }
    }
}

/// What layers pass through: the larger of the last layer's and the others'.
fn passing(config: &ModelConfig, dtype: DType, size: BatchSize) -> usize {
    let of = |mlp_rows| PassingActivations::shapes(size.rows, mlp_rows, config);
    let (last, other) = (of(size.head_rows), of(if config.layers > 1 { size.rows } else { size.head_rows }));
    let larger: Vec<_> =
        last.iter().zip(other).map(|(a, b)| if a.0 * a.1 > b.0 * b.1 { *a } else { b }).collect();
    bytes(dtype, &PassingActivations::USES, &larger)
}

fn head(config: &ModelConfig, dtype: DType, size: BatchSize) -> usize {
    bytes(dtype, &HeadActivations::USES, &HeadActivations::shapes(size, config))
}
