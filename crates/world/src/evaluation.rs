//! How a policy does on a set of prompts: exactly, from its candidate log-probs, or by the texts it wrote. Outcomes
//! per prompt first, then means with intervals; plain numbers only.

use bso_evaluation::statistics::{Bootstrap, Estimate, clustered_mean};
use serde::Serialize;

use crate::candidate::candidates;
use crate::error::WorldError;
use crate::optimum::{CandidateScores, Distribution, optimal_policy};
use crate::prompt::{Prompt, PromptKind};
use crate::reward::judge;

/// Sequence log-probs (nats, sums) of a prompt's candidates, in candidate order.
#[derive(Clone, Copy, Debug)]
pub struct CandidateLogProbs<'a> {
    /// Of the trained policy.
    pub policy: &'a [f64],
    /// Of the frozen reference.
    pub reference: &'a [f64],
}

/// Which optimum a policy is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Target {
    /// KL strength, reward units per nat, > 0.
    pub beta: f64,
    /// C in reward units; +inf: the hard-constrained optimum.
    pub safety_penalty: f64,
}

/// Where a policy stands between reference and optimum, over the candidates of one prompt. The ratios that
/// preference pairs teach are ratios within this set; `candidate_mass` says how much the policy keeps in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OptimumDistance {
    /// Total variation between policy and pi*_C, 0..=1.
    pub total_variation: f64,
    /// KL(pi*_C || policy), nats. (The other direction is infinite at a hard optimum.)
    pub kl_from_optimum: f64,
    /// KL(policy || reference), nats.
    pub kl_from_reference: f64,
    /// The policy's total probability of the candidates, before normalising.
    pub candidate_mass: f64,
}

/// What a policy does on one prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PromptOutcome {
    /// The prompt.
    pub prompt: Prompt,
    /// Reward: expected, or of the text.
    pub reward: f64,
    /// Unsafe mass, or 1 / 0 for a text.
    pub unsafe_mass: f64,
    /// Refusal mass, or 1 / 0 for a text.
    pub refusal_mass: f64,
    /// Only where the distribution is known.
    pub optimum: Option<OptimumDistance>,
}

impl PromptOutcome {
    /// The outcome of one text that a policy wrote.
    pub fn from_text(prompt: Prompt, response: &str) -> Self {
        let judged = judge(&prompt, response);
        let indicator = |flag: bool| if flag { 1.0 } else { 0.0 };
        Self {
            prompt,
            reward: judged.reward,
            unsafe_mass: indicator(judged.is_unsafe),
            refusal_mass: indicator(judged.is_refusal),
            optimum: None,
        }
    }

    /// The exact outcome over the prompt's candidates (log-probs normalised over them).
    ///
    /// # Errors
    /// Another number of log-probs than candidates; numbers that are not finite; beta or penalty out of range.
    pub fn from_candidates(
        prompt: Prompt,
        log_probs: CandidateLogProbs<'_>,
        target: Target,
    ) -> Result<Self, WorldError> {
        let judged: Vec<_> = candidates(&prompt).iter().map(|c| judge(&prompt, &c.text)).collect();
        let rewards: Vec<f64> = judged.iter().map(|j| j.reward).collect();
        let is_unsafe: Vec<bool> = judged.iter().map(|j| j.is_unsafe).collect();
        let is_refusal: Vec<bool> = judged.iter().map(|j| j.is_refusal).collect();
        let (policy, log_mass) = Distribution::from_log_probs(log_probs.policy)?;
        let (reference, _) = Distribution::from_log_probs(log_probs.reference)?;
        let scores = CandidateScores { rewards: &rewards, is_unsafe: &is_unsafe };
        let best = optimal_policy(&reference, scores, target.beta, target.safety_penalty)?;
        Ok(Self {
            prompt,
            reward: policy.expectation(&rewards)?,
            unsafe_mass: policy.mass(&is_unsafe)?,
            refusal_mass: policy.mass(&is_refusal)?,
            optimum: Some(OptimumDistance {
                total_variation: policy.total_variation(&best)?,
                kl_from_optimum: best.kl(&policy)?,
                kl_from_reference: policy.kl(&reference)?,
                candidate_mass: log_mass.exp(),
            }),
        })
    }
}

/// Means over a group of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GroupSummary {
    /// Mean reward, Bradley-Terry units.
    pub reward: Estimate,
    /// One minus the mean unsafe mass.
    pub safe_rate: Estimate,
    /// Mean refusal mass: over-refusal on benign and suspicious prompts.
    pub refusal_rate: Estimate,
    /// Mean total variation to the optimum, where every outcome has it; so too the next three.
    pub total_variation: Option<Estimate>,
    /// Mean KL(pi*_C || policy), nats.
    pub kl_from_optimum: Option<Estimate>,
    /// Mean KL(policy || reference), nats.
    pub kl_from_reference: Option<Estimate>,
    /// Mean mass of the candidate set.
    pub candidate_mass: Option<Estimate>,
}

/// A policy's results by prompt kind; a group without prompts is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// All prompts.
    pub all: Option<GroupSummary>,
    /// Benign prompts.
    pub benign: Option<GroupSummary>,
    /// Benign prompts that look suspicious.
    pub suspicious: Option<GroupSummary>,
    /// Benign and suspicious prompts: `refusal_rate` here is THE over-refusal rate.
    pub harmless: Option<GroupSummary>,
    /// Unsafe prompts: `safe_rate` here is THE safe rate.
    #[serde(rename = "unsafe")]
    pub harmful: Option<GroupSummary>,
}

impl Summary {
    /// Summarises outcomes; intervals resample combinations of verb and object ([`Prompt::composition`]), because prompts of
    /// one combination succeed and fail together.
    pub fn of(outcomes: &[PromptOutcome], bootstrap: Bootstrap) -> Self {
        let group = |keep: &dyn Fn(PromptKind) -> bool| {
            let kept: Vec<&PromptOutcome> = outcomes.iter().filter(|o| keep(o.prompt.kind())).collect();
            GroupSummary::of(&kept, bootstrap)
        };
        Self {
            all: group(&|_| true),
            benign: group(&|kind| kind == PromptKind::Benign),
            suspicious: group(&|kind| kind == PromptKind::Suspicious),
            harmless: group(&|kind| kind != PromptKind::Unsafe),
            harmful: group(&|kind| kind == PromptKind::Unsafe),
        }
    }
}

impl GroupSummary {
    fn of(outcomes: &[&PromptOutcome], bootstrap: Bootstrap) -> Option<Self> {
        let units: Vec<usize> = outcomes.iter().map(|o| o.prompt.composition()).collect();
        let mean = |value: &dyn Fn(&PromptOutcome) -> f64| {
            let values: Vec<f64> = outcomes.iter().map(|o| value(o)).collect();
            clustered_mean(&values, &units, bootstrap)
        };
        let distance = |value: &dyn Fn(&OptimumDistance) -> f64| {
            let values: Option<Vec<f64>> = outcomes.iter().map(|o| o.optimum.as_ref().map(value)).collect();
            clustered_mean(&values?, &units, bootstrap)
        };
        Some(Self {
            reward: mean(&|o| o.reward)?,
            safe_rate: mean(&|o| 1.0 - o.unsafe_mass)?,
            refusal_rate: mean(&|o| o.refusal_mass)?,
            total_variation: distance(&|d| d.total_variation),
            kl_from_optimum: distance(&|d| d.kl_from_optimum),
            kl_from_reference: distance(&|d| d.kl_from_reference),
            candidate_mass: distance(&|d| d.candidate_mass),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Form;
    use crate::sft::mixture;
    use crate::world::{World, WorldConfig};
    use bso_durable::Seed;

    fn held_out() -> Vec<Prompt> {
        World::new(WorldConfig::default(), Seed::new(0)).unwrap().held_out().to_vec()
    }

    fn log_mixture(prompt: &Prompt) -> Vec<f64> {
        mixture(prompt.kind()).iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn the_optimum_has_distance_zero_and_the_reference_has_not() {
        let target = Target { beta: 0.5, safety_penalty: 4.0 };
        for prompt in held_out() {
            let reference = log_mixture(&prompt);
            let at_reference = CandidateLogProbs { policy: &reference, reference: &reference };
            let outcome = PromptOutcome::from_candidates(prompt, at_reference, target).unwrap();
            let distance = outcome.optimum.unwrap();
            assert!(distance.total_variation > 0.3 && distance.kl_from_reference == 0.0);
            assert!((distance.candidate_mass - 1.0).abs() < 1e-12);

            let judged = Form::ALL.map(|form| judge(&prompt, &form.text(&prompt)));
            let best: Vec<f64> = reference
                .iter()
                .zip(judged)
                .map(|(p, j)| p + (j.reward - if j.is_unsafe { 4.0 } else { 0.0 }) / 0.5)
                .collect();
            let at_best = CandidateLogProbs { policy: &best, reference: &reference };
            let outcome = PromptOutcome::from_candidates(prompt, at_best, target).unwrap();
            assert!(outcome.optimum.unwrap().total_variation < 1e-12);
            assert!(outcome.optimum.unwrap().kl_from_optimum < 1e-12);
        }
    }

    #[test]
    fn always_refusing_is_safe_and_refuses_too_much() {
        let outcomes: Vec<_> = held_out()
            .into_iter()
            .map(|prompt| PromptOutcome::from_text(prompt, &Form::Refusal.text(&prompt)))
            .collect();
        let summary = Summary::of(&outcomes, Bootstrap::default());
        let (harmful, harmless) = (summary.harmful.unwrap(), summary.harmless.unwrap());
        assert_eq!((harmful.safe_rate.mean, harmless.refusal_rate.mean), (1.0, 1.0));
        assert_eq!((harmless.reward.mean, harmless.total_variation), (-1.0, None));
        assert_eq!(harmless.reward.n, 96);
        let units = outcomes.iter().filter(|o| o.prompt.kind() != PromptKind::Unsafe);
        let units: std::collections::BTreeSet<usize> = units.map(|o| o.prompt.composition()).collect();
        assert_eq!(units.len(), 32);
    }

    #[test]
    fn always_answering_in_full_is_helpful_and_unsafe() {
        let outcomes: Vec<_> = held_out()
            .into_iter()
            .map(|prompt| PromptOutcome::from_text(prompt, &Form::Full.text(&prompt)))
            .collect();
        let summary = Summary::of(&outcomes, Bootstrap::default());
        assert_eq!(summary.harmful.unwrap().safe_rate.mean, 0.0);
        assert_eq!(summary.harmless.unwrap().safe_rate.mean, 1.0);
        assert_eq!(summary.all.unwrap().reward.mean, 4.0);
        assert_eq!(Summary::of(&[], Bootstrap::default()).all, None);
    }

    #[test]
    fn a_wrong_number_of_log_probs_is_refused() {
        let prompt = Prompt::new(0, 0, 0);
        let short = CandidateLogProbs { policy: &[0.0; 11], reference: &[0.0; 11] };
        let target = Target { beta: 1.0, safety_penalty: 1.0 };
        assert!(PromptOutcome::from_candidates(prompt, short, target).is_err());
        let uneven = CandidateLogProbs { policy: &[0.0; 11], reference: &[0.0; 12] };
        assert!(PromptOutcome::from_candidates(prompt, uneven, target).is_err());
    }
}
