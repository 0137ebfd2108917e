//! SwiGLU and GELU, also far from zero.

use bso_cuda::operation::{Curve, gelu, gelu_backward, swiglu, swiglu_backward};
use bso_engine::{Array, DType, Engine, Gelu, GeluGrads, SwigluGrads};

use crate::machine::{assert_close, on_every_machine, random_of, tolerance, zeros_of};

/// Values in [-8, 8), and some where curves are flat.
fn inputs(dtype: DType) -> Array {
    let mut x = random_of(DType::F32, 1, 9, 131);
    x.as_mut_slice().iter_mut().for_each(|x| *x *= 8.0);
    x.as_mut_slice()[..4].copy_from_slice(&[-1e4, 1e4, -30.0, 30.0]);
    x.to_dtype(dtype).unwrap()
}

#[test]
fn swiglu_and_its_gradients() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for dtype in [DType::F32, DType::Bf16] {
            let (gate, up, dout) = (inputs(dtype), random_of(dtype, 2, 9, 131), random_of(dtype, 3, 9, 131));
            let new = || zeros_of(dtype, 9, 131);
            let (mut out, mut dgate, mut dup) = (new(), new(), new());
            engine.swiglu(&gate, &up, &mut out).unwrap();
            let (dgate_to, dup_to) = (&mut dgate, &mut dup);
            let grads = SwigluGrads { dout: &dout, gate: &gate, up: &up, dgate: dgate_to, dup: dup_to };
            engine.swiglu_backward(grads).unwrap();
            let [g, u, d] = [&gate, &up, &dout].map(|array| machine.array(array));
            let [to, to_gate, to_up] = [new(), new(), new()].map(|array| machine.array(&array));
            swiglu(machine.on(), g.view(), u.view(), to.view()).unwrap();
            swiglu_backward(machine.on(), d.view(), [g.view(), u.view()], [to_gate.view(), to_up.view()])
                .unwrap();
            // The large gates dominate the arrays: what is small is held to its own size as well.
            for (what, got, want) in [("out", &to, &out), ("dgate", &to_gate, &dgate), ("dup", &to_up, &dup)]
            {
                assert_close(what, machine, got, &want.to_f32_vec(), tolerance(dtype));
                let (got, want) = (machine.values(got), want.to_f32_vec());
                for (got, want) in got[4..].iter().zip(&want[4..]) {
                    assert!(
                        (got - f64::from(*want)).abs() <= 8.0 * tolerance(dtype),
                        "{what}: {got}, {want}"
                    );
                }
            }
        }
    });
}

#[test]
fn both_curves_of_gelu_alone_and_as_a_gate() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for (dtype, (curve, on_cpu)) in [DType::F32, DType::Bf16]
            .into_iter()
            .flat_map(|d| [(d, (Curve::Exact, Gelu::Exact)), (d, (Curve::Tanh, Gelu::Tanh))])
        {
            let (x, up, dout) = (inputs(dtype), random_of(dtype, 2, 9, 131), random_of(dtype, 3, 9, 131));
            let new = || zeros_of(dtype, 9, 131);
            for gated in [false, true] {
                let (mut out, mut dx, mut dup) = (new(), new(), new());
                engine.gelu(on_cpu, &x, gated.then_some(&up), &mut out).unwrap();
                let up_and_its = gated.then_some((&up, &mut dup));
                engine
                    .gelu_backward(on_cpu, GeluGrads { dout: &dout, x: &x, dx: &mut dx, up: up_and_its })
                    .unwrap();
                let [hx, hu, hd] = [&x, &up, &dout].map(|array| machine.array(array));
                let [to, to_x, to_up] = [new(), new(), new()].map(|array| machine.array(&array));
                gelu(machine.on(), curve, hx.view(), gated.then_some(hu.view()), to.view()).unwrap();
                let up_and_its = gated.then_some((hu.view(), to_up.view()));
                gelu_backward(machine.on(), curve, [hd.view(), hx.view()], up_and_its, to_x.view()).unwrap();
                for (what, got, want) in [("out", &to, &out), ("dx", &to_x, &dx), ("dup", &to_up, &dup)] {
                    assert_close(what, machine, got, &want.to_f32_vec(), tolerance(dtype));
                    let (got, want) = (machine.values(got), want.to_f32_vec());
                    for (got, want) in got[4..].iter().zip(&want[4..]) {
                        assert!(
                            (got - f64::from(*want)).abs() <= 8.0 * tolerance(dtype),
                            "{what}: {got}, {want}"
                        );
                    }
                }
            }
        }
    });
}
