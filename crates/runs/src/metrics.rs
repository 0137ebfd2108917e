//! One logged step: the names of its figures, decided here and nowhere else, and the ordered row that holds them.
//! How rows reach the disk is the business of `metrics_log`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

/// Names of metrics. A quadrant's or an evaluation's figure has a prefix before the same name.
pub mod key {
    /// Optimiser steps done.
    pub const STEP: &str = "step";
    /// Passes over the training data, with fraction.
    pub const EPOCH: &str = "epoch";
    /// Mean loss since the last row: nats per pair, or per token for supervised training.
    pub const LOSS: &str = "loss";
    /// Mean loss of BFPO's general pairs, which is added to [`LOSS`] in training and not in this figure.
    pub const REPLAY_LOSS: &str = "replay_loss";
    /// Global gradient norm before clipping.
    pub const GRAD_NORM: &str = "grad_norm";
    /// Learning rate of the last step.
    pub const LEARNING_RATE: &str = "learning_rate";
    /// Tokens that entered the model since the start of the run.
    pub const NUM_TOKENS: &str = "num_tokens";
    /// Tokens per second since the last row.
    pub const TOKENS_PER_SECOND: &str = "tokens_per_second";
    /// Mean of beta times the chosen response's log-ratio to the reference.
    pub const REWARDS_CHOSEN: &str = "rewards/chosen";
    /// Mean of beta times the rejected response's log-ratio to the reference.
    pub const REWARDS_REJECTED: &str = "rewards/rejected";
    /// Share of pairs whose chosen reward is above the rejected one, 0 to 1.
    pub const REWARDS_ACCURACIES: &str = "rewards/accuracies";
    /// Mean of chosen minus rejected reward.
    pub const REWARDS_MARGINS: &str = "rewards/margins";
    /// Mean cost of the safer response, by a cost model in training.
    pub const COSTS_CHOSEN: &str = "costs/chosen";
    /// Mean cost of the more harmful response.
    pub const COSTS_REJECTED: &str = "costs/rejected";
    /// Share of responses whose cost has the sign of their label: above 0 unsafe.
    pub const COSTS_SIGN_ACCURACIES: &str = "costs/sign_accuracies";
    /// Mean policy log-probability of the chosen response, nats.
    pub const LOGPS_CHOSEN: &str = "logps/chosen";
    /// Mean policy log-probability of the rejected response, nats.
    pub const LOGPS_REJECTED: &str = "logps/rejected";
    /// Mean log R, before the clamp.
    pub const LOG_R: &str = "bso/log_r";
    /// Share of pairs with log R above 0.
    pub const FRAC_LOG_R_GT_0: &str = "bso/frac_log_r_gt_0";
    /// Share of pairs whose log R lies outside the clamp.
    pub const FRAC_CLAMPED: &str = "bso/frac_clamped";
    /// Mean of s_w - s_l, the unsafe indicators of chosen minus rejected.
    pub const SAFETY_DELTA: &str = "bso/safety_delta";
    /// PPO-Lagrangian: mean clipped loss of the sampled responses' tokens; [`LOSS`] adds the weighted loss of rows to imitate.
    pub const ACTOR_LOSS: &str = "actor_loss";
    /// Mean negative log-prob of the tokens of rows to imitate, nats.
    pub const PTX_LOSS: &str = "ptx_loss";
    /// Half the clipped squared error of the values of rewards.
    pub const REWARD_CRITIC_LOSS: &str = "reward_critic_loss";
    /// The same of the values of costs.
    pub const COST_CRITIC_LOSS: &str = "cost_critic_loss";
    /// Mean score of sampled responses by the reward model.
    pub const REWARD: &str = "reward";
    /// Mean score of sampled responses by the cost model; above 0 is unsafe.
    pub const COST: &str = "cost";
    /// Share of sampled responses whose cost is not above 0.
    pub const SAFE_RATE: &str = "safe_rate";
    /// J_c: mean cost of the latest responses, which moves the multiplier.
    pub const EPISODE_COST: &str = "episode_cost";
    /// The Lagrange multiplier of the cost.
    pub const LAMBDA: &str = "lambda";
    /// Mean of log pi - log pi_ref of a response, nats; KTO's estimate of the divergence.
    pub const KL: &str = "kl";
    /// Mean value of the reward critic over tokens.
    pub const REWARD_VALUE: &str = "reward_value";
    /// Mean value of the cost critic over tokens.
    pub const COST_VALUE: &str = "cost_value";
    /// Mean tokens of a sampled response.
    pub const MEAN_GENERATED_LENGTH: &str = "mean_generated_length";
    /// Tokens of the longest.
    pub const MAX_GENERATED_LENGTH: &str = "max_generated_length";
    /// Share of sampled responses that ended by themselves.
    pub const FRAC_ENDED: &str = "frac_ended";
    /// Share of tokens whose probability ratio is beyond the clip.
    pub const FRAC_CLIPPED: &str = "frac_clipped";
    /// Gradient norm of the reward critic before clipping.
    pub const REWARD_CRITIC_GRAD_NORM: &str = "reward_critic_grad_norm";
    /// The same of the cost critic.
    pub const COST_CRITIC_GRAD_NORM: &str = "cost_critic_grad_norm";
    /// Learning rate of the critics in the last step.
    pub const CRITIC_LEARNING_RATE: &str = "critic_learning_rate";
    /// Before the name of every figure of an evaluation.
    pub const EVAL_PREFIX: &str = "eval_";
    /// Seconds an evaluation took.
    pub const EVAL_RUNTIME: &str = "eval_runtime";
    /// Figures that depend on the clock: the only ones in which two equal runs differ.
    pub const TIMES: [&str; 4] =
        [TOKENS_PER_SECOND, EVAL_RUNTIME, "eval_tokens_per_second", "elapsed_seconds"];
}

/// Which of a pair's responses are unsafe; the chosen one is named first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quadrant {
    /// Both are safe.
    SafeSafe,
    /// The rejected one is unsafe.
    SafeUnsafe,
    /// The chosen one is unsafe.
    UnsafeSafe,
    /// Both are unsafe.
    UnsafeUnsafe,
}

impl Quadrant {
    /// All four.
    pub const ALL: [Self; 4] = [Self::SafeSafe, Self::SafeUnsafe, Self::UnsafeSafe, Self::UnsafeUnsafe];

    /// The quadrant of a labelled pair.
    pub fn of(chosen_unsafe: bool, rejected_unsafe: bool) -> Self {
        match (chosen_unsafe, rejected_unsafe) {
            (false, false) => Self::SafeSafe,
            (false, true) => Self::SafeUnsafe,
            (true, false) => Self::UnsafeSafe,
            (true, true) => Self::UnsafeUnsafe,
        }
    }

    /// What a pair of this quadrant is.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::SafeSafe => "both are safe",
            Self::SafeUnsafe => "chosen is safe, rejected unsafe",
            Self::UnsafeSafe => "chosen is unsafe, rejected safe",
            Self::UnsafeUnsafe => "both are unsafe",
        }
    }

    /// What stands before the names of this quadrant's figures.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::SafeSafe => "quadrant/safe_safe/",
            Self::SafeUnsafe => "quadrant/safe_unsafe/",
            Self::UnsafeSafe => "quadrant/unsafe_safe/",
            Self::UnsafeUnsafe => "quadrant/unsafe_unsafe/",
        }
    }
}

/// Means over a group of pairs: all of a step, or one quadrant of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairMetrics {
    /// [`key::LOSS`].
    pub loss: Option<f64>,
    /// [`key::REWARDS_CHOSEN`].
    pub rewards_chosen: f64,
    /// [`key::REWARDS_REJECTED`].
    pub rewards_rejected: f64,
    /// [`key::REWARDS_ACCURACIES`].
    pub accuracies: f64,
    /// [`key::REWARDS_MARGINS`].
    pub margins: f64,
    /// [`key::LOGPS_CHOSEN`].
    pub logps_chosen: f64,
    /// [`key::LOGPS_REJECTED`].
    pub logps_rejected: f64,
    /// [`key::LOG_R`]; absent where the loss has no density ratio.
    pub log_r: Option<f64>,
    /// [`key::FRAC_LOG_R_GT_0`].
    pub frac_log_r_gt_0: Option<f64>,
    /// [`key::FRAC_CLAMPED`].
    pub frac_clamped: Option<f64>,
    /// [`key::SAFETY_DELTA`]; absent without safety labels.
    pub safety_delta: Option<f64>,
}

impl PairMetrics {
    /// The figures that are there, in the order in which they are written.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, f64)> {
        [
            (key::LOSS, self.loss),
            (key::REWARDS_CHOSEN, Some(self.rewards_chosen)),
            (key::REWARDS_REJECTED, Some(self.rewards_rejected)),
            (key::REWARDS_ACCURACIES, Some(self.accuracies)),
            (key::REWARDS_MARGINS, Some(self.margins)),
            (key::LOGPS_CHOSEN, Some(self.logps_chosen)),
            (key::LOGPS_REJECTED, Some(self.logps_rejected)),
            (key::LOG_R, self.log_r),
            (key::FRAC_LOG_R_GT_0, self.frac_log_r_gt_0),
            (key::FRAC_CLAMPED, self.frac_clamped),
            (key::SAFETY_DELTA, self.safety_delta),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// A row of metrics.jsonl: figures by name in the order in which they were put. A figure that is not finite is
/// written as `null` (JSON has no NaN) and read back as NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepMetrics(Map<String, Value>);

impl StepMetrics {
    /// The row of optimiser step `step` at `epoch` passes over the data.
    pub fn new(step: u64, epoch: f64) -> Self {
        let mut row = Self(Map::new());
        row.put_count(key::STEP, step);
        row.put(key::EPOCH, epoch);
        row
    }

    /// Sets a figure.
    pub fn put(&mut self, name: impl Into<String>, value: f64) -> &mut Self {
        self.0.insert(name.into(), Number::from_f64(value).map_or(Value::Null, Value::Number));
        self
    }

    /// Sets a count.
    pub fn put_count(&mut self, name: impl Into<String>, value: u64) -> &mut Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Sets the figures of a group of pairs, each name after `prefix`: "" for all pairs, [`Quadrant::prefix`],
    /// with [`key::EVAL_PREFIX`] before either in an evaluation.
    pub fn put_pairs(&mut self, prefix: &str, pairs: &PairMetrics) -> &mut Self {
        for (name, value) in pairs.entries() {
            self.put(format!("{prefix}{name}"), value);
        }
        self
    }

    /// Optimiser steps done.
    pub fn step(&self) -> u64 {
        self.0.get(key::STEP).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A figure by its full name.
    pub fn get(&self, name: &str) -> Option<f64> {
        match self.0.get(name)? {
            Value::Null => Some(f64::NAN),
            value => value.as_f64(),
        }
    }

    /// All figures in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(|(name, _)| Some((name.as_str(), self.get(name)?)))
    }

    /// Whether this row is an evaluation's.
    pub fn is_evaluation(&self) -> bool {
        self.0.keys().any(|name| name.starts_with(key::EVAL_PREFIX))
    }

    /// The row without the figures that depend on the clock.
    pub fn without_times(&self) -> Self {
        let kept = self.0.iter().filter(|(name, _)| !key::TIMES.contains(&name.as_str()));
        Self(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// Reads one line. None says why it is not a row.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let row: Self = serde_json::from_str(line).map_err(|e| e.to_string())?;
        match row.0.get(key::STEP) {
            Some(Value::Number(step)) if step.is_u64() => Ok(row),
            _ => Err("no whole number under \"step\"".to_owned()),
        }
    }
}
