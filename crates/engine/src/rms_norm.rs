//! RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467): each row divided by its root mean square, times a weight.

use crate::{Accumulate, Array, Engine, EngineError};

/// Arguments of [`Engine::rms_norm_backward`].
#[derive(Debug)]
pub struct RmsNormGrads<'a> {
    /// Gradient of the output, `[n, d]`.
    pub dy: &'a Array,
    /// The forward input, `[n, d]`.
    pub x: &'a Array,
    /// The forward weight, `[1, d]`.
    pub weight: &'a Array,
    /// What the forward stored, `[n]`.
    pub inv_rms: &'a [f32],
    /// Gradient of the input, `[n, d]`.
    pub dx: (&'a mut Array, Accumulate),
    /// Gradient of the weight, `[1, d]`; added to.
    pub dweight: Option<&'a mut Array>,
}

impl Engine {
    /// `y = x * inv_rms * weight` with `inv_rms = 1 / sqrt(mean(x^2) + eps)` of each row, which is stored for the
    /// backward. `x`, `y` are `[n, d]`, `weight` `[1, d]`, `inv_rms` `[n]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn rms_norm(
        &self,
        x: &Array,
        weight: &Array,
        eps: f32,
        y: &mut Array,
        inv_rms: &mut [f32],
    ) -> Result<(), EngineError> {
        let _ = (x, weight, eps, y, inv_rms);
        todo!()
    }

    /// `dx = inv_rms * (g - xhat * mean(g * xhat))` with `g = dy * weight`, `xhat = x * inv_rms`;
    /// `dweight += sum over rows of dy * xhat`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn rms_norm_backward(&self, grads: RmsNormGrads<'_>) -> Result<(), EngineError> {
        let _ = grads;
        todo!()
    }
}
