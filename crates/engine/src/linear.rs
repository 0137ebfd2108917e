//! Matrix products: `y = x w^T + bias` with PyTorch's weight layout, and its backward.

use crate::error::expect_size;
use crate::{Array, Engine, EngineError};

/// Whether a result replaces what the output holds or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// Replace; what was there is not read.
    Overwrite,
    /// Add.
    Add,
}

/// Arguments of [`Engine::linear_backward`]. A gradient that is `None` is not computed.
#[derive(Debug)]
pub struct LinearGrads<'a> {
    /// Gradient of the output, `[n, o]`.
    pub dy: &'a Array,
    /// The forward input, `[n, i]`.
    pub x: &'a Array,
    /// The forward weight, `[o, i]`.
    pub w: &'a Array,
    /// Gradient of the input, `[n, i]`.
    pub dx: Option<(&'a mut Array, Accumulate)>,
    /// Gradient of the weight, `[o, i]`; added to.
    pub dw: Option<&'a mut Array>,
    /// Gradient of the bias, `[1, o]`; added to.
    pub db: Option<&'a mut Array>,
}

impl Engine {
    /// `y[n, o] = x[n, i] w[o, i]^T (+ bias[1, o])`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn linear(
        &self,
        x: &Array,
        w: &Array,
        bias: Option<&Array>,
        y: &mut Array,
    ) -> Result<(), EngineError> {
        expect_size("linear", "columns of x", w.cols(), x.cols())?;
        let _ = (bias, y);
        todo!()
    }

    /// `dx = dy w`, `dw += dy^T x`, `db += sum of the rows of dy`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn linear_backward(&self, grads: LinearGrads<'_>) -> Result<(), EngineError> {
        let _ = grads;
        todo!()
    }
}
