//! One pass of an optimiser over one parameter, with PyTorch's semantics. The gradient is multiplied by a factor on
//! the way in (clipping and rescaling), so that it is read once and never written.

use crate::{Array, Engine, EngineError};

/// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) as `torch.optim.AdamW`: weight decay apart from the moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment, `[0, 1)`.
    pub beta1: f64,
    /// Decay of the second moment, `[0, 1)`.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
}

/// What AdamW reads and writes for one parameter; all of one shape.
#[derive(Debug)]
pub struct AdamWState<'a> {
    /// The parameter.
    pub parameter: &'a mut Array,
    /// Its gradient, before the factor.
    pub gradient: &'a Array,
    /// First moment, zero before the first step.
    pub first_moment: &'a mut Array,
    /// Second moment, zero before the first step.
    pub second_moment: &'a mut Array,
}

/// RMSprop as `torch.optim.RMSprop` without momentum or centring.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsProp {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the squared average; PyTorch's default is 0.99.
    pub alpha: f64,
    /// Added to the root of the squared average; PyTorch's default is 1e-8.
    pub epsilon: f64,
    /// Added to the gradient as `weight_decay * parameter`.
    pub weight_decay: f64,
}

/// Plain gradient descent as `torch.optim.SGD` without momentum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Step size.
    pub learning_rate: f64,
    /// Added to the gradient as `weight_decay * parameter`.
    pub weight_decay: f64,
}

impl Engine {
    /// One AdamW step with gradient `factor * gradient`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn adamw_update(&self, state: AdamWState<'_>, factor: f32, adamw: &AdamW) -> Result<(), EngineError> {
        let _ = (state, factor, adamw);
        todo!()
    }

    /// One RMSprop step with gradient `factor * gradient`; `square_average` is zero before the first step.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn rmsprop_update(
        &self,
        parameter: &mut Array,
        gradient: &Array,
        square_average: &mut Array,
        factor: f32,
        rmsprop: &RmsProp,
    ) -> Result<(), EngineError> {
        let _ = (parameter, gradient, square_average, factor, rmsprop);
        todo!()
    }

    /// One step of gradient descent with gradient `factor * gradient`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn sgd_update(
        &self,
        parameter: &mut Array,
        gradient: &Array,
        factor: f32,
        sgd: &Sgd,
    ) -> Result<(), EngineError> {
        let _ = (parameter, gradient, factor, sgd);
        todo!()
    }
}
