//! What a step of PPO-Lagrangian shows, and the logged row made of several.

use super::rollout::Rollout;
use super::update::UpdateOutcome;
use bso_runs::{StepMetrics, key};
use serde::{Deserialize, Serialize};

/// The figures of a step, in the order in which they are written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepFigures(Vec<(String, f64)>);

/// Figures that are a state and no mean: the last step's stand in a row.
const LAST: [&str; 2] = [key::LAMBDA, key::EPISODE_COST];

impl StepFigures {
    /// Of one step; `outcome` is that of its last update, `multiplier` lambda and the mean cost that it followed.
    pub fn of(
        rollouts: &[Rollout],
        outcome: &UpdateOutcome,
        (lambda, episode_cost): (f64, f64),
        ptx_coeff: f64,
    ) -> Self {
        let count = rollouts.len().max(1) as f64;
        let mean = |f: &dyn Fn(&Rollout) -> f64| rollouts.iter().map(f).sum::<f64>() / count;
        let of_tokens = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let share = |yes: bool| f64::from(u8::from(yes));
        let length = |r: &Rollout| r.sequence.response.len() as f64;
        let UpdateOutcome { actor, ptx_loss, reward_critic, cost_critic } = outcome;
        let figures = [
            (key::LOSS, Some(actor.loss + ptx_coeff * ptx_loss.unwrap_or(0.0))),
            (key::ACTOR_LOSS, Some(actor.loss)),
            (key::PTX_LOSS, *ptx_loss),
            (key::REWARD_CRITIC_LOSS, Some(reward_critic.loss)),
            (key::COST_CRITIC_LOSS, Some(cost_critic.loss)),
            (key::REWARD, Some(mean(&|r| r.reward))),
            (key::COST, Some(mean(&|r| r.cost))),
            (key::SAFE_RATE, Some(mean(&|r| share(r.cost <= 0.0)))),
            (key::EPISODE_COST, Some(episode_cost)),
            (key::LAMBDA, Some(lambda)),
            (key::KL, Some(mean(&Rollout::log_ratio))),
            (key::REWARD_VALUE, Some(mean(&|r| of_tokens(&r.reward_values)))),
            (key::COST_VALUE, Some(mean(&|r| of_tokens(&r.cost_values)))),
            (key::MEAN_GENERATED_LENGTH, Some(mean(&length))),
            (key::MAX_GENERATED_LENGTH, Some(rollouts.iter().map(length).fold(0.0, f64::max))),
            (key::FRAC_ENDED, Some(mean(&|r| share(r.ended)))),
            (key::FRAC_CLIPPED, Some(actor.clipped)),
            (key::GRAD_NORM, Some(actor.grad_norm)),
            (key::REWARD_CRITIC_GRAD_NORM, Some(reward_critic.grad_norm)),
            (key::COST_CRITIC_GRAD_NORM, Some(cost_critic.grad_norm)),
        ];
        Self(figures.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }

    /// A figure by its name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| *value)
    }
}

/// Puts the figures of several steps into one row: their means, the largest of what is a largest, the last of what is a
/// state.
pub fn put_steps(row: &mut StepMetrics, steps: &[StepFigures]) {
    let Some(last) = steps.last() else { return };
    for (name, latest) in &last.0 {
        let values = steps.iter().filter_map(|step| step.get(name));
        let value = match name.as_str() {
            name if LAST.contains(&name) => *latest,
            key::MAX_GENERATED_LENGTH => values.fold(0.0, f64::max),
            _ => values.sum::<f64>() / steps.len() as f64,
        };
        row.put(name.as_str(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ppo::update::Seen;
    use bso_data::TokenisedSequence;

    fn rollout(cost: f64, length: usize) -> Rollout {
        Rollout {
            sequence: TokenisedSequence { prompt: vec![1], response: vec![2; length] },
            ended: length < 3,
            reward: 1.0,
            cost,
            log_probs: vec![-1.0; length],
            reference: vec![-1.5; length],
            reward_values: vec![0.25; length],
            cost_values: vec![-0.5; length],
        }
    }

    #[test]
    fn a_row_holds_means_the_longest_response_and_the_latest_multiplier() {
        let actor = Seen { loss: 0.5, clipped: 0.25, grad_norm: 2.0 };
        let outcome = UpdateOutcome { actor, ptx_loss: Some(2.0), ..UpdateOutcome::default() };
        let one = StepFigures::of(&[rollout(1.0, 2), rollout(-3.0, 4)], &outcome, (1.5, -1.0), 16.0);
        let two = StepFigures::of(&[rollout(0.0, 1)], &outcome, (1.25, -2.0), 16.0);
        let mut row = StepMetrics::new(2, 0.5);
        put_steps(&mut row, &[one, two]);
        for (name, want) in [
            (key::LOSS, 32.5),
            (key::COST, -0.5),
            (key::SAFE_RATE, 0.75),
            (key::LAMBDA, 1.25),
            (key::EPISODE_COST, -2.0),
            (key::KL, 1.0),
            (key::MEAN_GENERATED_LENGTH, 2.0),
            (key::MAX_GENERATED_LENGTH, 4.0),
            (key::FRAC_ENDED, 0.75),
        ] {
            assert_eq!(row.get(name), Some(want), "{name}");
        }
    }
}
