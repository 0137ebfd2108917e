//! How f64 derivatives meet an f32 network: one power-of-two scale for all weights of a step, undone inside the
//! gradient-norm clip, so that no penalty can overflow the back-propagation.

use crate::error::{ObjectiveError, finite};

/// Weights per sequence, divided by `scale`, all in [-1, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceWeights {
    /// A power of two >= the largest |weight| (1 when all are 0), so that scaling is exact.
    pub scale: f64,
    /// weight / scale, rounded to f32.
    pub weights: Vec<f32>,
}

impl SequenceWeights {
    /// Scales d loss / d log pi of every sequence of a step (all micro-batches together).
    ///
    /// # Errors
    /// A weight that is NaN or infinite.
    pub fn new(weights: &[f64]) -> Result<Self, ObjectiveError> {
        let mut largest = 0.0f64;
        for w in weights {
            largest = largest.max(finite("sequence weight", *w)?.abs());
        }
        let scale = power_of_two_at_least(largest);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounding to f32 is the purpose; |w / scale| <= 1"
        )]
        let scaled = weights.iter().map(|w| divide(*w, scale) as f32).collect();
        Ok(Self { scale, weights: scaled })
    }
}

/// The smallest power of two >= x; 1 for x = 0. At most 2^1023, the largest that f64 has.
fn power_of_two_at_least(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let bits = x.max(f64::MIN_POSITIVE).to_bits();
    let floor = f64::from_bits(bits & !((1u64 << 52) - 1));
    if floor < x && floor < f64::MAX / 2.0 { floor * 2.0 } else { floor }
}

/// w / scale within [-1, 1] also where the scale could not be rounded up (|w| beyond 2^1023).
fn divide(w: f64, scale: f64) -> f64 {
    (w / scale).clamp(-2.0, 2.0)
}

/// The factor for the SCALED f32 gradients, PyTorch's `clip_grad_norm_` on the true gradients: the true norm is
/// `scaled_norm * scale`, the true factor min(1, `max_grad_norm` / (norm + 1e-6)), and the result is scale times that.
///
/// # Errors
/// A norm that is not finite, `max_grad_norm` <= 0, or, without `max_grad_norm`, a true gradient beyond f32.
pub fn clip_factor(scaled_norm: f64, scale: f64, max_grad_norm: Option<f64>) -> Result<f64, ObjectiveError> {
    finite("gradient norm", scaled_norm)?;
    finite("gradient scale", scale)?;
    let norm = scaled_norm * scale;
    match max_grad_norm {
        Some(limit) => {
            crate::error::setting("max_grad_norm", limit, limit > 0.0, "a finite number > 0, or none")?;
            // 1e-6 is PyTorch's guard against division by zero; dividing it by the scale keeps the true norm unformed
            Ok((limit / (scaled_norm + 1e-6 / scale)).min(scale))
        }
        None if norm <= f64::from(f32::MAX) => Ok(scale),
        None => {
            #[expect(clippy::cast_possible_truncation, reason = "log10 of an f64 product is below 700")]
            let decimal_exponent = (scaled_norm.log10() + scale.log10()).floor() as i32;
            Err(ObjectiveError::GradientRange { decimal_exponent })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_by_a_power_of_two_is_exact() {
        let weights = [0.3, -1e80, 0.0, 7e79];
        let scaled = SequenceWeights::new(&weights).unwrap();
        assert!(scaled.scale >= 1e80 && scaled.scale < 2e80);
        assert_eq!(scaled.scale.to_bits() & ((1 << 52) - 1), 0);
        assert_eq!(scaled.weights[1], (-1e80 / scaled.scale) as f32);
        assert!(scaled.weights.iter().all(|w| w.abs() <= 1.0));
        assert_eq!(
            SequenceWeights::new(&[0.0, 0.0]).unwrap(),
            SequenceWeights { scale: 1.0, weights: vec![0.0; 2] }
        );
        assert_eq!(
            SequenceWeights::new(&[4.0, 1.0]).unwrap(),
            SequenceWeights { scale: 4.0, weights: vec![1.0, 0.25] }
        );
        for extreme in [f64::MAX, 5e-324, -f64::MIN_POSITIVE] {
            assert!(SequenceWeights::new(&[extreme]).unwrap().weights[0].is_finite());
        }
        assert!(SequenceWeights::new(&[f64::NAN]).is_err());
        assert!(SequenceWeights::new(&[f64::INFINITY]).is_err());
    }

    #[test]
    fn clipping_acts_on_the_true_norm() {
        let torch = |norm: f64, limit: f64| (limit / (norm + 1e-6)).min(1.0);
        for (scaled, scale, limit) in [(0.5, 8.0, 1.0), (0.5, 8.0, 10.0), (2.0, 1.0, 0.1), (0.0, 1.0, 1.0)] {
            let factor = clip_factor(scaled, scale, Some(limit)).unwrap();
            assert!((factor / (scale * torch(scaled * scale, limit)) - 1.0).abs() < 1e-15);
        }
        // a true norm of 1e200 is clipped to 10 by an ordinary factor
        assert!((clip_factor(3.0, 1e200, Some(10.0)).unwrap() - 10.0 / 3.0).abs() < 1e-15);
        assert_eq!(clip_factor(3.0, 4.0, None), Ok(4.0));
        assert_eq!(
            clip_factor(3.0, 1e100, None),
            Err(ObjectiveError::GradientRange { decimal_exponent: 100 })
        );
        assert!(clip_factor(f64::NAN, 1.0, Some(1.0)).is_err());
        assert!(clip_factor(1.0, 1.0, Some(0.0)).is_err());
    }
}
