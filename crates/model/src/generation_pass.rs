//! The decoder on one pass of generation: rows of several sequences, each at its own place in its own cache slot.
//! Keeps nothing for a backward, so residuals are added in place; and computes nothing that no token needs: the last
//! layer takes from most prompt rows only their keys and values. What training computes is in `layer`.

use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::layer::attention_shape;
use crate::layer_kind::LayerKind;
use crate::layout::{LayerPlace, LinearPlace, NormPlace};
use crate::matrix::Matrix;
use bso_engine::{Array, CachedRows, DType, EngineError, KvCache, Projection, RotaryTable};

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
    inverse: Matrix,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    attended: Matrix,
    gate: Matrix,
    up: Matrix,
    gated: Matrix,
    /// What stands before or after a norm inside a branch.
    spare: Matrix,
    branch: Matrix,
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
    let tables = decoder.rotary_covering(pass.positions.iter().max().map_or(0, |p| *p as usize + 1))?;
    m.residual.fit(engine, DType::F32, (pass.tokens.len(), config.hidden_size))?;
    let last = caches.len().saturating_sub(1);
    engine.install(|| -> Result<(), EngineError> {
        decoder.embed(&pass.tokens, &pass.positions, &mut m.residual)?;
        for (index, cache) in caches.iter_mut().enumerate() {
            let (place, kind) = (&decoder.layout().layers[index], config.layer_kinds[index]);
            let layer = PassLayer { decoder, place, kind, rotary: kind.rope.map(|rope| &tables[rope]) };
            if index == last {
                layer.forward_ready_rows(pass, cache, m)?;
            } else {
                layer.forward(pass, cache, m)?;
            }
        }
        m.normed.fit(engine, decoder.dtype(), (pass.ready.len(), config.hidden_size))?;
        m.inverse.fit(engine, DType::F32, (pass.ready.len(), 1))?;
        m.logits.fit(engine, DType::F32, (pass.ready.len(), config.vocab_size))?;
        if pass.ready.is_empty() {
            return Ok(());
        }
        decoder.norm().forward(decoder.layout().norm, &m.ready, &mut m.normed, &mut m.inverse)?;
        engine.project(&m.normed, [Projection::new(decoder.head(), None, &mut m.logits)])?;
        config.logit_cap.into_iter().try_for_each(|cap| engine.soft_cap(&mut m.logits, cap))
    })?;
    Ok(())
}

/// A layer with what it computes on. What products read is in the decoder's precision, residuals are in f32.
struct PassLayer<'a> {
    decoder: &'a Decoder,
    place: &'a LayerPlace,
    kind: LayerKind,
    rotary: Option<&'a RotaryTable>,
}

impl<'a> PassLayer<'a> {
    /// `m.residual` becomes the layer's output.
    fn forward(&self, pass: &PassRows, cache: &mut KvCache, m: &mut PassMemory) -> Result<(), EngineError> {
        let (engine, config, place) = (self.decoder.engine(), self.decoder.config(), self.place);
        self.normalise(place.attention_norm, &m.residual, &mut m.normed, &mut m.inverse)?;
        let [query, key, value] =
            self.attention_inputs(pass.tokens.len(), [&mut m.query, &mut m.key, &mut m.value])?;
        engine.project(&m.normed, [query, key, value])?;
        self.turn(0, (&mut m.query, &pass.positions), (&mut m.spare, &mut m.inverse))?;
        self.turn(1, (&mut m.key, &pass.positions), (&mut m.spare, &mut m.inverse))?;
        cache.append(&pass.rows, &m.key, &m.value)?;
        m.attended.fit(engine, m.query.dtype(), (m.query.rows(), m.query.cols()))?;
        let shape = attention_shape(config, self.kind);
        engine.cached_attention(&m.query, &pass.rows, cache, shape, &mut m.attended)?;
        // What follows works where the last layer's rows lie.
        std::mem::swap(&mut m.residual, &mut m.ready);
        self.after_attention(m)?;
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
        self.normalise(place.attention_norm, &m.residual, &mut m.normed, &mut m.inverse)?;
        let [_, key, value] =
            self.attention_inputs(pass.tokens.len(), [&mut m.query, &mut m.key, &mut m.value])?;
        engine.project(&m.normed, [key, value])?;
        self.turn(1, (&mut m.key, &pass.positions), (&mut m.spare, &mut m.inverse))?;
        cache.append(&pass.rows, &m.key, &m.value)?;
        if pass.ready.is_empty() {
            return Ok(());
        }
        m.ready.fit(engine, DType::F32, (pass.ready.len(), config.hidden_size))?;
        engine.gather_rows(&m.residual, &pass.ready, &mut m.ready)?;
        self.normalise(place.attention_norm, &m.ready, &mut m.normed, &mut m.inverse)?;
        let [query, ..] =
            self.attention_inputs(pass.ready.len(), [&mut m.query, &mut m.key, &mut m.value])?;
        engine.project(&m.normed, [query])?;
        self.turn(0, (&mut m.query, &pass.ready_positions), (&mut m.spare, &mut m.inverse))?;
        m.attended.fit(engine, m.query.dtype(), (m.query.rows(), m.query.cols()))?;
        let shape = attention_shape(config, self.kind);
        engine.cached_attention(&m.query, &pass.ready_rows, cache, shape, &mut m.attended)?;
        self.after_attention(m)
    }

    /// The attention's output and the MLP, added to `m.ready`.
    fn after_attention(&self, m: &mut PassMemory) -> Result<(), EngineError> {
        let (place, parallel) = (self.place, self.decoder.config().parallel_residual);
        // Side by side, the MLP reads the stream before attention enters it.
        if parallel {
            self.mlp_inputs(m)?;
        }
        self.enter(
            place.output,
            place.post_attention_norm,
            &m.attended,
            (&mut m.ready, &mut m.spare, &mut m.branch, &mut m.inverse),
        )?;
        if !parallel {
            self.mlp_inputs(m)?;
        }
        self.enter(
            place.down,
            place.post_mlp_norm,
            &m.gated,
            (&mut m.ready, &mut m.spare, &mut m.branch, &mut m.inverse),
        )
    }

    /// What the MLP's last product reads, in `m.gated`.
    fn mlp_inputs(&self, m: &mut PassMemory) -> Result<(), EngineError> {
        let (engine, config, place) = (self.decoder.engine(), self.decoder.config(), self.place);
        self.normalise(place.mlp_norm, &m.ready, &mut m.normed, &mut m.inverse)?;
        for matrix in [&mut m.gate, &mut m.up, &mut m.gated] {
            matrix.fit(engine, self.decoder.dtype(), (m.ready.rows(), config.intermediate_size))?;
        }
        let up = self.replaced(place.up, &mut m.up);
        match place.gate {
            Some(gate) => engine.project(&m.normed, [self.replaced(gate, &mut m.gate), up])?,
            None => engine.project(&m.normed, [up])?,
        }
        let gate = place.gate.map(|_| &*m.gate);
        config.activation().forward(engine, (gate, &m.up), &mut m.gated)
    }

    /// Query, key and value of so many rows.
    fn attention_inputs<'b>(
        &'b self,
        rows: usize,
        [query, key, value]: [&'b mut Matrix; 3],
    ) -> Result<[Projection<'b>; 3], EngineError> {
        let (config, place, dtype) = (self.decoder.config(), self.place, self.decoder.dtype());
        let engine = self.decoder.engine();
        // What a norm reads is in f32.
        let raw = if place.qk_norms.is_some() { DType::F32 } else { dtype };
        query.fit(engine, raw, (rows, config.heads * config.head_dim))?;
        key.fit(engine, raw, (rows, config.kv_heads * config.head_dim))?;
        value.fit(engine, dtype, (rows, config.kv_heads * config.head_dim))?;
        Ok([
            self.replaced(place.query, query),
            self.replaced(place.key, key),
            self.replaced(place.value, value),
        ])
    }

    /// Norm and rotary embedding of queries (0) or keys (1), where the layer has them.
    fn turn(
        &self,
        which: usize,
        (x, positions): (&mut Matrix, &[u32]),
        (spare, inverse): (&mut Matrix, &mut Matrix),
    ) -> Result<(), EngineError> {
        let engine = self.decoder.engine();
        if let Some(norms) = self.place.qk_norms {
            let runs = x.len() / self.decoder.arrays()[norms[which]].len().max(1);
            inverse.fit(engine, DType::F32, (runs, 1))?;
            spare.fit(engine, self.decoder.dtype(), (x.rows(), x.cols()))?;
            self.decoder.norm().forward(norms[which], x, spare, inverse)?;
            std::mem::swap(x, spare);
        }
        self.rotary.map_or(Ok(()), |table| engine.rotary(x, positions, table, false))
    }

    /// Adds a branch's last product to `stream`, through the norm that stands there, if one does.
    fn enter(
        &self,
        linear: LinearPlace,
        norm: Option<NormPlace>,
        x: &Array,
        (stream, spare, branch, inverse): (&mut Matrix, &mut Matrix, &mut Matrix, &mut Matrix),
    ) -> Result<(), EngineError> {
        let engine = self.decoder.engine();
        let Some(norm) = norm else {
            return engine.project(x, [self.added(linear, stream)]);
        };
        for matrix in [&mut *spare, &mut *branch] {
            matrix.fit(engine, DType::F32, (stream.rows(), stream.cols()))?;
        }
        engine.project(x, [self.replaced(linear, spare)])?;
        inverse.fit(engine, DType::F32, (stream.rows(), 1))?;
        self.decoder.norm().forward(norm, spare, branch, inverse)?;
        engine.add_assign(stream, branch)
    }

    fn normalise(
        &self,
        norm: Option<NormPlace>,
        x: &Array,
        y: &mut Matrix,
        inverse: &mut Matrix,
    ) -> Result<(), EngineError> {
        let engine = self.decoder.engine();
        y.fit(engine, self.decoder.dtype(), (x.rows(), x.cols()))?;
        inverse.fit(engine, DType::F32, (x.rows(), 1))?;
        match norm {
            Some(norm) => self.decoder.norm().forward(norm, x, y, inverse),
            None => engine.copy(x, y),
        }
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
