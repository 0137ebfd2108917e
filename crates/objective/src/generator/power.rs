//! The power family: LSIF, KLIEP, BA, SBA and phi(mu) are one loss, c [E(p, u) + E(q, u)] with p + q = 1 and
//! E(x, u) = (e^(x u) - 1) / x, E(0, u) = u.
//!
//! From SBA: [lambda R^(1+lambda) - (1+lambda) R^(-lambda) + 1] / (s lambda (1+lambda)) with
//! 1/(lambda (1+lambda)) = 1/lambda - 1/(1+lambda). Both terms have the sign of u, so the form cancels nowhere, and
//! it has no pole at lambda = 0. Slope: c [e^(p u) + e^(q u)], that is k(u) = 2 c cosh((p - 1/2) u).

use super::{LossAndSlope, tidy};
use crate::precise::{Exponential, Precise};

/// Binary exponents above this are carried beside the mantissa.
const LARGE_EXPONENT: i32 = 900;

/// p, q = 1 - p and c.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Power {
    p: Precise,
    q: Precise,
    coefficient: Precise,
}

impl Power {
    pub(crate) fn kliep(scale: f64) -> Self {
        Self { p: Precise::ONE, q: Precise::ZERO, coefficient: Precise::ONE / scale.into() }
    }

    pub(crate) fn ba(lambda: f64) -> Self {
        let p = Precise::ONE + lambda.into();
        Self { p, q: (-lambda).into(), coefficient: p }
    }

    pub(crate) fn sba(lambda: f64, scale: f64) -> Self {
        Self { coefficient: Precise::ONE / scale.into(), ..Self::ba(lambda) }
    }

    pub(crate) fn phi_mu(mu: f64) -> Self {
        let mu = Precise::from(mu);
        Self { p: Precise::ONE + Precise::ONE - mu, q: mu - Precise::ONE, coefficient: Precise::ONE }
    }

    pub(crate) fn evaluate(self, u: Precise) -> LossAndSlope {
        let (at_p, at_q, exponent) = self.exponentials(u);
        let integral = |x: Precise, e: Exponential| {
            if x == Precise::ZERO { u.scaled(-exponent) } else { e.minus_one(exponent) / x }
        };
        LossAndSlope {
            loss: self.coefficient * (integral(self.p, at_p) + integral(self.q, at_q)),
            slope: self.coefficient * (at_p.value(exponent) + at_q.value(exponent)),
            exponent,
        }
    }

    /// l'(u), infinite where f64 cannot hold it.
    pub(crate) fn slope(self, u: Precise) -> f64 {
        let (at_p, at_q, exponent) = self.exponentials(u);
        (self.coefficient * (at_p.value(exponent) + at_q.value(exponent))).scaled(exponent).to_f64()
    }

    /// e^(p u), e^(q u) and the power of two to take out of both.
    fn exponentials(self, u: Precise) -> (Exponential, Exponential, i32) {
        let (at_p, at_q) = (exponential(self.p, u), exponential(self.q, u));
        let largest = at_p.exponent.max(at_q.exponent);
        (at_p, at_q, if largest > LARGE_EXPONENT { largest } else { 0 })
    }
}

/// e^(x u). A product beyond any range is replaced by a smaller one of the same sign that is beyond it as well.
fn exponential(x: Precise, u: Precise) -> Exponential {
    const BEYOND: f64 = 1e7;
    let product = x.to_f64() * u.to_f64();
    if product.abs() > BEYOND {
        Precise::from(BEYOND.copysign(product)).exponential()
    } else {
        (x * u).exponential()
    }
}

/// `[lambda e^((1+lambda) u) - (1+lambda) e^(-lambda u) + 1] / divisor`.
pub(crate) fn formula(lambda: f64, divisor: &str) -> String {
    let other = tidy(1.0 + lambda);
    format!("[{lambda} e^({other} u) - {other} e^({} u) + 1] / {divisor}", tidy(-lambda)).replace("- -", "+ ")
}
