//! Products of matrices: a linear layer's forward and its two gradients.

use bso_cuda::Number;
use bso_cuda::operation::{Factor, product};
use bso_engine::{Accumulate, Array, DType, Engine, LinearGrads, PackedWeight, Weight};

use crate::machine::{BF16, F32, assert_close, on_every_machine, random, random_of, zeros_of};

#[test]
fn a_linear_layer_forward_and_backward() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for [n, i, o] in [[1, 1, 1], [3, 7, 5], [65, 33, 70], [130, 64, 128]] {
            for (dtype, dy_dtype) in
                [(DType::F32, DType::F32), (DType::Bf16, DType::Bf16), (DType::Bf16, DType::F32)]
            {
                let (x, dy) = (random_of(dtype, 1, n, i), random_of(dy_dtype, 2, n, o));
                let w = random(3, o, i).to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
                let mut packed = PackedWeight::new(o, i, true);
                engine.pack_weight(&w, &mut packed).unwrap();
                let weight = Weight::new(&w, (dtype == DType::Bf16).then_some(&packed));
                let mut y = zeros_of(dtype, n, o);
                engine.linear(&x, weight, None, &mut y).unwrap();
                // The CPU takes the gradients of rows in f32 in f32.
                let mut dx = zeros_of(dy_dtype, n, i);
                let mut dw = random(4, o, i);
                let (hw, sum) = (machine.array(&w.to_dtype(dtype).unwrap()), machine.array(&dw));
                let dx_to = Some((&mut dx, Accumulate::Overwrite));
                let grads = LinearGrads { dy: &dy, x: &x, w: weight, dx: dx_to, dw: Some(&mut dw), db: None };
                engine.linear_backward(grads).unwrap();

                let (hx, hdy) = (machine.array(&x), machine.array(&dy));
                let [to, to_x] =
                    [&zeros_of(dtype, n, o), &zeros_of(dy_dtype, n, i)].map(|a| machine.array(a));
                product(
                    machine.on(),
                    Factor::plain(hx.view()),
                    Factor::transposed(hw.view()),
                    to.view(),
                    false,
                )
                .unwrap();
                product(
                    machine.on(),
                    Factor::plain(hdy.view()),
                    Factor::plain(hw.view()),
                    to_x.view(),
                    false,
                )
                .unwrap();
                let (dy_t, x) = (Factor::transposed(hdy.view()), Factor::plain(hx.view()));
                product(machine.on(), dy_t, x, sum.view(), true).unwrap();
                // Results in bf16 may fall on either side of a rounding; sums in f32 of rounded factors are near.
                let of = |dtype| if dtype == DType::Bf16 { BF16 } else { F32 };
                assert_close("y", machine, &to, &y.to_f32_vec(), of(dtype));
                assert_close("dx", machine, &to_x, &dx.to_f32_vec(), of(dy_dtype));
                assert_close("dw", machine, &sum, dw.as_slice(), F32);
            }
        }
        let [a, b, c] = [(); 3].map(|()| machine.array(&Array::zeros(2, 3)));
        assert!(
            product(machine.on(), Factor::plain(a.view()), Factor::plain(b.view()), c.view(), false).is_err()
        );
        let d = machine.room(Number::F64, 2, 2);
        assert!(
            product(machine.on(), Factor::plain(a.view()), Factor::transposed(b.view()), d.view(), false)
                .is_err()
        );
    });
}
