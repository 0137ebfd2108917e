//! Sums, copies and scalings of whole arrays.

use rayon::prelude::*;

use crate::array::with_values;
use crate::element::Element;
use crate::error::expect_same_shape;
use crate::{Array, Engine, EngineError};

impl Engine {
    /// `y += x`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add_assign(&self, y: &mut Array, x: &Array) -> Result<(), EngineError> {
        expect_same_shape("add_assign", ("rows of x", "columns of x"), y, x)?;
        if let Some(gpu) = y.accelerator() {
            return gpu.add_assign(y, x);
        }
        let parallel = self.parallel(y.len());
        let block = |(y, x): (&mut [f32], &[f32])| y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
        let (y, x) = (y.as_mut_slice(), x.as_slice());
        if parallel {
            self.install(|| y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(block));
        } else {
            block((y, x));
        }
        Ok(())
    }

    /// `y = x`, rounded where `y` is in bf16; `x` is in f32.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn copy(&self, x: &Array, y: &mut Array) -> Result<(), EngineError> {
        expect_same_shape("copy", ("rows of y", "columns of y"), x, y)?;
        if let Some(gpu) = y.accelerator() {
            return gpu.convert(x, y);
        }
        let x = x.as_slice();
        with_values!(ValuesMut, y.values_mut(), |y| {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = Element::from_f32(*x));
        });
        Ok(())
    }

    /// `x = 0`, in f32.
    ///
    /// # Errors
    /// A device fails.
    pub fn zero(&self, x: &mut Array) -> Result<(), EngineError> {
        if let Some(memory) = x.device_memory() {
            return memory.owner().clear(memory.memory());
        }
        let block = |x: &mut [f32]| x.fill(0.0);
        if self.parallel(x.len()) {
            self.install(|| x.as_mut_slice().par_chunks_mut(BLOCK).for_each(block));
        } else {
            block(x.as_mut_slice());
        }
        Ok(())
    }

    /// `x *= factor`.
    ///
    /// # Errors
    /// A device fails.
    pub fn scale(&self, x: &mut Array, factor: f32) -> Result<(), EngineError> {
        if let Some(gpu) = x.accelerator() {
            return gpu.scale(x, factor);
        }
        let block = |x: &mut [f32]| x.iter_mut().for_each(|x| *x *= factor);
        if self.parallel(x.len()) {
            self.install(|| x.as_mut_slice().par_chunks_mut(BLOCK).for_each(block));
        } else {
            block(x.as_mut_slice());
        }
        Ok(())
    }
}

/// Values that one task computes.
const BLOCK: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engines, random, rounded};

    #[test]
    fn sums_copies_and_scalings_are_those_of_each_value() {
        for engine in engines() {
            for cols in [1, 37, 40_009] {
                let (before, x) = (random(1, 2, cols), random(2, 2, cols));
                let mut y = before.clone();
                engine.add_assign(&mut y, &x).unwrap();
                engine.scale(&mut y, 0.5).unwrap();
                for ((y, before), x) in y.as_slice().iter().zip(before.as_slice()).zip(x.as_slice()) {
                    assert_eq!(*y, (before + x) * 0.5);
                }
            }
            let (x, mut y, mut narrow) = (random(3, 2, 9), random(4, 2, 9), rounded(&random(5, 2, 9)));
            engine.copy(&x, &mut y).unwrap();
            engine.copy(&x, &mut narrow).unwrap();
            assert_eq!((&y, narrow), (&x, rounded(&x)));
            assert!(engine.copy(&x, &mut Array::zeros(2, 8)).is_err());
            assert!(engine.add_assign(&mut Array::zeros(1, 2), &Array::zeros(2, 1)).is_err());
        }
    }
}
