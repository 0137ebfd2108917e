//! BFPO (arXiv 2408.15313): (h - (1/beta)(b1 b3 a_w - b3 a_l - alpha))^2 with a = 1 - s and b3 = 1 / (b1 - 1).

use super::squared;
use crate::error::ObjectiveError;
use crate::pair::{PairInputs, PairLoss};
use crate::precise::Precise;

pub(crate) fn evaluate(
    beta: f64,
    b1: f64,
    alpha: f64,
    pair: &PairInputs,
) -> Result<PairLoss, ObjectiveError> {
    pair.logps.check()?;
    let labels = pair.labels_for("bfpo")?;
    let safe = |is_unsafe: bool| if is_unsafe { Precise::ZERO } else { Precise::ONE };
    let b1 = Precise::from(b1);
    let reward = (b1 * safe(labels.chosen_unsafe) - safe(labels.rejected_unsafe)) / (b1 - Precise::ONE);
    let target = (reward - alpha.into()) / beta.into();
    squared(pair.logps.precise_margin() - target, Precise::ONE, Precise::ONE)
}
