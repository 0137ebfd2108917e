//! The memory of a forward and a backward pass: allocated at the first batch, reused by every later one, grown
//! when a batch is larger. Computes nothing. The sizes stand in one place each, so that the memory plan adds up the
//! very numbers by which memory is taken.

use crate::backward_buffers::BackwardBuffers;
use crate::batch_size::BatchSize;
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::family::QkNorm;
use crate::matrix::Use::{Product, Sum};
use crate::matrix::{Matrix, Shape, Use, fit_all};
use crate::memory::room_for;
use crate::part::{PartCopies, PartRows, block};
use bso_durable::Seed;
use bso_engine::{DType, Engine, EngineError};
use rand::Rng;

/// What a layer's attention keeps for its backward, besides the layer's input: what is dear to compute again. Norms are
/// not here; the backward computes them anew. What a family does not have is empty.
#[derive(Debug, Default)]
pub(crate) struct AttentionActivations {
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
    pub attended: Matrix,
    pub lse: Matrix,
    /// Queries and keys before their norm, and what that stored.
    pub raw_query: Matrix,
    pub raw_key: Matrix,
    pub query_inverse: Matrix,
    pub key_inverse: Matrix,
}

impl AttentionActivations {
    pub(crate) const USES: [Use; 9] = [Product, Product, Product, Product, Sum, Sum, Sum, Sum, Sum];

    pub(crate) fn shapes(rows: usize, config: &ModelConfig) -> [Shape; 9] {
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let (raw_rows, query_runs, key_runs) = match config.family().qk_norm {
            QkNorm::None => (0, 0, 0),
            QkNorm::Heads => (rows, config.heads, config.kv_heads),
            QkNorm::Projection => (rows, 1, 1),
        };
        [
            (rows, wide),
            (rows, narrow),
            (rows, narrow),
            (rows, wide),
            (rows, config.heads),
            (raw_rows, wide),
            (raw_rows, narrow),
            (raw_rows, query_runs),
            (raw_rows, key_runs),
        ]
    }

    pub(crate) fn fit(
        &mut self,
        on: (&Engine, DType),
        rows: usize,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let matrices = [
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.attended,
            &mut self.lse,
            &mut self.raw_query,
            &mut self.raw_key,
            &mut self.query_inverse,
            &mut self.key_inverse,
        ];
        fit_all(on, matrices, (&Self::USES, &Self::shapes(rows, config)))
    }
}

/// What a layer keeps of the rows that follow attention. The activation is not here; the backward computes it anew.
#[derive(Debug, Default)]
pub(crate) struct RowActivations {
    /// The residual stream after attention.
    pub middle: Matrix,
    pub gate: Matrix,
    pub up: Matrix,
    /// What attention and MLP give, before a norm that stands there.
    pub attention_out: Matrix,
    pub mlp_out: Matrix,
}

impl RowActivations {
    pub(crate) const USES: [Use; 5] = [Sum, Product, Product, Sum, Sum];

    pub(crate) fn shapes(rows: usize, config: &ModelConfig) -> [Shape; 5] {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let [_, post_attention, _, post_mlp] = config.family().names.norms;
        let only_if = |there: bool| if there { rows } else { 0 };
        [
            (rows, hidden),
            (only_if(config.gated()), inner),
            (rows, inner),
            (only_if(post_attention.is_some()), hidden),
            (only_if(post_mlp.is_some()), hidden),
        ]
    }

    pub(crate) fn fit(
        &mut self,
        on: (&Engine, DType),
        rows: usize,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let matrices =
            [&mut self.middle, &mut self.gate, &mut self.up, &mut self.attention_out, &mut self.mlp_out];
        fit_all(on, matrices, (&Self::USES, &Self::shapes(rows, config)))
    }
}

/// What a layer computes and the next one, or the next part of its rows, overwrites.
#[derive(Debug, Default)]
pub(crate) struct PassingActivations {
    /// The input of the attention's or of the MLP's products, whichever was computed last.
    pub normed: Matrix,
    /// What the norm stored.
    pub inverse: Matrix,
    /// What the activation gives.
    pub gated: Matrix,
    pub copies: PartCopies,
}

impl PassingActivations {
    pub(crate) const USES: [Use; 6] = [Product, Sum, Product, Sum, Product, Sum];

    /// Attention computes `rows`.
    pub(crate) fn shapes(rows: usize, part: PartRows, config: &ModelConfig) -> [Shape; 6] {
        let hidden = config.hidden_size;
        [
            (rows, hidden),
            (rows, 1),
            (part.any, config.intermediate_size),
            (part.copied, hidden),
            (part.copied, config.heads * config.head_dim),
            (part.streamed, hidden),
        ]
    }

    pub(crate) fn fit(
        &mut self,
        (engine, dtype): (&Engine, DType),
        rows: usize,
        part: PartRows,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let [normed, inverse, gated, residual, attended, stream] = Self::shapes(rows, part, config);
        self.normed.fit(engine, dtype, normed)?;
        self.inverse.fit(engine, DType::F32, inverse)?;
        self.gated.fit(engine, dtype, gated)?;
        self.copies.residual.fit(engine, DType::F32, residual)?;
        self.copies.attended.fit(engine, dtype, attended)?;
        self.copies.stream.fit(engine, DType::F32, stream)
    }
}

/// What the head computes on the scored tokens.
#[derive(Debug, Default)]
pub(crate) struct HeadActivations {
    pub gathered: Matrix,
    pub normed: Matrix,
    /// What the norm stored.
    pub inverse: Matrix,
    /// One number a scored row: its log-prob, or the score of a scalar head.
    pub log_probs: Vec<f64>,
    pub lse: Matrix,
    /// The log-prob of each sequence, or its score.
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
        (engine, dtype): (&Engine, DType),
        size: BatchSize,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        let [gathered, normed, _] = Self::shapes(size, config);
        self.gathered.fit(engine, DType::F32, gathered)?;
        // A scalar head computes in f32.
        self.normed.fit(engine, if config.score.is_some() { DType::F32 } else { dtype }, normed)?;
        self.inverse.fit(engine, DType::F32, (size.scored, 1))?;
        self.log_probs.resize(size.scored, 0.0);
        self.lse.fit(engine, DType::F32, (size.scored, 1))
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
    /// The residual stream before each layer; checkpointed, without the first.
    pub(crate) residual: Vec<Matrix>,
    /// One for each layer; checkpointed, one for all, which holds the layer that was computed last.
    pub(crate) attention: Vec<AttentionActivations>,
    /// The same; checkpointed, it holds the part of rows that was computed last.
    pub(crate) rows: Vec<RowActivations>,
    pub(crate) passing: PassingActivations,
    pub(crate) head: HeadActivations,
    /// Until the backward begins, its gradient of the last layer's output holds that output, and that of the first
    /// layer's input, checkpointed, that input.
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
    /// runs the same operations again: attention on the same numbers, what follows it in parts of the rows,
    /// whose gradients may add up in another order than those of all rows at once.
    pub fn checkpointed() -> Self {
        Self { checkpointed: true, ..Self::default() }
    }

    /// What the last forward pass gave for each scored token of all sequences in order: its log-prob (nats), or the value of
    /// a scalar head there. Empty before the first.
    pub fn token_outputs(&self) -> &[f64] {
        if self.size.is_some() { &self.head.log_probs } else { &[] }
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
        let (dtype, config) = (decoder.dtype(), decoder.config());
        let on = (&**decoder.engine(), dtype);
        self.size = None;
        self.fit(on, size, config)?;
        let block = block(self.checkpointed, dtype, on.0.device());
        let part = PartRows::of(size, config, block);
        let stored = if self.checkpointed { 1 } else { config.layers };
        self.attention.iter_mut().try_for_each(|kept| kept.fit(on, size.rows, config))?;
        for (i, kept) in self.rows.iter_mut().enumerate() {
            let last = i + 1 == stored && !self.checkpointed;
            kept.fit(on, if last { size.head_rows } else { part.any }, config)?;
        }
        self.head.sums.reserve(size.sequences);
        decoder.engine().reserve_room(&room_for(config, dtype, size, 0))?;
        self.backward.fit(decoder.engine(), size, config)?;
        Ok(self.backward.rows.fit(on, (part.any, part.copied), config)?)
    }

    pub(crate) fn fit(
        &mut self,
        (engine, dtype): (&Engine, DType),
        size: BatchSize,
        config: &ModelConfig,
    ) -> Result<(), EngineError> {
        self.residual.resize_with(config.layers, Matrix::default);
        let first = usize::from(self.embeds_again(config));
        let (all, head) = ((size.rows, config.hidden_size), (size.head_rows, config.hidden_size));
        let mut kept = self.residual.iter_mut().skip(first);
        kept.try_for_each(|r| r.fit(engine, DType::F32, all))?;
        let stored = if self.checkpointed { 1 } else { config.layers };
        self.attention.resize_with(stored, AttentionActivations::default);
        self.rows.resize_with(stored, RowActivations::default);
        self.passing.fit(
            (engine, dtype),
            size.rows,
            PartRows::of(size, config, block(self.checkpointed, dtype, engine.device())),
            config,
        )?;
        if self.embeds_again(config) {
            self.backward.residual.fit(engine, DType::F32, all)?;
        }
        self.backward.last_residual.fit(engine, DType::F32, head)?;
        self.head.fit((engine, dtype), size, config)
    }

    /// Whether the first layer's input is not kept either: its embeddings are looked up again.
    pub(crate) fn embeds_again(&self, config: &ModelConfig) -> bool {
        embeds_again(self.checkpointed, config)
    }
}

/// As [`Activations::embeds_again`]. The only layer of a model finds its input in place.
pub(crate) fn embeds_again(checkpointed: bool, config: &ModelConfig) -> bool {
    checkpointed && config.layers > 1
}

/// The memory of a pass without gradients: one layer's worth, whatever the depth. Make one and pass it to many
/// calls.
#[derive(Debug, Default)]
pub struct Workspace {
    pub(crate) residual: Matrix,
    pub(crate) next: Matrix,
    pub(crate) attention: AttentionActivations,
    pub(crate) rows: RowActivations,
    pub(crate) passing: PassingActivations,
    pub(crate) head: HeadActivations,
}

impl Workspace {
    /// No memory yet; the first pass takes it.
    pub fn new() -> Self {
        Self::default()
    }
}
