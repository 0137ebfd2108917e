//! The losses of reward and cost models (Safe RLHF, arXiv 2310.12773, with its code's regularisation): two scores in, a loss
//! and its derivatives out. Each -log sigmoid is that of DPO with beta 1, so evaluated and rounded once; sums are in f64.

use crate::error::{ObjectiveError, finite, setting};
use crate::loss::PreferenceLoss;
use crate::pair::{PairInputs, PairLogProbs, SafetyLabels};

/// A checked loss on the scores of a pair.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreLoss {
    logistic: PreferenceLoss,
    kind: Kind,
    regularization: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reward,
    Cost,
}

/// The scores of a pair's responses, and, for costs, which are unsafe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairScores {
    /// Of the better response; of the safer one for costs.
    pub chosen: f64,
    /// Of the other.
    pub rejected: f64,
    /// Needed for costs.
    pub labels: Option<SafetyLabels>,
}

/// A loss with its derivatives by the two scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairScoreLoss {
    /// The loss.
    pub value: f64,
    /// d loss / d score(chosen).
    pub d_chosen: f64,
    /// d loss / d score(rejected).
    pub d_rejected: f64,
}

impl ScoreLoss {
    /// -log sigmoid(r_w - r_l) + regularization (r_w^2 + r_l^2) / 2.
    ///
    /// # Errors
    /// A regularization below 0 or not finite.
    pub fn reward(regularization: f64) -> Result<Self, ObjectiveError> {
        Self::new(Kind::Reward, regularization)
    }

    /// -log sigmoid(c_l - c_w) - log sigmoid(t_l c_l) - log sigmoid(t_w c_w) + regularization (c_w^2 + c_l^2) / 2, with w the
    /// safer response and t = +1 where a response is unsafe, -1 where it is safe: a cost above 0 says unsafe.
    ///
    /// # Errors
    /// As [`ScoreLoss::reward`].
    pub fn cost(regularization: f64) -> Result<Self, ObjectiveError> {
        Self::new(Kind::Cost, regularization)
    }

    fn new(kind: Kind, regularization: f64) -> Result<Self, ObjectiveError> {
        setting("regularization", regularization, regularization >= 0.0, "a finite number >= 0")?;
        Ok(Self { logistic: PreferenceLoss::dpo(1.0)?, kind, regularization })
    }

    /// The name as configs write it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Reward => "reward",
            Kind::Cost => "cost",
        }
    }

    /// Whether scores are costs: the rejected response is to have the higher one, and signs say what is unsafe.
    #[must_use]
    pub fn is_cost(&self) -> bool {
        self.kind == Kind::Cost
    }

    /// The loss as one line, numbers filled in.
    #[must_use]
    pub fn formula(&self) -> String {
        let regularised = match self.regularization {
            0.0 => String::new(),
            weight => format!(" + {weight} mean(score^2)"),
        };
        match self.kind {
            Kind::Reward => format!("-log sigmoid(r_w - r_l){regularised}"),
            Kind::Cost => format!(
                "-log sigmoid(c_l - c_w) - log sigmoid(t_l c_l) - log sigmoid(t_w c_w){regularised}; w is the safer response, t = +1 if unsafe, else -1"
            ),
        }
    }

    /// The loss of a pair.
    ///
    /// # Errors
    /// A score that is not finite; costs without labels; a result that f64 cannot hold.
    pub fn evaluate(&self, scores: &PairScores) -> Result<PairScoreLoss, ObjectiveError> {
        let chosen = finite("chosen_score", scores.chosen)?;
        let rejected = finite("rejected_score", scores.rejected)?;
        let half = self.regularization / 2.0;
        let mut value = half * (chosen * chosen + rejected * rejected);
        let (mut d_chosen, mut d_rejected) = (self.regularization * chosen, self.regularization * rejected);
        match self.kind {
            Kind::Reward => {
                let (loss, slope) = self.logistic(chosen, rejected)?;
                value += loss;
                d_chosen += slope;
                d_rejected -= slope;
            }
            Kind::Cost => {
                let SafetyLabels { chosen_unsafe, rejected_unsafe } =
                    scores.labels.ok_or(ObjectiveError::MissingInput {
                        loss: "cost",
                        fields: "chosen_unsafe and rejected_unsafe",
                    })?;
                let (loss, slope) = self.logistic(rejected, chosen)?;
                value += loss;
                d_rejected += slope;
                d_chosen -= slope;
                let signed =
                    [(chosen, chosen_unsafe, &mut d_chosen), (rejected, rejected_unsafe, &mut d_rejected)];
                for (score, is_unsafe, derivative) in signed {
                    let sign = if is_unsafe { 1.0 } else { -1.0 };
                    let (loss, slope) = self.logistic(sign * score, 0.0)?;
                    value += loss;
                    *derivative += sign * slope;
                }
            }
        }
        Ok(PairScoreLoss {
            value: finite("loss", value)?,
            d_chosen: finite("dloss_dchosen_score", d_chosen)?,
            d_rejected: finite("dloss_drejected_score", d_rejected)?,
        })
    }

    /// -log sigmoid(a - b) and its derivative by a.
    fn logistic(&self, a: f64, b: f64) -> Result<(f64, f64), ObjectiveError> {
        let logps = PairLogProbs { policy_chosen: a, policy_rejected: b, ref_chosen: 0.0, ref_rejected: 0.0 };
        let pair =
            self.logistic.evaluate(&PairInputs { logps, labels: None, tokens: None, margins: None })?;
        Ok((pair.value, pair.d_chosen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [(bool, bool); 3] = [(false, false), (false, true), (true, true)];

    fn pair(chosen: f64, rejected: f64, (chosen_unsafe, rejected_unsafe): (bool, bool)) -> PairScores {
        PairScores { chosen, rejected, labels: Some(SafetyLabels { chosen_unsafe, rejected_unsafe }) }
    }

    fn softplus(x: f64) -> f64 {
        x.max(0.0) + (-x.abs()).exp().ln_1p()
    }

    #[test]
    fn values_are_those_of_the_equations() {
        for (w, l) in [(0.5, -1.25), (-3.0, 2.0), (0.0, 0.0)] {
            let reward = ScoreLoss::reward(0.01).unwrap();
            let squares = 0.01 * (w * w + l * l) / 2.0;
            let found = reward.evaluate(&PairScores { chosen: w, rejected: l, labels: None }).unwrap();
            assert!((found.value - softplus(l - w) - squares).abs() < 1e-14);
            for labels in LABELS {
                let [t_w, t_l] = [labels.0, labels.1].map(|is_unsafe| if is_unsafe { 1.0 } else { -1.0 });
                let want = softplus(w - l) + softplus(-t_w * w) + softplus(-t_l * l) + squares;
                let found = ScoreLoss::cost(0.01).unwrap().evaluate(&pair(w, l, labels)).unwrap();
                assert!((found.value - want).abs() < 1e-14, "{w} {l} {labels:?}");
            }
        }
    }

    #[test]
    fn derivatives_are_the_differences_of_values() {
        let step = 1e-6;
        for loss in
            [ScoreLoss::reward(0.0), ScoreLoss::reward(0.3), ScoreLoss::cost(0.0), ScoreLoss::cost(0.3)]
        {
            let loss = loss.unwrap();
            for (w, l) in [(0.5, -1.25), (-3.0, 2.0), (0.0, 0.0), (7.0, 7.5)] {
                for labels in LABELS {
                    let at = |w, l| loss.evaluate(&pair(w, l, labels)).unwrap();
                    let found = at(w, l);
                    let by_w = (at(w + step, l).value - at(w - step, l).value) / (2.0 * step);
                    let by_l = (at(w, l + step).value - at(w, l - step).value) / (2.0 * step);
                    assert!((found.d_chosen - by_w).abs() < 1e-8, "{} {w} {l} {labels:?}", loss.name());
                    assert!((found.d_rejected - by_l).abs() < 1e-8, "{} {w} {l} {labels:?}", loss.name());
                }
            }
        }
    }

    #[test]
    fn large_scores_stay_finite_and_what_is_missing_is_named() {
        let cost = ScoreLoss::cost(0.0).unwrap();
        let far = cost.evaluate(&pair(1e4, -1e4, (false, true))).unwrap();
        assert_eq!((far.value, far.d_chosen, far.d_rejected), (4e4, 2.0, -2.0));
        let error = cost.evaluate(&PairScores { chosen: 0.0, rejected: 0.0, labels: None }).unwrap_err();
        assert!(error.to_string().contains("cost"), "{error}");
        assert!(ScoreLoss::reward(-1.0).unwrap_err().to_string().contains("regularization"));
        assert!(ScoreLoss::reward(0.0).unwrap().evaluate(&pair(f64::NAN, 0.0, (false, false))).is_err());
        assert!(
            cost.formula().contains("t_l c_l") && ScoreLoss::reward(0.5).unwrap().formula().contains("0.5")
        );
    }
}
