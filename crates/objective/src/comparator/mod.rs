//! The comparators that are functions of the same numbers, one file each; DPO, cDPO and SafeDPO are the logistic
//! member of the BSO family and need no file.

pub(crate) mod bfpo;
pub(crate) mod hinge;
pub(crate) mod ipo;
pub(crate) mod kto;
pub(crate) mod modpo;

use crate::error::ObjectiveError;
use crate::pair::PairLoss;
use crate::precise::Precise;

/// A loss and its derivatives, rounded together.
pub(crate) fn rounded(
    value: Precise,
    d_chosen: Precise,
    d_rejected: Precise,
) -> Result<PairLoss, ObjectiveError> {
    let read = |x: Precise, name| crate::error::finite(name, x.to_f64());
    Ok(PairLoss {
        value: read(value, "loss")?,
        d_chosen: read(d_chosen, "dloss_dchosen_logp")?,
        d_rejected: read(d_rejected, "dloss_drejected_logp")?,
        log_ratio: None,
        d_log_ratio: None,
        clamped: false,
    })
}

/// (distance)^2 with derivatives through weights dh/dlogp(chosen) and -dh/dlogp(rejected).
pub(crate) fn squared(
    distance: Precise,
    chosen: Precise,
    rejected: Precise,
) -> Result<PairLoss, ObjectiveError> {
    let slope = distance.scaled(1);
    rounded(distance * distance, slope * chosen, -(slope * rejected))
}
