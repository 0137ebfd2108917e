//! The memory of a forward and a backward pass: allocated at the first batch, reused by every later one, grown
//! when a batch is larger. Computes nothing.

use crate::config::ModelConfig;
use bso_engine::{Array, DType, EngineError};

/// What one layer computes on its way.
#[derive(Debug, Default)]
pub(crate) struct LayerActivations {
    pub normed: Matrix,
    pub inv_rms: Vec<f32>,
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub attended: Matrix,
    pub lse: Matrix,
    /// The residual stream between attention and MLP.
    pub middle: Matrix,
    pub mlp_normed: Matrix,
    pub mlp_inv_rms: Vec<f32>,
    pub gate: Matrix,
    pub up: Matrix,
    pub gated: Matrix,
}

/// An array that starts empty.
#[derive(Debug)]
pub(crate) struct Matrix(pub Array);

impl Default for Matrix {
    fn default() -> Self {
        Self(Array::zeros(0, 0))
    }
}

impl std::ops::Deref for Matrix {
    type Target = Array;
    fn deref(&self) -> &Array {
        &self.0
    }
}

impl std::ops::DerefMut for Matrix {
    fn deref_mut(&mut self) -> &mut Array {
        &mut self.0
    }
}

impl Matrix {
    /// This shape and precision; the values are unspecified.
    fn fit(&mut self, dtype: DType, rows: usize, cols: usize) -> Result<(), EngineError> {
        if self.0.dtype() != dtype {
            self.0 = Array::zeros_of(dtype, 0, 0)?;
        }
        self.0.resize(rows, cols);
        Ok(())
    }
}

impl LayerActivations {
    /// What products read is in `dtype`, all else in f32.
    pub(crate) fn fit(&mut self, dtype: DType, rows: usize, config: &ModelConfig) -> Result<(), EngineError> {
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        for (matrix, cols) in [
            (&mut self.normed, config.hidden_size),
            (&mut self.query, wide),
            (&mut self.key, narrow),
            (&mut self.value, narrow),
            (&mut self.attended, wide),
            (&mut self.mlp_normed, config.hidden_size),
            (&mut self.gate, config.intermediate_size),
            (&mut self.up, config.intermediate_size),
            (&mut self.gated, config.intermediate_size),
        ] {
            matrix.fit(dtype, rows, cols)?;
        }
        self.lse.resize(rows, config.heads);
        self.middle.resize(rows, config.hidden_size);
        self.inv_rms.resize(rows, 0.0);
        self.mlp_inv_rms.resize(rows, 0.0);
        Ok(())
    }
}

/// What the head computes on the scored rows.
#[derive(Debug, Default)]
pub(crate) struct HeadActivations {
    pub gathered: Matrix,
    pub normed: Matrix,
    pub inv_rms: Vec<f32>,
    pub log_probs: Vec<f64>,
    pub lse: Vec<f32>,
}

impl HeadActivations {
    pub(crate) fn fit(&mut self, dtype: DType, rows: usize, config: &ModelConfig) -> Result<(), EngineError> {
        self.gathered.resize(rows, config.hidden_size);
        self.normed.fit(dtype, rows, config.hidden_size)?;
        self.inv_rms.resize(rows, 0.0);
        self.log_probs.resize(rows, 0.0);
        self.lse.resize(rows, 0.0);
        Ok(())
    }
}

/// Gradients on their way down; one layer's worth, whatever the depth.
#[derive(Debug, Default)]
pub(crate) struct BackwardBuffers {
    /// Of the residual stream.
    pub residual: Matrix,
    pub normed: Matrix,
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub attended: Matrix,
    pub gate: Matrix,
    pub up: Matrix,
    pub gated: Matrix,
    /// Of the scored rows after and before the final norm.
    pub head_normed: Matrix,
    pub head_gathered: Matrix,
    /// One weight a scored row.
    pub row_weights: Vec<f32>,
}

impl BackwardBuffers {
    /// Between products inside the MLP gradients are in `dtype`; elsewhere, where they add up, in f32.
    pub(crate) fn fit(
        &mut self,
        dtype: DType,
        (rows, scored): (usize, usize),
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        for (matrix, rows, cols) in [
            (&mut self.residual, rows, config.hidden_size),
            (&mut self.normed, rows, config.hidden_size),
            (&mut self.query, rows, wide),
            (&mut self.key, rows, narrow),
            (&mut self.value, rows, narrow),
            (&mut self.attended, rows, wide),
            (&mut self.head_normed, scored, config.hidden_size),
            (&mut self.head_gathered, scored, config.hidden_size),
        ] {
            matrix.resize(rows, cols);
        }
        for matrix in [&mut self.gate, &mut self.up, &mut self.gated] {
            matrix.fit(dtype, rows, config.intermediate_size)?;
        }
        Ok(())
    }
}

/// Everything a forward pass keeps for its backward, and the backward's own buffers. Memory grows with
/// rows x layers. Make one and pass it to every step.
#[derive(Debug, Default)]
pub struct Activations {
    /// The residual stream before each layer, and after the last.
    pub(crate) residual: Vec<Matrix>,
    pub(crate) layers: Vec<LayerActivations>,
    pub(crate) head: HeadActivations,
    pub(crate) backward: BackwardBuffers,
    /// Rows and scored rows of the forward pass that these hold; none before the first.
    pub(crate) shape: Option<(usize, usize)>,
}

impl Activations {
    /// No memory yet; the first forward pass takes it.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn fit(
        &mut self,
        dtype: DType,
        (rows, scored): (usize, usize),
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        self.residual.resize_with(config.layers + 1, Matrix::default);
        self.residual.iter_mut().for_each(|r| r.resize(rows, config.hidden_size));
        self.layers.resize_with(config.layers, LayerActivations::default);
        self.layers.iter_mut().try_for_each(|l| l.fit(dtype, rows, config))?;
        self.head.fit(dtype, scored, config)
    }
}

/// The memory of a pass without gradients: one layer's worth, whatever the depth. Make one and pass it to many
/// calls.
#[derive(Debug, Default)]
pub struct Workspace {
    pub(crate) residual: Matrix,
    pub(crate) next: Matrix,
    pub(crate) layer: LayerActivations,
    pub(crate) head: HeadActivations,
}

impl Workspace {
    /// No memory yet; the first pass takes it.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn fit(
        &mut self,
        dtype: DType,
        (rows, scored): (usize, usize),
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        self.residual.resize(rows, config.hidden_size);
        self.next.resize(rows, config.hidden_size);
        self.layer.fit(dtype, rows, config)?;
        self.head.fit(dtype, scored, config)
    }
}
