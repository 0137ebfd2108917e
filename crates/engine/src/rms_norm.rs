//! RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467): each row divided by its root mean square, times a weight.

use rayon::prelude::*;

use crate::array::with_values;
use crate::cpu::{mul_add, vectorised};
use crate::element::Element;
use crate::error::{expect_same_shape, expect_size};
use crate::linear::rows_per_block;
use crate::vector::{LANES, dot, sum_lanes};
use crate::{Accumulate, Array, Engine, EngineError};

/// Arguments of [`Engine::rms_norm_backward`].
#[derive(Debug)]
pub struct RmsNormGrads<'a> {
    /// Gradient of the output, `[n, d]`.
    pub dy: &'a Array,
    /// The forward input, `[n, d]`.
    pub x: &'a Array,
    /// The forward weight, `[1, d]`.
    pub weight: &'a Array,
    /// What the forward stored, `[n]`.
    pub inv_rms: &'a [f32],
    /// Gradient of the input, `[n, d]`.
    pub dx: (&'a mut Array, Accumulate),
    /// Gradient of the weight, `[1, d]`; added to.
    pub dweight: Option<&'a mut Array>,
}

impl Engine {
    /// `y = x * inv_rms * weight` with `inv_rms = 1 / sqrt(mean(x^2) + eps)` of each row, which is stored for the
    /// backward. `x`, `y` are `[n, d]`, `weight` `[1, d]`, `inv_rms` `[n]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn rms_norm(
        &self,
        x: &Array,
        weight: &Array,
        eps: f32,
        y: &mut Array,
        inv_rms: &mut [f32],
    ) -> Result<(), EngineError> {
        const OP: &str = "rms_norm";
        expect_size(OP, "values of weight", x.cols(), weight.len())?;
        expect_same_shape(OP, ("rows of y", "columns of y"), x, y)?;
        expect_size(OP, "values of inv_rms", x.rows(), inv_rms.len())?;
        if x.is_empty() {
            return Ok(());
        }
        with_values!(ValuesMut, y.values_mut(), |y| self.normalise(x, weight.as_slice(), eps, y, inv_rms));
        Ok(())
    }

    fn normalise<E: Element>(&self, x: &Array, weight: &[f32], eps: f32, y: &mut [E], inv_rms: &mut [f32]) {
        let (path, d) = (self.path(), x.cols());
        let block = |((y, x), inv_rms): ((&mut [E], &[f32]), &mut [f32])| {
            normalise_rows(path, x, weight, eps, y, inv_rms);
        };
        if self.parallel(x.len()) {
            let rows = rows_per_block(x.rows());
            self.install(|| {
                let (y, x) = (y.par_chunks_mut(rows * d), x.as_slice().par_chunks(rows * d));
                y.zip(x).zip(inv_rms.par_chunks_mut(rows)).for_each(block);
            });
        } else {
            block(((y, x.as_slice()), inv_rms));
        }
    }

    /// `dx = inv_rms * (g - xhat * mean(g * xhat))` with `g = dy * weight`, `xhat = x * inv_rms`;
    /// `dweight += sum over rows of dy * xhat`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn rms_norm_backward(&self, grads: RmsNormGrads<'_>) -> Result<(), EngineError> {
        const OP: &str = "rms_norm_backward";
        let RmsNormGrads { dy, x, weight, inv_rms, dx: (dx, accumulate), dweight } = grads;
        expect_same_shape(OP, ("rows of dy", "columns of dy"), x, dy)?;
        expect_same_shape(OP, ("rows of dx", "columns of dx"), x, dx)?;
        expect_size(OP, "values of weight", x.cols(), weight.len())?;
        expect_size(OP, "values of inv_rms", x.rows(), inv_rms.len())?;
        if let Some(dweight) = &dweight {
            expect_size(OP, "values of dweight", x.cols(), dweight.len())?;
        }
        if x.is_empty() {
            return Ok(());
        }
        let (path, d, weight) = (self.path(), x.cols(), weight.as_slice());
        let rows = rows_per_block(x.rows());
        // One partial sum per block of rows, added up in order: the same for any number of threads.
        let mut partial = self.scratch.take(x.rows().div_ceil(rows) * d);
        let add = accumulate == Accumulate::Add;
        let block = |(((dx, dweight), (dy, x)), inv_rms): Block<'_>| {
            let rows = BackwardRows { dy, x, weight, inv_rms };
            backward_rows(path, rows, dx, add, dweight);
        };
        let (dx, dy, x) = (dx.as_mut_slice(), dy.as_slice(), x.as_slice());
        if self.parallel(x.len()) {
            self.install(|| {
                let written = dx.par_chunks_mut(rows * d).zip(partial.par_chunks_mut(d));
                let read = dy.par_chunks(rows * d).zip(x.par_chunks(rows * d));
                written.zip(read).zip(inv_rms.par_chunks(rows)).for_each(block);
            });
        } else {
            let written = dx.chunks_mut(rows * d).zip(partial.chunks_mut(d));
            let read = dy.chunks(rows * d).zip(x.chunks(rows * d));
            written.zip(read).zip(inv_rms.chunks(rows)).for_each(block);
        }
        if let Some(dweight) = dweight {
            for partial in partial.chunks_exact(d) {
                dweight.as_mut_slice().iter_mut().zip(partial).for_each(|(sum, value)| *sum += value);
            }
        }
        Ok(())
    }
}

/// `((dx, dweight of the block), (dy, x)), inv_rms` of a block of rows.
type Block<'a> = (((&'a mut [f32], &'a mut [f32]), (&'a [f32], &'a [f32])), &'a [f32]);

vectorised! {
    fn normalise_rows[E: Element][E](x: &[f32], weight: &[f32], eps: f32, y: &mut [E], inv_rms: &mut [f32]) = normalise_rows_body
}

#[inline(always)]
fn normalise_rows_body<const FMA: bool, E: Element>(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    y: &mut [E],
    inv_rms: &mut [f32],
) {
    let d = weight.len();
    for ((x, y), inv_rms) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(inv_rms) {
        let inv = 1.0 / (dot::<FMA>(x, x) / d as f32 + eps).sqrt();
        *inv_rms = inv;
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = E::from_f32(x * inv * weight);
        }
    }
}

#[derive(Clone, Copy)]
struct BackwardRows<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    weight: &'a [f32],
    inv_rms: &'a [f32],
}

vectorised! {
    fn backward_rows(rows: BackwardRows<'_>, dx: &mut [f32], add: bool, dweight: &mut [f32]) = backward_rows_body
}

#[inline(always)]
fn backward_rows_body<const FMA: bool>(
    rows: BackwardRows<'_>,
    dx: &mut [f32],
    add: bool,
    dweight: &mut [f32],
) {
    let BackwardRows { dy, x, weight, inv_rms } = rows;
    let d = weight.len();
    dweight.fill(0.0);
    let each = dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(inv_rms);
    for (((dy, x), dx), &inv) in each {
        let mut lanes = [0.0; LANES];
        let (dy_blocks, dy_rest) = dy.as_chunks::<LANES>();
        let (x_blocks, x_rest) = x.as_chunks::<LANES>();
        let (weight_blocks, weight_rest) = weight.as_chunks::<LANES>();
        for ((dy, x), weight) in dy_blocks.iter().zip(x_blocks).zip(weight_blocks) {
            for lane in 0..LANES {
                lanes[lane] = mul_add::<FMA>(dy[lane] * weight[lane], x[lane], lanes[lane]);
            }
        }
        let mut product = sum_lanes(lanes);
        for ((dy, x), weight) in dy_rest.iter().zip(x_rest).zip(weight_rest) {
            product += dy * weight * x;
        }
        let along = product * inv * inv / d as f32;
        let each = dy.iter().zip(x).zip(weight).zip(dx.iter_mut().zip(dweight.iter_mut()));
        for (((&dy, &x), &weight), (dx, dweight)) in each {
            let gradient = inv * (dy * weight - x * along);
            *dx = if add { *dx + gradient } else { gradient };
            *dweight += dy * x * inv;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, wide};

    const EPS: f32 = 1e-5;

    fn reference(x: &[f64], weight: &[f64]) -> Vec<f64> {
        let d = weight.len();
        let row = |x: &[f64]| -> Vec<f64> {
            let inv = 1.0 / (dot(x, x) / d as f64 + f64::from(EPS)).sqrt();
            x.iter().zip(weight).map(|(x, weight)| x * inv * weight).collect()
        };
        x.chunks(d).flat_map(row).collect()
    }

    #[test]
    fn forward_and_gradients_agree_with_finite_differences() {
        for engine in engines() {
            for (n, d) in [(1, 1), (3, 7), (1, 64), (37, 19)] {
                let (x, weight, dy) = (random(1, n, d), random(2, 1, d), random(3, n, d));
                let (mut y, mut inv_rms) = (Array::zeros(n, d), vec![0.0; n]);
                engine.rms_norm(&x, &weight, EPS, &mut y, &mut inv_rms).unwrap();
                let (wx, ww, wdy) = (wide(&x), wide(&weight), wide(&dy));
                assert_close("y", y.as_slice(), &reference(&wx, &ww), 1e-6);
                for accumulate in [Accumulate::Overwrite, Accumulate::Add] {
                    let (mut dx, mut dweight) = (random(4, n, d), random(5, 1, d));
                    let before = wide(&dx);
                    let before_weight = wide(&dweight);
                    engine
                        .rms_norm_backward(RmsNormGrads {
                            dy: &dy,
                            x: &x,
                            weight: &weight,
                            inv_rms: &inv_rms,
                            dx: (&mut dx, accumulate),
                            dweight: Some(&mut dweight),
                        })
                        .unwrap();
                    let mut want = numeric_gradient(&wx, |x| dot(&wdy, &reference(x, &ww)));
                    if accumulate == Accumulate::Add {
                        want.iter_mut().zip(&before).for_each(|(want, before)| *want += before);
                    }
                    assert_close("dx", dx.as_slice(), &want, 1e-5);
                    let mut want = numeric_gradient(&ww, |weight| dot(&wdy, &reference(&wx, weight)));
                    want.iter_mut().zip(&before_weight).for_each(|(want, before)| *want += before);
                    assert_close("dweight", dweight.as_slice(), &want, 1e-5);
                }
            }
        }
    }

    #[test]
    fn thread_counts_do_not_change_a_bit() {
        let (n, d) = (517, 129);
        let (x, weight, dy) = (random(1, n, d), random(2, 1, d), random(3, n, d));
        let run = |threads| {
            let engine = Engine::cpu(Some(threads)).unwrap();
            let (mut y, mut inv_rms) = (Array::zeros(n, d), vec![0.0; n]);
            engine.rms_norm(&x, &weight, EPS, &mut y, &mut inv_rms).unwrap();
            let (mut dx, mut dweight) = (Array::zeros(n, d), Array::zeros(1, d));
            let grads = RmsNormGrads {
                dy: &dy,
                x: &x,
                weight: &weight,
                inv_rms: &inv_rms,
                dx: (&mut dx, Accumulate::Overwrite),
                dweight: Some(&mut dweight),
            };
            engine.rms_norm_backward(grads).unwrap();
            (y, dx, dweight)
        };
        assert_eq!(run(1), run(3));
    }
}
