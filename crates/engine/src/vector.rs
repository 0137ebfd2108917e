//! Pieces that vector kernels share: a fast exponential and sums in a fixed order of lanes.
//!
//! Loops over a `[f32; LANES]` compile to vector instructions on every path; a plain running sum would not, since
//! the compiler may not reorder it.

use crate::CpuPath;
use crate::bf16_round::round_values;
use crate::cpu::{mul_add, vectorised};
use crate::element::Element;

/// Width of an accumulator: one AVX-512 register, two of AVX2, four of the portable path.
pub(crate) const LANES: usize = 16;

/// `e^x` with a relative error below 2e-7 for x in [-86.6, 88.72]; 0 below, infinity above, NaN for NaN.
///
/// Range reduction by ln 2 in two parts and the polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -86.6;
    const HIGHEST: f32 = 88.722_83;
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    // Comparisons, not min and max: those would turn NaN into a number.
    let inside = if x < LOWEST { LOWEST } else { x };
    let inside = if inside > HIGHEST { HIGHEST } else { inside };
    let rounded = mul_add::<FMA>(inside, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = mul_add::<FMA>(n, -0.693_359_4, inside);
    let r = mul_add::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = mul_add::<FMA>(p, r, 1.398_199_9e-3);
    p = mul_add::<FMA>(p, r, 8.333_452e-3);
    p = mul_add::<FMA>(p, r, 4.166_579_6e-2);
    p = mul_add::<FMA>(p, r, 1.666_666_6e-1);
    p = mul_add::<FMA>(p, r, 0.5);
    p = mul_add::<FMA>(p * r, r, r) + 1.0;
    // 2^(n-1), doubled afterwards: n reaches 128, one more than an exponent can hold.
    let half_scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(126 << 23));
    let result = p * half_scale * 2.0;
    let result = if x < LOWEST { 0.0 } else { result };
    if x > HIGHEST { f32::INFINITY } else { result }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `tanh x` with a relative error below 3e-7; NaN for NaN. Cephes' `tanhf`: a polynomial near 0, where the exponential
/// would cancel, and the exponential elsewhere.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let size = x.abs();
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = mul_add::<FMA>(p, z, 2.063_909e-2);
    p = mul_add::<FMA>(p, z, -5.373_971_5e-2);
    p = mul_add::<FMA>(p, z, 1.333_144_2e-1);
    p = mul_add::<FMA>(p, z, -3.333_328e-1);
    let near = mul_add::<FMA>(p * z, x, x);
    let far = (1.0 - 2.0 / (exp::<FMA>(2.0 * size) + 1.0)).copysign(x);
    // Comparisons that NaN fails: it stays in `far`.
    if size < 0.625 { near } else { far }
}

/// The error function, within 5e-7; NaN for NaN. A ratio of two polynomials on [-4, 4], beyond which it is 1 in f32.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    let z = x * x;
    let mut p = -2.726_142_3e-10;
    p = mul_add::<FMA>(p, z, 2.770_681_5e-8);
    p = mul_add::<FMA>(p, z, -2.101_024e-6);
    p = mul_add::<FMA>(p, z, -5.692_506_2e-5);
    p = mul_add::<FMA>(p, z, -7.349_906_5e-4);
    p = mul_add::<FMA>(p, z, -2.954_6e-3);
    p = mul_add::<FMA>(p, z, -1.609_603_3e-2);
    let mut q = -1.456_607_2e-5;
    q = mul_add::<FMA>(q, z, -2.133_740_5e-4);
    q = mul_add::<FMA>(q, z, -1.682_827e-3);
    q = mul_add::<FMA>(q, z, -7.373_329e-3);
    q = mul_add::<FMA>(q, z, -1.426_473_9e-2);
    // A comparison that NaN fails.
    if x.abs() > 4.0 { 1.0f32.copysign(x) } else { x * p / q }
}

/// Sum of the lanes, by halves.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Scalar product.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] = mul_add::<FMA>(a[lane], b[lane], lanes[lane]);
        }
    }
    let mut sum = sum_lanes(lanes);
    for (a, b) in a_rest.iter().zip(b_rest) {
        sum = mul_add::<FMA>(*a, *b, sum);
    }
    sum
}

vectorised! {
    /// `to = scale * from`.
    pub(crate) fn widen_scaled[E: Element][E](from: &[E], scale: f32, to: &mut [f32]) = widen_scaled_body
}

#[inline(always)]
fn widen_scaled_body<const FMA: bool, E: Element>(from: &[E], scale: f32, to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32() * scale);
}

/// `to = from`, rounded to what `to` holds.
pub(crate) fn narrow<E: Element>(path: CpuPath, from: &[f32], to: &mut [E]) {
    if E::IS_BF16 && path.has_bf16_instructions() {
        round_values(from, bytemuck::cast_slice_mut(to));
    } else {
        narrow_scaled(path, from, 1.0, to);
    }
}

vectorised! {
    /// `to = scale * from`, rounded to what `to` holds.
    pub(crate) fn narrow_scaled[E: Element][E](from: &[f32], scale: f32, to: &mut [E]) = narrow_scaled_body
}

#[inline(always)]
fn narrow_scaled_body<const FMA: bool, E: Element>(from: &[f32], scale: f32, to: &mut [E]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = E::from_f32(from * scale));
}

vectorised! {
    /// `to += from`.
    pub(crate) fn add_in_place(from: &[f32], to: &mut [f32]) = add_in_place_body
}

#[inline(always)]
fn add_in_place_body<const FMA: bool>(from: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// Largest value; NaN is passed over (the exponentials that follow bring it back).
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
        }
    }
    let larger = |a: f32, b: &f32| if *b > a { *b } else { a };
    rest.iter().fold(lanes.iter().fold(f32::NEG_INFINITY, larger), larger)
}

/// `values = e^(values - shift)`; returns their sum.
#[inline(always)]
pub(crate) fn exp_shifted_in_place<const FMA: bool>(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = values.as_chunks_mut::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            block[lane] = exp::<FMA>(block[lane] - shift);
            lanes[lane] += block[lane];
        }
    }
    let mut sum = sum_lanes(lanes);
    for value in rest {
        *value = exp::<FMA>(*value - shift);
        sum += *value;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::paths;

    crate::cpu::vectorised! {
        fn exp_in_place(values: &mut [f32]) = exp_in_place_body
    }
    #[inline(always)]
    fn exp_in_place_body<const FMA: bool>(values: &mut [f32]) {
        for value in values {
            *value = exp::<FMA>(*value);
        }
    }

    #[test]
    fn exp_stays_within_two_ten_millionths_on_every_path() {
        for path in paths() {
            let inputs: Vec<f32> = (0..4_000_000).map(|i| -86.6 + 175.32 * (i as f32 / 4e6)).collect();
            let mut outputs = inputs.clone();
            exp_in_place(path, &mut outputs);
            let worst = inputs
                .iter()
                .zip(&outputs)
                .map(|(&x, &y)| (f64::from(y) / f64::from(x).exp() - 1.0).abs())
                .fold(0.0, f64::max);
            println!("exp on {}: largest relative error {worst:.2e}", path.name());
            assert!(worst < 2e-7, "{}: {worst}", path.name());
        }
    }

    crate::cpu::vectorised! {
        fn tanh_in_place(values: &mut [f32]) = tanh_in_place_body
    }
    #[inline(always)]
    fn tanh_in_place_body<const FMA: bool>(values: &mut [f32]) {
        for value in values {
            *value = tanh::<FMA>(*value);
        }
    }

    #[test]
    fn tanh_stays_within_three_ten_millionths_on_every_path() {
        for path in paths() {
            let inputs: Vec<f32> = (1..1_000_000).map(|i| -12.0 + 24.0 * (i as f32 / 1e6)).collect();
            let mut outputs = inputs.clone();
            tanh_in_place(path, &mut outputs);
            let error = |(&x, &y): (&f32, &f32)| (f64::from(y) - f64::from(x).tanh()).abs();
            let relative = |pair: (&f32, &f32)| error(pair) / f64::from(*pair.0).tanh().abs().max(1e-30);
            let worst = inputs.iter().zip(&outputs).map(relative).fold(0.0, f64::max);
            println!("tanh on {}: largest relative error {worst:.2e}", path.name());
            assert!(worst < 3e-7, "{}: {worst}", path.name());
        }
    }

    #[test]
    fn exp_keeps_zero_one_infinity_and_nan() {
        for path in paths() {
            let mut values =
                [0.0, -100.0, f32::NEG_INFINITY, 89.0, f32::INFINITY, f32::NAN, f32::MIN, f32::MAX];
            exp_in_place(path, &mut values);
            assert_eq!(values[..5], [1.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY]);
            assert!(values[5].is_nan());
            assert_eq!(values[6..], [0.0, f32::INFINITY]);
        }
    }
}
