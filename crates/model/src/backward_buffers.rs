//! The memory of a backward pass: gradients on their way down, one layer's worth whatever the depth.

use crate::batch_size::BatchSize;
use crate::config::ModelConfig;
use crate::family::QkNorm;
use crate::matrix::Use::{Product, Sum};
use crate::matrix::{Matrix, Shape, Use, fit_all};
use bso_engine::{DType, Engine, EngineError};

/// Gradients on their way down; one layer's worth, whatever the depth.
#[derive(Debug, Default)]
pub(crate) struct BackwardBuffers {
    /// Of the residual stream, all rows.
    pub residual: Matrix,
    /// Of the residual stream in the last layer, the rows that meet the head.
    pub last_residual: Matrix,
    /// Of what products read after a norm.
    pub normed: Matrix,
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub attended: Matrix,
    /// Of queries or keys before their norm.
    pub raw: Matrix,
    /// Of what is computed row by row.
    pub rows: RowGradients,
    /// Of the scored rows after and before the final norm.
    pub head_normed: Matrix,
    pub head_gathered: Matrix,
    /// One weight a scored row.
    pub row_weights: Vec<f32>,
}

impl BackwardBuffers {
    pub(crate) const USES: [Use; 11] = [Sum; 11];

    pub(crate) fn shapes(size: BatchSize, config: &ModelConfig) -> [Shape; 11] {
        let BatchSize { rows, head_rows, scored, .. } = size;
        let hidden = config.hidden_size;
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let raw_rows = if config.family().qk_norm == QkNorm::None { 0 } else { rows };
        [
            (rows, hidden),
            (head_rows, hidden),
            (rows, hidden),
            (rows, wide),
            (rows, narrow),
            (rows, narrow),
            (rows, wide),
            (raw_rows, wide),
            (scored, hidden),
            (scored, hidden),
            (scored, 1),
        ]
    }

    /// Without [`BackwardBuffers::rows`], which take the rows at hand.
    pub(crate) fn fit(
        &mut self,
        engine: &Engine,
        size: BatchSize,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let matrices = [
            &mut self.residual,
            &mut self.last_residual,
            &mut self.normed,
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.attended,
            &mut self.raw,
            &mut self.head_normed,
            &mut self.head_gathered,
        ];
        fit_all((engine, DType::F32), matrices, (&Self::USES, &Self::shapes(size, config)))?;
        self.row_weights.clear();
        self.row_weights.reserve(size.scored);
        Ok(())
    }
}

/// Gradients of what a layer computes row by row, on the rows of one part.
#[derive(Debug, Default)]
pub(crate) struct RowGradients {
    pub gated: Matrix,
    pub up: Matrix,
    /// Of what attention or MLP gives, before a norm that stands there.
    pub branch: Matrix,
    /// Of attention's result, where the part is not the whole.
    pub attended: Matrix,
}

impl RowGradients {
    /// Between the products of the MLP gradients are in their precision; elsewhere, where they add up, in f32.
    pub(crate) const USES: [Use; 4] = [Product, Product, Sum, Sum];

    /// `copied`: those rows that are a part of more.
    pub(crate) fn shapes(rows: usize, copied: usize, config: &ModelConfig) -> [Shape; 4] {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let [_, post_attention, _, post_mlp] = config.family().names.norms;
        let branch_rows = if post_attention.or(post_mlp).is_some() { rows } else { 0 };
        [(rows, inner), (rows, inner), (branch_rows, hidden), (copied, config.heads * config.head_dim)]
    }

    pub(crate) fn fit(
        &mut self,
        on: (&Engine, DType),
        (rows, copied): (usize, usize),
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let matrices = [&mut self.gated, &mut self.up, &mut self.branch, &mut self.attended];
        fit_all(on, matrices, (&Self::USES, &Self::shapes(rows, copied, config)))
    }
}
