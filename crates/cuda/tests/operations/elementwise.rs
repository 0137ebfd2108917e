//! Sums, copies, scalings, norms of whole arrays, and dropout by way of a low-rank update.

use bso_cuda::Number;
use bso_cuda::operation::{
    Dropout, add_assign, add_column_sums, add_squared_norm, convert, dropout, partial_sums, partial_totals,
    repeat_row, scale, soft_cap,
};
use bso_engine::{Array, DType, Engine, LinearGrads, LowRank};

use crate::machine::{F32, assert_close, on_every_machine, random, random_of, tolerance, zeros_of};

#[test]
fn sums_copies_scalings_and_caps() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for cols in [1, 37, 1031] {
            let (x, before) = (random(1, 3, cols), random(2, 3, cols));
            let mut want = before.clone();
            engine.add_assign(&mut want, &x).unwrap();
            engine.scale(&mut want, 3.5).unwrap();
            engine.soft_cap(&mut want, 2.0).unwrap();
            let (x, y) = (machine.array(&x), machine.array(&before));
            add_assign(machine.on(), y.view(), x.view()).unwrap();
            scale(machine.on(), y.view(), 3.5).unwrap();
            soft_cap(machine.on(), y.view(), 2.0).unwrap();
            assert_close("capped", machine, &y, want.as_slice(), F32);
            let (narrow, wide) = (machine.room(Number::Bf16, 3, cols), machine.room(Number::F32, 3, cols));
            convert(machine.on(), x.view(), narrow.view()).unwrap();
            convert(machine.on(), narrow.view(), wide.view()).unwrap();
            let rounded = random(1, 3, cols).to_dtype(DType::Bf16).unwrap();
            assert_close("rounded", machine, &wide, &rounded.to_f32_vec(), 0.0);
            assert!(add_assign(machine.on(), y.view(), narrow.view()).is_err());
        }
    });
}

#[test]
fn rounding_to_bf16_is_the_cpus_for_every_kind_of_number() {
    let kinds = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MIN_POSITIVE,
        1e-45,
        f32::MAX,
        1.003_906_2,
        1.011_718_8,
    ];
    let x = Array::from_vec(1, kinds.len(), kinds.to_vec()).unwrap();
    let want = x.to_dtype(DType::Bf16).unwrap().to_f32_vec();
    on_every_machine(|machine| {
        let (x, y) = (machine.array(&x), machine.room(Number::Bf16, 1, kinds.len()));
        convert(machine.on(), x.view(), y.view()).unwrap();
        let got: Vec<u32> = machine.values(&y).into_iter().map(|value| (value as f32).to_bits()).collect();
        assert_eq!(got, want.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
        let x = machine.floats(&[f32::NAN]);
        let y = machine.zeros(Number::Bf16, 1, 1);
        convert(machine.on(), x.view(), y.view()).unwrap();
        assert!(machine.values(&y)[0].is_nan());
    });
}

#[test]
fn a_bias_and_its_gradient() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for (dtype, (n, cols)) in
            [DType::F32, DType::Bf16].iter().flat_map(|d| [(d, (3, 5)), (d, (613, 290))])
        {
            let (row, dy) = (random(1, 1, cols), random_of(*dtype, 2, n, cols));
            let (held, y) = (machine.array(&row), machine.array(&dy));
            // A product with one input of zeros leaves the bias and its gradient.
            let (mut db, mut dw) = (random(3, 1, cols), Array::zeros(cols, 1));
            let (sum, partial) = (machine.array(&db), machine.room(Number::F32, 1, partial_sums(n, cols)));
            add_column_sums(machine.on(), y.view(), sum.view(), partial.view()).unwrap();
            let (x, w) = (zeros_of(*dtype, n, 1), Array::zeros(cols, 1));
            let w = (&w).into();
            engine
                .linear_backward(LinearGrads {
                    dy: &dy,
                    x: &x,
                    w,
                    dx: None,
                    dw: Some(&mut dw),
                    db: Some(&mut db),
                })
                .unwrap();
            assert_close("db", machine, &sum, db.as_slice(), F32);
            repeat_row(machine.on(), held.view(), y.view()).unwrap();
            let want: Vec<f32> = row.to_dtype(*dtype).unwrap().to_f32_vec().repeat(n);
            assert_close("repeated", machine, &y, &want, 0.0);
        }
    });
}

#[test]
fn squared_norms_which_are_finite_if_all_values_are() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for len in [1, 257, 40_009] {
            let mut x = random(5, 1, len);
            let room = machine.room(Number::F64, 1, partial_totals(len));
            let total = machine.zeros(Number::F64, 1, 1);
            let held = machine.array(&x);
            add_squared_norm(machine.on(), held.view(), room.view(), total.view()).unwrap();
            let want = engine.squared_norm(&[&x]).unwrap();
            assert!((machine.values(&total)[0] / want - 1.0).abs() < 1e-12);
            for (at, bad) in [(0, f32::NAN), (len / 2, f32::INFINITY), (len - 1, f32::NEG_INFINITY)] {
                let before = std::mem::replace(&mut x.as_mut_slice()[at], bad);
                let (held, total) = (machine.array(&x), machine.zeros(Number::F64, 1, 1));
                add_squared_norm(machine.on(), held.view(), room.view(), total.view()).unwrap();
                assert!(!machine.values(&total)[0].is_finite(), "{bad} at {at} of {len}");
                x.as_mut_slice()[at] = before;
            }
            x.as_mut_slice().fill(f32::MAX);
            let (held, total) = (machine.array(&x), machine.zeros(Number::F64, 1, 1));
            add_squared_norm(machine.on(), held.view(), room.view(), total.view()).unwrap();
            assert!(machine.values(&total)[0].is_finite(), "the largest numbers are no overflow");
        }
    });
}

/// The CPU's dropout is seen through a low-rank update of one row of ones: `scale * drop(x) a^T b^T`, with `a` the
/// unit rows and `b` their transpose.
#[test]
fn dropout_draws_the_masks_of_the_cpu() {
    let engine = Engine::cpu(Some(1)).unwrap();
    let (n, d) = (21, 7);
    let unit =
        Array::from_vec(d, d, (0..d * d).map(|i| f32::from(u8::from(i / d == i % d))).collect()).unwrap();
    on_every_machine(|machine| {
        for (from, to) in
            [DType::F32, DType::Bf16].into_iter().flat_map(|f| [(f, DType::F32), (f, DType::Bf16)])
        {
            for (rate, key, first_row) in [(0.25, 7, 0), (0.6, u64::MAX - 3, 1_000_003)] {
                let x = random_of(from, 1, n, d);
                let mut want = zeros_of(DType::F32, n, d);
                let update = LowRank {
                    a: (&unit).into(),
                    b: (&unit).into(),
                    scale: 1.0,
                    dropout: Some(bso_engine::Dropout { rate, key, first_row }),
                };
                engine.low_rank(&x.to_dtype(DType::F32).unwrap(), update, &mut want).unwrap();
                let before = random_of(to, 2, n, d);
                let (x, y) = (machine.array(&x), machine.array(&before));
                let dropped = Dropout { rate, key, first_row: first_row as u64 };
                dropout(machine.on(), dropped, x.view(), y.view(), false).unwrap();
                assert_close("replaced", machine, &y, want.as_slice(), tolerance(to));
                let y = machine.array(&before);
                dropout(machine.on(), dropped, x.view(), y.view(), true).unwrap();
                let sums: Vec<f32> =
                    want.as_slice().iter().zip(before.to_f32_vec()).map(|(a, b)| a + b).collect();
                assert_close("added", machine, &y, &sums, tolerance(to));
                assert!(want.as_slice().contains(&0.0), "some are dropped");
            }
        }
    });
}
