//! IPO (arXiv 2310.12036, eq. 17): (h - 1/(2 beta))^2, with h summed as in the paper or averaged per token as in TRL.

use super::squared;
use crate::error::ObjectiveError;
use crate::pair::{PairInputs, PairLoss};
use crate::precise::Precise;

fn target(beta: f64) -> Precise {
    Precise::ONE / Precise::from(beta).scaled(1)
}

/// Sums: h = D_w - D_l.
pub(crate) fn evaluate(beta: f64, pair: &PairInputs) -> Result<PairLoss, ObjectiveError> {
    pair.logps.check()?;
    squared(pair.logps.precise_margin() - target(beta), Precise::ONE, Precise::ONE)
}

/// Means: h' = D_w / len_w - D_l / len_l.
pub(crate) fn evaluate_mean(beta: f64, pair: &PairInputs) -> Result<PairLoss, ObjectiveError> {
    pair.logps.check()?;
    let (chosen, rejected) = pair.tokens.ok_or(ObjectiveError::MissingInput {
        loss: "ipo_mean",
        fields: "chosen_tokens and rejected_tokens",
    })?;
    let share = |count: usize, name| {
        if count == 0 {
            Err(ObjectiveError::NoTokens { name })
        } else {
            Ok(Precise::ONE / (count as f64).into())
        }
    };
    let (chosen, rejected) = (share(chosen, "chosen_tokens")?, share(rejected, "rejected_tokens")?);
    let margin = pair.logps.chosen_shift() * chosen - pair.logps.rejected_shift() * rejected;
    squared(margin - target(beta), chosen, rejected)
}
