//! What must hold when training begins, checked instead of assumed: a policy that starts as its reference has no
//! margin, and every tensor learns.

use crate::RecipeError;
use crate::objective::{Detail, Observation};
use bso_model::{Decoder, Device, Gradients};
use std::collections::{BTreeMap, BTreeSet};

/// Rounding of one sequence's log-prob: nats, and relative to the log-prob for very long sequences.
const ROUNDING: (f64, f64) = (1e-4, 1e-6);
/// The same on a GPU in f32, and in bf16 or TF32, where a row's last bits depend on the rows beside it (docs/gpu.md, "Products"):
/// policy and reference see a sequence in other batches. Other weights or other tokens still differ by more.
const ROUNDING_ON_GPU: [(f64, f64); 2] = [(1e-3, 1e-5), (0.1, 5e-3)];
/// A tensor may be idle for so many steps (a rarely routed bias, say) before it counts as cut off.
const PATIENCE: u64 = 3;
/// The bias of safe-rlhf's scalar head: a reward model's pairwise loss does not see a shift of all scores.
const SHIFT: &str = "score_head.bias";

/// Checks that policy and reference agree before the first update, where they are the same weights, computed on `device`;
/// `narrow` says whether products round their factors, to bf16 or TF32.
///
/// # Errors
/// The largest disagreement, if it is more than rounding.
pub fn check_margins(
    observations: &[Observation],
    (device, narrow): (Device, bool),
) -> Result<(), RecipeError> {
    let rounding = match device {
        Device::Cpu => ROUNDING,
        Device::Cuda(_) => ROUNDING_ON_GPU[usize::from(narrow)],
    };
    let differences = observations.iter().flat_map(|o| match &o.detail {
        Detail::Pair { policy, reference, .. } => vec![(policy[0], reference[0]), (policy[1], reference[1])],
        Detail::Judged { log_ratio, logp, .. } => vec![(*logp, logp - log_ratio)],
        Detail::Sft | Detail::Scored { .. } => Vec::new(),
    });
    for (policy, reference) in differences {
        let allowed = rounding.0.max(rounding.1 * reference.abs());
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
    /// Steps with pull in which each tensor that never received any was seen without; none before the first.
    idle: Option<BTreeMap<String, u64>>,
}

impl IdleTensors {
    /// Looks at the gradients of one step; `pulls` says whether any weight of the step was not zero. A tensor that rests
    /// ([`Decoder::rests`]) is looked at later.
    ///
    /// # Errors
    /// The tensors that received none in the first few steps with pull.
    pub fn look(&mut self, gradients: &Gradients, decoder: &Decoder, pulls: bool) -> Result<(), RecipeError> {
        if !pulls || self.idle.as_ref().is_some_and(BTreeMap::is_empty) {
            return Ok(());
        }
        let zero: BTreeSet<&str> = gradients.all_zero()?.into_iter().collect();
        let mut idle = match self.idle.take() {
            None => zero.iter().map(|name| ((*name).to_owned(), 0)).collect(),
            Some(mut idle) => {
                idle.retain(|name, _| zero.contains(name.as_str()));
                idle
            }
        };
        for (name, steps) in &mut idle {
            if name != SHIFT && !decoder.rests(name)? {
                *steps += 1;
            }
        }
        let names: Vec<&str> =
            idle.iter().filter(|(_, steps)| **steps >= PATIENCE).map(|(name, _)| name.as_str()).collect();
        if names.is_empty() {
            self.idle = Some(idle);
            return Ok(());
        }
        Err(RecipeError::failed(format!(
            "{} of the model's tensors received no gradient in the first {PATIENCE} steps: {}; the weights are damaged \
             (all zero before them?) or the architecture is not what config.json says",
            names.len(),
            names.join(", ")
        )))
    }
}
