//! Double-double arithmetic: an unevaluated sum `hi + lo` of two f64, about 31 decimal digits. Losses are evaluated
//! in it and rounded once at the end, so that cancellation (label smoothing near the root, a margin near a target)
//! costs no digit of the f64 result. It is no general number type: only what the losses need is here.
//!
//! Source of the basic steps: Dekker 1971; Hida, Li, Bailey, "Library for double-double and quad-double arithmetic".

use std::ops::{Add, Div, Mul, Neg, Sub};

/// `hi + lo` with `|lo| <= ulp(hi) / 2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Precise {
    hi: f64,
    lo: f64,
}

/// ln 2 in three f64 (the third only matters for large multiples).
const LN_2: [f64; 3] = [std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17, 5.707_708_438_416_212e-34];

/// Beyond this exponent e^x is far outside f64 whatever coefficient stands before it.
const EXTREME: f64 = 1e6;

/// 1/10!, 1/9!, ..., 1/1!: the Taylor coefficients of e^r - 1, highest first.
const INVERSE_FACTORIALS: [Precise; 10] = [
    Precise { hi: 2.755731922398589e-07, lo: 2.3767714622250297e-23 },
    Precise { hi: 2.7557319223985893e-06, lo: -1.858393274046472e-22 },
    Precise { hi: 2.48015873015873e-05, lo: 2.1511947866775882e-23 },
    Precise { hi: 0.0001984126984126984, lo: 1.7209558293420705e-22 },
    Precise { hi: 0.001388888888888889, lo: -5.300543954373577e-20 },
    Precise { hi: 0.008333333333333333, lo: 1.1564823173178714e-19 },
    Precise { hi: 0.041666666666666664, lo: 2.3129646346357427e-18 },
    Precise { hi: 0.16666666666666666, lo: 9.25185853854297e-18 },
    Precise { hi: 0.5, lo: 0.0 },
    Precise { hi: 1.0, lo: 0.0 },
];

/// Halvings of the reduced argument before the series (and squarings after it).
const HALVINGS: u32 = 8;

impl Precise {
    pub(crate) const ZERO: Self = Self { hi: 0.0, lo: 0.0 };
    pub(crate) const ONE: Self = Self { hi: 1.0, lo: 0.0 };

    fn two_sum(a: f64, b: f64) -> Self {
        let hi = a + b;
        let bb = hi - a;
        Self { hi, lo: (a - (hi - bb)) + (b - bb) }
    }

    fn quick_two_sum(a: f64, b: f64) -> Self {
        let hi = a + b;
        Self { hi, lo: b - (hi - a) }
    }

    /// The nearest f64. A negative zero becomes zero.
    pub(crate) fn to_f64(self) -> f64 {
        self.hi + self.lo + 0.0
    }

    /// `self * 2^exponent`, exact unless the result leaves the f64 range (then infinite or rounded towards zero).
    pub(crate) fn scaled(self, exponent: i32) -> Self {
        Self { hi: times_power_of_two(self.hi, exponent), lo: times_power_of_two(self.lo, exponent) }
    }

    /// e^self as `mantissa * 2^exponent`; also serves expm1. Total: never overflows and never yields NaN for a number.
    pub(crate) fn exponential(self) -> Exponential {
        if self.hi > EXTREME {
            return Exponential { reduced_minus_one: Self::ZERO, exponent: 2_000_000 };
        }
        if self.hi < -EXTREME {
            return Exponential { reduced_minus_one: Self::ZERO, exponent: -2_000_000 };
        }
        let k = (self.hi / LN_2[0]).round();
        let mut reduced = self;
        for part in LN_2 {
            reduced = reduced - Self::product(part, k);
        }
        #[expect(clippy::cast_possible_truncation, reason = "|k| <= EXTREME / ln 2, far inside i32")]
        let exponent = k as i32;
        Exponential { reduced_minus_one: reduced.expm1_of_reduced(), exponent }
    }

    /// e^r - 1 for |r| <= ln(2)/2, with full relative precision: Taylor series of r / 2^8, then eight times
    /// `s -> s (2 + s)`, which is e^(2x) - 1 from s = e^x - 1.
    fn expm1_of_reduced(self) -> Self {
        let r = self.scaled(-8);
        let mut s = Self::ZERO;
        for coefficient in INVERSE_FACTORIALS {
            s = (s + coefficient) * r;
        }
        for _ in 0..HALVINGS {
            s = s.scaled(1) + s * s;
        }
        s
    }

    /// (e^self - 1) with full relative precision for small arguments.
    pub(crate) fn expm1(self) -> Self {
        self.exponential().minus_one(0)
    }

    /// ln(1 + self) for self >= 0: the f64 logarithm and one Newton step on expm1.
    pub(crate) fn ln_1p(self) -> Self {
        let guess = Self::from(self.to_f64().ln_1p());
        guess + (self - guess.expm1()) / (Self::ONE + self)
    }

    fn product(a: f64, b: f64) -> Self {
        let hi = a * b;
        Self { hi, lo: a.mul_add(b, -hi) }
    }
}

/// e^x held so that it cannot overflow: `(1 + reduced_minus_one) * 2^exponent`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exponential {
    reduced_minus_one: Precise,
    /// Power of two; e^x has this binary exponent to within one.
    pub(crate) exponent: i32,
}

impl Exponential {
    /// `e^x * 2^-shift`.
    pub(crate) fn value(self, shift: i32) -> Precise {
        (Precise::ONE + self.reduced_minus_one).scaled(self.exponent - shift)
    }

    /// `(e^x - 1) * 2^-shift`.
    pub(crate) fn minus_one(self, shift: i32) -> Precise {
        if self.exponent == 0 {
            self.reduced_minus_one.scaled(-shift)
        } else {
            self.value(shift) - Precise::ONE.scaled(-shift)
        }
    }
}

/// `x * 2^exponent` in steps that stay inside the range of f64's exponent.
fn times_power_of_two(mut x: f64, mut exponent: i32) -> f64 {
    const STEP: i32 = 1000;
    let power = |e: i32| f64::from_bits(((1023 + i64::from(e)) as u64) << 52);
    while exponent > STEP && x != 0.0 && x.is_finite() {
        x *= power(STEP);
        exponent -= STEP;
    }
    while exponent < -STEP && x != 0.0 {
        x *= power(-STEP);
        exponent += STEP;
    }
    x * power(exponent.clamp(-STEP, STEP))
}

impl From<f64> for Precise {
    fn from(x: f64) -> Self {
        Self { hi: x, lo: 0.0 }
    }
}

impl Neg for Precise {
    type Output = Self;
    fn neg(self) -> Self {
        Self { hi: -self.hi, lo: -self.lo }
    }
}

impl Add for Precise {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let s = Self::two_sum(self.hi, other.hi);
        let t = Self::two_sum(self.lo, other.lo);
        let s = Self::quick_two_sum(s.hi, s.lo + t.hi);
        Self::quick_two_sum(s.hi, s.lo + t.lo)
    }
}

impl Sub for Precise {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Precise {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let p = Self::product(self.hi, other.hi);
        Self::quick_two_sum(p.hi, p.lo + (self.hi * other.lo + self.lo * other.hi))
    }
}

impl Div for Precise {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let q1 = self.hi / other.hi;
        let rest = self - other * Self::from(q1);
        let q2 = rest.hi / other.hi;
        let rest = rest - other * Self::from(q2);
        Self::quick_two_sum(q1, q2) + Self::from(rest.hi / other.hi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Precise, hi: f64, lo: f64) {
        let difference = (a - (Precise { hi, lo })).to_f64();
        assert!(difference.abs() <= 1e-29 * hi.abs(), "{a:?} against {hi:e} + {lo:e}: {difference:e}");
    }

    #[test]
    fn exponential_and_logarithm_carry_about_thirty_digits() {
        close(Precise::from(1.0).exponential().value(0), std::f64::consts::E, 1.445_646_891_729_250_2e-16);
        close(Precise::from(1e-10).expm1(), 1.000_000_000_05e-10, 3.390_013_322_121_773_4e-27);
        close(Precise::ONE.ln_1p(), LN_2[0], LN_2[1]);
    }

    #[test]
    fn the_exponential_is_total() {
        assert_eq!(Precise::from(-1e300).exponential().value(0).to_f64(), 0.0);
        assert_eq!(Precise::from(1e300).exponential().value(0).hi, f64::INFINITY);
        let top = Precise::from(709.7).exponential();
        assert!((top.value(900).scaled(900).to_f64() / 709.7f64.exp() - 1.0).abs() < 1e-12);
    }
}
