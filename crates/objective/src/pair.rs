//! What a loss sees of a pair, and what it gives back. This file alone decides the sign of log R.

use crate::error::{ObjectiveError, finite};
use crate::precise::Precise;

/// The four log-probs of a pair: sums over response tokens (end-of-turn included), nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLogProbs {
    /// log pi_theta(y_w | x)
    pub policy_chosen: f64,
    /// log pi_theta(y_l | x)
    pub policy_rejected: f64,
    /// log pi_ref(y_w | x)
    pub ref_chosen: f64,
    /// log pi_ref(y_l | x)
    pub ref_rejected: f64,
}

/// The unsafe indicators s of a pair: `true` = unsafe = 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SafetyLabels {
    /// s_w
    pub chosen_unsafe: bool,
    /// s_l
    pub rejected_unsafe: bool,
}

/// Everything that some loss reads of a pair. What a loss does not read may be `None`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairInputs {
    /// Policy and reference log-probs.
    pub logps: PairLogProbs,
    /// Unsafe flags (BSO with a penalty, SafeDPO, BFPO).
    pub labels: Option<SafetyLabels>,
    /// Scored tokens of (chosen, rejected) (IPO per token).
    pub tokens: Option<(usize, usize)>,
    /// MODPO's m(y) of (chosen, rejected): beta_m (log pi_margin - log pi_ref), summed, nats times reward units.
    pub margins: Option<(f64, f64)>,
}

/// A loss of one pair and its derivatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    /// The loss.
    pub value: f64,
    /// d loss / d log pi_theta(y_w).
    pub d_chosen: f64,
    /// d loss / d log pi_theta(y_l).
    pub d_rejected: f64,
    /// u = log R_theta before any clamp, for the losses that are functions of it.
    pub log_ratio: Option<f64>,
    /// d loss / d u, zero-gradient masks included.
    pub d_log_ratio: Option<f64>,
    /// Whether u lay outside the clamp interval.
    pub clamped: bool,
}

impl PairInputs {
    /// A pair with nothing but log-probs.
    #[must_use]
    pub fn from_logps(logps: PairLogProbs) -> Self {
        Self { logps, labels: None, tokens: None, margins: None }
    }

    /// The labels, or an error that names them.
    pub(crate) fn labels_for(&self, loss: &'static str) -> Result<SafetyLabels, ObjectiveError> {
        self.labels.ok_or(ObjectiveError::MissingInput {
            loss,
            fields: "safety labels chosen_unsafe and rejected_unsafe",
        })
    }
}

impl PairLogProbs {
    /// Refuses NaN and infinities by name.
    pub(crate) fn check(&self) -> Result<(), ObjectiveError> {
        finite("policy_chosen_logp", self.policy_chosen)?;
        finite("policy_rejected_logp", self.policy_rejected)?;
        finite("ref_chosen_logp", self.ref_chosen)?;
        finite("ref_rejected_logp", self.ref_rejected).map(drop)
    }

    /// D(y_w) = log pi_theta(y_w) - log pi_ref(y_w), without rounding.
    pub(crate) fn chosen_shift(&self) -> Precise {
        Precise::from(self.policy_chosen) - Precise::from(self.ref_chosen)
    }

    /// D(y_l).
    pub(crate) fn rejected_shift(&self) -> Precise {
        Precise::from(self.policy_rejected) - Precise::from(self.ref_rejected)
    }

    /// h = D(y_w) - D(y_l), nats, without rounding.
    pub(crate) fn precise_margin(&self) -> Precise {
        self.chosen_shift() - self.rejected_shift()
    }

    /// The margin h = D(y_w) - D(y_l), nats.
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.precise_margin().to_f64()
    }
}

impl SafetyLabels {
    /// s_w - s_l in {-1, 0, 1}.
    #[must_use]
    pub fn delta(self) -> f64 {
        f64::from(i8::from(self.chosen_unsafe) - i8::from(self.rejected_unsafe))
    }
}

/// u = log R_theta = -(beta h + C (s_w - s_l)) (arXiv 2605.12339): negative when the policy ranks the chosen response
/// above the rejected one by more than the penalty asks. Antisymmetric under swapping the two responses.
pub(crate) fn log_ratio(margin: Precise, beta: f64, penalty: f64, safety_delta: f64) -> Precise {
    -(Precise::from(beta) * margin + Precise::from(penalty) * Precise::from(safety_delta))
}
