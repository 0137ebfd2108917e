//! SwiGLU (Shazeer 2020, arXiv 2002.05202): `silu(gate) * up`, the gated activation between two linear layers.

use rayon::prelude::*;

use crate::array::{Values, ValuesMut};
use crate::cpu::vectorised;
use crate::element::Element;
use crate::error::expect_same_shape;
use crate::vector::{narrow, sigmoid};
use crate::{Array, CpuPath, Engine, EngineError};

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
        if let Some(gpu) = out.accelerator() {
            return gpu.swiglu(gate, up, out);
        }
        match (gate.values(), up.values(), out.values_mut()) {
            (Values::F32(gate), Values::F32(up), ValuesMut::F32(out)) => self.gate(gate, up, out),
            (Values::Bf16(gate), Values::Bf16(up), ValuesMut::Bf16(out)) => self.gate(gate, up, out),
            _ => return Err(EngineError::mixed(OP)),
        }
        Ok(())
    }

    fn gate<E: Element>(&self, gate: &[E], up: &[E], out: &mut [E]) {
        let path = self.path();
        let block = |(out, (gate, up)): (&mut [E], (&[E], &[E]))| forward(path, gate, up, out);
        if self.parallel(2 * out.len()) {
            self.install(|| {
                let read = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK));
                out.par_chunks_mut(BLOCK).zip(read).for_each(block);
            });
        } else {
            block((out, (gate, up)));
        }
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
        if let Some(gpu) = dgate.accelerator() {
            return gpu.swiglu_backward(SwigluGrads { dout, gate, up, dgate, dup });
        }
        use Values::{Bf16, F32};
        let written = (dgate.values_mut(), dup.values_mut());
        match (gate.values(), up.values(), dout.values(), written) {
            (F32(gate), F32(up), F32(dout), (ValuesMut::F32(dgate), ValuesMut::F32(dup))) => {
                self.gate_backward([gate, up, dout], [dgate, dup]);
            }
            (Bf16(gate), Bf16(up), Bf16(dout), (ValuesMut::Bf16(dgate), ValuesMut::Bf16(dup))) => {
                self.gate_backward([gate, up, dout], [dgate, dup]);
            }
            _ => return Err(EngineError::mixed(OP)),
        }
        Ok(())
    }

    fn gate_backward<E: Element>(&self, [gate, up, dout]: [&[E]; 3], [dgate, dup]: [&mut [E]; 2]) {
        let path = self.path();
        let block = |((dgate, dup), ((gate, up), dout)): Block<'_, E>| {
            backward(path, [dout, gate, up], [dgate, dup]);
        };
        if self.parallel(2 * gate.len()) {
            self.install(|| {
                let read = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK)).zip(dout.par_chunks(BLOCK));
                let written = dgate.par_chunks_mut(BLOCK).zip(dup.par_chunks_mut(BLOCK));
                written.zip(read).for_each(block);
            });
        } else {
            block(((dgate, dup), ((gate, up), dout)));
        }
    }
}

/// Values that one task computes: 16 kB of each array stay in the first cache.
const BLOCK: usize = 4096;

/// `(dgate, dup), ((gate, up), dout)` of a block of values.
type Block<'a, E> = ((&'a mut [E], &'a mut [E]), ((&'a [E], &'a [E]), &'a [E]));

/// Values between two roundings: they stay in the first cache.
const STRETCH: usize = 256;

fn forward<E: Element>(path: CpuPath, gate: &[E], up: &[E], out: &mut [E]) {
    let mut exact = [0.0; STRETCH];
    for ((gate, up), out) in gate.chunks(STRETCH).zip(up.chunks(STRETCH)).zip(out.chunks_mut(STRETCH)) {
        let exact = &mut exact[..out.len()];
        forward_exact(path, gate, up, exact);
        narrow(path, exact, out);
    }
}

vectorised! {
    fn forward_exact[E: Element][E](gate: &[E], up: &[E], out: &mut [f32]) = forward_body
}

#[inline(always)]
fn forward_body<const FMA: bool, E: Element>(gate: &[E], up: &[E], out: &mut [f32]) {
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        let gate = gate.to_f32();
        *out = gate * sigmoid::<FMA>(gate) * up.to_f32();
    }
}

fn backward<E: Element>(path: CpuPath, [dout, gate, up]: [&[E]; 3], [dgate, dup]: [&mut [E]; 2]) {
    let (mut exact_gate, mut exact_up) = ([0.0; STRETCH], [0.0; STRETCH]);
    let read = dout.chunks(STRETCH).zip(gate.chunks(STRETCH)).zip(up.chunks(STRETCH));
    let written = dgate.chunks_mut(STRETCH).zip(dup.chunks_mut(STRETCH));
    for (((dout, gate), up), (dgate, dup)) in read.zip(written) {
        let (exact_gate, exact_up) = (&mut exact_gate[..dout.len()], &mut exact_up[..dout.len()]);
        backward_exact(path, dout, gate, up, exact_gate, exact_up);
        narrow(path, exact_gate, dgate);
        narrow(path, exact_up, dup);
    }
}

vectorised! {
    fn backward_exact[E: Element][E](dout: &[E], gate: &[E], up: &[E], dgate: &mut [f32], dup: &mut [f32]) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool, E: Element>(
    dout: &[E],
    gate: &[E],
    up: &[E],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    for (((dout, gate), up), (dgate, dup)) in dout.iter().zip(gate).zip(up).zip(dgate.iter_mut().zip(dup)) {
        let (dout, gate, up) = (dout.to_f32(), gate.to_f32(), up.to_f32());
        let sigmoid = sigmoid::<FMA>(gate);
        *dup = dout * gate * sigmoid;
        *dgate = dout * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, rounded, wide};

    fn reference(gate: &[f64], up: &[f64]) -> Vec<f64> {
        gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
    }

    #[test]
    fn forward_and_gradients_agree_with_finite_differences() {
        for engine in engines() {
            for (n, f) in [(1, 1), (5, 13), (2, 32)] {
                let (mut gate, up, dout) = (random(1, n, f), random(2, n, f), random(3, n, f));
                engine.scale(&mut gate, 8.0).unwrap();
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
    fn bf16_is_f32_rounded_and_kinds_do_not_mix() {
        let (gate, up, dout) = (random(1, 9, 31), random(2, 9, 31), random(3, 9, 31));
        let narrow = [rounded(&gate), rounded(&up), rounded(&dout)];
        let exact = narrow.each_ref().map(|x| Array::from_vec(9, 31, x.to_f32_vec()).unwrap());
        for engine in engines() {
            let run = |[gate, up, dout]: &[Array; 3]| {
                let new = || Array::zeros_of(gate.dtype(), 9, 31).unwrap();
                let (mut out, mut dgate, mut dup) = (new(), new(), new());
                engine.swiglu(gate, up, &mut out).unwrap();
                let grads = SwigluGrads { dout, gate, up, dgate: &mut dgate, dup: &mut dup };
                engine.swiglu_backward(grads).unwrap();
                [out, dgate, dup]
            };
            for (narrow, exact) in run(&narrow).iter().zip(run(&exact)) {
                assert_eq!(*narrow, rounded(&exact));
            }
            assert!(engine.swiglu(&gate, &narrow[0], &mut Array::zeros(9, 31)).is_err());
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
