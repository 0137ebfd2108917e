//! RMSNorm and LayerNorm.

use bso_cuda::Number;
use bso_cuda::operation::{
    self, LayerNormGrads, RmsNormGrads, layer_norm, layer_norm_backward, partial_sums, rms_norm,
    rms_norm_backward,
};
use bso_engine::{Accumulate, Array, DType, Engine, NormWeight};

use crate::machine::{F32, assert_close, on_every_machine, random, tolerance, zeros_of};

const EPS: f32 = 1e-5;

#[test]
fn rms_norm_of_rows_and_of_heads() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        // Rows, runs of a row, values of a run.
        for (n, h, d) in [(1, 1, 1), (3, 1, 7), (5, 3, 64), (1030, 1, 19), (11, 1, 1031)] {
            for (dtype, offset) in [(DType::F32, 0.0), (DType::Bf16, 1.0)] {
                let (x, values, dy) = (random(1, n, h * d), random(2, 1, d), random(3, n, h * d));
                let weight = NormWeight { values: &values, offset };
                let (mut y, mut inv) = (zeros_of(dtype, n, h * d), Array::zeros(n, h));
                engine.rms_norm(&x, weight, EPS, &mut y, &mut inv).unwrap();
                let (held, w) = (machine.array(&x), machine.array(&values));
                let (out, inv_rms) =
                    (machine.array(&zeros_of(dtype, n, h * d)), machine.room(Number::F32, n, h));
                let written = [out.view(), inv_rms.view()];
                rms_norm(machine.on(), held.view(), (w.view(), offset), EPS, written).unwrap();
                assert_close("y", machine, &out, &y.to_f32_vec(), tolerance(dtype));
                assert_close("inv_rms", machine, &inv_rms, inv.as_slice(), F32);
                for accumulate in [Accumulate::Overwrite, Accumulate::Add] {
                    let (mut dx, mut dweight) = (random(4, n, h * d), random(5, 1, d));
                    let (to, sum) = (machine.array(&dx), machine.array(&dweight));
                    let partial = machine.room(Number::F32, 1, partial_sums(n * h, d));
                    let held_dy = machine.array(&dy);
                    let grads = RmsNormGrads {
                        dy: held_dy.view(),
                        x: held.view(),
                        weight: (w.view(), offset),
                        inv_rms: inv_rms.view(),
                        dx: (to.view(), accumulate == Accumulate::Add),
                        dweight: Some((sum.view(), partial.view())),
                    };
                    rms_norm_backward(machine.on(), grads).unwrap();
                    let dweight_to = Some(&mut dweight);
                    let dx_to = (&mut dx, accumulate);
                    let grads = bso_engine::RmsNormGrads {
                        dy: &dy,
                        x: &x,
                        weight,
                        inv_rms: &inv,
                        dx: dx_to,
                        dweight: dweight_to,
                    };
                    engine.rms_norm_backward(grads).unwrap();
                    assert_close("dx", machine, &to, dx.as_slice(), F32);
                    assert_close("dweight", machine, &sum, dweight.as_slice(), F32);
                }
            }
        }
    });
}

#[test]
fn layer_norm_also_of_rows_far_from_zero() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for (n, d, far) in [(1, 64, 0.0), (3, 7, 0.0), (1030, 19, 0.0), (4, 1031, 10.0)] {
            for dtype in [DType::F32, DType::Bf16] {
                let shifted = random(1, n, d).as_slice().iter().map(|x| x + far).collect();
                let x = Array::from_vec(n, d, shifted).unwrap();
                let (weight, bias, dy) = (random(2, 1, d), random(3, 1, d), random(4, n, d));
                let (mut y, mut inv) = (zeros_of(dtype, n, d), Array::zeros(n, 1));
                engine.layer_norm(&x, [&weight, &bias], EPS, &mut y, &mut inv).unwrap();
                let [hx, hw, hb, hdy] = [&x, &weight, &bias, &dy].map(|array| machine.array(array));
                let (out, inv_std) = (machine.array(&zeros_of(dtype, n, d)), machine.room(Number::F32, n, 1));
                let written = [out.view(), inv_std.view()];
                layer_norm(machine.on(), hx.view(), [hw.view(), hb.view()], EPS, written).unwrap();
                // Differences of numbers near `far` lose its bits, on either side.
                let loose = F32 * (1.0 + f64::from(far));
                assert_close("y", machine, &out, &y.to_f32_vec(), tolerance(dtype).max(loose));
                assert_close("inv_std", machine, &inv_std, inv.as_slice(), F32);
                for accumulate in [Accumulate::Overwrite, Accumulate::Add] {
                    let (mut dx, mut dw, mut db) = (random(5, n, d), random(6, 1, d), random(7, 1, d));
                    let [to, sum_w, sum_b] = [&dx, &dw, &db].map(|array| machine.array(array));
                    let means = machine.room(Number::F32, n, 1);
                    let partial = machine.room(Number::F32, 1, partial_sums(n, 2 * d));
                    let grads = LayerNormGrads {
                        dy: hdy.view(),
                        x: hx.view(),
                        weight: hw.view(),
                        inv_std: inv_std.view(),
                        means: means.view(),
                        dx: (to.view(), accumulate == Accumulate::Add),
                        dweight_dbias: Some(([sum_w.view(), sum_b.view()], partial.view())),
                    };
                    layer_norm_backward(machine.on(), grads).unwrap();
                    let sums = Some([&mut dw, &mut db]);
                    let grads = bso_engine::LayerNormGrads {
                        dy: &dy,
                        x: &x,
                        weight: &weight,
                        inv_std: &inv,
                        dx: (&mut dx, accumulate),
                        dweight_dbias: sums,
                    };
                    engine.layer_norm_backward(grads).unwrap();
                    assert_close("dx", machine, &to, dx.as_slice(), loose);
                    assert_close("dweight", machine, &sum_w, dw.as_slice(), loose);
                    assert_close("dbias", machine, &sum_b, db.as_slice(), F32);
                }
            }
        }
        let (x, short) = (machine.zeros(Number::F32, 2, 6), machine.zeros(Number::F32, 1, 4));
        let (y, inv) = (machine.zeros(Number::F32, 2, 6), machine.zeros(Number::F32, 2, 1));
        let written = [y.view(), inv.view()];
        assert!(operation::rms_norm(machine.on(), x.view(), (short.view(), 0.0), EPS, written).is_err());
    });
}
