//! One decoder layer: norm, attention, residual, norm, MLP, residual, in whichever of its arrangements the family has.
//! Attention is here, the backward under the forward; what follows it, part of the rows by part, in `row_wise`.
//! Generation, which attends over a cache and keeps nothing, is in `generation_pass`.

use crate::activations::{AttentionActivations, PassingActivations, RowActivations};
use crate::adapter::{Adapter, LowRankPlace};
use crate::backward_buffers::{BackwardBuffers, RowGradients};
use crate::config::ModelConfig;
use crate::decoder::weight;
use crate::gradients::trained;
use crate::layer_kind::LayerKind;
use crate::layout::{LayerPlace, LinearPlace};
use crate::part::{Part, PartCopies, RowInputs, block};
use crate::quantised_base::QuantisedBase;
use crate::row_wise::{RowFlow, RowPassing};
use bso_engine::{
    Accumulate, Array, AttentionForward, AttentionGrads, AttentionShape, DType, Dora, DoraGrads, Engine,
    EngineError, LinearGrads, LowRank, LowRankGrads, PackedWeight, Qkv, RotaryTable, Segments, Weight,
};

/// A layer with what it computes on.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub engine: &'a Engine,
    pub config: &'a ModelConfig,
    pub parameters: &'a [Array],
    pub packed: &'a [Option<PackedWeight>],
    pub quantised: Option<&'a QuantisedBase>,
    pub adapter: Option<&'a Adapter>,
    /// What decides the adapter's dropout; none: nothing is dropped.
    pub dropout: Option<u64>,
    /// The place of the first row at hand among all that the layer computes: dropout looks at it.
    pub first_row: usize,
    /// Precision of products.
    pub dtype: DType,
    pub place: &'a LayerPlace,
    pub kind: LayerKind,
    /// None where the layer does not rotate.
    pub rotary: Option<&'a RotaryTable>,
    pub positions: &'a [u32],
}

/// Where a layer's activations go, or stand.
pub(crate) struct LayerActivations<'a> {
    pub attention: &'a mut AttentionActivations,
    pub rows: &'a mut RowActivations,
    pub passing: &'a mut PassingActivations,
}

/// Heads, scale, window and cap of a layer's attention.
pub(crate) fn attention_shape(config: &ModelConfig, kind: LayerKind) -> AttentionShape {
    AttentionShape {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        scale: kind.scale,
        window: kind.window,
        cap: config.attention_cap,
    }
}

impl Layer<'_> {
    /// `next = layer(residual)`, both `[rows, hidden]`. With `rows`, what follows attention is computed on these rows only, and
    /// `next` is `[rows.len(), hidden]`; `checkpointed`, part by part, the last of which is left in the row activations.
    pub(crate) fn forward_packed(
        &self,
        residual: &Array,
        (segments, rows, checkpointed): (&Segments, Option<&[usize]>, bool),
        kept: LayerActivations<'_>,
        next: &mut Array,
    ) -> Result<(), EngineError> {
        let LayerActivations { attention, rows: a, passing } = kept;
        self.attention_forward(residual, segments, (attention, passing))?;
        for part in Part::of(rows, residual.rows(), block(checkpointed, self.dtype, self.engine.device())) {
            let layer = Layer { first_row: part.first, ..*self };
            let PassingActivations { normed, inverse, gated, copies } = &mut *passing;
            let PartCopies { residual: copied, attended, stream } = copies;
            let all = RowInputs { residual, attended: &attention.attended };
            let inputs = part.of_inputs(self.engine, all, (copied, attended))?;
            a.fit((self.engine, self.dtype), part.len, self.config)?;
            gated.resize_rows(part.len)?;
            let passing = RowPassing { normed, inverse, gated };
            if part.len == next.rows() {
                layer.rows_forward(inputs, (a, passing), next)?;
                continue;
            }
            stream.resize_rows(part.len)?;
            layer.rows_forward(inputs, (a, passing), stream)?;
            self.engine.write_rows(stream, part.first, next)?;
        }
        Ok(())
    }

    /// `b.residual` (with `rows`, `b.last_residual`) comes in as the gradient of the layer's output; `b.residual`
    /// goes out as that of `residual`, its input. Parameter gradients are added to `gradients`. With `recompute`, the
    /// activations are computed again, but for what [`Layer::forward_packed`] of the last layer has left.
    pub(crate) fn backward(
        &self,
        residual: &Array,
        (segments, rows, recompute): (&Segments, Option<&[usize]>, bool),
        kept: LayerActivations<'_>,
        b: &mut BackwardBuffers,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        let LayerActivations { attention, rows: a, passing } = kept;
        if recompute && rows.is_none() {
            self.attention_forward(residual, segments, (attention, passing))?;
        }
        if rows.is_some() {
            self.engine.zero(&mut b.attended)?;
        }
        for part in Part::of(rows, residual.rows(), block(recompute, self.dtype, self.engine.device())) {
            let layer = Layer { first_row: part.first, ..*self };
            let PassingActivations { normed, inverse, gated, copies } = &mut *passing;
            let PartCopies { residual: copied, attended, stream } = copies;
            let all = RowInputs { residual, attended: &attention.attended };
            let inputs = part.of_inputs(self.engine, all, (copied, attended))?;
            gated.resize_rows(part.len)?;
            let upstream = if rows.is_some() { &mut *b.last_residual } else { &mut *b.residual };
            let in_place = part.len == upstream.rows();
            let mut passing = RowPassing { normed, inverse, gated };
            if recompute && !(in_place && rows.is_some()) {
                a.fit((self.engine, self.dtype), part.len, self.config)?;
                layer.rows_again(inputs, (a, passing.reborrow()))?;
            }
            let copied = if part.whole { 0 } else { part.len };
            b.rows.fit((self.engine, self.dtype), (part.len, copied), self.config)?;
            b.normed.resize_rows(part.len)?;
            let RowGradients { gated, up, branch, attended } = &mut b.rows;
            let attended = if part.whole { &mut *b.attended } else { attended };
            let flow = |stream: &mut Array| {
                let flow = RowFlow { stream, attended, normed: &mut b.normed, gated, up, branch };
                layer.rows_backward(inputs, (a, passing), flow, gradients)
            };
            if in_place {
                flow(upstream)?;
            } else {
                stream.resize_rows(part.len)?;
                self.engine.read_rows(upstream, part.first, stream)?;
                flow(stream)?;
                self.engine.write_rows(stream, part.first, upstream)?;
            }
            if !part.whole {
                part.give(self.engine, &b.rows.attended, &mut b.attended)?;
            }
        }
        if let Some(rows) = rows {
            self.engine.zero(&mut b.residual)?;
            self.engine.scatter_add_rows(&b.last_residual, rows, &mut b.residual)?;
        }
        b.normed.resize_rows(residual.rows())?;
        self.attention_backward(residual, segments, (attention, passing), b, gradients)
    }

    fn attention_forward(
        &self,
        residual: &Array,
        segments: &Segments,
        (a, passing): (&mut AttentionActivations, &mut PassingActivations),
    ) -> Result<(), EngineError> {
        let (engine, place, norm) = (self.engine, self.place, self.norm());
        a.fit((self.engine, self.dtype), residual.rows(), self.config)?;
        self.normalise(place.attention_norm, residual, (&mut passing.normed, &mut passing.inverse))?;
        if let Some([query, key]) = place.qk_norms {
            self.linear(place.query, &passing.normed, &mut a.raw_query)?;
            self.linear(place.key, &passing.normed, &mut a.raw_key)?;
            norm.forward(query, &a.raw_query, &mut a.query, &mut a.query_inverse)?;
            norm.forward(key, &a.raw_key, &mut a.key, &mut a.key_inverse)?;
        } else {
            self.linear(place.query, &passing.normed, &mut a.query)?;
            self.linear(place.key, &passing.normed, &mut a.key)?;
        }
        self.linear(place.value, &passing.normed, &mut a.value)?;
        if let Some(rotary) = self.rotary {
            engine.rotary(&mut a.query, self.positions, rotary, false)?;
            engine.rotary(&mut a.key, self.positions, rotary, false)?;
        }
        let qkv = Qkv { q: &a.query, k: &a.key, v: &a.value };
        let shape = attention_shape(self.config, self.kind);
        engine.attention(qkv, segments, shape, &mut a.attended, &mut a.lse)
    }

    fn attention_backward(
        &self,
        residual: &Array,
        segments: &Segments,
        (a, passing): (&AttentionActivations, &mut PassingActivations),
        b: &mut BackwardBuffers,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        use Accumulate::{Add, Overwrite};
        let (engine, place) = (self.engine, self.place);
        engine.attention_backward(
            Qkv { q: &a.query, k: &a.key, v: &a.value },
            AttentionForward { out: &a.attended, lse: &a.lse, dout: &b.attended },
            segments,
            attention_shape(self.config, self.kind),
            AttentionGrads { dq: &mut b.query, dk: &mut b.key, dv: &mut b.value },
        )?;
        if let Some(rotary) = self.rotary {
            engine.rotary(&mut b.query, self.positions, rotary, true)?;
            engine.rotary(&mut b.key, self.positions, rotary, true)?;
        }
        let PassingActivations { normed, inverse, .. } = passing;
        self.normalise(place.attention_norm, residual, (normed, inverse))?;
        let [query, key] = place.qk_norms.map_or([None; 2], |norms| norms.map(Some));
        let raw = (query, &*a.raw_query, &*a.query_inverse);
        let dquery = self.qk_norm_backward(raw, &b.query, &mut b.raw, gradients)?;
        self.linear_backward(place.query, dquery, normed, (&mut b.normed, Overwrite), gradients)?;
        let raw = (key, &*a.raw_key, &*a.key_inverse);
        let dkey = self.qk_norm_backward(raw, &b.key, &mut b.raw, gradients)?;
        self.linear_backward(place.key, dkey, normed, (&mut b.normed, Add), gradients)?;
        self.linear_backward(place.value, &b.value, normed, (&mut b.normed, Add), gradients)?;
        self.norm_backward(place.attention_norm, (&b.normed, residual, inverse), &mut b.residual, gradients)
    }

    fn parameter(&self, place: usize) -> &Array {
        &self.parameters[place]
    }

    fn weight(&self, place: usize) -> Weight<'_> {
        weight(place, (self.parameters, self.packed, self.quantised))
    }

    pub(crate) fn linear(&self, place: LinearPlace, x: &Array, y: &mut Array) -> Result<(), EngineError> {
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
        let lengths = self.adapter?.lengths(place.weight, self.parameters)?;
        let (w, bias) = (self.weight(place.weight), place.bias.map(|b| self.parameter(b)));
        Some((places.magnitude?, Dora { w, bias, update, lengths }))
    }

    /// The adapter of a linear layer: its places and values, and the mask's key for this layer.
    fn low_rank(&self, place: LinearPlace) -> Option<(LowRankPlace, LowRank<'_>)> {
        self.adapter?.update(place.weight, (self.dropout, self.first_row), |place| self.weight(place))
    }

    pub(crate) fn linear_backward(
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
