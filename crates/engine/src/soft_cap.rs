//! Soft capping (Gemma 2, arXiv 2408.00118): `cap * tanh(x / cap)` keeps numbers between `-cap` and `cap`. Attention
//! caps its scores and the output head its logits with these kernels, where they lie.

use rayon::prelude::*;

use crate::cpu::vectorised;
use crate::vector::tanh;
use crate::{Array, Engine, EngineError};

impl Engine {
    /// `x = cap * tanh(x / cap)`.
    ///
    /// # Errors
    /// A device fails.
    pub fn soft_cap(&self, x: &mut Array, cap: f32) -> Result<(), EngineError> {
        if let Some(gpu) = x.accelerator() {
            return gpu.soft_cap(x, cap);
        }
        let path = self.path();
        if self.parallel(4 * x.len()) {
            self.install(|| x.as_mut_slice().par_chunks_mut(BLOCK).for_each(|x| cap_in_place(path, x, cap)));
        } else {
            cap_in_place(path, x.as_mut_slice(), cap);
        }
        Ok(())
    }
}

/// Values that one task computes.
const BLOCK: usize = 4096;

vectorised! {
    /// `values = cap * tanh(values / cap)`.
    pub(crate) fn cap_in_place(values: &mut [f32], cap: f32) = cap_in_place_body
}

#[inline(always)]
fn cap_in_place_body<const FMA: bool>(values: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    for value in values {
        *value = cap * tanh::<FMA>(*value * inverse);
    }
}

/// The derivative, from the capped value and `1 / cap`.
#[inline(always)]
pub(crate) fn cap_slope(capped: f32, inverse_cap: f32) -> f32 {
    let share = capped * inverse_cap;
    1.0 - share * share
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, engines, numeric_gradient, random, wide};

    #[test]
    fn values_and_slopes_agree_with_tanh_and_its_differences() {
        for engine in engines() {
            for (cap, size) in [(0.5, 7), (2.0, 33), (50.0, 9001)] {
                let mut x = random(1, 3, size);
                engine.scale(&mut x, 3.0).unwrap();
                let before = wide(&x);
                engine.soft_cap(&mut x, cap).unwrap();
                let capped = |x: f64| f64::from(cap) * (x / f64::from(cap)).tanh();
                let want: Vec<f64> = before.iter().map(|x| capped(*x)).collect();
                assert_close("capped", x.as_slice(), &want, 2e-7);
                let slopes: Vec<f32> = x.as_slice().iter().map(|y| cap_slope(*y, 1.0 / cap)).collect();
                let few = &before[..20];
                let want = numeric_gradient(few, |x| x.iter().map(|x| capped(*x)).sum());
                assert_close("slope", &slopes[..20], &want, 1e-6);
            }
        }
    }

    #[test]
    fn infinities_are_capped_and_nan_stays() {
        for engine in engines() {
            let values = vec![f32::INFINITY, f32::NEG_INFINITY, 1e30, f32::NAN, 0.0];
            let mut x = Array::from_vec(1, 5, values).unwrap();
            engine.soft_cap(&mut x, 3.0).unwrap();
            assert_eq!(x.as_slice()[..3], [3.0, -3.0, 3.0]);
            assert!(x.as_slice()[3].is_nan() && x.as_slice()[4] == 0.0);
        }
    }
}
