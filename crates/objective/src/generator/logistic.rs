//! Logistic: g(R) = (R log R - (1+R) log(1+R)) / 2, l(u) = log(1 + e^u), k(u) = 1 / (2 cosh(u/2)); DPO's loss.

use super::LossAndSlope;
use crate::precise::Precise;

/// softplus and sigmoid from w = e^-|u| <= 1, so that neither tail overflows or cancels.
pub(crate) fn evaluate(u: Precise) -> LossAndSlope {
    let positive = u.to_f64() >= 0.0;
    let w = (if positive { -u } else { u }).exponential().value(0);
    let (above, weight) = if positive { (u, Precise::ONE) } else { (Precise::ZERO, w) };
    LossAndSlope { loss: above + w.ln_1p(), slope: weight / (Precise::ONE + w), exponent: 0 }
}
