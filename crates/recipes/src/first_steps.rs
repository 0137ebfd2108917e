//! What must hold when training begins, checked instead of assumed: a policy that starts as its reference has no
//! margin, and every tensor learns.

use crate::RecipeError;
use crate::objective::{Detail, Observation};
use bso_model::Gradients;
use std::collections::BTreeSet;

/// Rounding of one sequence's log-prob in f32: nats, and relative to the log-prob for very long sequences.
const ROUNDING: (f64, f64) = (1e-4, 1e-6);
/// A tensor may be idle for so many steps (a rarely routed bias, say) before it counts as cut off.
const PATIENCE: u64 = 3;

/// Checks that policy and reference agree before the first update, where they are the same weights.
///
/// # Errors
/// The largest disagreement, if it is more than rounding.
pub fn check_margins(observations: &[Observation]) -> Result<(), RecipeError> {
    let differences = observations.iter().flat_map(|o| match &o.detail {
        Detail::Pair { policy, reference, .. } => vec![(policy[0], reference[0]), (policy[1], reference[1])],
        Detail::Judged { log_ratio, logp, .. } => vec![(*logp, logp - log_ratio)],
        Detail::Sft => Vec::new(),
    });
    for (policy, reference) in differences {
        let allowed = ROUNDING.0.max(ROUNDING.1 * reference.abs());
        if (policy - reference).abs() > allowed {
            return Err(RecipeError::failed(format!(
                "before the first update the policy gives a sequence the log-prob {policy:.6} and the reference, which is \
                 the same model, {reference:.6}: the reference log-probs belong to other weights or other tokens; delete \
                 the run's reference file and start again"
            )));
        }
    }
    Ok(())
}

/// Watches the first steps for tensors that receive no gradient.
#[derive(Debug, Default)]
pub struct IdleTensors {
    idle: Option<BTreeSet<String>>,
    steps: u64,
}

impl IdleTensors {
    /// Looks at the gradients of one step; `pulls` says whether any weight of the step was not zero.
    ///
    /// # Errors
    /// After a few steps with pull, the tensors that never received any.
    pub fn look(&mut self, gradients: &Gradients, pulls: bool) -> Result<(), RecipeError> {
        if !pulls || self.steps >= PATIENCE {
            return Ok(());
        }
        let zero: BTreeSet<String> = gradients.all_zero().into_iter().map(str::to_owned).collect();
        let still: BTreeSet<String> = match self.idle.take() {
            Some(idle) => idle.intersection(&zero).cloned().collect(),
            None => zero,
        };
        self.steps += 1;
        if self.steps < PATIENCE || still.is_empty() {
            self.idle = Some(still);
            return Ok(());
        }
        let names: Vec<&str> = still.iter().map(String::as_str).collect();
        Err(RecipeError::failed(format!(
            "{} of the model's tensors received no gradient in the first {PATIENCE} steps: {}; the weights are damaged \
             (all zero before them?) or the architecture is not what config.json says",
            names.len(),
            names.join(", ")
        )))
    }
}
