//! One pass of an optimiser over one parameter, with PyTorch's semantics. The gradient is multiplied by a factor on
//! the way in (clipping and rescaling), so that it is read once and never written.

use rayon::prelude::*;

use crate::cpu::vectorised;
use crate::error::expect_same_shape;
use crate::{Array, Engine, EngineError};

/// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) as `torch.optim.AdamW`: weight decay apart from the moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment, `[0, 1)`.
    pub beta1: f64,
    /// Decay of the second moment, `[0, 1)`.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
}

/// What AdamW reads and writes for one parameter; all of one shape.
#[derive(Debug)]
pub struct AdamWState<'a> {
    /// The parameter.
    pub parameter: &'a mut Array,
    /// Its gradient, before the factor.
    pub gradient: &'a Array,
    /// First moment, zero before the first step.
    pub first_moment: &'a mut Array,
    /// Second moment, zero before the first step.
    pub second_moment: &'a mut Array,
}

/// RMSprop as `torch.optim.RMSprop` without momentum or centring.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsProp {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the squared average; PyTorch's default is 0.99.
    pub alpha: f64,
    /// Added to the root of the squared average; PyTorch's default is 1e-8.
    pub epsilon: f64,
    /// Added to the gradient as `weight_decay * parameter`.
    pub weight_decay: f64,
}

/// Plain gradient descent as `torch.optim.SGD` without momentum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Step size.
    pub learning_rate: f64,
    /// Added to the gradient as `weight_decay * parameter`.
    pub weight_decay: f64,
}

impl Engine {
    /// One AdamW step with gradient `factor * gradient`.
    ///
    /// # Errors
    /// Shapes that do not fit; a step number of 0.
    pub fn adamw_update(&self, state: AdamWState<'_>, factor: f32, adamw: &AdamW) -> Result<(), EngineError> {
        const OP: &str = "adamw_update";
        let AdamWState { parameter, gradient, first_moment, second_moment } = state;
        expect_gradient(OP, parameter, gradient)?;
        expect_same_shape(OP, ("rows of first_moment", "columns of first_moment"), parameter, first_moment)?;
        expect_same_shape(
            OP,
            ("rows of second_moment", "columns of second_moment"),
            parameter,
            second_moment,
        )?;
        if adamw.step == 0 {
            let reason = "steps are counted from 1".to_owned();
            return Err(EngineError::Invalid { operation: OP, reason });
        }
        if let Some(gpu) = parameter.accelerator() {
            let state = AdamWState { parameter, gradient, first_moment, second_moment };
            return gpu.adamw_update(state, factor, adamw);
        }
        let numbers = AdamWNumbers::new(adamw, factor);
        let path = self.path();
        let block = |((p, g), (m, v)): AdamWBlock<'_>| {
            adamw_block(path, numbers, p, g, m, v);
        };
        let parallel = self.parallel(parameter.len());
        let (p, g) = (parameter.as_mut_slice(), gradient.as_slice());
        let (m, v) = (first_moment.as_mut_slice(), second_moment.as_mut_slice());
        if parallel {
            self.install(|| {
                let moments = m.par_chunks_mut(BLOCK).zip(v.par_chunks_mut(BLOCK));
                p.par_chunks_mut(BLOCK).zip(g.par_chunks(BLOCK)).zip(moments).for_each(block);
            });
        } else {
            block(((p, g), (m, v)));
        }
        Ok(())
    }

    /// One RMSprop step with gradient `factor * gradient`; `square_average` is zero before the first step.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn rmsprop_update(
        &self,
        parameter: &mut Array,
        gradient: &Array,
        square_average: &mut Array,
        factor: f32,
        rmsprop: &RmsProp,
    ) -> Result<(), EngineError> {
        const OP: &str = "rmsprop_update";
        expect_gradient(OP, parameter, gradient)?;
        let names = ("rows of square_average", "columns of square_average");
        expect_same_shape(OP, names, parameter, square_average)?;
        if let Some(gpu) = parameter.accelerator() {
            return gpu.rmsprop_update(parameter, gradient, square_average, factor, rmsprop);
        }
        let path = self.path();
        let block = |((p, g), s): ((&mut [f32], &[f32]), &mut [f32])| {
            rmsprop_block(path, rmsprop, factor, p, g, s);
        };
        let parallel = self.parallel(parameter.len());
        let (p, g, s) = (parameter.as_mut_slice(), gradient.as_slice(), square_average.as_mut_slice());
        if parallel {
            self.install(|| {
                let each = p.par_chunks_mut(BLOCK).zip(g.par_chunks(BLOCK));
                each.zip(s.par_chunks_mut(BLOCK)).for_each(block);
            });
        } else {
            block(((p, g), s));
        }
        Ok(())
    }

    /// One step of gradient descent with gradient `factor * gradient`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn sgd_update(
        &self,
        parameter: &mut Array,
        gradient: &Array,
        factor: f32,
        sgd: &Sgd,
    ) -> Result<(), EngineError> {
        expect_gradient("sgd_update", parameter, gradient)?;
        if let Some(gpu) = parameter.accelerator() {
            return gpu.sgd_update(parameter, gradient, factor, sgd);
        }
        let path = self.path();
        let block = |(p, g): (&mut [f32], &[f32])| sgd_block(path, sgd, factor, p, g);
        let parallel = self.parallel(parameter.len());
        let (p, g) = (parameter.as_mut_slice(), gradient.as_slice());
        if parallel {
            self.install(|| p.par_chunks_mut(BLOCK).zip(g.par_chunks(BLOCK)).for_each(block));
        } else {
            block((p, g));
        }
        Ok(())
    }
}

/// Values that one task updates.
const BLOCK: usize = 8192;

/// `(parameter, gradient), (first moment, second moment)` of a block of values.
type AdamWBlock<'a> = ((&'a mut [f32], &'a [f32]), (&'a mut [f32], &'a mut [f32]));

fn expect_gradient(operation: &'static str, parameter: &Array, gradient: &Array) -> Result<(), EngineError> {
    expect_same_shape(operation, ("rows of gradient", "columns of gradient"), parameter, gradient)
}

/// AdamW's constants as PyTorch rounds them: computed in f64, then used in f32.
#[derive(Clone, Copy)]
pub(crate) struct AdamWNumbers {
    pub factor: f32,
    pub keep: f32,
    pub first_weight: f32,
    pub beta2: f32,
    pub second_weight: f32,
    pub bias_root: f32,
    pub step_size: f32,
    pub epsilon: f32,
}

impl AdamWNumbers {
    pub(crate) fn new(adamw: &AdamW, factor: f32) -> Self {
        // Beyond 2^31 steps both corrections are 1 to the last bit.
        let step = i32::try_from(adamw.step).unwrap_or(i32::MAX);
        let bias1 = 1.0 - adamw.beta1.powi(step);
        let bias2 = 1.0 - adamw.beta2.powi(step);
        Self {
            factor,
            keep: (1.0 - adamw.learning_rate * adamw.weight_decay) as f32,
            first_weight: (1.0 - adamw.beta1) as f32,
            beta2: adamw.beta2 as f32,
            second_weight: (1.0 - adamw.beta2) as f32,
            bias_root: bias2.sqrt() as f32,
            step_size: (adamw.learning_rate / bias1) as f32,
            epsilon: adamw.epsilon as f32,
        }
    }
}

vectorised! {
    fn adamw_block(
        numbers: AdamWNumbers,
        parameter: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) = adamw_block_body
}

#[inline(always)]
fn adamw_block_body<const FMA: bool>(
    numbers: AdamWNumbers,
    parameter: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    for (((p, g), m), v) in parameter.iter_mut().zip(gradient).zip(first).zip(second) {
        let g = g * numbers.factor;
        *m += numbers.first_weight * (g - *m);
        *v = *v * numbers.beta2 + numbers.second_weight * g * g;
        let denominator = v.sqrt() / numbers.bias_root + numbers.epsilon;
        *p = *p * numbers.keep - numbers.step_size * *m / denominator;
    }
}

vectorised! {
    fn rmsprop_block(
        rmsprop: &RmsProp,
        factor: f32,
        parameter: &mut [f32],
        gradient: &[f32],
        square: &mut [f32],
    ) = rmsprop_block_body
}

#[inline(always)]
fn rmsprop_block_body<const FMA: bool>(
    rmsprop: &RmsProp,
    factor: f32,
    parameter: &mut [f32],
    gradient: &[f32],
    square: &mut [f32],
) {
    let (alpha, square_weight) = (rmsprop.alpha as f32, (1.0 - rmsprop.alpha) as f32);
    let (rate, epsilon) = (rmsprop.learning_rate as f32, rmsprop.epsilon as f32);
    let decay = rmsprop.weight_decay as f32;
    for ((p, g), s) in parameter.iter_mut().zip(gradient).zip(square) {
        let g = g * factor + decay * *p;
        *s = *s * alpha + square_weight * g * g;
        *p -= rate * g / (s.sqrt() + epsilon);
    }
}

vectorised! {
    fn sgd_block(sgd: &Sgd, factor: f32, parameter: &mut [f32], gradient: &[f32]) = sgd_block_body
}

#[inline(always)]
fn sgd_block_body<const FMA: bool>(sgd: &Sgd, factor: f32, parameter: &mut [f32], gradient: &[f32]) {
    let (rate, decay) = (sgd.learning_rate as f32, sgd.weight_decay as f32);
    for (p, g) in parameter.iter_mut().zip(gradient) {
        *p -= rate * (g * factor + decay * *p);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, engines, random, wide};

    #[test]
    fn adamw_follows_the_formula_in_f64_over_steps() {
        let hyper = AdamW {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            step: 0,
        };
        for engine in engines() {
            let mut p = random(1, 3, 7);
            let (mut m, mut v) = (Array::zeros(3, 7), Array::zeros(3, 7));
            let (mut wp, mut wm, mut wv) = (wide(&p), wide(&m), wide(&v));
            for step in 1..=5 {
                let g = random(10 + step, 3, 7);
                let state = AdamWState {
                    parameter: &mut p,
                    gradient: &g,
                    first_moment: &mut m,
                    second_moment: &mut v,
                };
                engine.adamw_update(state, 0.5, &AdamW { step, ..hyper }).unwrap();
                for (i, g) in wide(&g).iter().map(|g| g * 0.5).enumerate() {
                    wm[i] = 0.9 * wm[i] + 0.1 * g;
                    wv[i] = 0.999 * wv[i] + 0.001 * g * g;
                    let corrected = wm[i] / (1.0 - 0.9_f64.powi(step as i32));
                    let root = (wv[i] / (1.0 - 0.999_f64.powi(step as i32))).sqrt();
                    wp[i] = wp[i] * (1.0 - 0.01 * 0.1) - 0.01 * corrected / (root + 1e-8);
                }
            }
            assert_close("parameter", p.as_slice(), &wp, 1e-6);
            assert_close("second moment", v.as_slice(), &wv, 1e-6);
            let state = AdamWState {
                parameter: &mut p.clone(),
                gradient: &p,
                first_moment: &mut m,
                second_moment: &mut v,
            };
            assert!(engine.adamw_update(state, 1.0, &hyper).is_err());
        }
    }

    #[test]
    fn rmsprop_and_sgd_follow_their_formulas() {
        let rmsprop = RmsProp { learning_rate: 0.01, alpha: 0.99, epsilon: 1e-8, weight_decay: 0.01 };
        let sgd = Sgd { learning_rate: 0.1, weight_decay: 0.01 };
        for engine in engines() {
            let (mut p, mut s, mut q) = (random(1, 5, 5), Array::zeros(5, 5), random(2, 5, 5));
            let (mut wp, mut ws, mut wq) = (wide(&p), wide(&s), wide(&q));
            for step in 0..5 {
                let g = random(20 + step, 5, 5);
                engine.rmsprop_update(&mut p, &g, &mut s, 2.0, &rmsprop).unwrap();
                engine.sgd_update(&mut q, &g, 2.0, &sgd).unwrap();
                for (i, g) in wide(&g).iter().enumerate() {
                    let decayed = 2.0 * g + 0.01 * wp[i];
                    ws[i] = 0.99 * ws[i] + 0.01 * decayed * decayed;
                    wp[i] -= 0.01 * decayed / (ws[i].sqrt() + 1e-8);
                    wq[i] -= 0.1 * (2.0 * g + 0.01 * wq[i]);
                }
            }
            assert_close("rmsprop", p.as_slice(), &wp, 1e-6);
            assert_close("sgd", q.as_slice(), &wq, 1e-6);
        }
    }

    #[test]
    fn a_zero_gradient_moves_nothing_without_weight_decay() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let rmsprop = RmsProp { learning_rate: 1.0, alpha: 0.99, epsilon: 1e-8, weight_decay: 0.0 };
        let (before, zero) = (random(1, 2, 3), Array::zeros(2, 3));
        let (mut p, mut s) = (before.clone(), Array::zeros(2, 3));
        engine.rmsprop_update(&mut p, &zero, &mut s, 1.0, &rmsprop).unwrap();
        assert_eq!(p, before);
    }
}
