//! What the operations' tests share: engines of every kind, seeded numbers, comparisons and finite differences.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Array, CpuPath, Engine};

/// The paths that this processor has.
pub(crate) fn paths() -> Vec<CpuPath> {
    CpuPath::EVERY.into_iter().filter(|path| path.is_available()).collect()
}

/// An engine per path, with two threads.
pub(crate) fn engines() -> Vec<Engine> {
    paths().into_iter().map(|path| Engine::cpu_with_path(Some(2), path).unwrap()).collect()
}

/// Values in [-1, 1).
pub(crate) fn random(seed: u64, rows: usize, cols: usize) -> Array {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let data = (0..rows * cols).map(|_| rng.random_range(-1.0_f32..1.0)).collect();
    Array::from_vec(rows, cols, data).unwrap()
}

/// The values as f64, which references compute in.
pub(crate) fn wide(array: &Array) -> Vec<f64> {
    array.to_f32_vec().into_iter().map(f64::from).collect()
}

/// The values in bf16.
pub(crate) fn rounded(array: &Array) -> Array {
    array.to_dtype(crate::DType::Bf16).unwrap()
}

/// Difference within `tolerance` of the largest wanted magnitude (at least 1).
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    let size = want.iter().fold(1.0_f64, |size, value| size.max(value.abs()));
    for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
        let difference = (f64::from(got) - want).abs();
        assert!(difference <= tolerance * size, "{what}[{index}]: {got} instead of {want}");
    }
}

/// Central differences of `f` at `x`, one value at a time.
pub(crate) fn numeric_gradient(x: &[f64], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|index| {
            let at = x[index];
            x[index] = at + step;
            let above = f(&x);
            x[index] = at - step;
            let below = f(&x);
            x[index] = at;
            (above - below) / (2.0 * step)
        })
        .collect()
}

/// Scalar product: the loss whose gradient by `b` is `a`.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
