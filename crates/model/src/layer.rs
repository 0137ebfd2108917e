//! One decoder layer: norm, attention, residual, norm, gated MLP, residual; the backward directly under the
//! forward. The attention is handed in, since training attends within a batch and generation over a cache.

use crate::activations::{BackwardBuffers, LayerActivations};
use crate::config::ModelConfig;
use crate::layout::{LayerPlace, LinearPlace};
use bso_engine::{
    Accumulate, Array, AttentionForward, AttentionGrads, AttentionShape, Engine, EngineError, LinearGrads,
    PackedWeight, Qkv, RmsNormGrads, RotaryTable, Segments, SwigluGrads, Weight,
};

/// A layer with what it computes on.
pub(crate) struct Layer<'a> {
    pub engine: &'a Engine,
    pub config: &'a ModelConfig,
    pub parameters: &'a [Array],
    pub packed: &'a [Option<PackedWeight>],
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
    /// `next = layer(residual)`, both `[rows, hidden]`; `attend` fills `attended` (and `lse`) from query, key and
    /// value.
    pub(crate) fn forward(
        &self,
        residual: &Array,
        a: &mut LayerActivations,
        next: &mut Array,
        attend: impl FnOnce(&mut LayerActivations) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let (engine, place, eps) = (self.engine, self.place, self.config.rms_norm_eps);
        engine.rms_norm(residual, self.parameter(place.input_norm), eps, &mut a.normed, &mut a.inv_rms)?;
        self.linear(place.query, &a.normed, &mut a.query)?;
        self.linear(place.key, &a.normed, &mut a.key)?;
        self.linear(place.value, &a.normed, &mut a.value)?;
        engine.rotary(&mut a.query, self.positions, self.rotary, false)?;
        engine.rotary(&mut a.key, self.positions, self.rotary, false)?;
        attend(a)?;
        self.linear(place.output, &a.attended, &mut a.middle)?;
        engine.add_assign(&mut a.middle, residual)?;

        let norm = self.parameter(place.post_attention_norm);
        engine.rms_norm(&a.middle, norm, eps, &mut a.mlp_normed, &mut a.mlp_inv_rms)?;
        self.linear(place.gate, &a.mlp_normed, &mut a.gate)?;
        self.linear(place.up, &a.mlp_normed, &mut a.up)?;
        engine.swiglu(&a.gate, &a.up, &mut a.gated)?;
        self.linear(place.down, &a.gated, next)?;
        engine.add_assign(next, &a.middle)
    }

    /// `b.residual` comes in as the gradient of the layer's output and goes out as that of `residual`, its input.
    /// Parameter gradients are added to `gradients`.
    pub(crate) fn backward(
        &self,
        residual: &Array,
        a: &LayerActivations,
        segments: &Segments,
        b: &mut BackwardBuffers,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        use Accumulate::{Add, Overwrite};
        let (engine, place) = (self.engine, self.place);
        self.linear_backward(place.down, &b.residual, &a.gated, (&mut b.gated, Overwrite), gradients)?;
        engine.swiglu_backward(SwigluGrads {
            dout: &b.gated,
            gate: &a.gate,
            up: &a.up,
            dgate: &mut b.gate,
            dup: &mut b.up,
        })?;
        self.linear_backward(place.gate, &b.gate, &a.mlp_normed, (&mut b.normed, Overwrite), gradients)?;
        self.linear_backward(place.up, &b.up, &a.mlp_normed, (&mut b.normed, Add), gradients)?;
        engine.rms_norm_backward(RmsNormGrads {
            dy: &b.normed,
            x: &a.middle,
            weight: self.parameter(place.post_attention_norm),
            inv_rms: &a.mlp_inv_rms,
            dx: (&mut b.residual, Add),
            dweight: Some(&mut gradients[place.post_attention_norm]),
        })?;

        self.linear_backward(
            place.output,
            &b.residual,
            &a.attended,
            (&mut b.attended, Overwrite),
            gradients,
        )?;
        engine.attention_backward(
            Qkv { q: &a.query, k: &a.key, v: &a.value },
            AttentionForward { out: &a.attended, lse: &a.lse, dout: &b.attended },
            segments,
            attention_shape(self.config),
            AttentionGrads { dq: &mut b.query, dk: &mut b.key, dv: &mut b.value },
        )?;
        engine.rotary(&mut b.query, self.positions, self.rotary, true)?;
        engine.rotary(&mut b.key, self.positions, self.rotary, true)?;
        self.linear_backward(place.query, &b.query, &a.normed, (&mut b.normed, Overwrite), gradients)?;
        self.linear_backward(place.key, &b.key, &a.normed, (&mut b.normed, Add), gradients)?;
        self.linear_backward(place.value, &b.value, &a.normed, (&mut b.normed, Add), gradients)?;
        engine.rms_norm_backward(RmsNormGrads {
            dy: &b.normed,
            x: residual,
            weight: self.parameter(place.input_norm),
            inv_rms: &a.inv_rms,
            dx: (&mut b.residual, Add),
            dweight: Some(&mut gradients[place.input_norm]),
        })
    }

    fn parameter(&self, place: usize) -> &Array {
        &self.parameters[place]
    }

    fn weight(&self, place: usize) -> Weight<'_> {
        Weight { values: &self.parameters[place], packed: self.packed.get(place).and_then(Option::as_ref) }
    }

    fn linear(&self, place: LinearPlace, x: &Array, y: &mut Array) -> Result<(), EngineError> {
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
