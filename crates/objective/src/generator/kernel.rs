//! A generator given by its kernel: l'(u) = e^(u/2) k(u) with k even and positive, which is exactly when the
//! population minimiser is right (p l'(u) = (1-p) l'(-u) at e^u = (1-p)/p). The loss is the integral of l' from 0,
//! so l(0) = 0: it differs from a closed form by a constant at most, which no gradient sees.

use super::expression::Expression;
use super::{LossAndSlope, quadrature};
use crate::error::ObjectiveError;
use crate::precise::Precise;

/// On |u| up to here the kernel must be even, positive and finite.
const CHECKED_RANGE: f64 = 20.0;
/// Up to here it must be even and not negative wherever f64 can hold it.
const FAR_RANGE: f64 = 500.0;
/// Relative difference between k(u) and k(-u) that rounding may cause.
const EVENNESS: f64 = 1e-9;
/// Grid points on (0, `CHECKED_RANGE`], and as many scattered ones on each range.
const POINTS: u32 = 2000;

/// An even positive kernel k(u), checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    expression: Expression,
}

impl Kernel {
    /// Reads an expression in `u` (`+ - * / ^`, parentheses, `exp log sqrt cosh sinh tanh abs cos sin`, `pi`, `e`)
    /// and checks it on a grid and at scattered points: even, positive and finite for |u| <= 20; even and not
    /// negative up to |u| = 500 wherever its value is finite there.
    ///
    /// # Errors
    /// The place of a syntax error, or the u where the kernel is not even, positive or finite.
    pub fn parse(expression: &str) -> Result<Self, ObjectiveError> {
        let kernel = Self { expression: Expression::parse(expression)? };
        kernel.check_at(0.0)?;
        for i in 1..=POINTS {
            // additive recurrence of the golden ratio: scattered, never periodic, the same on every run
            let scattered = (f64::from(i) * 0.618_033_988_749_894_9).fract();
            kernel.check_at(CHECKED_RANGE * f64::from(i) / f64::from(POINTS))?;
            kernel.check_at(CHECKED_RANGE * scattered)?;
            kernel.check_far(FAR_RANGE * scattered)?;
        }
        Ok(kernel)
    }

    /// The expression as written.
    #[must_use]
    pub fn expression(&self) -> &str {
        self.expression.source()
    }

    /// k(u).
    #[must_use]
    pub fn at(&self, u: f64) -> f64 {
        self.expression.at(u)
    }

    /// l'(u) = e^(u/2) k(u).
    pub(crate) fn slope(&self, u: f64) -> Result<f64, ObjectiveError> {
        let (half, k) = ((u / 4.0).exp(), self.at(u));
        // k between the two factors: e^(u/2) alone may underflow or overflow where the product does not
        let slope = half * k * half;
        if k.is_nan() || k < 0.0 {
            return Err(self.property("positive", u));
        }
        if slope.is_finite() {
            Ok(slope)
        } else {
            Err(ObjectiveError::NotRepresentable { quantity: "dloss_dlogratio", log_ratio: u })
        }
    }

    pub(crate) fn evaluate(&self, u: f64) -> Result<LossAndSlope, ObjectiveError> {
        let slope = self.slope(u)?;
        let loss = quadrature::from_zero(|v| self.slope(v).unwrap_or(f64::NAN), u)
            .ok_or_else(|| ObjectiveError::KernelIntegral { expression: self.expression().to_owned(), u })?;
        Ok(LossAndSlope { loss: Precise::from(loss), slope: Precise::from(slope), exponent: 0 })
    }

    fn check_at(&self, u: f64) -> Result<(), ObjectiveError> {
        let (k, mirrored) = (self.at(u), self.at(-u));
        if !(k.is_finite() && mirrored.is_finite()) {
            return Err(self.property("finite", u));
        }
        if k <= 0.0 || mirrored <= 0.0 {
            return Err(self.property("positive", u));
        }
        self.check_even(u, k, mirrored)
    }

    fn check_far(&self, u: f64) -> Result<(), ObjectiveError> {
        let (k, mirrored) = (self.at(u), self.at(-u));
        if !(k.is_finite() && mirrored.is_finite()) {
            return Ok(()); // out of f64's range there; evaluating it there is an error of its own
        }
        if k < 0.0 || mirrored < 0.0 {
            return Err(self.property("positive", u));
        }
        self.check_even(u, k, mirrored)
    }

    fn check_even(&self, u: f64, k: f64, mirrored: f64) -> Result<(), ObjectiveError> {
        // below the normal range both are rounded to few digits
        if (k - mirrored).abs() > EVENNESS * k.max(mirrored) + f64::MIN_POSITIVE {
            return Err(self.property("even", u));
        }
        Ok(())
    }

    fn property(&self, property: &'static str, u: f64) -> ObjectiveError {
        ObjectiveError::KernelProperty {
            expression: self.expression().to_owned(),
            property,
            u,
            at_u: self.at(u),
            at_minus_u: self.at(-u),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_positive_kernels_are_accepted() {
        for expression in [
            "cosh(0.3*u)",
            "1/(2*cosh(u/2))",
            "2",
            "exp(-u^2/100)",
            "1+abs(u)",
            "2+cos(u)",
            "cosh(3*u)",
            "exp(u)+exp(-u)",
        ] {
            Kernel::parse(expression).unwrap();
        }
    }

    #[test]
    fn a_kernel_that_is_not_even_or_not_positive_is_refused_with_the_u() {
        let property_of = |expression: &str| match Kernel::parse(expression) {
            Err(ObjectiveError::KernelProperty { property, u, .. }) => (property, u),
            other => panic!("{expression}: {other:?}"),
        };
        assert_eq!(property_of("exp(u)").0, "even");
        assert_eq!(property_of("cosh(u) + 0.000001*sinh(u)").0, "even");
        let (property, u) = property_of("1.2 + cos(u) - 0.3");
        assert_eq!(property, "positive");
        assert!(0.9 + u.cos() <= 0.0, "{u}");
        assert_eq!(property_of("0"), ("positive", 0.0));
        assert_eq!(property_of("1/u^2"), ("finite", 0.0));
        assert_eq!(property_of("sqrt(100-u^2)").0, "finite");
        assert_eq!(property_of("2-exp(abs(u)/600)").0, "positive");
        let text = Kernel::parse("exp(u)").unwrap_err().to_string();
        assert!(text.contains("is not even at u = 0.01"), "{text}");
    }

    #[test]
    fn slope_and_loss_agree_with_the_logistic_closed_form() {
        let kernel = Kernel::parse("1/(2*cosh(u/2))").unwrap();
        for u in [-300.0f64, -31.5, -1.0, 1e-9, 0.4, 33.0, 400.0] {
            let at = kernel.evaluate(u).unwrap();
            let expected = super::super::logistic::evaluate(u.into());
            let difference = (expected.loss - std::f64::consts::LN_2.into()).to_f64();
            assert!((at.loss.to_f64() - difference).abs() <= 1e-13 * difference.abs().max(1e-3), "{u}");
            assert!((at.slope.to_f64() / expected.slope.to_f64() - 1.0).abs() < 1e-13, "{u}");
        }
    }
}
