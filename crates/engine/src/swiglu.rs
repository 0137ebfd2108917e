//! SwiGLU (Shazeer 2020, arXiv 2002.05202): `silu(gate) * up`, the gated activation between two linear layers.

use crate::{Array, Engine, EngineError};

/// Arguments of [`Engine::swiglu_backward`]; all `[n, f]`.
#[derive(Debug)]
pub struct SwigluGrads<'a> {
    /// Gradient of the output.
    pub dout: &'a Array,
    /// The forward gate.
    pub gate: &'a Array,
    /// The forward up.
    pub up: &'a Array,
    /// Gradient of the gate; overwritten.
    pub dgate: &'a mut Array,
    /// Gradient of the up; overwritten.
    pub dup: &'a mut Array,
}

impl Engine {
    /// `out = gate * sigmoid(gate) * up`; all `[n, f]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn swiglu(&self, gate: &Array, up: &Array, out: &mut Array) -> Result<(), EngineError> {
        let _ = (gate, up, out);
        todo!()
    }

    /// Gradients of gate and up.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn swiglu_backward(&self, grads: SwigluGrads<'_>) -> Result<(), EngineError> {
        let _ = grads;
        todo!()
    }
}
