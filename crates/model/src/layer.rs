//! One decoder layer: norm, attention, residual, norm, gated MLP, residual; the backward directly under the
//! forward. Generation, which attends over a cache and keeps nothing, is in `generation_pass`.

use crate::activations::{BackwardBuffers, KeptActivations, PassingActivations};
use crate::adapter::{Adapter, LowRankPlace};
use crate::config::ModelConfig;
use crate::gradients::trained;
use crate::layout::{LayerPlace, LinearPlace};
use bso_engine::{
    Accumulate, Array, AttentionForward, AttentionGrads, AttentionShape, DType, Dora, DoraGrads, Dropout,
    Engine, EngineError, LinearGrads, LowRank, LowRankGrads, PackedWeight, Qkv, RmsNormGrads, RotaryTable,
    Segments, SwigluGrads, Weight,
};

/// A layer with what it computes on.
pub(crate) struct Layer<'a> {
    pub engine: &'a Engine,
    pub config: &'a ModelConfig,
    pub parameters: &'a [Array],
    pub packed: &'a [Option<PackedWeight>],
    pub adapter: Option<&'a Adapter>,
    /// What decides the adapter's dropout; none: nothing is dropped.
    pub dropout: Option<u64>,
    /// Precision of products.
    pub dtype: DType,
    pub place: &'a LayerPlace,
    pub rotary: &'a RotaryTable,
    pub positions: &'a [u32],
}

/// Heads and scale of a config's attention.
pub(crate) fn attention_shape(config: &ModelConfig) -> AttentionShape {
    AttentionShape {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        scale: (1.0 / (config.head_dim as f64).sqrt()) as f32,
    }
}

impl Layer<'_> {
    /// `next = layer(residual)`, both `[rows, hidden]`. With `rows`, what follows attention is computed on these rows only, and
    /// `next` is `[rows.len(), hidden]`.
    pub(crate) fn forward_packed(
        &self,
        residual: &Array,
        (segments, rows): (&Segments, Option<&[usize]>),
        (kept, passing): (&mut KeptActivations, &mut PassingActivations),
        next: &mut Array,
    ) -> Result<(), EngineError> {
        self.attention_of_batch(residual, (segments, rows), (kept, passing), next)?;
        self.mlp_half((kept, passing), next)
    }

    /// Fills `kept` again as [`Layer::forward_packed`] did, which leaves out the product that only the next layer
    /// needs.
    pub(crate) fn recompute(
        &self,
        residual: &Array,
        segments: &Segments,
        (kept, passing): (&mut KeptActivations, &mut PassingActivations),
    ) -> Result<(), EngineError> {
        kept.fit(self.dtype, residual.rows(), residual.rows(), self.config)?;
        passing.fit(self.dtype, residual.rows(), residual.rows(), self.config)?;
        self.attention_half(residual, segments, (kept, passing))?;
        self.enter_residual(residual, kept)?;
        self.mlp_inputs(kept, passing)
    }

    fn attention_of_batch(
        &self,
        residual: &Array,
        (segments, rows): (&Segments, Option<&[usize]>),
        (kept, passing): (&mut KeptActivations, &mut PassingActivations),
        next: &mut Array,
    ) -> Result<(), EngineError> {
        let mlp_rows = rows.map_or(residual.rows(), <[usize]>::len);
        kept.fit(self.dtype, residual.rows(), mlp_rows, self.config)?;
        passing.fit(self.dtype, residual.rows(), mlp_rows, self.config)?;
        self.attention_half(residual, segments, (kept, passing))?;
        let Some(rows) = rows else { return self.enter_residual(residual, kept) };
        // `next` is free until the MLP writes it.
        self.engine.gather_rows(residual, rows, next)?;
        if rows.len() == residual.rows() {
            return self.enter_residual(next, kept);
        }
        self.engine.gather_rows(&kept.attended, rows, &mut passing.chosen)?;
        self.linear(self.place.output, &passing.chosen, &mut kept.middle)?;
        self.engine.add_assign(&mut kept.middle, next)
    }

    fn attention_half(
        &self,
        residual: &Array,
        segments: &Segments,
        (a, passing): (&mut KeptActivations, &mut PassingActivations),
    ) -> Result<(), EngineError> {
        let (engine, place) = (self.engine, self.place);
        self.norm(place.input_norm, residual, passing)?;
        self.linear(place.query, &passing.normed, &mut a.query)?;
        self.linear(place.key, &passing.normed, &mut a.key)?;
        self.linear(place.value, &passing.normed, &mut a.value)?;
        engine.rotary(&mut a.query, self.positions, self.rotary, false)?;
        engine.rotary(&mut a.key, self.positions, self.rotary, false)?;
        let qkv = Qkv { q: &a.query, k: &a.key, v: &a.value };
        engine.attention(qkv, segments, attention_shape(self.config), &mut a.attended, &mut a.lse)
    }

    fn enter_residual(&self, residual: &Array, a: &mut KeptActivations) -> Result<(), EngineError> {
        self.linear(self.place.output, &a.attended, &mut a.middle)?;
        self.engine.add_assign(&mut a.middle, residual)
    }

    fn mlp_inputs(
        &self,
        a: &mut KeptActivations,
        passing: &mut PassingActivations,
    ) -> Result<(), EngineError> {
        let place = self.place;
        self.norm(place.post_attention_norm, &a.middle, passing)?;
        self.linear(place.gate, &passing.normed, &mut a.gate)?;
        self.linear(place.up, &passing.normed, &mut a.up)
    }

    fn mlp_half(
        &self,
        (a, passing): (&mut KeptActivations, &mut PassingActivations),
        next: &mut Array,
    ) -> Result<(), EngineError> {
        self.mlp_inputs(a, passing)?;
        self.engine.swiglu(&a.gate, &a.up, &mut passing.gated)?;
        self.linear(self.place.down, &passing.gated, next)?;
        self.engine.add_assign(next, &a.middle)
    }

    /// `passing.normed` and `passing.inv_rms` of these rows.
    fn norm(&self, place: usize, x: &Array, passing: &mut PassingActivations) -> Result<(), EngineError> {
        passing.fit_norm(x.rows());
        let (eps, PassingActivations { normed, inv_rms, .. }) = (self.config.rms_norm_eps, passing);
        self.engine.rms_norm(x, self.parameter(place), eps, normed, inv_rms)
    }

    /// `b.residual` (with `rows`, `b.last_residual`) comes in as the gradient of the layer's output; `b.residual`
    /// goes out as that of `residual`, its input. Parameter gradients are added to `gradients`.
    pub(crate) fn backward(
        &self,
        residual: &Array,
        (segments, rows): (&Segments, Option<&[usize]>),
        (a, passing): (&KeptActivations, &mut PassingActivations),
        b: &mut BackwardBuffers,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        let mlp_rows = a.middle.rows();
        passing.fit(self.dtype, residual.rows(), mlp_rows, self.config)?;
        b.fit_mlp(mlp_rows);
        self.mlp_backward((a, passing), rows.is_some(), b, gradients)?;
        b.fit_mlp(residual.rows());
        self.output_backward(rows, (a, passing), b, gradients)?;
        self.attention_backward(residual, segments, (a, passing), b, gradients)
    }

    fn mlp_backward(
        &self,
        (a, passing): (&KeptActivations, &mut PassingActivations),
        last: bool,
        b: &mut BackwardBuffers,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        use Accumulate::{Add, Overwrite};
        let (engine, place) = (self.engine, self.place);
        let residual = if last { &mut b.last_residual } else { &mut b.residual };
        engine.swiglu(&a.gate, &a.up, &mut passing.gated)?;
        self.linear_backward(place.down, residual, &passing.gated, (&mut b.gated, Overwrite), gradients)?;
        // Once its weight's gradient is known, the gated activation gives its place to the gate's gradient.
        let dgate = &mut passing.gated;
        engine.swiglu_backward(SwigluGrads {
            dout: &b.gated,
            gate: &a.gate,
            up: &a.up,
            dgate,
            dup: &mut b.up,
        })?;
        self.norm(place.post_attention_norm, &a.middle, passing)?;
        let normed = &passing.normed;
        self.linear_backward(place.gate, &passing.gated, normed, (&mut b.normed, Overwrite), gradients)?;
        self.linear_backward(place.up, &b.up, normed, (&mut b.normed, Add), gradients)?;
        engine.rms_norm_backward(RmsNormGrads {
            dy: &b.normed,
            x: &a.middle,
            weight: self.parameter(place.post_attention_norm),
            inv_rms: &passing.inv_rms,
            dx: (residual, Add),
            dweight: trained(&mut gradients[place.post_attention_norm]),
        })
    }

    /// From the residual stream into attention: with `rows`, from these rows to all, zero elsewhere.
    fn output_backward(
        &self,
        rows: Option<&[usize]>,
        (a, passing): (&KeptActivations, &mut PassingActivations),
        b: &mut BackwardBuffers,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        let (engine, output, overwrite) = (self.engine, self.place.output, Accumulate::Overwrite);
        let Some(rows) = rows else {
            let dx = (&mut *b.attended, overwrite);
            return self.linear_backward(output, &b.residual, &a.attended, dx, gradients);
        };
        b.residual.fill(0.0);
        engine.scatter_add_rows(&b.last_residual, rows, &mut b.residual)?;
        if rows.len() == a.attended.rows() {
            let dx = (&mut *b.attended, overwrite);
            return self.linear_backward(output, &b.last_residual, &a.attended, dx, gradients);
        }
        engine.gather_rows(&a.attended, rows, &mut passing.chosen)?;
        let dx = (&mut *b.chosen, overwrite);
        self.linear_backward(output, &b.last_residual, &passing.chosen, dx, gradients)?;
        b.attended.fill(0.0);
        engine.scatter_add_rows(&b.chosen, rows, &mut b.attended)
    }

    fn attention_backward(
        &self,
        residual: &Array,
        segments: &Segments,
        (a, passing): (&KeptActivations, &mut PassingActivations),
        b: &mut BackwardBuffers,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        use Accumulate::{Add, Overwrite};
        let (engine, place) = (self.engine, self.place);
        engine.attention_backward(
            Qkv { q: &a.query, k: &a.key, v: &a.value },
            AttentionForward { out: &a.attended, lse: &a.lse, dout: &b.attended },
            segments,
            attention_shape(self.config),
            AttentionGrads { dq: &mut b.query, dk: &mut b.key, dv: &mut b.value },
        )?;
        engine.rotary(&mut b.query, self.positions, self.rotary, true)?;
        engine.rotary(&mut b.key, self.positions, self.rotary, true)?;
        self.norm(place.input_norm, residual, passing)?;
        let normed = &passing.normed;
        self.linear_backward(place.query, &b.query, normed, (&mut b.normed, Overwrite), gradients)?;
        self.linear_backward(place.key, &b.key, normed, (&mut b.normed, Add), gradients)?;
        self.linear_backward(place.value, &b.value, normed, (&mut b.normed, Add), gradients)?;
        engine.rms_norm_backward(RmsNormGrads {
            dy: &b.normed,
            x: residual,
            weight: self.parameter(place.input_norm),
            inv_rms: &passing.inv_rms,
            dx: (&mut b.residual, Add),
            dweight: trained(&mut gradients[place.input_norm]),
        })
    }

    fn parameter(&self, place: usize) -> &Array {
        &self.parameters[place]
    }

    fn weight(&self, place: usize) -> Weight<'_> {
        Weight { values: &self.parameters[place], packed: self.packed.get(place).and_then(Option::as_ref) }
    }

    fn linear(&self, place: LinearPlace, x: &Array, y: &mut Array) -> Result<(), EngineError> {
        let (w, bias) = (self.weight(place.weight), place.bias.map(|b| self.parameter(b)));
        match self.low_rank(place) {
            None => self.engine.linear(x, w, bias, y),
            Some((places, update)) => match self.dora(place, (places, update)) {
                Some((_, dora)) => self.engine.dora(x, dora, y),
                None => {
                    self.engine.linear(x, w, bias, y)?;
                    self.engine.low_rank(x, update, y)
                }
            },
        }
    }

    /// The same where the lengths of rows are trained, and the place of these.
    fn dora<'b>(
        &'b self,
        place: LinearPlace,
        (places, update): (LowRankPlace, LowRank<'b>),
    ) -> Option<(usize, Dora<'b>)> {
        let (magnitude, norm) = (places.magnitude?, self.adapter?.norms.get(&place.weight)?);
        let (w, bias) = (self.weight(place.weight), place.bias.map(|b| self.parameter(b)));
        Some((magnitude, Dora { w, bias, update, magnitude: self.parameter(magnitude), norm }))
    }

    /// The adapter of a linear layer: its places and values, and the mask's key for this layer.
    fn low_rank(&self, place: LinearPlace) -> Option<(LowRankPlace, LowRank<'_>)> {
        let adapter = self.adapter?;
        let places = *adapter.low_rank.get(&place.weight)?;
        let rate = adapter.config.dropout;
        // Odd, so that no two layers share a key.
        let of_layer = (2 * place.weight as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let dropout = self.dropout.filter(|_| rate > 0.0).map(|key| Dropout { rate, key: key ^ of_layer });
        let (a, b) = (self.weight(places.a), self.weight(places.b));
        Some((places, LowRank { a, b, scale: adapter.config.scale() as f32, dropout }))
    }

    fn linear_backward(
        &self,
        place: LinearPlace,
        dy: &Array,
        x: &Array,
        (dx, accumulate): (&mut Array, Accumulate),
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        let (w, adapted) = (self.weight(place.weight), self.low_rank(place));
        if let Some((places, update)) = adapted
            && let Some((magnitude, w)) = self.dora(place, (places, update))
        {
            let places = [places.a, places.b, magnitude];
            let Ok([da, db, dmagnitude]) = gradients.get_disjoint_mut(places) else { return Ok(()) };
            let dx = (dx, accumulate);
            return self.engine.dora_backward(DoraGrads { dy, x, w, dx, da, db, dmagnitude });
        }
        // A bias stands directly after its weight in the layout.
        let (dw, db) = match (place.bias, gradients[place.weight..].split_first_mut()) {
            (_, None) => (None, None),
            (None, Some((dw, _))) => (trained(dw), None),
            (Some(_), Some((dw, rest))) => (trained(dw), rest.first_mut().and_then(trained)),
        };
        self.engine.linear_backward(LinearGrads { dy, x, w, dx: Some((&mut *dx, accumulate)), dw, db })?;
        let Some((places, w)) = adapted else { return Ok(()) };
        let Ok([da, db]) = gradients.get_disjoint_mut([places.a, places.b]) else { return Ok(()) };
        self.engine.low_rank_backward(LowRankGrads { dy, x, w, dx, da, db })
    }
}
