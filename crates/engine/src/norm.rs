//! Norms and finiteness of gradients, for clipping and for the check that a step is sound.

use rayon::prelude::*;

use crate::cpu::vectorised;
use crate::vector::LANES;
use crate::{Array, CpuPath, Engine, EngineError};

impl Engine {
    /// Sum of the squares of all values of all arrays, accumulated in f64 in a fixed order. It is finite if and only if
    /// all of them are: squares of f32 do not reach the end of f64.
    ///
    /// # Errors
    /// A device fails.
    pub fn squared_norm(&self, arrays: &[&Array]) -> Result<f64, EngineError> {
        if let Some(gpu) = arrays.iter().find_map(|array| array.accelerator()) {
            return gpu.squared_norm(arrays);
        }
        Ok(arrays.iter().map(|array| self.sum_of_blocks(array, sum_of_squares)).sum())
    }

    /// Whether no value is infinite or NaN.
    ///
    /// # Errors
    /// A device fails.
    pub fn all_finite(&self, array: &Array) -> Result<bool, EngineError> {
        if array.device_memory().is_some() {
            return Ok(self.squared_norm(&[array])?.is_finite());
        }
        Ok(self.sum_of_blocks(array, count_non_finite) == 0.0)
    }

    /// Sum of `of` over blocks of fixed size, in order: the same for any number of threads.
    fn sum_of_blocks(&self, array: &Array, of: impl Fn(CpuPath, &[f32]) -> f64 + Sync) -> f64 {
        let path = self.path();
        if !self.parallel(array.len()) {
            return array.as_slice().chunks(BLOCK).fold(0.0, |sum, block| sum + of(path, block));
        }
        let mut sum = 0.0;
        for wave in array.as_slice().chunks(WAVE * BLOCK) {
            let mut sums = [0.0_f64; WAVE];
            let each = sums.par_iter_mut().zip(wave.par_chunks(BLOCK));
            self.install(|| each.for_each(|(sum, block)| *sum = of(path, block)));
            sum = sums.iter().take(wave.len().div_ceil(BLOCK)).fold(sum, |sum, block| sum + block);
        }
        sum
    }
}

/// Values that one task reads.
const BLOCK: usize = 16_384;
/// Blocks whose sums are held at a time: on the stack, so that a step allocates nothing for them.
const WAVE: usize = 256;

vectorised! {
    fn sum_of_squares(values: &[f32]) -> f64 = sum_of_squares_body
}

#[inline(always)]
fn sum_of_squares_body<const FMA: bool>(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            // A square of an f32 is exact in f64.
            let value = f64::from(block[lane]);
            lanes[lane] += value * value;
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>()
}

vectorised! {
    fn count_non_finite(values: &[f32]) -> f64 = count_non_finite_body
}

#[inline(always)]
fn count_non_finite_body<const FMA: bool>(values: &[f32]) -> f64 {
    const EXPONENT: u32 = 0x7f80_0000;
    let count: u32 = values.iter().map(|value| u32::from(value.to_bits() & EXPONENT == EXPONENT)).sum();
    f64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engines, random, wide};

    #[test]
    fn the_norm_is_that_of_f64_and_does_not_overflow() {
        for engine in engines() {
            let (a, b) = (random(1, 7, 11), random(2, 300, 401));
            let want: f64 = wide(&a).iter().chain(&wide(&b)).map(|value| value * value).sum();
            assert!((engine.squared_norm(&[&a, &b]).unwrap() / want - 1.0).abs() < 1e-12);
            let huge = Array::from_vec(1, 2, vec![1e30, 1e30]).unwrap();
            assert!((engine.squared_norm(&[&huge]).unwrap() / 2e60 - 1.0).abs() < 1e-6);
            assert_eq!(engine.squared_norm(&[]).unwrap(), 0.0);
        }
    }

    #[test]
    fn one_bad_value_anywhere_is_found() {
        for engine in engines() {
            let mut array = random(3, 17, 4001);
            assert!(engine.all_finite(&array).unwrap());
            for (at, bad) in [(0, f32::NAN), (68_016, f32::INFINITY), (33_333, f32::NEG_INFINITY)] {
                let before = std::mem::replace(&mut array.as_mut_slice()[at], bad);
                assert!(!engine.all_finite(&array).unwrap(), "{bad} at {at}");
                array.as_mut_slice()[at] = before;
            }
        }
    }

    #[test]
    fn thread_counts_do_not_change_a_bit() {
        let array = random(4, 97, 1009);
        let norm = |threads| Engine::cpu(Some(threads)).unwrap().squared_norm(&[&array]).unwrap();
        assert_eq!(norm(1).to_bits(), norm(2).to_bits());
    }
}
