//! GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415): `x` times the normal distribution function at `x`, exact or by
//! the tanh approximation; alone, or as the gate of a second input (GeGLU, Shazeer 2020, arXiv 2002.05202).

use rayon::prelude::*;

use crate::array::{Values, ValuesMut};
use crate::cpu::{mul_add, vectorised};
use crate::element::Element;
use crate::error::expect_same_shape;
use crate::vector::{erf, exp, tanh};
use crate::{Array, Engine, EngineError};

/// Which of the two curves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// `x / 2 * (1 + erf(x / sqrt(2)))`.
    Exact,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    Tanh,
}

/// Arguments of [`Engine::gelu_backward`]; all `[n, f]`.
#[derive(Debug)]
pub struct GeluGrads<'a> {
    /// Gradient of the output.
    pub dout: &'a Array,
    /// The forward input.
    pub x: &'a Array,
    /// Gradient of the input; overwritten.
    pub dx: &'a mut Array,
    /// What the curve gated in the forward, if anything, and its gradient; overwritten.
    pub up: Option<(&'a Array, &'a mut Array)>,
}

impl Engine {
    /// `out = gelu(x)`, times `up` where it is given; all `[n, f]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn gelu(
        &self,
        curve: Gelu,
        x: &Array,
        up: Option<&Array>,
        out: &mut Array,
    ) -> Result<(), EngineError> {
        const OP: &str = "gelu";
        expect_same_shape(OP, ("rows of out", "columns of out"), x, out)?;
        if let Some(up) = up {
            expect_same_shape(OP, ("rows of up", "columns of up"), x, up)?;
        }
        if let Some(gpu) = out.accelerator() {
            return gpu.gelu(curve, x, up, out);
        }
        match (x.values(), up.map(Array::values), out.values_mut()) {
            (Values::F32(x), None, ValuesMut::F32(out)) => self.gelu_of(curve, x, None, out),
            (Values::F32(x), Some(Values::F32(up)), ValuesMut::F32(out)) => {
                self.gelu_of(curve, x, Some(up), out);
            }
            (Values::Bf16(x), None, ValuesMut::Bf16(out)) => self.gelu_of(curve, x, None, out),
            (Values::Bf16(x), Some(Values::Bf16(up)), ValuesMut::Bf16(out)) => {
                self.gelu_of(curve, x, Some(up), out);
            }
            _ => return Err(EngineError::mixed(OP)),
        }
        Ok(())
    }

    fn gelu_of<E: Element>(&self, curve: Gelu, x: &[E], up: Option<&[E]>, out: &mut [E]) {
        let path = self.path();
        let block = |(index, out): (usize, &mut [E])| {
            let part = |of: &'_ [E]| index * BLOCK..of.len().min((index + 1) * BLOCK);
            forward(path, curve, &x[part(x)], up.map(|up| &up[part(up)]), out);
        };
        if self.parallel(4 * out.len()) {
            self.install(|| out.par_chunks_mut(BLOCK).enumerate().for_each(block));
        } else {
            out.chunks_mut(BLOCK).enumerate().for_each(block);
        }
    }

    /// Gradients of the input and of what it gated.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn gelu_backward(&self, curve: Gelu, grads: GeluGrads<'_>) -> Result<(), EngineError> {
        const OP: &str = "gelu_backward";
        let GeluGrads { dout, x, dx, up } = grads;
        expect_same_shape(OP, ("rows of dout", "columns of dout"), x, dout)?;
        expect_same_shape(OP, ("rows of dx", "columns of dx"), x, dx)?;
        if let Some((up, dup)) = &up {
            expect_same_shape(OP, ("rows of up", "columns of up"), x, up)?;
            expect_same_shape(OP, ("rows of dup", "columns of dup"), x, dup)?;
        }
        if let Some(gpu) = dx.accelerator() {
            return gpu.gelu_backward(curve, GeluGrads { dout, x, dx, up });
        }
        use Values::{Bf16, F32};
        let up = up.map(|(up, dup)| (up.values(), dup.values_mut()));
        match (x.values(), dout.values(), dx.values_mut(), up) {
            (F32(x), F32(dout), ValuesMut::F32(dx), None) => {
                self.gelu_backward_of(curve, [x, dout], dx, None);
            }
            (F32(x), F32(dout), ValuesMut::F32(dx), Some((F32(up), ValuesMut::F32(dup)))) => {
                self.gelu_backward_of(curve, [x, dout], dx, Some((up, dup)));
            }
            (Bf16(x), Bf16(dout), ValuesMut::Bf16(dx), None) => {
                self.gelu_backward_of(curve, [x, dout], dx, None);
            }
            (Bf16(x), Bf16(dout), ValuesMut::Bf16(dx), Some((Bf16(up), ValuesMut::Bf16(dup)))) => {
                self.gelu_backward_of(curve, [x, dout], dx, Some((up, dup)));
            }
            _ => return Err(EngineError::mixed(OP)),
        }
        Ok(())
    }

    fn gelu_backward_of<E: Element>(
        &self,
        curve: Gelu,
        [x, dout]: [&[E]; 2],
        dx: &mut [E],
        up: Option<(&[E], &mut [E])>,
    ) {
        let path = self.path();
        let parallel = self.parallel(4 * x.len());
        let read = x.par_chunks(BLOCK).zip(dout.par_chunks(BLOCK));
        let written = dx.par_chunks_mut(BLOCK);
        match up {
            None if parallel => self.install(|| {
                written.zip(read).for_each(|(dx, (x, dout))| backward(path, curve, dout, x, dx));
            }),
            None => backward(path, curve, dout, x, dx),
            Some((up, dup)) if parallel => self.install(|| {
                let up = up.par_chunks(BLOCK).zip(dup.par_chunks_mut(BLOCK));
                written.zip(read).zip(up).for_each(|((dx, (x, dout)), (up, dup))| {
                    backward_gated(path, curve, [dout, x, up], dx, dup);
                });
            }),
            Some((up, dup)) => backward_gated(path, curve, [dout, x, up], dx, dup),
        }
    }
}

/// Values that one task computes: 16 kB of each array stay in the first cache.
const BLOCK: usize = 4096;

/// The curve's value and slope at `x`.
#[inline(always)]
fn value_and_slope<const FMA: bool>(curve: Gelu, x: f32) -> (f32, f32) {
    /// `sqrt(2 / pi)`, and the factor of the cube.
    const ROOT: f32 = 0.797_884_6;
    const CUBE: f32 = 0.044_715;
    match curve {
        Gelu::Exact => {
            let share = 0.5 + 0.5 * erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2);
            let density = 0.5 * ROOT * exp::<FMA>(-0.5 * x * x);
            (x * share, mul_add::<FMA>(x, density, share))
        }
        Gelu::Tanh => {
            let square = x * x;
            let turned = tanh::<FMA>(ROOT * x * mul_add::<FMA>(CUBE, square, 1.0));
            let share = 0.5 + 0.5 * turned;
            let inner = ROOT * mul_add::<FMA>(3.0 * CUBE, square, 1.0);
            (x * share, share + 0.5 * x * (1.0 - turned * turned) * inner)
        }
    }
}

vectorised! {
    fn forward[E: Element][E](curve: Gelu, x: &[E], up: Option<&[E]>, out: &mut [E]) = forward_body
}

#[inline(always)]
fn forward_body<const FMA: bool, E: Element>(curve: Gelu, x: &[E], up: Option<&[E]>, out: &mut [E]) {
    // One loop for each curve, so that each becomes vector code.
    match curve {
        Gelu::Exact => forward_loop::<FMA, E>(Gelu::Exact, x, up, out),
        Gelu::Tanh => forward_loop::<FMA, E>(Gelu::Tanh, x, up, out),
    }
}

#[inline(always)]
fn forward_loop<const FMA: bool, E: Element>(curve: Gelu, x: &[E], up: Option<&[E]>, out: &mut [E]) {
    let value = |x: &E| value_and_slope::<FMA>(curve, x.to_f32()).0;
    match up {
        None => out.iter_mut().zip(x).for_each(|(out, x)| *out = E::from_f32(value(x))),
        Some(up) => {
            let each = out.iter_mut().zip(x).zip(up);
            each.for_each(|((out, x), up)| *out = E::from_f32(value(x) * up.to_f32()));
        }
    }
}

vectorised! {
    fn backward[E: Element][E](curve: Gelu, dout: &[E], x: &[E], dx: &mut [E]) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool, E: Element>(curve: Gelu, dout: &[E], x: &[E], dx: &mut [E]) {
    let slope = |curve, x: &E| value_and_slope::<FMA>(curve, x.to_f32()).1;
    let each = dx.iter_mut().zip(dout).zip(x);
    match curve {
        Gelu::Exact => {
            each.for_each(|((dx, dout), x)| *dx = E::from_f32(dout.to_f32() * slope(Gelu::Exact, x)))
        }
        Gelu::Tanh => {
            each.for_each(|((dx, dout), x)| *dx = E::from_f32(dout.to_f32() * slope(Gelu::Tanh, x)))
        }
    }
}

vectorised! {
    fn backward_gated[E: Element][E](curve: Gelu, read: [&[E]; 3], dx: &mut [E], dup: &mut [E]) = backward_gated_body
}

#[inline(always)]
fn backward_gated_body<const FMA: bool, E: Element>(
    curve: Gelu,
    read: [&[E]; 3],
    dx: &mut [E],
    dup: &mut [E],
) {
    match curve {
        Gelu::Exact => backward_gated_loop::<FMA, E>(Gelu::Exact, read, dx, dup),
        Gelu::Tanh => backward_gated_loop::<FMA, E>(Gelu::Tanh, read, dx, dup),
    }
}

#[inline(always)]
fn backward_gated_loop<const FMA: bool, E: Element>(
    curve: Gelu,
    [dout, x, up]: [&[E]; 3],
    dx: &mut [E],
    dup: &mut [E],
) {
    for (((dout, x), up), (dx, dup)) in dout.iter().zip(x).zip(up).zip(dx.iter_mut().zip(dup)) {
        let (dout, up) = (dout.to_f32(), up.to_f32());
        let (value, slope) = value_and_slope::<FMA>(curve, x.to_f32());
        *dup = E::from_f32(dout * value);
        *dx = E::from_f32(dout * up * slope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, rounded, wide};

    const CURVES: [Gelu; 2] = [Gelu::Exact, Gelu::Tanh];

    /// erf by its series, which converges fast where the tests look.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    fn reference(curve: Gelu, x: &[f64], up: Option<&[f64]>) -> Vec<f64> {
        let value = |x: f64| match curve {
            Gelu::Exact => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Gelu::Tanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
        };
        x.iter().enumerate().map(|(i, x)| value(*x) * up.map_or(1.0, |up| up[i])).collect()
    }

    #[test]
    fn forward_and_gradients_agree_with_finite_differences() {
        for engine in engines() {
            for (curve, (n, f)) in CURVES.into_iter().flat_map(|c| [(c, (1, 1)), (c, (5, 13)), (c, (2, 32))])
            {
                let (mut x, up, dout) = (random(1, n, f), random(2, n, f), random(3, n, f));
                engine.scale(&mut x, 4.0).unwrap();
                let (wx, wu, wd) = (wide(&x), wide(&up), wide(&dout));
                let mut out = Array::zeros(n, f);
                let (mut dx, mut dup) = (Array::zeros(n, f), Array::zeros(n, f));
                engine.gelu(curve, &x, None, &mut out).unwrap();
                assert_close("plain", out.as_slice(), &reference(curve, &wx, None), 1e-6);
                let grads = GeluGrads { dout: &dout, x: &x, dx: &mut dx, up: None };
                engine.gelu_backward(curve, grads).unwrap();
                let want = numeric_gradient(&wx, |x| dot(&wd, &reference(curve, x, None)));
                assert_close("dx", dx.as_slice(), &want, 1e-5);
                engine.gelu(curve, &x, Some(&up), &mut out).unwrap();
                assert_close("gated", out.as_slice(), &reference(curve, &wx, Some(&wu)), 1e-6);
                let grads = GeluGrads { dout: &dout, x: &x, dx: &mut dx, up: Some((&up, &mut dup)) };
                engine.gelu_backward(curve, grads).unwrap();
                let want = numeric_gradient(&wx, |x| dot(&wd, &reference(curve, x, Some(&wu))));
                assert_close("gated dx", dx.as_slice(), &want, 1e-5);
                let want = numeric_gradient(&wu, |up| dot(&wd, &reference(curve, &wx, Some(up))));
                assert_close("dup", dup.as_slice(), &want, 1e-5);
            }
        }
    }

    #[test]
    fn inputs_far_from_zero_give_finite_values_and_slopes() {
        let x = Array::from_vec(1, 4, vec![-1e4, 1e4, -30.0, 30.0]).unwrap();
        let ones = Array::from_vec(1, 4, vec![1.0; 4]).unwrap();
        for (engine, curve) in engines().iter().flat_map(|engine| CURVES.map(|curve| (engine, curve))) {
            let (mut out, mut dx) = (Array::zeros(1, 4), Array::zeros(1, 4));
            engine.gelu(curve, &x, None, &mut out).unwrap();
            engine.gelu_backward(curve, GeluGrads { dout: &ones, x: &x, dx: &mut dx, up: None }).unwrap();
            assert_eq!(dx.as_slice(), [0.0, 1.0, 0.0, 1.0]);
            assert_eq!(out.as_slice(), [0.0, 1e4, 0.0, 30.0]);
        }
    }

    #[test]
    fn bf16_is_f32_rounded_and_kinds_do_not_mix() {
        let (x, up, dout) = (random(1, 9, 31), random(2, 9, 31), random(3, 9, 31));
        let narrow = [rounded(&x), rounded(&up), rounded(&dout)];
        let exact = narrow.each_ref().map(|x| Array::from_vec(9, 31, x.to_f32_vec()).unwrap());
        for (engine, curve) in engines().iter().flat_map(|engine| CURVES.map(|curve| (engine, curve))) {
            let run = |[x, up, dout]: &[Array; 3]| {
                let new = || Array::zeros_of(x.dtype(), 9, 31).unwrap();
                let (mut plain, mut gated, mut dx, mut dgated, mut dup) = (new(), new(), new(), new(), new());
                engine.gelu(curve, x, None, &mut plain).unwrap();
                engine.gelu(curve, x, Some(up), &mut gated).unwrap();
                engine.gelu_backward(curve, GeluGrads { dout, x, dx: &mut dx, up: None }).unwrap();
                let grads = GeluGrads { dout, x, dx: &mut dgated, up: Some((up, &mut dup)) };
                engine.gelu_backward(curve, grads).unwrap();
                [plain, gated, dx, dgated, dup]
            };
            for (narrow, exact) in run(&narrow).iter().zip(run(&exact)) {
                assert_eq!(*narrow, rounded(&exact));
            }
            assert!(engine.gelu(curve, &x, Some(&narrow[1]), &mut Array::zeros(9, 31)).is_err());
        }
    }

    #[test]
    fn blocks_in_parallel_equal_one_block_to_the_bit() {
        let (x, up, dout) = (random(1, 67, 1031), random(2, 67, 1031), random(3, 67, 1031));
        let run = |threads| {
            let engine = Engine::cpu(Some(threads)).unwrap();
            let new = || Array::zeros(67, 1031);
            let (mut out, mut dx, mut dup) = (new(), new(), new());
            engine.gelu(Gelu::Tanh, &x, Some(&up), &mut out).unwrap();
            let grads = GeluGrads { dout: &dout, x: &x, dx: &mut dx, up: Some((&up, &mut dup)) };
            engine.gelu_backward(Gelu::Tanh, grads).unwrap();
            (out, dx, dup)
        };
        assert_eq!(run(1), run(2));
    }
}
