//! RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467): each row divided by its root mean square, times a weight.
//! With a weight narrower than the rows, each run of that many values (an attention head) is normalised by itself.

use rayon::prelude::*;

use crate::array::with_values;
use crate::cpu::{mul_add, vectorised};
use crate::element::Element;
use crate::error::{expect_same_shape, expect_size};
use crate::linear::rows_per_block;
use crate::vector::{LANES, dot, sum_lanes};
use crate::{Accumulate, Array, Engine, EngineError};

/// What multiplies the normalised values: the stored numbers plus an offset. From an array: those numbers.
#[derive(Debug, Clone, Copy)]
pub struct NormWeight<'a> {
    /// `[1, d]`.
    pub values: &'a Array,
    /// Added to each stored number; 1 where a model stores its weights less one.
    pub offset: f32,
}

impl<'a> From<&'a Array> for NormWeight<'a> {
    fn from(values: &'a Array) -> Self {
        Self { values, offset: 0.0 }
    }
}

impl NormWeight<'_> {
    /// Normalised runs in `x`.
    fn runs(&self, operation: &'static str, x: &Array) -> Result<usize, EngineError> {
        let d = self.values.len();
        if d == 0 || !x.cols().is_multiple_of(d) {
            return expect_size(operation, "values of weight", x.cols(), d).map(|()| 0);
        }
        Ok(x.len() / d)
    }
}

/// Arguments of [`Engine::rms_norm_backward`].
#[derive(Debug)]
pub struct RmsNormGrads<'a> {
    /// Gradient of the output, `[n, h d]`.
    pub dy: &'a Array,
    /// The forward input, `[n, h d]`.
    pub x: &'a Array,
    /// The forward weight, `[1, d]`.
    pub weight: NormWeight<'a>,
    /// What the forward stored, `[n h]`.
    pub inv_rms: &'a Array,
    /// Gradient of the input, `[n, h d]`.
    pub dx: (&'a mut Array, Accumulate),
    /// Gradient of the weight, `[1, d]`; added to.
    pub dweight: Option<&'a mut Array>,
}

impl Engine {
    /// `y = x * inv_rms * weight` with `inv_rms = 1 / sqrt(mean(x^2) + eps)` of each run of `d` values, which is
    /// stored for the backward. `x`, `y` are `[n, h d]`, `weight` `[1, d]`, `inv_rms` `[n h]`; `h` is 1 for whole rows.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn rms_norm<'a>(
        &self,
        x: &Array,
        weight: impl Into<NormWeight<'a>>,
        eps: f32,
        y: &mut Array,
        inv_rms: &mut Array,
    ) -> Result<(), EngineError> {
        const OP: &str = "rms_norm";
        let weight = weight.into();
        expect_size(OP, "values of inv_rms", weight.runs(OP, x)?, inv_rms.len())?;
        expect_same_shape(OP, ("rows of y", "columns of y"), x, y)?;
        if x.is_empty() {
            return Ok(());
        }
        if let Some(gpu) = y.accelerator() {
            return gpu.rms_norm(x, weight, eps, y, inv_rms);
        }
        let inv_rms = inv_rms.as_mut_slice();
        with_values!(ValuesMut, y.values_mut(), |y| self.normalise(x, weight, eps, y, inv_rms));
        Ok(())
    }

    fn normalise<E: Element>(
        &self,
        x: &Array,
        weight: NormWeight<'_>,
        eps: f32,
        y: &mut [E],
        inv_rms: &mut [f32],
    ) {
        let (path, d, offset, weight) =
            (self.path(), weight.values.len(), weight.offset, weight.values.as_slice());
        let block = |((y, x), inv_rms): ((&mut [E], &[f32]), &mut [f32])| {
            normalise_rows(path, x, (weight, offset), eps, y, inv_rms);
        };
        if self.parallel(x.len()) {
            let rows = rows_per_block(inv_rms.len());
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
        let (runs, d) = (weight.runs(OP, x)?, weight.values.len());
        expect_size(OP, "values of inv_rms", runs, inv_rms.len())?;
        if let Some(dweight) = &dweight {
            expect_size(OP, "values of dweight", d, dweight.len())?;
        }
        if x.is_empty() {
            return Ok(());
        }
        if let Some(gpu) = dx.accelerator() {
            let dx = (dx, accumulate);
            return gpu.rms_norm_backward(RmsNormGrads { dy, x, weight, inv_rms, dx, dweight });
        }
        let inv_rms = inv_rms.as_slice();
        let (path, weight) = (self.path(), (weight.values.as_slice(), weight.offset));
        let rows = rows_per_block(runs);
        // One partial sum per block of rows, added up in order: the same for any number of threads.
        let mut partial = self.scratch.take(runs.div_ceil(rows) * d);
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
    fn normalise_rows[E: Element][E](x: &[f32], weight: (&[f32], f32), eps: f32, y: &mut [E], inv_rms: &mut [f32]) = normalise_rows_body
}

#[inline(always)]
fn normalise_rows_body<const FMA: bool, E: Element>(
    x: &[f32],
    (weight, offset): (&[f32], f32),
    eps: f32,
    y: &mut [E],
    inv_rms: &mut [f32],
) {
    let d = weight.len();
    for ((x, y), inv_rms) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(inv_rms) {
        let inv = 1.0 / (dot::<FMA>(x, x) / d as f32 + eps).sqrt();
        *inv_rms = inv;
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = E::from_f32(x * inv * (offset + weight));
        }
    }
}

#[derive(Clone, Copy)]
struct BackwardRows<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    /// The stored numbers and their offset.
    weight: (&'a [f32], f32),
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
    let BackwardRows { dy, x, weight: (weight, offset), inv_rms } = rows;
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
                let scaled = dy[lane] * (offset + weight[lane]);
                lanes[lane] = mul_add::<FMA>(scaled, x[lane], lanes[lane]);
            }
        }
        let mut product = sum_lanes(lanes);
        for ((dy, x), weight) in dy_rest.iter().zip(x_rest).zip(weight_rest) {
            product += dy * (offset + weight) * x;
        }
        let along = product * inv * inv / d as f32;
        let each = dy.iter().zip(x).zip(weight).zip(dx.iter_mut().zip(dweight.iter_mut()));
        for (((&dy, &x), &weight), (dx, dweight)) in each {
            let gradient = inv * (dy * (offset + weight) - x * along);
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
                let (mut y, mut inv_rms) = (Array::zeros(n, d), Array::zeros(n, 1));
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
                            weight: (&weight).into(),
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
    fn heads_are_normalised_by_themselves_and_an_offset_adds_to_the_weight() {
        let (n, heads, d) = (21, 3, 18);
        let (x, weight, dy) = (random(1, n, heads * d), random(2, 1, d), random(3, n, heads * d));
        let offset: Vec<f64> = wide(&weight).iter().map(|weight| weight + 1.0).collect();
        let (wx, wdy) = (wide(&x), wide(&dy));
        for engine in engines() {
            let weight = NormWeight { values: &weight, offset: 1.0 };
            let (mut y, mut inv_rms) = (Array::zeros(n, heads * d), Array::zeros(n, heads));
            engine.rms_norm(&x, weight, EPS, &mut y, &mut inv_rms).unwrap();
            assert_close("y", y.as_slice(), &reference(&wx, &offset), 1e-6);
            let (mut dx, mut dweight) = (Array::zeros(n, heads * d), Array::zeros(1, d));
            let (dx_to, inv_rms) = ((&mut dx, Accumulate::Overwrite), &inv_rms);
            let grads =
                RmsNormGrads { dy: &dy, x: &x, weight, inv_rms, dx: dx_to, dweight: Some(&mut dweight) };
            engine.rms_norm_backward(grads).unwrap();
            let want = numeric_gradient(&wx, |x| dot(&wdy, &reference(x, &offset)));
            assert_close("dx", dx.as_slice(), &want, 1e-5);
            let want = numeric_gradient(&offset, |weight| dot(&wdy, &reference(&wx, weight)));
            assert_close("dweight", dweight.as_slice(), &want, 1e-5);
            assert!(engine.rms_norm(&x, &Array::zeros(1, 7), EPS, &mut y, &mut Array::zeros(0, 0)).is_err());
        }
    }

    #[test]
    fn thread_counts_do_not_change_a_bit() {
        let (n, d) = (517, 129);
        let (x, weight, dy) = (random(1, n, d), random(2, 1, d), random(3, n, d));
        let run = |threads| {
            let engine = Engine::cpu(Some(threads)).unwrap();
            let (mut y, mut inv_rms) = (Array::zeros(n, d), Array::zeros(n, 1));
            engine.rms_norm(&x, &weight, EPS, &mut y, &mut inv_rms).unwrap();
            let (mut dx, mut dweight) = (Array::zeros(n, d), Array::zeros(1, d));
            let grads = RmsNormGrads {
                dy: &dy,
                x: &x,
                weight: (&weight).into(),
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
