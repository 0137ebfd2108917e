//! From log-probs to weights: the one place where training meets the objective crate.

use crate::RecipeError;
use crate::example::Example;
use bso_objective::{KtoBatch, KtoLoss, PairInputs, PairLogProbs, PairScores, PreferenceLoss, ScoreLoss};
use serde::{Deserialize, Serialize};

/// What is minimised.
#[derive(Clone, Debug)]
pub enum TrainingObjective {
    /// Negative log-likelihood per response token.
    Sft,
    /// A loss on chosen and rejected.
    Pairs(PreferenceLoss),
    /// A loss on single judged completions.
    Kto(KtoLoss),
    /// A loss on the scores of chosen and rejected.
    Scores(ScoreLoss),
}

/// What one example showed; the raw material of metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The example's loss (SFT: nats summed over its response tokens).
    pub loss: f64,
    /// Its response tokens.
    pub tokens: usize,
    /// The rest depends on the stage.
    pub detail: Detail,
}

/// The part of an [`Observation`] that depends on the stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Nothing more.
    Sft,
    /// A pair.
    Pair {
        /// The policy's log-probs of chosen and rejected, nats.
        policy: [f64; 2],
        /// The reference's.
        reference: [f64; 2],
        /// u before the clamp, where the loss has one.
        log_ratio: Option<f64>,
        /// Whether u lay outside the clamp.
        clamped: bool,
        /// Whether chosen and rejected are unsafe, if known.
        is_unsafe: Option<[bool; 2]>,
    },
    /// The scores of a pair.
    Scored {
        /// Of chosen and rejected.
        scores: [f64; 2],
        /// Whether they are costs.
        cost: bool,
        /// Whether chosen and rejected are unsafe, if known.
        is_unsafe: Option<[bool; 2]>,
    },
    /// A judged completion.
    Judged {
        /// Whether it was a good one.
        desirable: bool,
        /// Policy minus reference, nats.
        log_ratio: f64,
        /// The policy's log-prob, nats.
        logp: f64,
        /// The batch's KL estimate.
        kl: f64,
    },
}

/// Weights and observations of a micro-batch.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// d(example loss)/d(log-prob), one for each trained sequence in order; not yet averaged over the step.
    pub weights: Vec<f64>,
    /// One for each example.
    pub observations: Vec<Observation>,
}

/// The log-probs of a micro-batch.
pub struct BatchLogProbs<'a> {
    /// Of the policy, one for each trained sequence in order.
    pub policy: &'a [f64],
    /// Of the policy on the mismatched sequences (KTO), else empty.
    pub mismatched: &'a [f64],
    /// Of the reference: for each example its [`Example::scored`] sequences.
    pub reference: &'a [&'a [f64]],
}

impl TrainingObjective {
    /// Whether reference log-probs are needed.
    pub fn needs_reference(&self) -> bool {
        !matches!(self, Self::Sft | Self::Scores(_))
    }

    /// The loss, where it is one on pairs.
    pub fn pair_loss(&self) -> Option<&PreferenceLoss> {
        match self {
            Self::Pairs(loss) => Some(loss),
            Self::Sft | Self::Kto(_) | Self::Scores(_) => None,
        }
    }

    /// The objective with its numbers, in one line.
    pub fn formula(&self) -> String {
        match self {
            Self::Sft => "mean over response tokens of -log pi(token)".to_owned(),
            Self::Pairs(loss) => loss.formula(),
            Self::Kto(loss) => loss.formula(),
            Self::Scores(loss) => loss.formula(),
        }
    }

    /// What the sum of the examples' losses is divided by: tokens for SFT, examples otherwise.
    pub fn divisor<'a>(&self, examples: impl IntoIterator<Item = &'a Example>) -> f64 {
        let count = |e: &Example| if matches!(self, Self::Sft) { e.response_tokens() } else { 1 };
        examples.into_iter().map(count).sum::<usize>().max(1) as f64
    }

    /// Losses and weights of a micro-batch.
    ///
    /// # Errors
    /// A log-prob or loss that is not finite, or inputs that the loss needs and the data lack.
    pub fn judge(&self, examples: &[&Example], logps: &BatchLogProbs<'_>) -> Result<Judgement, RecipeError> {
        if let Some(bad) = logps.policy.iter().chain(logps.mismatched).find(|p| !p.is_finite()) {
            let what = if matches!(self, Self::Scores(_)) { "score" } else { "log-prob" };
            return Err(RecipeError::failed(format!(
                "the policy gave a sequence the {what} {bad}: the weights are not finite or overflow in f32; lower \
                 learning_rate, set max_grad_norm, or start from another checkpoint"
            )));
        }
        match self {
            Self::Sft => Ok(judge_sft(examples, logps.policy)),
            Self::Pairs(loss) => judge_pairs(loss, examples, logps),
            Self::Kto(loss) => judge_kto(loss, examples, logps),
            Self::Scores(loss) => judge_scores(loss, examples, logps.policy),
        }
    }
}

fn judge_sft(examples: &[&Example], policy: &[f64]) -> Judgement {
    let observe = |(e, p): (&&Example, &f64)| Observation {
        loss: -p,
        tokens: e.response_tokens(),
        detail: Detail::Sft,
    };
    Judgement {
        weights: vec![-1.0; policy.len()],
        observations: examples.iter().zip(policy).map(observe).collect(),
    }
}

fn judge_pairs(
    loss: &PreferenceLoss,
    examples: &[&Example],
    logps: &BatchLogProbs<'_>,
) -> Result<Judgement, RecipeError> {
    let mut judgement = Judgement::default();
    for ((example, policy), reference) in examples.iter().zip(logps.policy.chunks(2)).zip(logps.reference) {
        let logps = PairLogProbs {
            policy_chosen: policy[0],
            policy_rejected: policy[1],
            ref_chosen: reference[0],
            ref_rejected: reference[1],
        };
        let [chosen, rejected] = [0, 1].map(|i| example.sequences[i].response.len());
        let inputs = PairInputs {
            logps,
            labels: example.labels,
            tokens: Some((chosen, rejected)),
            margins: example.margins,
        };
        let pair = loss.evaluate(&inputs)?;
        if !pair.value.is_finite() {
            return Err(RecipeError::failed(format!(
                "the loss of a pair is {}; log R is {:?}: set log_ratio_clamp, lower safety_penalty or learning_rate",
                pair.value, pair.log_ratio
            )));
        }
        judgement.weights.extend([pair.d_chosen, pair.d_rejected]);
        judgement.observations.push(Observation {
            loss: pair.value,
            tokens: chosen + rejected,
            detail: Detail::Pair {
                policy: [policy[0], policy[1]],
                reference: [reference[0], reference[1]],
                log_ratio: pair.log_ratio,
                clamped: pair.clamped,
                is_unsafe: example.labels.map(|l| [l.chosen_unsafe, l.rejected_unsafe]),
            },
        });
    }
    Ok(judgement)
}

fn judge_scores(loss: &ScoreLoss, examples: &[&Example], scores: &[f64]) -> Result<Judgement, RecipeError> {
    let mut judgement = Judgement::default();
    for (example, pair) in examples.iter().zip(scores.chunks(2)) {
        let scores = [pair[0], pair[1]];
        let labels = example.labels;
        let judged = loss.evaluate(&PairScores { chosen: scores[0], rejected: scores[1], labels })?;
        judgement.weights.extend([judged.d_chosen, judged.d_rejected]);
        judgement.observations.push(Observation {
            loss: judged.value,
            tokens: example.tokens(),
            detail: Detail::Scored {
                scores,
                cost: loss.is_cost(),
                is_unsafe: labels.map(|l| [l.chosen_unsafe, l.rejected_unsafe]),
            },
        });
    }
    Ok(judgement)
}

fn judge_kto(
    loss: &KtoLoss,
    examples: &[&Example],
    logps: &BatchLogProbs<'_>,
) -> Result<Judgement, RecipeError> {
    let reference: Vec<f64> = logps.reference.iter().map(|r| r[0]).collect();
    let mismatched: Vec<f64> = logps.reference.iter().filter_map(|r| r.get(1).copied()).collect();
    let desirable: Vec<bool> = examples.iter().map(|e| e.desirable).collect();
    let kl = KtoLoss::kl_estimate(logps.mismatched, &mismatched)?;
    let batch = KtoBatch { policy: logps.policy, reference: &reference, desirable: &desirable, kl };
    let judged = loss.evaluate(&batch)?;
    let observe = |i: usize| Observation {
        loss: judged[i].0,
        tokens: examples[i].response_tokens(),
        detail: Detail::Judged {
            desirable: desirable[i],
            log_ratio: logps.policy[i] - reference[i],
            logp: logps.policy[i],
            kl,
        },
    };
    Ok(Judgement {
        weights: judged.iter().map(|j| j.1).collect(),
        observations: (0..examples.len()).map(observe).collect(),
    })
}
