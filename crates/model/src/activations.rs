//! The memory of a forward and a backward pass: allocated at the first batch, reused by every later one, grown
//! when a batch is larger. Computes nothing. The sizes stand in one place each, so that the memory plan adds up the
//! very numbers by which memory is taken.

use crate::batch_size::BatchSize;
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::family::QkNorm;
use bso_durable::Seed;
use bso_engine::{Array, DType, EngineError};
use rand::Rng;

/// Rows and columns of an array.
pub(crate) type Shape = (usize, usize);

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
    pub(crate) fn fit(&mut self, dtype: DType, (rows, cols): Shape) -> Result<(), EngineError> {
        if self.0.dtype() != dtype {
            self.0 = Array::zeros_of(dtype, 0, 0)?;
        }
        self.0.resize(rows, cols);
        Ok(())
    }
}

/// Matrices of these shapes and uses.
fn fit_all<'a>(
    dtype: DType,
    matrices: impl IntoIterator<Item = &'a mut Matrix>,
    (uses, shapes): (&[Use], &[Shape]),
) -> Result<(), EngineError> {
    let taken = uses.iter().zip(shapes);
    matrices
        .into_iter()
        .zip(taken)
        .try_for_each(|(matrix, (used, shape))| matrix.fit(used.in_precision(dtype), *shape))
}

/// Bytes that matrices of these shapes and uses take.
pub(crate) fn bytes(dtype: DType, uses: &[Use], shapes: &[Shape]) -> usize {
    let of = |(used, (rows, cols)): (&Use, &Shape)| rows * cols * used.in_precision(dtype).size_in_bytes();
    uses.iter().zip(shapes).map(of).sum()
}

/// What an array is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Products read it: in the precision of products.
    Product,
    /// Numbers add up in it, or a logarithm is kept: in f32.
    Sum,
}

use Use::{Product, Sum};

impl Use {
    fn in_precision(self, products: DType) -> DType {
        match self {
            Self::Product => products,
            Self::Sum => DType::F32,
        }
    }
}

/// What one layer keeps for its backward, besides its input: what is dear to compute again. Norms and the activation are
/// not here; the backward computes them anew from these. What a family does not have is empty.
#[derive(Debug, Default)]
pub(crate) struct KeptActivations {
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub attended: Matrix,
    pub lse: Matrix,
    /// The residual stream after attention.
    pub middle: Matrix,
    pub gate: Matrix,
    pub up: Matrix,
    /// Queries and keys before their norm, and what that stored.
    pub raw_query: Matrix,
    pub raw_key: Matrix,
    pub query_inverse: Matrix,
    pub key_inverse: Matrix,
    /// What attention and MLP give, before a norm that stands there.
    pub attention_out: Matrix,
    pub mlp_out: Matrix,
}

impl KeptActivations {
    pub(crate) const USES: [Use; 14] =
        [Product, Product, Product, Product, Sum, Sum, Product, Product, Sum, Sum, Sum, Sum, Sum, Sum];

    /// Attention computes `rows`, the MLP `mlp_rows` of them (fewer in the last layer).
    pub(crate) fn shapes(rows: usize, mlp_rows: usize, config: &ModelConfig) -> [Shape; 14] {
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (raw_rows, query_runs, key_runs) = match config.family().qk_norm {
            QkNorm::None => (0, 0, 0),
            QkNorm::Heads => (rows, config.heads, config.kv_heads),
            QkNorm::Projection => (rows, 1, 1),
        };
        let [_, post_attention, _, post_mlp] = config.family().names.norms;
        let only_if = |there: bool| if there { (mlp_rows, hidden) } else { (0, hidden) };
        [
            (rows, wide),
            (rows, narrow),
            (rows, narrow),
            (rows, wide),
            (rows, config.heads),
            (mlp_rows, hidden),
            (if config.gated() { mlp_rows } else { 0 }, inner),
            (mlp_rows, inner),
            (raw_rows, wide),
            (raw_rows, narrow),
            (raw_rows, query_runs),
            (raw_rows, key_runs),
            only_if(post_attention.is_some()),
            only_if(post_mlp.is_some()),
        ]
    }

    pub(crate) fn fit(
        &mut self,
        dtype: DType,
        rows: usize,
        mlp_rows: usize,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let matrices = [
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.attended,
            &mut self.lse,
            &mut self.middle,
            &mut self.gate,
            &mut self.up,
            &mut self.raw_query,
            &mut self.raw_key,
            &mut self.query_inverse,
            &mut self.key_inverse,
            &mut self.attention_out,
            &mut self.mlp_out,
        ];
        fit_all(dtype, matrices, (&Self::USES, &Self::shapes(rows, mlp_rows, config)))
    }
}

/// What a layer computes and the next one overwrites.
#[derive(Debug, Default)]
pub(crate) struct PassingActivations {
    /// The input of the attention's or of the MLP's products, whichever was computed last.
    pub normed: Matrix,
    /// What the norm stored.
    pub inverse: Vec<f32>,
    /// The last layer's attention on the rows that go on to its MLP.
    pub chosen: Matrix,
    /// What the activation gives.
    pub gated: Matrix,
    /// With parallel residuals: the last layer's input on the rows that go on to its MLP.
    pub chosen_residual: Matrix,
}

impl PassingActivations {
    pub(crate) const USES: [Use; 5] = [Product, Sum, Product, Product, Sum];

    pub(crate) fn shapes(rows: usize, mlp_rows: usize, config: &ModelConfig) -> [Shape; 5] {
        let chosen = if mlp_rows < rows { mlp_rows } else { 0 };
        let chosen_residual = if config.parallel_residual { chosen } else { 0 };
        [
            (rows, config.hidden_size),
            (rows, 1),
            (chosen, config.heads * config.head_dim),
            (mlp_rows, config.intermediate_size),
            (chosen_residual, config.hidden_size),
        ]
    }

    pub(crate) fn fit(
        &mut self,
        dtype: DType,
        rows: usize,
        mlp_rows: usize,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let [normed, _, chosen, gated, chosen_residual] = Self::shapes(rows, mlp_rows, config);
        self.normed.fit(dtype, normed)?;
        self.chosen.fit(dtype, chosen)?;
        self.gated.fit(dtype, gated)?;
        self.chosen_residual.fit(DType::F32, chosen_residual)?;
        self.inverse.resize(rows, 0.0);
        Ok(())
    }
}

/// Everything that one layer computes, for passes without gradients.
#[derive(Debug, Default)]
pub(crate) struct LayerActivations {
    pub kept: KeptActivations,
    pub passing: PassingActivations,
}

/// What the head computes on the scored tokens.
#[derive(Debug, Default)]
pub(crate) struct HeadActivations {
    pub gathered: Matrix,
    pub normed: Matrix,
    /// What the norm stored.
    pub inverse: Vec<f32>,
    pub log_probs: Vec<f64>,
    pub lse: Vec<f32>,
    /// The log-prob of each sequence.
    pub sums: Vec<f64>,
}

impl HeadActivations {
    pub(crate) const USES: [Use; 3] = [Sum, Product, Sum];

    pub(crate) fn shapes(size: BatchSize, config: &ModelConfig) -> [Shape; 3] {
        let scored = size.scored;
        // Per scored token besides its two rows: inverse, lse, and an f64 log-prob.
        [(scored, config.hidden_size), (scored, config.hidden_size), (scored, 4)]
    }

    pub(crate) fn fit(
        &mut self,
        dtype: DType,
        size: BatchSize,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let [gathered, normed, _] = Self::shapes(size, config);
        self.gathered.fit(DType::F32, gathered)?;
        self.normed.fit(dtype, normed)?;
        self.inverse.resize(size.scored, 0.0);
        self.log_probs.resize(size.scored, 0.0);
        self.lse.resize(size.scored, 0.0);
        Ok(())
    }
}

/// Gradients on their way down; one layer's worth, whatever the depth.
#[derive(Debug, Default)]
pub(crate) struct BackwardBuffers {
    /// Of the residual stream, all rows.
    pub residual: Matrix,
    /// Of the residual stream in the last layer, the rows that meet the head.
    pub last_residual: Matrix,
    /// Of the last layer's attention on these rows.
    pub chosen: Matrix,
    pub normed: Matrix,
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub attended: Matrix,
    pub gated: Matrix,
    pub up: Matrix,
    /// Of queries or keys before their norm.
    pub raw: Matrix,
    /// Of what attention or MLP gives, before a norm that stands there.
    pub branch: Matrix,
    /// Of the scored rows after and before the final norm.
    pub head_normed: Matrix,
    pub head_gathered: Matrix,
    /// One weight a scored row.
    pub row_weights: Vec<f32>,
}

impl BackwardBuffers {
    pub(crate) const USES: [Use; 15] =
        [Sum, Sum, Sum, Sum, Sum, Sum, Sum, Sum, Product, Product, Sum, Sum, Sum, Sum, Sum];

    pub(crate) fn shapes(size: BatchSize, config: &ModelConfig) -> [Shape; 15] {
        let BatchSize { rows, head_rows, scored, .. } = size;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let raw_rows = if config.family().qk_norm == QkNorm::None { 0 } else { rows };
        let [_, post_attention, _, post_mlp] = config.family().names.norms;
        let branch_rows = if post_attention.or(post_mlp).is_some() { rows } else { 0 };
        // A single layer is the last one: its MLP sees no other rows.
        let mlp_rows = if config.layers > 1 { rows } else { head_rows };
        [
            (rows, hidden),
            (head_rows, hidden),
            (head_rows, wide),
            (rows, hidden),
            (rows, wide),
            (rows, narrow),
            (rows, narrow),
            (rows, wide),
            (mlp_rows, inner),
            (mlp_rows, inner),
            (raw_rows, wide),
            (branch_rows, hidden),
            (scored, hidden),
            (scored, hidden),
            (scored, 1),
        ]
    }

    /// Between the products of the MLP gradients are in `dtype`; elsewhere, where they add up, in f32.
    pub(crate) fn fit(
        &mut self,
        dtype: DType,
        size: BatchSize,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let matrices = [
            &mut self.residual,
            &mut self.last_residual,
            &mut self.chosen,
            &mut self.normed,
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.attended,
            &mut self.gated,
            &mut self.up,
            &mut self.raw,
            &mut self.branch,
            &mut self.head_normed,
            &mut self.head_gathered,
        ];
        fit_all(dtype, matrices, (&Self::USES, &Self::shapes(size, config)))?;
        self.row_weights.clear();
        self.row_weights.reserve(size.scored);
        Ok(())
    }

    /// The MLP's and the norms' gradients take the rows that their layer computes.
    pub(crate) fn fit_mlp(&mut self, rows: usize) {
        let Self { normed, gated, up, branch, .. } = self;
        // Without norms after the branches there is nothing to fit.
        let branch = Some(branch).filter(|branch| !branch.is_empty());
        [normed, gated, up].into_iter().chain(branch).for_each(|m| m.resize_rows(rows));
    }
}

/// Everything a forward pass keeps for its backward, and the backward's own buffers. Make one and pass it to every
/// step.
///
/// Memory grows with rows x layers: [`Activations::new`] keeps what each layer computed,
/// [`Activations::checkpointed`] only each layer's input, and computes the rest again in the backward.
#[derive(Debug, Default)]
pub struct Activations {
    pub(crate) checkpointed: bool,
    /// What decides the adapter's dropout; none: nothing is dropped.
    pub(crate) dropout: Option<u64>,
    /// The residual stream before each layer.
    pub(crate) residual: Vec<Matrix>,
    /// The last layer's output, on the rows that meet the head.
    pub(crate) output: Matrix,
    /// One for each layer; checkpointed, one for all, which holds the layer that was computed last.
    pub(crate) layers: Vec<KeptActivations>,
    pub(crate) passing: PassingActivations,
    pub(crate) head: HeadActivations,
    pub(crate) backward: BackwardBuffers,
    /// Of the forward pass that these hold; none before the first.
    pub(crate) size: Option<BatchSize>,
}

impl Activations {
    /// Keeps every layer's activations. No memory yet; the first forward pass takes it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps every layer's input only (gradient checkpointing, Chen et al. 2016, arXiv 1604.06174). The backward
    /// runs the same operations on the same numbers again, so that gradients are the same to the bit.
    pub fn checkpointed() -> Self {
        Self { checkpointed: true, ..Self::default() }
    }

    /// The next forward passes, with their backward, drop inputs of the adapter as `seed` decides; without one, none. A
    /// training step gives every batch a seed of its own.
    pub fn drop_by(&mut self, seed: Option<Seed>) {
        self.dropout = seed.map(|seed| seed.rng().random());
    }

    /// Takes at once the memory of every batch that is no larger in any number, so that no step takes any.
    ///
    /// # Errors
    /// A decoder in a precision that nothing is computed in.
    pub fn reserve(&mut self, decoder: &Decoder, size: BatchSize) -> Result<(), ModelError> {
        let (dtype, config, BatchSize { rows, head_rows, .. }) = (decoder.dtype(), decoder.config(), size);
        self.size = None;
        self.fit(dtype, size, config)?;
        let stored = if self.checkpointed { 1 } else { config.layers };
        for (i, kept) in self.layers.iter_mut().enumerate() {
            // The one that all layers use, checkpointed, holds whole layers too.
            let whole = i + 1 < stored || (self.checkpointed && config.layers > 1);
            kept.fit(dtype, rows, if whole { rows } else { head_rows }, config)?;
        }
        self.passing.fit(dtype, rows, head_rows, config)?;
        if config.layers > 1 {
            self.passing.fit(dtype, rows, rows, config)?;
        }
        self.head.sums.reserve(size.sequences);
        Ok(self.backward.fit(dtype, size, config)?)
    }

    pub(crate) fn fit(
        &mut self,
        dtype: DType,
        size: BatchSize,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let BatchSize { rows, head_rows, .. } = size;
        self.residual.resize_with(config.layers, Matrix::default);
        self.residual.iter_mut().for_each(|r| r.resize(rows, config.hidden_size));
        self.output.resize(head_rows, config.hidden_size);
        self.layers.resize_with(if self.checkpointed { 1 } else { config.layers }, KeptActivations::default);
        self.head.fit(dtype, size, config)
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
}
