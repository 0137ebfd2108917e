//! The gradients of a step in the making, in numbers that f32 holds whatever the loss's weights are, and the update by them.

use crate::RecipeError;
use bso_model::{Decoder, Gradients, Optimiser};
use bso_objective::{SequenceWeights, clip_factor};

/// Gradients kept in f32 as `true / scale`, the scale a power of two: no penalty overflows them, and no bit is lost
/// by scaling. The scale grows with the largest weight of the step; what was accumulated before is rescaled.
pub struct ScaledGradients {
    /// Divided by the scale.
    pub stored: Gradients,
    /// 0 before the first micro-batch of a step.
    scale: f64,
}

impl ScaledGradients {
    /// Nothing accumulated.
    ///
    /// # Errors
    /// A device has not got the memory.
    pub fn zeros(decoder: &Decoder) -> Result<Self, RecipeError> {
        Ok(Self { stored: Gradients::zeros(decoder)?, scale: 0.0 })
    }

    /// What the stored gradients are to be multiplied by; 0 where there are none.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Begins a step.
    ///
    /// # Errors
    /// A device fails.
    pub fn clear(&mut self) -> Result<(), RecipeError> {
        self.scale = 0.0;
        Ok(self.stored.zero()?)
    }

    /// The weights as f32 in the common scale, which is raised if they need it.
    ///
    /// # Errors
    /// A weight that is not finite.
    pub fn admit(&mut self, weights: &[f64]) -> Result<Vec<f32>, RecipeError> {
        let scaled = SequenceWeights::new(weights)?;
        if scaled.scale > self.scale {
            if self.scale > 0.0 {
                self.stored.rescale((self.scale / scaled.scale) as f32)?;
            }
            self.scale = scaled.scale;
        }
        let factor = (scaled.scale / self.scale) as f32;
        Ok(scaled.weights.iter().map(|w| w * factor).collect())
    }

    /// One step of the optimiser by the true gradients, clipped to `max_grad_norm`; their norm before clipping.
    ///
    /// # Errors
    /// A gradient that is not finite, or, without clipping, one that does not fit f32; the weights are untouched then.
    pub fn apply(
        &self,
        (decoder, optimiser): (&mut Decoder, &mut Optimiser),
        rate: f64,
        max_grad_norm: Option<f64>,
    ) -> Result<f64, RecipeError> {
        let (norm, scale) = (self.stored.squared_norm()?.sqrt(), self.scale.max(f64::MIN_POSITIVE));
        if !norm.is_finite() {
            let name = self.stored.non_finite()?.unwrap_or("the whole model's norm");
            return Err(RecipeError::failed(format!(
                "the gradient of {name} is not finite; lower learning_rate or safety_penalty, or set log_ratio_clamp"
            )));
        }
        let factor = clip_factor(norm, scale, max_grad_norm)?;
        optimiser.step(decoder, &self.stored, factor, rate)?;
        Ok(norm * scale)
    }
}
