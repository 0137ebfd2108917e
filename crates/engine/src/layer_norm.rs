//! LayerNorm (Ba et al. 2016, arXiv 1607.06450): each row less its mean, divided by its standard deviation, times a
//! weight, plus a bias.

use rayon::prelude::*;

use crate::array::with_values;
use crate::cpu::{mul_add, vectorised};
use crate::element::Element;
use crate::error::{expect_same_shape, expect_size};
use crate::linear::rows_per_block;
use crate::vector::{LANES, sum_lanes};
use crate::{Accumulate, Array, Engine, EngineError};

/// Arguments of [`Engine::layer_norm_backward`].
#[derive(Debug)]
pub struct LayerNormGrads<'a> {
    /// Gradient of the output, `[n, d]`.
    pub dy: &'a Array,
    /// The forward input, `[n, d]`.
    pub x: &'a Array,
    /// The forward weight, `[1, d]`.
    pub weight: &'a Array,
    /// What the forward stored, `[n]`.
    pub inv_std: &'a Array,
    /// Gradient of the input, `[n, d]`.
    pub dx: (&'a mut Array, Accumulate),
    /// Gradients of weight and bias, `[1, d]` each; added to.
    pub dweight_dbias: Option<[&'a mut Array; 2]>,
}

impl Engine {
    /// `y = (x - mean) * inv_std * weight + bias` with mean and `inv_std = 1 / sqrt(variance + eps)` of each row; the
    /// latter is stored for the backward. `x`, `y` are `[n, d]`, `weight`, `bias` `[1, d]`, `inv_std` `[n]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn layer_norm(
        &self,
        x: &Array,
        [weight, bias]: [&Array; 2],
        eps: f32,
        y: &mut Array,
        inv_std: &mut Array,
    ) -> Result<(), EngineError> {
        const OP: &str = "layer_norm";
        expect_size(OP, "values of weight", x.cols(), weight.len())?;
        expect_size(OP, "values of bias", x.cols(), bias.len())?;
        expect_same_shape(OP, ("rows of y", "columns of y"), x, y)?;
        expect_size(OP, "values of inv_std", x.rows(), inv_std.len())?;
        if x.is_empty() {
            return Ok(());
        }
        if let Some(gpu) = y.accelerator() {
            return gpu.layer_norm(x, [weight, bias], eps, y, inv_std);
        }
        let inv_std = inv_std.as_mut_slice();
        let affine = [weight.as_slice(), bias.as_slice()];
        with_values!(ValuesMut, y.values_mut(), |y| self.standardise(x, affine, eps, y, inv_std));
        Ok(())
    }

    fn standardise<E: Element>(
        &self,
        x: &Array,
        affine: [&[f32]; 2],
        eps: f32,
        y: &mut [E],
        inv_std: &mut [f32],
    ) {
        let (path, d) = (self.path(), x.cols());
        let block = |((y, x), inv_std): ((&mut [E], &[f32]), &mut [f32])| {
            standardise_rows(path, x, affine, eps, y, inv_std);
        };
        if self.parallel(x.len()) {
            let rows = rows_per_block(x.rows());
            self.install(|| {
                let (y, x) = (y.par_chunks_mut(rows * d), x.as_slice().par_chunks(rows * d));
                y.zip(x).zip(inv_std.par_chunks_mut(rows)).for_each(block);
            });
        } else {
            block(((y, x.as_slice()), inv_std));
        }
    }

    /// `dx = inv_std * (g - mean(g) - xhat * mean(g * xhat))` with `g = dy * weight`, `xhat = (x - mean) * inv_std`;
    /// `dweight += sum over rows of dy * xhat`, `dbias += sum over rows of dy`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn layer_norm_backward(&self, grads: LayerNormGrads<'_>) -> Result<(), EngineError> {
        const OP: &str = "layer_norm_backward";
        let LayerNormGrads { dy, x, weight, inv_std, dx: (dx, accumulate), dweight_dbias } = grads;
        expect_same_shape(OP, ("rows of dy", "columns of dy"), x, dy)?;
        expect_same_shape(OP, ("rows of dx", "columns of dx"), x, dx)?;
        expect_size(OP, "values of weight", x.cols(), weight.len())?;
        expect_size(OP, "values of inv_std", x.rows(), inv_std.len())?;
        for sum in dweight_dbias.iter().flatten() {
            expect_size(OP, "values of dweight and dbias", x.cols(), sum.len())?;
        }
        if x.is_empty() {
            return Ok(());
        }
        if let Some(gpu) = dx.accelerator() {
            let dx = (dx, accumulate);
            return gpu.layer_norm_backward(LayerNormGrads { dy, x, weight, inv_std, dx, dweight_dbias });
        }
        let inv_std = inv_std.as_slice();
        let (path, d, weight) = (self.path(), x.cols(), weight.as_slice());
        let rows = rows_per_block(x.rows());
        // Partial sums per block of rows, added up in order: the same for any number of threads.
        let mut partial = self.scratch.take(x.rows().div_ceil(rows) * 2 * d);
        let add = accumulate == Accumulate::Add;
        let block = |(((dx, sums), (dy, x)), inv_std): Block<'_>| {
            let rows = BackwardRows { dy, x, weight, inv_std };
            backward_rows(path, rows, dx, add, sums.split_at_mut(d));
        };
        let (dx, dy, x) = (dx.as_mut_slice(), dy.as_slice(), x.as_slice());
        if self.parallel(x.len()) {
            self.install(|| {
                let written = dx.par_chunks_mut(rows * d).zip(partial.par_chunks_mut(2 * d));
                let read = dy.par_chunks(rows * d).zip(x.par_chunks(rows * d));
                written.zip(read).zip(inv_std.par_chunks(rows)).for_each(block);
            });
        } else {
            let written = dx.chunks_mut(rows * d).zip(partial.chunks_mut(2 * d));
            let read = dy.chunks(rows * d).zip(x.chunks(rows * d));
            written.zip(read).zip(inv_std.chunks(rows)).for_each(block);
        }
        if let Some(sums) = dweight_dbias {
            for (index, sum) in sums.into_iter().enumerate() {
                for partial in partial.chunks_exact(d).skip(index).step_by(2) {
                    sum.as_mut_slice().iter_mut().zip(partial).for_each(|(sum, value)| *sum += value);
                }
            }
        }
        Ok(())
    }
}

/// `((dx, dweight and dbias of the block), (dy, x)), inv_std` of a block of rows.
type Block<'a> = (((&'a mut [f32], &'a mut [f32]), (&'a [f32], &'a [f32])), &'a [f32]);

vectorised! {
    fn standardise_rows[E: Element][E](x: &[f32], affine: [&[f32]; 2], eps: f32, y: &mut [E], inv_std: &mut [f32]) = standardise_rows_body
}

#[inline(always)]
fn standardise_rows_body<const FMA: bool, E: Element>(
    x: &[f32],
    [weight, bias]: [&[f32]; 2],
    eps: f32,
    y: &mut [E],
    inv_std: &mut [f32],
) {
    let d = weight.len();
    for ((x, y), inv_std) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(inv_std) {
        let mean = mean(x);
        let variance = sum_of(d, |i| (x[i] - mean) * (x[i] - mean)) / d as f32;
        let inv = 1.0 / (variance + eps).sqrt();
        *inv_std = inv;
        for ((y, x), (weight, bias)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
            *y = E::from_f32(mul_add::<FMA>((x - mean) * inv, *weight, *bias));
        }
    }
}

#[derive(Clone, Copy)]
struct BackwardRows<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    weight: &'a [f32],
    inv_std: &'a [f32],
}

vectorised! {
    fn backward_rows(rows: BackwardRows<'_>, dx: &mut [f32], add: bool, sums: (&mut [f32], &mut [f32])) = backward_rows_body
}

#[inline(always)]
fn backward_rows_body<const FMA: bool>(
    rows: BackwardRows<'_>,
    dx: &mut [f32],
    add: bool,
    (dweight, dbias): (&mut [f32], &mut [f32]),
) {
    let BackwardRows { dy, x, weight, inv_std } = rows;
    let d = weight.len();
    dweight.fill(0.0);
    dbias.fill(0.0);
    let each = dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(inv_std);
    for (((dy, x), dx), &inv) in each {
        let mean = mean(x);
        let level = sum_of(d, |i| dy[i] * weight[i]) / d as f32;
        let along = sum_of(d, |i| dy[i] * weight[i] * (x[i] - mean)) * inv * inv / d as f32;
        let sums = dweight.iter_mut().zip(dbias.iter_mut());
        for (((&dy, &x), &weight), (dx, (dweight, dbias))) in
            dy.iter().zip(x).zip(weight).zip(dx.iter_mut().zip(sums))
        {
            let gradient = inv * (dy * weight - level - (x - mean) * along);
            *dx = if add { *dx + gradient } else { gradient };
            *dweight = mul_add::<FMA>(dy * inv, x - mean, *dweight);
            *dbias += dy;
        }
    }
}

#[inline(always)]
fn mean(x: &[f32]) -> f32 {
    sum_of(x.len(), |i| x[i]) / x.len() as f32
}

/// `f(0) + f(1) + ..`, lane by lane.
#[inline(always)]
fn sum_of(count: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let blocks = count / LANES * LANES;
    for first in (0..blocks).step_by(LANES) {
        lanes.iter_mut().enumerate().for_each(|(lane, sum)| *sum += f(first + lane));
    }
    (blocks..count).fold(sum_lanes(lanes), |sum, i| sum + f(i))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, rounded, wide};

    const EPS: f32 = 1e-5;

    fn reference(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let d = weight.len() as f64;
        let row = |x: &[f64]| -> Vec<f64> {
            let mean = x.iter().sum::<f64>() / d;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d;
            let inv = 1.0 / (variance + f64::from(EPS)).sqrt();
            x.iter().zip(weight).zip(bias).map(|((x, w), b)| (x - mean) * inv * w + b).collect()
        };
        x.chunks(weight.len()).flat_map(row).collect()
    }

    #[test]
    fn forward_and_gradients_agree_with_finite_differences() {
        for engine in engines() {
            for (n, d) in [(3, 7), (1, 64), (37, 19)] {
                let (x, weight, bias, dy) =
                    (random(1, n, d), random(2, 1, d), random(3, 1, d), random(4, n, d));
                let (mut y, mut inv_std) = (Array::zeros(n, d), Array::zeros(n, 1));
                engine.layer_norm(&x, [&weight, &bias], EPS, &mut y, &mut inv_std).unwrap();
                let (wx, ww, wb, wdy) = (wide(&x), wide(&weight), wide(&bias), wide(&dy));
                assert_close("y", y.as_slice(), &reference(&wx, &ww, &wb), 1e-6);
                let mut narrow = rounded(&y);
                engine.layer_norm(&x, [&weight, &bias], EPS, &mut narrow, &mut inv_std).unwrap();
                assert_eq!(narrow, rounded(&y));
                for accumulate in [Accumulate::Overwrite, Accumulate::Add] {
                    let (mut dx, mut dw, mut db) = (random(5, n, d), random(6, 1, d), random(7, 1, d));
                    let before = [wide(&dx), wide(&dw), wide(&db)];
                    let dx_to = (&mut dx, accumulate);
                    let grads = LayerNormGrads {
                        dy: &dy,
                        x: &x,
                        weight: &weight,
                        inv_std: &inv_std,
                        dx: dx_to,
                        dweight_dbias: Some([&mut dw, &mut db]),
                    };
                    engine.layer_norm_backward(grads).unwrap();
                    let plus = |gradient: Vec<f64>, before: &[f64]| -> Vec<f64> {
                        gradient.iter().zip(before).map(|(gradient, before)| gradient + before).collect()
                    };
                    let mut want = numeric_gradient(&wx, |x| dot(&wdy, &reference(x, &ww, &wb)));
                    if accumulate == Accumulate::Add {
                        want = plus(want, &before[0]);
                    }
                    assert_close("dx", dx.as_slice(), &want, 1e-5);
                    let want = numeric_gradient(&ww, |weight| dot(&wdy, &reference(&wx, weight, &wb)));
                    assert_close("dweight", dw.as_slice(), &plus(want, &before[1]), 1e-5);
                    let want = numeric_gradient(&wb, |bias| dot(&wdy, &reference(&wx, &ww, bias)));
                    assert_close("dbias", db.as_slice(), &plus(want, &before[2]), 1e-5);
                }
            }
        }
    }

    #[test]
    fn rows_far_from_zero_keep_their_spread() {
        for engine in engines() {
            let far: Vec<f32> = (0..33).map(|i| 1000.0 + i as f32).collect();
            let (x, ones, zeros) = (
                Array::from_vec(1, 33, far).unwrap(),
                Array::from_vec(1, 33, vec![1.0; 33]).unwrap(),
                Array::zeros(1, 33),
            );
            let mut y = Array::zeros(1, 33);
            engine.layer_norm(&x, [&ones, &zeros], EPS, &mut y, &mut Array::zeros(1, 1)).unwrap();
            assert_close("y", y.as_slice(), &reference(&wide(&x), &[1.0; 33], &[0.0; 33]), 1e-6);
        }
    }

    #[test]
    fn thread_counts_do_not_change_a_bit_and_shapes_are_checked() {
        let (n, d) = (517, 129);
        let (x, weight, bias, dy) = (random(1, n, d), random(2, 1, d), random(3, 1, d), random(4, n, d));
        let run = |threads| {
            let engine = Engine::cpu(Some(threads)).unwrap();
            let (mut y, mut inv_std) = (Array::zeros(n, d), Array::zeros(n, 1));
            engine.layer_norm(&x, [&weight, &bias], EPS, &mut y, &mut inv_std).unwrap();
            let (mut dx, mut dw, mut db) = (Array::zeros(n, d), Array::zeros(1, d), Array::zeros(1, d));
            let dx_to = (&mut dx, Accumulate::Overwrite);
            let grads = LayerNormGrads {
                dy: &dy,
                x: &x,
                weight: &weight,
                inv_std: &inv_std,
                dx: dx_to,
                dweight_dbias: Some([&mut dw, &mut db]),
            };
            engine.layer_norm_backward(grads).unwrap();
            (y, dx, dw, db)
        };
        assert_eq!(run(1), run(3));
        let engine = Engine::cpu(Some(1)).unwrap();
        let short = Array::zeros(1, d - 1);
        assert!(
            engine.layer_norm(&x, [&weight, &short], EPS, &mut dy.clone(), &mut Array::zeros(n, 1)).is_err()
        );
    }
}
