//! MODPO (arXiv 2310.03708): -log sigmoid(R_w - R_l), R(y) = (beta D(y) - w1 m(y)) / w0, w1 = 1 - w0; m is detached.

use super::rounded;
use crate::error::{ObjectiveError, finite};
use crate::generator::Generator;
use crate::pair::{PairInputs, PairLoss};
use crate::precise::Precise;

pub(crate) fn evaluate(beta: f64, w0: f64, pair: &PairInputs) -> Result<PairLoss, ObjectiveError> {
    pair.logps.check()?;
    let (chosen, rejected) = pair
        .margins
        .ok_or(ObjectiveError::MissingInput { loss: "modpo", fields: "chosen_margin and rejected_margin" })?;
    let margins =
        Precise::from(finite("chosen_margin", chosen)?) - finite("rejected_margin", rejected)?.into();
    let (beta, w0) = (Precise::from(beta), Precise::from(w0));
    let advantage = (beta * pair.logps.precise_margin() - (Precise::ONE - w0) * margins) / w0;
    finite("R_w - R_l", advantage.to_f64())?;
    // -log sigmoid(x) is the logistic loss at u = -x
    let at = Generator::Logistic.evaluate(-advantage)?;
    let pull = at.slope * beta / w0;
    rounded(at.loss, -pull, pull)
}
