//! Tests of `dora`: finite differences, bf16, what changes nothing, and the merged weight.

use super::*;
use crate::testing::{assert_close, dot, engines, numeric_gradient, random, wide};
use crate::{Dropout, PackedWeight};

const SCALE: f32 = 1.5;

struct Case {
    w: Array,
    bias: Array,
    a: Array,
    b: Array,
    magnitude: Array,
    norm: Array,
}

impl Case {
    fn new(engine: &Engine, [i, r, o]: [usize; 3]) -> Self {
        let (w, a, b) = (random(2, o, i), random(3, r, i), random(4, o, r));
        let mut norm = Array::zeros(1, o);
        engine.updated_row_norms(&w, (&a, &b, SCALE), &mut norm).unwrap();
        Self { w, bias: random(5, 1, o), a, b, magnitude: random(6, 1, o), norm }
    }

    fn weight<'a>(&'a self, packed: [Option<&'a PackedWeight>; 3], dropout: Option<Dropout>) -> Dora<'a> {
        let [w, a, b] = packed;
        let a = Weight::new(&self.a, a);
        let b = Weight::new(&self.b, b);
        Dora {
            w: Weight::new(&self.w, w),
            bias: Some(&self.bias),
            update: LowRank { a, b, scale: SCALE, dropout },
            lengths: RowLengths { magnitude: &self.magnitude, norm: &self.norm },
        }
    }

    /// `w (x - seen) + m / norm (w + scale b a) seen + bias` in f64.
    fn reference(&self, x: &[f64], [a, b, m]: [&[f64]; 3], mask: &[f64]) -> Vec<f64> {
        let ((o, i), r) = ((self.w.rows(), self.w.cols()), self.a.rows());
        let (w, bias, norm) = (wide(&self.w), wide(&self.bias), wide(&self.norm));
        let mut y = Vec::new();
        for (x, mask) in x.chunks(i).zip(mask.chunks(i)) {
            let seen: Vec<f64> = x.iter().zip(mask).map(|(x, m)| x * m).collect();
            let rest: Vec<f64> = x.iter().zip(&seen).map(|(x, s)| x - s).collect();
            let inner: Vec<f64> = a.chunks(i).map(|a| f64::from(SCALE) * dot(a, &seen)).collect();
            y.extend((0..o).map(|c| {
                let row = &w[c * i..][..i];
                let updated = dot(row, &seen) + dot(&b[c * r..][..r], &inner);
                dot(row, &rest) + m[c] / norm[c] * updated + bias[c]
            }));
        }
        y
    }
}

fn mask(engine: &Engine, dropout: Option<Dropout>, n: usize, i: usize) -> Vec<f64> {
    let mut mask = vec![1.0_f32; n * i];
    if let Some(dropout) = dropout {
        engine.drop_out(dropout, (&vec![1.0_f32; n * i], i), &mut mask, Mask::Replace);
    }
    mask.into_iter().map(f64::from).collect()
}

const DROPOUTS: [Option<Dropout>; 2] = [None, Some(Dropout { rate: 0.3, key: 11, first_row: 2 })];

#[test]
fn forward_and_gradients_agree_with_finite_differences() {
    for engine in engines() {
        for (n, shape @ [i, r, o]) in [(1, [1, 1, 1]), (5, [7, 2, 11]), (34, [9, 3, 17])] {
            let case = Case::new(&engine, shape);
            for dropout in DROPOUTS {
                let (x, dy, w) = (random(1, n, i), random(7, n, o), case.weight([None; 3], dropout));
                let mask = mask(&engine, dropout, n, i);
                let (wx, wa, wb, wm) = (wide(&x), wide(&case.a), wide(&case.b), wide(&case.magnitude));
                let mut y = random(8, n, o);
                engine.dora(&x, w, &mut y).unwrap();
                assert_close("y", y.as_slice(), &case.reference(&wx, [&wa, &wb, &wm], &mask), 1e-5);

                let (mut dx, mut da, mut db) = (random(9, n, i), Array::zeros(r, i), Array::zeros(o, r));
                let (before, mut dmagnitude) = (wide(&dx), Array::zeros(1, o));
                let dx_out = (&mut dx, Accumulate::Add);
                let (da_out, db_out, dmagnitude_out) = (&mut da, &mut db, &mut dmagnitude);
                engine
                    .dora_backward(DoraGrads {
                        dy: &dy,
                        x: &x,
                        w,
                        dx: dx_out,
                        da: da_out,
                        db: db_out,
                        dmagnitude: dmagnitude_out,
                    })
                    .unwrap();
                let wdy = wide(&dy);
                let loss = |x: &[f64], a: &[f64], b: &[f64], m: &[f64]| {
                    dot(&wdy, &case.reference(x, [a, b, m], &mask))
                };
                let want = numeric_gradient(&wx, |x| loss(x, &wa, &wb, &wm));
                let want: Vec<f64> = want.iter().zip(before).map(|(a, b)| a + b).collect();
                assert_close("dx", dx.as_slice(), &want, 2e-5);
                let want = numeric_gradient(&wa, |a| loss(&wx, a, &wb, &wm));
                assert_close("da", da.as_slice(), &want, 2e-5);
                let want = numeric_gradient(&wb, |b| loss(&wx, &wa, b, &wm));
                assert_close("db", db.as_slice(), &want, 2e-5);
                let want = numeric_gradient(&wm, |m| loss(&wx, &wa, &wb, m));
                assert_close("dmagnitude", dmagnitude.as_slice(), &want, 2e-5);
            }
        }
    }
}

#[test]
fn a_magnitude_of_the_rows_own_length_changes_nothing_and_set_row_norms_gives_the_merged_weight() {
    for engine in engines() {
        let mut case = Case::new(&engine, [12, 3, 20]);
        let x = random(1, 9, 12);
        let (mut y, mut merged_y) = (Array::zeros(9, 20), Array::zeros(9, 20));
        engine.dora(&x, case.weight([None; 3], None), &mut y).unwrap();
        let mut merged = case.w.clone();
        engine.add_low_rank(&case.a, &case.b, SCALE, &mut merged).unwrap();
        engine.set_row_norms(&mut merged, &case.magnitude).unwrap();
        // Magnitudes below zero turn a row round; its length is their size.
        engine.linear(&x, &merged, Some(&case.bias), &mut merged_y).unwrap();
        assert_close("merged", merged_y.as_slice(), &wide(&y), 1e-5);
        case.b.fill(0.0);
        engine.updated_row_norms(&case.w, (&case.a, &case.b, SCALE), &mut case.norm).unwrap();
        case.magnitude = case.norm.clone();
        engine.dora(&x, case.weight([None; 3], DROPOUTS[1]), &mut y).unwrap();
        engine.linear(&x, &case.w, Some(&case.bias), &mut merged_y).unwrap();
        assert_close("unchanged", y.as_slice(), &wide(&merged_y), 1e-5);
    }
}

/// A policy that starts as its reference has margin 0: dropout must not show where nothing was learned yet.
#[test]
fn before_anything_is_learned_dropout_changes_no_bit_in_bf16() {
    let (n, [i, r, o]) = (70, [66, 5, 41]);
    for engine in engines() {
        let mut case = Case::new(&engine, [i, r, o]);
        case.b.fill(0.0);
        engine.updated_row_norms(&case.w, (&case.a, &case.b, SCALE), &mut case.norm).unwrap();
        case.magnitude = case.norm.clone();
        let mut packed = [(o, i), (r, i), (o, r)].map(|(rows, cols)| PackedWeight::new(rows, cols, true));
        for (packed, values) in packed.iter_mut().zip([&case.w, &case.a, &case.b]) {
            engine.pack_weight(values, packed).unwrap();
        }
        let x = random(1, n, i).to_dtype(DType::Bf16).unwrap();
        let [without, with] = DROPOUTS.map(|dropout| {
            let mut y = Array::zeros_of(DType::Bf16, n, o).unwrap();
            engine.dora(&x, case.weight(packed.each_ref().map(Some), dropout), &mut y).unwrap();
            y
        });
        assert_eq!(with, without);
    }
}

#[test]
fn bf16_products_agree_with_f32_within_their_rounding() {
    let (n, [i, r, o]) = (70, [66, 5, 41]);
    for engine in engines() {
        let case = Case::new(&engine, [i, r, o]);
        let mut packed = [(o, i), (r, i), (o, r)].map(|(rows, cols)| PackedWeight::new(rows, cols, true));
        for (packed, values) in packed.iter_mut().zip([&case.w, &case.a, &case.b]) {
            engine.pack_weight(values, packed).unwrap();
        }
        for dropout in DROPOUTS {
            let (x, dy) = (random(1, n, i).to_dtype(DType::Bf16).unwrap(), random(7, n, o));
            let run = |x: &Array, w: Dora<'_>, dtype: DType| {
                let mut y = Array::zeros_of(dtype, n, o).unwrap();
                let mut dx = Array::zeros_of(dtype, n, i).unwrap();
                let mut trained = [Array::zeros(r, i), Array::zeros(o, r), Array::zeros(1, o)];
                engine.dora(x, w, &mut y).unwrap();
                let [da, db, dmagnitude] = &mut trained;
                let dx_out = (&mut dx, Accumulate::Overwrite);
                engine.dora_backward(DoraGrads { dy: &dy, x, w, dx: dx_out, da, db, dmagnitude }).unwrap();
                let [da, db, dmagnitude] = trained;
                [y, dx, da, db, dmagnitude].map(|array| array.to_f32_vec())
            };
            let want = run(&x.to_dtype(DType::F32).unwrap(), case.weight([None; 3], dropout), DType::F32);
            for dtype in [DType::F32, DType::Bf16] {
                let found = run(&x, case.weight(packed.each_ref().map(Some), dropout), dtype);
                for (index, (found, want)) in found.iter().zip(&want).enumerate() {
                    let want: Vec<f64> = want.iter().map(|x| f64::from(*x)).collect();
                    assert_close(["y", "dx", "da", "db", "dmagnitude"][index], found, &want, 1.0 / 64.0);
                }
            }
        }
    }
}
