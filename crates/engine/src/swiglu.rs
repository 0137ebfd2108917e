//! SwiGLU (Shazeer 2020, arXiv 2002.05202): `silu(gate) * up`, the gated activation between two linear layers.

use rayon::prelude::*;

use crate::cpu::vectorised;
use crate::error::expect_same_shape;
use crate::vector::sigmoid;
use crate::{Array, Engine, EngineError};

/// Arguments of [`Engine::swiglu_backward`]; all `[n, f]`.
#[derive(Debug)]
pub struct SwigluGrads<'a> {
    /// Gradient of the output.
    pub dout: &'a Array,
    /// The forward gate.
    pub gate: &'a Array,
    /// The forward up.
    pub up: &'a Array,
    /// Gradient of the gate; overwritten.
    pub dgate: &'a mut Array,
    /// Gradient of the up; overwritten.
    pub dup: &'a mut Array,
}

impl Engine {
    /// `out = gate * sigmoid(gate) * up`; all `[n, f]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn swiglu(&self, gate: &Array, up: &Array, out: &mut Array) -> Result<(), EngineError> {
        const OP: &str = "swiglu";
        expect_same_shape(OP, ("rows of up", "columns of up"), gate, up)?;
        expect_same_shape(OP, ("rows of out", "columns of out"), gate, out)?;
        let path = self.path();
        let block = |(out, (gate, up)): (&mut [f32], (&[f32], &[f32]))| forward(path, gate, up, out);
        let (gate, up, out) = (gate.as_slice(), up.as_slice(), out.as_mut_slice());
        if self.parallel(2 * out.len()) {
            self.install(|| {
                let read = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK));
                out.par_chunks_mut(BLOCK).zip(read).for_each(block);
            });
        } else {
            block((out, (gate, up)));
        }
        Ok(())
    }

    /// Gradients of gate and up.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn swiglu_backward(&self, grads: SwigluGrads<'_>) -> Result<(), EngineError> {
        const OP: &str = "swiglu_backward";
        let SwigluGrads { dout, gate, up, dgate, dup } = grads;
        expect_same_shape(OP, ("rows of up", "columns of up"), gate, up)?;
        expect_same_shape(OP, ("rows of dout", "columns of dout"), gate, dout)?;
        expect_same_shape(OP, ("rows of dgate", "columns of dgate"), gate, dgate)?;
        expect_same_shape(OP, ("rows of dup", "columns of dup"), gate, dup)?;
        let path = self.path();
        let block = |((dgate, dup), ((gate, up), dout)): Block<'_>| {
            backward(path, dout, gate, up, dgate, dup);
        };
        let read = (gate.as_slice(), up.as_slice(), dout.as_slice());
        let written = (dgate.as_mut_slice(), dup.as_mut_slice());
        if self.parallel(2 * gate.len()) {
            self.install(|| {
                let read =
                    read.0.par_chunks(BLOCK).zip(read.1.par_chunks(BLOCK)).zip(read.2.par_chunks(BLOCK));
                let written = written.0.par_chunks_mut(BLOCK).zip(written.1.par_chunks_mut(BLOCK));
                written.zip(read).for_each(block);
            });
        } else {
            block((written, ((read.0, read.1), read.2)));
        }
        Ok(())
    }
}

/// Values that one task computes: 16 kB of each array stay in the first cache.
const BLOCK: usize = 4096;

/// `(dgate, dup), ((gate, up), dout)` of a block of values.
type Block<'a> = ((&'a mut [f32], &'a mut [f32]), ((&'a [f32], &'a [f32]), &'a [f32]));

vectorised! {
    fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) = forward_body
}

#[inline(always)]
fn forward_body<const FMA: bool>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((&gate, up), out) in gate.iter().zip(up).zip(out) {
        *out = gate * sigmoid::<FMA>(gate) * up;
    }
}

vectorised! {
    fn backward(dout: &[f32], gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    dout: &[f32],
    gate: &[f32],
    up: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    for (((&dout, &gate), &up), (dgate, dup)) in dout.iter().zip(gate).zip(up).zip(dgate.iter_mut().zip(dup))
    {
        let sigmoid = sigmoid::<FMA>(gate);
        *dup = dout * gate * sigmoid;
        *dgate = dout * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, wide};

    fn reference(gate: &[f64], up: &[f64]) -> Vec<f64> {
        gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
    }

    #[test]
    fn forward_and_gradients_agree_with_finite_differences() {
        for engine in engines() {
            for (n, f) in [(1, 1), (5, 13), (2, 32)] {
                let (mut gate, up, dout) = (random(1, n, f), random(2, n, f), random(3, n, f));
                engine.scale(&mut gate, 8.0);
                let mut out = Array::zeros(n, f);
                engine.swiglu(&gate, &up, &mut out).unwrap();
                let (wg, wu, wd) = (wide(&gate), wide(&up), wide(&dout));
                assert_close("out", out.as_slice(), &reference(&wg, &wu), 1e-6);
                let (mut dgate, mut dup) = (Array::zeros(n, f), Array::zeros(n, f));
                let grads =
                    SwigluGrads { dout: &dout, gate: &gate, up: &up, dgate: &mut dgate, dup: &mut dup };
                engine.swiglu_backward(grads).unwrap();
                let want = numeric_gradient(&wg, |gate| dot(&wd, &reference(gate, &wu)));
                assert_close("dgate", dgate.as_slice(), &want, 1e-5);
                let want = numeric_gradient(&wu, |up| dot(&wd, &reference(&wg, up)));
                assert_close("dup", dup.as_slice(), &want, 1e-5);
            }
        }
    }

    #[test]
    fn gates_far_from_zero_give_finite_gradients() {
        let gate = Array::from_vec(1, 4, vec![-1e4, 1e4, -100.0, 100.0]).unwrap();
        let ones = Array::from_vec(1, 4, vec![1.0; 4]).unwrap();
        for engine in engines() {
            let (mut dgate, mut dup) = (Array::zeros(1, 4), Array::zeros(1, 4));
            let grads = SwigluGrads { dout: &ones, gate: &gate, up: &ones, dgate: &mut dgate, dup: &mut dup };
            engine.swiglu_backward(grads).unwrap();
            assert_eq!(dgate.as_slice(), [0.0, 1.0, 0.0, 1.0]);
            assert_eq!(dup.as_slice()[1], 1e4);
        }
    }

    #[test]
    fn blocks_in_parallel_equal_one_block_to_the_bit() {
        let (gate, up) = (random(1, 67, 1031), random(2, 67, 1031));
        let run = |threads| {
            let mut out = Array::zeros(67, 1031);
            Engine::cpu(Some(threads)).unwrap().swiglu(&gate, &up, &mut out).unwrap();
            out
        };
        assert_eq!(run(1), run(2));
    }
}
