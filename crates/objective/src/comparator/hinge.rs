//! Hinge (SLiC on log-ratios, arXiv 2305.10425): max(0, 1 - beta h); at the kink the gradient is zero, as PyTorch's.

use super::rounded;
use crate::error::ObjectiveError;
use crate::pair::{PairInputs, PairLoss};
use crate::precise::Precise;

pub(crate) fn evaluate(beta: f64, pair: &PairInputs) -> Result<PairLoss, ObjectiveError> {
    pair.logps.check()?;
    let beta = Precise::from(beta);
    let short = Precise::ONE - beta * pair.logps.precise_margin();
    if short.to_f64() > 0.0 {
        rounded(short, -beta, beta)
    } else {
        rounded(if short.to_f64() <= 0.0 { Precise::ZERO } else { short }, Precise::ZERO, Precise::ZERO)
    }
}
