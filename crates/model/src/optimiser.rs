//! AdamW, RMSprop and SGD with PyTorch's semantics, over all parameters of a decoder. The arithmetic of one
//! tensor is the engine's; which parameters decay, and the state between steps, are here.

use crate::adapter::MAGNITUDE;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::gradients::{Gradients, zeros_of_trained};
use crate::layout::TensorSpec;
use bso_engine::{AdamW, AdamWState, Array, RmsProp, Sgd};

/// Which rule, with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptimiserKind {
    /// Loshchilov and Hutter, arXiv 1711.05101, as `torch.optim.AdamW`.
    AdamW {
        /// Decay of the mean gradient, in [0, 1); PyTorch's default 0.9.
        beta1: f64,
        /// Decay of the mean squared gradient, in [0, 1); PyTorch's default 0.999.
        beta2: f64,
        /// Added to the root, positive; PyTorch's default 1e-8.
        epsilon: f64,
    },
    /// `torch.optim.RMSprop` without momentum or centring.
    RmsProp {
        /// Decay of the mean squared gradient, in [0, 1); PyTorch's default 0.99.
        alpha: f64,
        /// Added to the root, positive; PyTorch's default 1e-8.
        epsilon: f64,
    },
    /// `torch.optim.SGD` without momentum.
    Sgd,
}

impl OptimiserKind {
    /// PyTorch's default constants.
    pub const ADAMW: Self = Self::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    /// PyTorch's default constants.
    pub const RMSPROP: Self = Self::RmsProp { alpha: 0.99, epsilon: 1e-8 };

    /// The name in a config: adamw, rmsprop, sgd.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdamW { .. } => "adamw",
            Self::RmsProp { .. } => "rmsprop",
            Self::Sgd => "sgd",
        }
    }

    /// Names of the arrays kept for each parameter.
    pub(crate) fn slots(self) -> &'static [&'static str] {
        match self {
            Self::AdamW { .. } => &["first_moment", "second_moment"],
            Self::RmsProp { .. } => &["square_average"],
            Self::Sgd => &[],
        }
    }

    fn check(self) -> Result<(), ModelError> {
        let (decays, epsilon): (&[f64], f64) = match &self {
            Self::AdamW { beta1, beta2, epsilon } => (&[*beta1, *beta2], *epsilon),
            Self::RmsProp { alpha, epsilon } => (&[*alpha], *epsilon),
            Self::Sgd => (&[], 0.0),
        };
        if decays.iter().any(|d| !(0.0..1.0).contains(d)) {
            return Err(ModelError::argument(
                format!("{}: decay {decays:?} is not in [0, 1)", self.name()),
                "correct adam_beta1, adam_beta2",
            ));
        }
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            return Err(ModelError::argument(
                format!("{}: epsilon {epsilon} is not a number of at least 0", self.name()),
                "correct adam_epsilon",
            ));
        }
        Ok(())
    }
}

/// An optimiser with its state for one decoder.
///
/// Norm weights and biases do not decay, as in transformers' Trainer.
#[derive(Clone, Debug)]
pub struct Optimiser {
    pub(crate) kind: OptimiserKind,
    pub(crate) weight_decay: f64,
    /// Steps done.
    pub(crate) steps: u64,
    /// For each slot of the kind, one array per parameter, empty for a frozen one.
    pub(crate) state: Vec<Vec<Array>>,
}

impl Optimiser {
    /// An optimiser that has done no step.
    ///
    /// # Errors
    /// A constant out of its range.
    pub fn new(kind: OptimiserKind, weight_decay: f64, decoder: &Decoder) -> Result<Self, ModelError> {
        kind.check()?;
        if !(weight_decay.is_finite() && weight_decay >= 0.0) {
            return Err(ModelError::argument(
                format!("weight_decay {weight_decay} is not a number of at least 0"),
                "correct weight_decay",
            ));
        }
        let state = kind.slots().iter().map(|_| zeros_of_trained(decoder)).collect::<Result<_, _>>()?;
        Ok(Self { kind, weight_decay, steps: 0, state })
    }

    /// Changes the parameters by one step with gradient `factor * gradients` and learning rate `learning_rate`.
    /// The factor undoes the weights' scale and clips; it is folded into the update, so that gradients are read
    /// once.
    ///
    /// # Errors
    /// Gradients or state of another model; a factor or learning rate that is not a finite f32. Nothing is changed
    /// then.
    pub fn step(
        &mut self,
        decoder: &mut Decoder,
        gradients: &Gradients,
        factor: f64,
        learning_rate: f64,
    ) -> Result<(), ModelError> {
        gradients.fits(decoder)?;
        if self.state.iter().any(|slot| slot.len() != decoder.arrays().len()) {
            return Err(ModelError::argument(
                "the optimiser belongs to another model",
                "make one for this model",
            ));
        }
        let folded = factor as f32;
        if !folded.is_finite() || !(learning_rate as f32).is_finite() {
            return Err(ModelError::argument(
                format!("gradient factor {factor} or learning rate {learning_rate} does not fit 32 bits"),
                "set max_grad_norm, or lower safety_penalty or learning_rate",
            ));
        }
        self.steps += 1;
        let engine = decoder.engine().clone();
        let (kind, steps, all_decay, state) = (self.kind, self.steps, self.weight_decay, &mut self.state);
        engine.install(|| -> Result<(), bso_engine::EngineError> {
            let first = decoder.first_trained();
            for (i, (spec, parameter)) in decoder.parameters_mut().enumerate().skip(first) {
                let gradient = &gradients.arrays[i];
                let weight_decay = if decays(spec) { all_decay } else { 0.0 };
                match (kind, state.as_mut_slice()) {
                    (OptimiserKind::AdamW { beta1, beta2, epsilon }, [first, second]) => {
                        let rule = AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, step: steps };
                        let (first_moment, second_moment) = (&mut first[i], &mut second[i]);
                        let state = AdamWState { parameter, gradient, first_moment, second_moment };
                        engine.adamw_update(state, folded, &rule)?;
                    }
                    (OptimiserKind::RmsProp { alpha, epsilon }, [average]) => {
                        let rule = RmsProp { learning_rate, alpha, epsilon, weight_decay };
                        engine.rmsprop_update(parameter, gradient, &mut average[i], folded, &rule)?;
                    }
                    _ => engine.sgd_update(
                        parameter,
                        gradient,
                        folded,
                        &Sgd { learning_rate, weight_decay },
                    )?,
                }
            }
            decoder.renew_packed()
        })?;
        Ok(())
    }

    /// Which rule, with its constants.
    pub fn kind(&self) -> OptimiserKind {
        self.kind
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

/// Norms and biases do not, as in transformers' Trainer (`get_decay_parameter_names`): they are the model's own vectors. An
/// adapter's row lengths do.
fn decays(spec: &TensorSpec) -> bool {
    spec.shape.len() > 1 || spec.name.ends_with(MAGNITUDE)
}
