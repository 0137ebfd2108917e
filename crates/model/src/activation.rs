//! The curve of the MLP: which there are, by their names in `config.json`, and the engine's operation for each.

use bso_engine::{Array, Engine, EngineError, Gelu, GeluGrads, SwigluGrads};

/// The curve between the MLP's linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// Gated only (SwiGLU).
    Silu,
    Gelu(Gelu),
}

impl Activation {
    /// By its name in transformers; None for one that is not supported.
    pub(crate) fn named(name: &str, gated: bool) -> Option<Self> {
        match name {
            "silu" | "swish" if gated => Some(Self::Silu),
            "gelu" | "gelu_python" => Some(Self::Gelu(Gelu::Exact)),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => {
                Some(Self::Gelu(Gelu::Tanh))
            }
            _ => None,
        }
    }

    /// The supported names in words.
    pub(crate) fn supported(gated: bool) -> &'static str {
        if gated {
            "supported: \"silu\", \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\""
        } else {
            "supported: \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\""
        }
    }

    /// `out = curve(gate) * up`; without a gate, `out = curve(up)`.
    pub(crate) fn forward(
        self,
        engine: &Engine,
        (gate, up): (Option<&Array>, &Array),
        out: &mut Array,
    ) -> Result<(), EngineError> {
        match (self, gate) {
            (Self::Silu, gate) => engine.swiglu(gate.unwrap_or(up), up, out),
            (Self::Gelu(curve), Some(gate)) => engine.gelu(curve, gate, Some(up), out),
            (Self::Gelu(curve), None) => engine.gelu(curve, up, None, out),
        }
    }

    /// Gradients of gate (`dgate`) and up (`dup`); without a gate, of up in `dup`, and `dgate` is left alone.
    pub(crate) fn backward(
        self,
        engine: &Engine,
        (gate, up): (Option<&Array>, &Array),
        dout: &Array,
        (dgate, dup): (&mut Array, &mut Array),
    ) -> Result<(), EngineError> {
        match (self, gate) {
            (Self::Silu, gate) => {
                engine.swiglu_backward(SwigluGrads { dout, gate: gate.unwrap_or(up), up, dgate, dup })
            }
            (Self::Gelu(curve), Some(gate)) => {
                engine.gelu_backward(curve, GeluGrads { dout, x: gate, dx: dgate, up: Some((up, dup)) })
            }
            (Self::Gelu(curve), None) => {
                engine.gelu_backward(curve, GeluGrads { dout, x: up, dx: dup, up: None })
            }
        }
    }
}
