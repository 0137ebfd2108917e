//! The optimiser and the clipping of its gradient.

use super::super::choices::Optim;
use super::super::error::ConfigError;
use super::super::resolve::Resolver;
use super::Settings;

/// The optimiser's numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimiserSection {
    /// Which one.
    pub optim: Optim,
    /// Weight decay, >= 0; decoupled for adamw.
    pub weight_decay: f64,
    /// adamw: decay of the mean of gradients, in `[0, 1)`.
    pub adam_beta1: f64,
    /// adamw: decay of the mean of squared gradients, in `[0, 1)`.
    pub adam_beta2: f64,
    /// adamw: epsilon, > 0.
    pub adam_epsilon: f64,
    /// Longest gradient, > 0; `None`: no clipping.
    pub max_grad_norm: Option<f64>,
}

impl OptimiserSection {
    pub(in super::super) fn read(r: &Resolver) -> Result<Self, ConfigError> {
        Ok(Self {
            optim: r.choice("optim")?,
            weight_decay: r.real("weight_decay")?,
            adam_beta1: r.real("adam_beta1")?,
            adam_beta2: r.real("adam_beta2")?,
            adam_epsilon: r.real("adam_epsilon")?,
            max_grad_norm: r.optional_real("max_grad_norm")?,
        })
    }

    pub(in super::super) fn write(&self, out: &mut Settings) {
        out.choice("optim", self.optim);
        out.real("weight_decay", self.weight_decay);
        out.real("adam_beta1", self.adam_beta1);
        out.real("adam_beta2", self.adam_beta2);
        out.real("adam_epsilon", self.adam_epsilon);
        out.optional_real("max_grad_norm", self.max_grad_norm);
    }
}
