//! The decoder on one pass of generation: rows of several sequences, each at its own place in its own cache slot.
//! Keeps nothing for a backward, so residuals are added in place; and computes nothing that no token needs: the last
//! layer takes from most prompt rows only their keys and values. What training computes is in `layer`.

use crate::activations::Matrix;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::layer::attention_shape;
use crate::layout::{LayerPlace, LinearPlace};
use bso_engine::{Array, CachedRows, EngineError, KvCache, Projection, RotaryTable};

/// The rows to compute.
#[derive(Debug, Default)]
pub(crate) struct PassRows {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub rows: Vec<CachedRows>,
    /// Rows that choose a token, ascending: each the last of its entry in `rows`.
    pub ready: Vec<usize>,
    /// Their slots, one row each, and positions.
    pub ready_rows: Vec<CachedRows>,
    pub ready_positions: Vec<u32>,
}

impl PassRows {
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.rows.clear();
        self.ready.clear();
        self.ready_rows.clear();
        self.ready_positions.clear();
    }

    /// Closes an entry: the tokens since the last one are rows of `slot`, the first at `position`.
    pub(crate) fn close_entry(&mut self, slot: usize, position: usize, ready: bool) {
        let start = self.positions.len();
        let len = self.tokens.len() - start;
        self.positions.extend((position..position + len).map(|p| p as u32));
        self.rows.push(CachedRows { slot, start, len });
        if ready {
            self.ready_rows.push(CachedRows { slot, start: self.ready.len(), len: 1 });
            self.ready.push(start + len - 1);
            self.ready_positions.push((position + len - 1) as u32);
        }
    }
}

/// What passes compute on; allocated by the first, reused by every later one.
#[derive(Debug, Default)]
pub(crate) struct PassMemory {
    residual: Matrix,
    /// The ready rows of the residual stream.
    ready: Matrix,
    normed: Matrix,
    inv_rms: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    attended: Matrix,
    gate: Matrix,
    up: Matrix,
    gated: Matrix,
    /// `[ready rows, vocabulary]`.
    pub logits: Matrix,
}

/// Computes the rows, appends their keys and values to `caches` (one a layer), and leaves the ready rows' logits.
pub(crate) fn run(
    decoder: &Decoder,
    pass: &PassRows,
    caches: &mut [KvCache],
    m: &mut PassMemory,
) -> Result<(), ModelError> {
    let (engine, config) = (decoder.engine(), decoder.config());
    let rotary = decoder.rotary_covering(pass.positions.iter().max().map_or(0, |p| *p as usize + 1))?;
    m.residual.resize(pass.tokens.len(), config.hidden_size);
    let last = caches.len().saturating_sub(1);
    engine.install(|| -> Result<(), EngineError> {
        engine.embedding(&pass.tokens, decoder.embedding(), &mut m.residual)?;
        for (index, cache) in caches.iter_mut().enumerate() {
            let place = &decoder.layout().layers[index];
            let layer = PassLayer { decoder, place, rotary: &rotary };
            if index == last {
                layer.forward_ready_rows(pass, cache, m)?;
            } else {
                layer.forward(pass, cache, m)?;
            }
        }
        m.normed.fit(decoder.dtype(), (pass.ready.len(), config.hidden_size))?;
        m.inv_rms.resize(pass.ready.len(), 0.0);
        m.logits.resize(pass.ready.len(), config.vocab_size);
        if pass.ready.is_empty() {
            return Ok(());
        }
        let (norm, eps) = (decoder.final_norm(), config.rms_norm_eps);
        engine.rms_norm(&m.ready, norm, eps, &mut m.normed, &mut m.inv_rms)?;
        engine.project(&m.normed, [Projection::new(decoder.head(), None, &mut m.logits)])
    })?;
    Ok(())
}

/// A layer with what it computes on. What products read is in the decoder's precision, residuals are in f32.
struct PassLayer<'a> {
    decoder: &'a Decoder,
    place: &'a LayerPlace,
    rotary: &'a RotaryTable,
}

impl<'a> PassLayer<'a> {
    /// `m.residual` becomes the layer's output.
    fn forward(&self, pass: &PassRows, cache: &mut KvCache, m: &mut PassMemory) -> Result<(), EngineError> {
        let (engine, config, place) = (self.decoder.engine(), self.decoder.config(), self.place);
        self.norm(place.input_norm, &m.residual, &mut m.normed, &mut m.inv_rms)?;
        let [query, key, value] =
            self.attention_inputs(pass.tokens.len(), [&mut m.query, &mut m.key, &mut m.value])?;
        engine.project(&m.normed, [query, key, value])?;
        engine.rotary(&mut m.query, &pass.positions, self.rotary, false)?;
        engine.rotary(&mut m.key, &pass.positions, self.rotary, false)?;
        cache.append(&pass.rows, &m.key, &m.value)?;
        m.attended.fit(m.query.dtype(), (m.query.rows(), m.query.cols()))?;
        engine.cached_attention(&m.query, &pass.rows, cache, attention_shape(config), &mut m.attended)?;
        engine.project(&m.attended, [self.added(place.output, &mut m.residual)])?;
        // The MLP works where the last layer's rows lie.
        std::mem::swap(&mut m.residual, &mut m.ready);
        self.mlp(m)?;
        std::mem::swap(&mut m.residual, &mut m.ready);
        Ok(())
    }

    /// `m.ready` becomes the layer's output in the ready rows; the others give their keys and values only.
    fn forward_ready_rows(
        &self,
        pass: &PassRows,
        cache: &mut KvCache,
        m: &mut PassMemory,
    ) -> Result<(), EngineError> {
        let (engine, config, place) = (self.decoder.engine(), self.decoder.config(), self.place);
        self.norm(place.input_norm, &m.residual, &mut m.normed, &mut m.inv_rms)?;
        let [_, key, value] =
            self.attention_inputs(pass.tokens.len(), [&mut m.query, &mut m.key, &mut m.value])?;
        engine.project(&m.normed, [key, value])?;
        engine.rotary(&mut m.key, &pass.positions, self.rotary, false)?;
        cache.append(&pass.rows, &m.key, &m.value)?;
        if pass.ready.is_empty() {
            return Ok(());
        }
        m.ready.resize(pass.ready.len(), config.hidden_size);
        engine.gather_rows(&m.residual, &pass.ready, &mut m.ready)?;
        self.norm(place.input_norm, &m.ready, &mut m.normed, &mut m.inv_rms)?;
        let [query, ..] =
            self.attention_inputs(pass.ready.len(), [&mut m.query, &mut m.key, &mut m.value])?;
        engine.project(&m.normed, [query])?;
        engine.rotary(&mut m.query, &pass.ready_positions, self.rotary, false)?;
        m.attended.fit(m.query.dtype(), (m.query.rows(), m.query.cols()))?;
        engine.cached_attention(
            &m.query,
            &pass.ready_rows,
            cache,
            attention_shape(config),
            &mut m.attended,
        )?;
        engine.project(&m.attended, [self.added(place.output, &mut m.ready)])?;
        self.mlp(m)
    }

    /// The gated MLP, added to `m.ready`.
    fn mlp(&self, m: &mut PassMemory) -> Result<(), EngineError> {
        let (engine, config, place) = (self.decoder.engine(), self.decoder.config(), self.place);
        self.norm(place.post_attention_norm, &m.ready, &mut m.normed, &mut m.inv_rms)?;
        for matrix in [&mut m.gate, &mut m.up, &mut m.gated] {
            matrix.fit(self.decoder.dtype(), (m.ready.rows(), config.intermediate_size))?;
        }
        engine.project(
            &m.normed,
            [self.replaced(place.gate, &mut m.gate), self.replaced(place.up, &mut m.up)],
        )?;
        engine.swiglu(&m.gate, &m.up, &mut m.gated)?;
        engine.project(&m.gated, [self.added(place.down, &mut m.ready)])
    }

    /// Query, key and value of so many rows.
    fn attention_inputs<'b>(
        &'b self,
        rows: usize,
        [query, key, value]: [&'b mut Matrix; 3],
    ) -> Result<[Projection<'b>; 3], EngineError> {
        let (config, place, dtype) = (self.decoder.config(), self.place, self.decoder.dtype());
        query.fit(dtype, (rows, config.heads * config.head_dim))?;
        key.fit(dtype, (rows, config.kv_heads * config.head_dim))?;
        value.fit(dtype, (rows, config.kv_heads * config.head_dim))?;
        Ok([
            self.replaced(place.query, query),
            self.replaced(place.key, key),
            self.replaced(place.value, value),
        ])
    }

    fn norm(
        &self,
        weight: usize,
        x: &Array,
        y: &mut Matrix,
        inv_rms: &mut Vec<f32>,
    ) -> Result<(), EngineError> {
        y.fit(self.decoder.dtype(), (x.rows(), x.cols()))?;
        inv_rms.resize(x.rows(), 0.0);
        let (weight, eps) = (&self.decoder.arrays()[weight], self.decoder.config().rms_norm_eps);
        self.decoder.engine().rms_norm(x, weight, eps, y, inv_rms)
    }

    fn replaced<'b>(&'b self, place: LinearPlace, out: &'b mut Array) -> Projection<'b> {
        Projection::new(self.decoder.weight(place.weight), self.bias(place), out)
    }

    fn added<'b>(&'b self, place: LinearPlace, out: &'b mut Array) -> Projection<'b> {
        Projection::added(self.decoder.weight(place.weight), self.bias(place), out)
    }

    fn bias(&self, place: LinearPlace) -> Option<&'a Array> {
        place.bias.map(|bias| &self.decoder.arrays()[bias])
    }
}
