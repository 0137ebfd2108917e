//! PPO-Lagrangian (Safe RLHF, arXiv 2310.12773, with its code's defaults): the numbers of a sampled response in, a loss per
//! token and its derivatives out. Log-probs and values of tokens are plain numbers here, as everywhere in this crate.

mod clipped;
mod gae;
mod multiplier;

pub use clipped::TokenLoss;
pub use gae::Estimates;
pub use multiplier::{Multiplier, MultiplierSettings};

use crate::error::{ObjectiveError, finite, setting};

/// The constants of the actor's and the critics' losses.
#[derive(Debug, Clone, PartialEq)]
pub struct PpoSettings {
    /// Weight of the log-ratio to the reference in both streams, reward units per nat, >= 0.
    pub kl_coeff: f64,
    /// Half width of the interval around 1 within which a ratio has a gradient, in (0, 1).
    pub clip_range_ratio: f64,
    /// Bound of what a token earns or costs, reward units, > 0.
    pub clip_range_score: f64,
    /// Bound of a value's change from the sampling critic's, reward units, > 0.
    pub clip_range_value: f64,
    /// Discount per token, in [0, 1].
    pub gamma: f64,
    /// Decay of later temporal differences, in [0, 1].
    pub gae_lambda: f64,
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Ppo(PpoSettings);

/// What was seen when a response was sampled; every slice has one entry for each of its tokens, the end token included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Episode<'a> {
    /// Log-probs of the actor that sampled it, nats.
    pub log_probs: &'a [f64],
    /// Log-probs of the frozen reference, nats.
    pub reference: &'a [f64],
    /// The reward model's score of the whole.
    pub reward: f64,
    /// The cost model's; above 0 is unsafe.
    pub cost: f64,
    /// What the reward critic expects before each token.
    pub reward_values: &'a [f64],
    /// What the cost critic expects before each token.
    pub cost_values: &'a [f64],
}

/// What actor and critics are trained towards on one response.
#[derive(Debug, Clone, PartialEq)]
pub struct Targets {
    /// Of the reward stream.
    pub reward: Estimates,
    /// Of the cost stream.
    pub cost: Estimates,
}

impl Ppo {
    /// Checks the constants.
    ///
    /// # Errors
    /// The first one out of range, by its name in configs.
    pub fn new(settings: PpoSettings) -> Result<Self, ObjectiveError> {
        let s = &settings;
        setting("kl_coeff", s.kl_coeff, s.kl_coeff >= 0.0, "a finite number >= 0")?;
        let ratio = s.clip_range_ratio;
        setting("clip_range_ratio", ratio, ratio > 0.0 && ratio < 1.0, "a number in (0, 1)")?;
        for (name, value) in
            [("clip_range_score", s.clip_range_score), ("clip_range_value", s.clip_range_value)]
        {
            setting(name, value, value > 0.0, "a finite number > 0")?;
        }
        for (name, value) in [("gamma", s.gamma), ("gae_lambda", s.gae_lambda)] {
            setting(name, value, (0.0..=1.0).contains(&value), "a number in [0, 1]")?;
        }
        Ok(Self(settings))
    }

    /// The constants.
    #[must_use]
    pub fn settings(&self) -> &PpoSettings {
        &self.0
    }

    /// What each token earns and what it costs: `-kl_coeff` and `+kl_coeff` times its log-ratio to the reference, with reward
    /// and cost added at the last token; both within the bound.
    ///
    /// # Errors
    /// No token; slices of different lengths; a number that is not finite.
    pub fn streams(&self, episode: &Episode<'_>) -> Result<(Vec<f64>, Vec<f64>), ObjectiveError> {
        let tokens = episode.log_probs.len();
        same_length("ref_logps", tokens, episode.reference.len())?;
        let (reward, cost) = (finite("reward", episode.reward)?, finite("cost", episode.cost)?);
        let bound = self.0.clip_range_score;
        let mut streams = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        for (i, (log_prob, reference)) in episode.log_probs.iter().zip(episode.reference).enumerate() {
            let penalty = self.0.kl_coeff * finite("log-ratio", log_prob - reference)?;
            let (earned, cost) = if i + 1 == tokens { (reward, cost) } else { (0.0, 0.0) };
            streams.0.push((earned - penalty).clamp(-bound, bound));
            streams.1.push((cost + penalty).clamp(-bound, bound));
        }
        Ok(streams)
    }

    /// Advantages and returns of both streams.
    ///
    /// # Errors
    /// As [`Ppo::streams`].
    pub fn targets(&self, episode: &Episode<'_>) -> Result<Targets, ObjectiveError> {
        let (rewards, costs) = self.streams(episode)?;
        Ok(Targets {
            reward: self.estimate(&rewards, episode.reward_values)?,
            cost: self.estimate(&costs, episode.cost_values)?,
        })
    }
}

/// What the actor follows: `(A_reward - lambda A_cost) / (1 + lambda)`, token by token; `lambda` >= 0.
#[must_use]
pub fn mixed_advantages(targets: &Targets, lambda: f64) -> Vec<f64> {
    let pairs = targets.reward.advantages.iter().zip(&targets.cost.advantages);
    pairs.map(|(reward, cost)| (reward - lambda * cost) / (1.0 + lambda)).collect()
}

/// Refuses a response without tokens, and lists that do not belong to one response.
fn same_length(right: &'static str, tokens: usize, found: usize) -> Result<(), ObjectiveError> {
    match tokens {
        0 => Err(ObjectiveError::NoTokens { name: "response tokens" }),
        _ if found == tokens => Ok(()),
        _ => Err(ObjectiveError::BatchLength {
            left: "the response",
            left_len: tokens,
            right,
            right_len: found,
        }),
    }
}

#[cfg(test)]
mod tests;
