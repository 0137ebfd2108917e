//! How much memory training and scoring take, from a model's shape and a batch's size: no weights, no tokens. The
//! sizes are those by which the memory is taken, in [`crate::activations`] and [`crate::layout`].

use crate::activations::{
    AttentionActivations, HeadActivations, PassingActivations, RowActivations, embeds_again,
};
use crate::backward_buffers::{BackwardBuffers, RowGradients};
use crate::batch_size::BatchSize;
use crate::config::ModelConfig;
use crate::layout::{Layout, TensorSpec};
use crate::matrix::bytes;
use crate::optimiser::OptimiserKind;
use crate::part::{PartRows, block};
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
        let (layers, part) = (config.layers, PartRows::of(size, config, block(checkpointed, dtype)));
        let kept = |rows| rows_kept(config, dtype, rows);
        let (stored, rows) = if checkpointed {
            (1, kept(part.any))
        } else {
            (layers, (layers - 1) * kept(size.rows) + kept(size.head_rows))
        };
        let attention = stored * attention(config, dtype, size.rows);
        let streams = layers - usize::from(embeds_again(checkpointed, config));
        let streams = 4 * config.hidden_size * streams * size.rows;
        let passing = passing(config, dtype, (size.rows, part));
        let row_gradients = RowGradients::shapes(part.any, part.copied, config);
        Self {
            activations: attention + rows + streams + passing + head(config, dtype, size),
            backward: bytes(dtype, &BackwardBuffers::USES, &BackwardBuffers::shapes(size, config))
                + bytes(dtype, &RowGradients::USES, &row_gradients),
        }
    }

    /// Of a pass without gradients.
    pub fn of_scoring(config: &ModelConfig, dtype: DType, size: BatchSize) -> Self {
        let part = PartRows::of(size, config, block(false, dtype));
        let kept = attention(config, dtype, size.rows) + rows_kept(config, dtype, part.any);
        let streams = 2 * 4 * config.hidden_size * size.rows;
        let passing = passing(config, dtype, (size.rows, part));
        Self { activations: kept + streams + passing + head(config, dtype, size), backward: 0 }
    }
}

fn attention(config: &ModelConfig, dtype: DType, rows: usize) -> usize {
    bytes(dtype, &AttentionActivations::USES, &AttentionActivations::shapes(rows, config))
}

fn rows_kept(config: &ModelConfig, dtype: DType, rows: usize) -> usize {
    bytes(dtype, &RowActivations::USES, &RowActivations::shapes(rows, config))
}

fn passing(config: &ModelConfig, dtype: DType, (rows, part): (usize, PartRows)) -> usize {
    bytes(dtype, &PassingActivations::USES, &PassingActivations::shapes(rows, part, config))
}

fn head(config: &ModelConfig, dtype: DType, size: BatchSize) -> usize {
    bytes(dtype, &HeadActivations::USES, &HeadActivations::shapes(size, config))
}
