//! One decoder layer: norm, attention, residual, norm, MLP, residual, in whichever of its arrangements the family has;
//! the backward directly under the forward. Generation, which attends over a cache and keeps nothing, is in
//! `generation_pass`.

use crate::activations::{BackwardBuffers, KeptActivations, PassingActivations};
use crate::config::ModelConfig;
use crate::layer_kind::LayerKind;
use crate::layout::{LayerPlace, LinearPlace};
use bso_engine::{
    Accumulate, Array, AttentionForward, AttentionGrads, AttentionShape, DType, Engine, EngineError,
    LinearGrads, PackedWeight, Qkv, RotaryTable, Segments, Weight,
};

/// A layer with what it computes on.
pub(crate) struct Layer<'a> {
    pub engine: &'a Engine,
    pub config: &'a ModelConfig,
    pub parameters: &'a [Array],
    pub packed: &'a [Option<PackedWeight>],
    /// Precision of products.
    pub dtype: DType,
    pub place: &'a LayerPlace,
    pub kind: LayerKind,
    /// None where the layer does not rotate.
    pub rotary: Option<&'a RotaryTable>,
    pub positions: &'a [u32],
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
    /// `next` is `[rows.len(), hidden]`.
    pub(crate) fn forward_packed(
        &self,
        residual: &Array,
        (segments, rows): (&Segments, Option<&[usize]>),
        (kept, passing): (&mut KeptActivations, &mut PassingActivations),
        next: &mut Array,
    ) -> Result<(), EngineError> {
        self.attention_of_batch(residual, (segments, rows), (kept, passing), next)?;
        self.mlp_inputs(residual, (kept, passing))?;
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
        self.enter_residual(residual, None, (kept, &mut passing.inverse))?;
        self.mlp_inputs(residual, (kept, passing))?;
        if self.place.post_mlp_norm.is_none() {
            return Ok(());
        }
        self.activate(kept, &mut passing.gated)?;
        self.linear(self.place.down, &passing.gated, &mut kept.mlp_out)
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
        let PassingActivations { chosen, chosen_residual, inverse, .. } = passing;
        let Some(rows) = rows else { return self.enter_residual(residual, None, (kept, inverse)) };
        // `next` is free until the MLP writes it.
        self.engine.gather_rows(residual, rows, next)?;
        if rows.len() == residual.rows() {
            return self.enter_residual(next, None, (kept, inverse));
        }
        if self.config.parallel_residual {
            self.engine.gather_rows(residual, rows, chosen_residual)?;
        }
        self.engine.gather_rows(&kept.attended, rows, chosen)?;
        self.enter_residual(next, Some(chosen), (kept, inverse))
    }

    fn attention_half(
        &self,
        residual: &Array,
        segments: &Segments,
        (a, passing): (&mut KeptActivations, &mut PassingActivations),
    ) -> Result<(), EngineError> {
        let (engine, place, norm) = (self.engine, self.place, self.norm());
        self.normalise(place.attention_norm, residual, (&mut passing.normed, &mut passing.inverse))?;
        if let Some([query, key]) = place.qk_norms {
            self.linear(place.query, &passing.normed, &mut a.raw_query)?;
            self.linear(place.key, &passing.normed, &mut a.raw_key)?;
            norm.forward(query, &a.raw_query, &mut a.query, a.query_inverse.as_mut_slice())?;
            norm.forward(key, &a.raw_key, &mut a.key, a.key_inverse.as_mut_slice())?;
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

    /// `a.middle = residual + output(attended)`, on the rows of `residual`; `chosen` are those of `a.attended`.
    fn enter_residual(
        &self,
        residual: &Array,
        chosen: Option<&Array>,
        (a, inverse): (&mut KeptActivations, &mut Vec<f32>),
    ) -> Result<(), EngineError> {
        let KeptActivations { attended, attention_out, middle, .. } = a;
        let attended = chosen.unwrap_or(attended);
        self.leave_branch(
            self.place.output,
            attended,
            self.place.post_attention_norm,
            attention_out,
            (middle, inverse),
        )?;
        self.engine.add_assign(middle, residual)
    }

    /// The inputs of the activation: from `a.middle`, or from the layer's input where residuals are parallel.
    fn mlp_inputs(
        &self,
        residual: &Array,
        (a, passing): (&mut KeptActivations, &mut PassingActivations),
    ) -> Result<(), EngineError> {
        let PassingActivations { normed, inverse, chosen_residual, .. } = passing;
        let source = self.mlp_source([residual, chosen_residual, &a.middle]);
        self.normalise(self.place.mlp_norm, source, (normed, inverse))?;
        if let Some(gate) = self.place.gate {
            self.linear(gate, normed, &mut a.gate)?;
        }
        self.linear(self.place.up, normed, &mut a.up)
    }

    fn mlp_half(
        &self,
        (a, passing): (&mut KeptActivations, &mut PassingActivations),
        next: &mut Array,
    ) -> Result<(), EngineError> {
        self.activate(a, &mut passing.gated)?;
        let (place, PassingActivations { gated, inverse, .. }) = (self.place, passing);
        self.leave_branch(place.down, gated, place.post_mlp_norm, &mut a.mlp_out, (next, inverse))?;
        self.engine.add_assign(next, &a.middle)
    }

    fn activate(&self, a: &KeptActivations, out: &mut Array) -> Result<(), EngineError> {
        self.config.activation().forward(self.engine, self.activation_inputs(a), out)
    }

    fn activation_inputs<'b>(&self, a: &'b KeptActivations) -> (Option<&'b Array>, &'b Array) {
        (self.place.gate.map(|_| &*a.gate), &a.up)
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
        // Side by side both branches see the gradient as it comes in; else attention sees the MLP's share too.
        if self.config.parallel_residual {
            self.output_backward(rows, (a, passing), b, gradients)?;
            self.mlp_backward(residual, rows, (a, passing), b, gradients)?;
        } else {
            self.mlp_backward(residual, rows, (a, passing), b, gradients)?;
            self.output_backward(rows, (a, passing), b, gradients)?;
        }
        if let Some(rows) = rows {
            b.residual.fill(0.0);
            self.engine.scatter_add_rows(&b.last_residual, rows, &mut b.residual)?;
        }
        b.fit_mlp(residual.rows());
        self.attention_backward(residual, segments, (a, passing), b, gradients)
    }

    /// From the layer's output through the MLP; what its norm read gets its share of the gradient.
    fn mlp_backward(
        &self,
        residual: &Array,
        rows: Option<&[usize]>,
        (a, passing): (&KeptActivations, &mut PassingActivations),
        b: &mut BackwardBuffers,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        use Accumulate::{Add, Overwrite};
        let (place, activation, inputs) = (self.place, self.config.activation(), self.activation_inputs(a));
        let BackwardBuffers {
            residual: all, last_residual, normed: dnormed, gated: dgated, up, branch, ..
        } = b;
        let stream = if rows.is_some() { last_residual } else { all };
        let PassingActivations { normed, inverse, gated, chosen_residual, .. } = passing;
        activation.forward(self.engine, inputs, gated)?;
        let norm = (place.post_mlp_norm, &*a.mlp_out);
        let dy = self.branch_backward(norm, stream, (branch, normed, inverse), gradients)?;
        self.linear_backward(place.down, dy, gated, (dgated, Overwrite), gradients)?;
        // Once its weight's gradient is known, the activation gives its place to the gate's gradient.
        let dgate = &mut *gated;
        activation.backward(self.engine, inputs, dgated, (dgate, up))?;
        if let Some(rows) = rows.filter(|rows| self.config.parallel_residual && rows.len() < residual.rows())
        {
            self.engine.gather_rows(residual, rows, chosen_residual)?;
        }
        let source = self.mlp_source([residual, chosen_residual, &a.middle]);
        self.normalise(place.mlp_norm, source, (normed, inverse))?;
        let mut accumulate = Overwrite;
        if let Some(gate) = place.gate {
            self.linear_backward(gate, dgate, normed, (dnormed, Overwrite), gradients)?;
            accumulate = Add;
        }
        self.linear_backward(place.up, up, normed, (dnormed, accumulate), gradients)?;
        self.norm_backward(place.mlp_norm, (dnormed, source, inverse), stream, gradients)
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
        let PassingActivations { normed, inverse, chosen, .. } = passing;
        let stream = if rows.is_some() { &b.last_residual } else { &b.residual };
        let norm = (self.place.post_attention_norm, &*a.attention_out);
        let dy = self.branch_backward(norm, stream, (&mut b.branch, normed, inverse), gradients)?;
        let Some(rows) = rows.filter(|rows| rows.len() < a.attended.rows()) else {
            let dx = (&mut *b.attended, overwrite);
            return self.linear_backward(output, dy, &a.attended, dx, gradients);
        };
        engine.gather_rows(&a.attended, rows, chosen)?;
        self.linear_backward(output, dy, chosen, (&mut b.chosen, overwrite), gradients)?;
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
        let raw = (query, &*a.raw_query, a.query_inverse.as_slice());
        let dquery = self.qk_norm_backward(raw, &b.query, &mut b.raw, gradients)?;
        self.linear_backward(place.query, dquery, normed, (&mut b.normed, Overwrite), gradients)?;
        let raw = (key, &*a.raw_key, a.key_inverse.as_slice());
        let dkey = self.qk_norm_backward(raw, &b.key, &mut b.raw, gradients)?;
        self.linear_backward(place.key, dkey, normed, (&mut b.normed, Add), gradients)?;
        self.linear_backward(place.value, &b.value, normed, (&mut b.normed, Add), gradients)?;
        self.norm_backward(place.attention_norm, (&b.normed, residual, inverse), &mut b.residual, gradients)
    }

    fn parameter(&self, place: usize) -> &Array {
        &self.parameters[place]
    }

    fn weight(&self, place: usize) -> Weight<'_> {
        Weight { values: &self.parameters[place], packed: self.packed.get(place).and_then(Option::as_ref) }
    }

    pub(crate) fn linear(&self, place: LinearPlace, x: &Array, y: &mut Array) -> Result<(), EngineError> {
        self.engine.linear(x, self.weight(place.weight), place.bias.map(|b| self.parameter(b)), y)
    }

    fn linear_backward(
        &self,
        place: LinearPlace,
        dy: &Array,
        x: &Array,
        dx: (&mut Array, Accumulate),
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        let w = self.weight(place.weight);
        // A bias stands directly after its weight in the layout.
        let (dw, db) = match (place.bias, gradients[place.weight..].split_first_mut()) {
            (_, None) => (None, None),
            (None, Some((dw, _))) => (Some(dw), None),
            (Some(_), Some((dw, rest))) => (Some(dw), rest.first_mut()),
        };
        self.engine.linear_backward(LinearGrads { dy, x, w, dx: Some(dx), dw, db })
    }
}
