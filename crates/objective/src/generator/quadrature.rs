//! Numerical integration of a positive function by adaptive Gauss-Legendre quadrature, to about 1e-14 relative.

/// Positive nodes of the 16-point rule on [-1, 1].
const NODES: [f64; 8] = [
    0.095_012_509_837_637_44,
    0.281_603_550_779_258_9,
    0.458_016_777_657_227_37,
    0.617_876_244_402_643_8,
    0.755_404_408_355_003,
    0.865_631_202_387_831_8,
    0.944_575_023_073_232_6,
    0.989_400_934_991_649_9,
];

/// Their weights.
const WEIGHTS: [f64; 8] = [
    0.189_450_610_455_068_5,
    0.182_603_415_044_923_58,
    0.169_156_519_395_002_54,
    0.149_595_988_816_576_74,
    0.124_628_971_255_533_88,
    0.095_158_511_682_492_79,
    0.062_253_523_938_647_894,
    0.027_152_459_411_754_096,
];

const RELATIVE_TOLERANCE: f64 = 2e-15;
const MAX_DEPTH: u32 = 60;
const MAX_PANELS: usize = 200_000;

/// The integral of `f`, which must be positive, from 0 to `end` (negative when `end` is). `None` when `f` leaves the
/// finite numbers or the refinement does not settle.
pub(crate) fn from_zero(f: impl Fn(f64) -> f64, end: f64) -> Option<f64> {
    let panels = end.abs().ceil().max(1.0);
    if panels > MAX_PANELS as f64 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 <= panels <= MAX_PANELS")]
    let count = panels as usize;
    let edge = |i: usize| end * (i as f64 / panels);
    // (from, to, value by one rule, depth); the largest end first, so that `total` soon bounds what matters
    let mut open: Vec<(f64, f64, f64, u32)> =
        (0..count).map(|i| (edge(i), edge(i + 1), rule(&f, edge(i), edge(i + 1)), 0)).collect();
    let scale: f64 = open.iter().map(|p| p.2.abs()).sum();
    let (mut total, mut carry, mut used) = (0.0, 0.0, count);
    while let Some((from, to, whole, depth)) = open.pop() {
        let middle = f64::midpoint(from, to);
        let (left, right) = (rule(&f, from, middle), rule(&f, middle, to));
        let halves = left + right;
        let error = (halves - whole).abs();
        if !halves.is_finite() {
            return None;
        }
        // the halves are far better than the whole, so their difference bounds their error generously
        if error <= RELATIVE_TOLERANCE * 8.0 * halves.abs() || error <= 1e-17 * scale {
            // compensated sum
            let term = halves - carry;
            let next = total + term;
            carry = (next - total) - term;
            total = next;
            continue;
        }
        used += 2;
        if depth >= MAX_DEPTH || used > MAX_PANELS {
            return None;
        }
        open.push((from, middle, left, depth + 1));
        open.push((middle, to, right, depth + 1));
    }
    Some(total)
}

fn rule(f: &impl Fn(f64) -> f64, from: f64, to: f64) -> f64 {
    let (centre, half) = (f64::midpoint(from, to), (to - from) / 2.0);
    let sum: f64 =
        NODES.iter().zip(WEIGHTS).map(|(x, w)| w * (f(centre - half * x) + f(centre + half * x))).sum();
    half * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smooth_peaked_and_kinked_functions_are_integrated_to_rounding() {
        let close = |a: Option<f64>, b: f64| assert!((a.unwrap() / b - 1.0).abs() < 2e-14, "{a:?} {b}");
        close(from_zero(f64::exp, 100.0), 100f64.exp_m1());
        close(from_zero(f64::exp, -50.0), (-50f64).exp_m1());
        close(from_zero(|x| 1.0 / (1.0 + 1e6 * x * x), 3.0), 3000f64.atan() / 1000.0);
        close(from_zero(|x| 1.0 + (x - 0.3).abs(), 1.0), 1.0 + 0.045 + 0.245);
    }

    #[test]
    fn an_integral_that_does_not_exist_is_none() {
        assert_eq!(from_zero(|x| 1.0 / (x - 0.5).powi(2), 1.0), None);
        assert_eq!(from_zero(f64::exp, 1000.0), None);
        assert_eq!(from_zero(f64::exp, f64::NAN), None);
    }
}
