//! Matrix products: `y = x w^T + bias` with PyTorch's weight layout, and its backward.

use rayon::prelude::*;

use crate::error::{expect_same_shape, expect_size};
use crate::matmul::Operand;
use crate::{Array, Engine, EngineError};

/// Whether a result replaces what the output holds or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// Replace; what was there is not read.
    Overwrite,
    /// Add.
    Add,
}

/// Arguments of [`Engine::linear_backward`]. A gradient that is `None` is not computed.
#[derive(Debug)]
pub struct LinearGrads<'a> {
    /// Gradient of the output, `[n, o]`.
    pub dy: &'a Array,
    /// The forward input, `[n, i]`.
    pub x: &'a Array,
    /// The forward weight, `[o, i]`.
    pub w: &'a Array,
    /// Gradient of the input, `[n, i]`.
    pub dx: Option<(&'a mut Array, Accumulate)>,
    /// Gradient of the weight, `[o, i]`; added to.
    pub dw: Option<&'a mut Array>,
    /// Gradient of the bias, `[1, o]`; added to.
    pub db: Option<&'a mut Array>,
}

impl Engine {
    /// `y[n, o] = x[n, i] w[o, i]^T (+ bias[1, o])`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn linear(
        &self,
        x: &Array,
        w: &Array,
        bias: Option<&Array>,
        y: &mut Array,
    ) -> Result<(), EngineError> {
        const OP: &str = "linear";
        expect_size(OP, "columns of x (inputs of w)", w.cols(), x.cols())?;
        expect_size(OP, "rows of y", x.rows(), y.rows())?;
        expect_size(OP, "columns of y (rows of w)", w.rows(), y.cols())?;
        let mut accumulate = Accumulate::Overwrite;
        if let Some(bias) = bias {
            expect_size(OP, "values of bias", w.rows(), bias.len())?;
            for row in y.as_mut_slice().chunks_exact_mut(bias.len().max(1)) {
                row.copy_from_slice(bias.as_slice());
            }
            accumulate = Accumulate::Add;
        }
        self.matmul(x.into(), Operand::from(w).transposed(), y.as_mut_slice(), accumulate);
        Ok(())
    }

    /// `dx = dy w`, `dw += dy^T x`, `db += sum of the rows of dy`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn linear_backward(&self, grads: LinearGrads<'_>) -> Result<(), EngineError> {
        const OP: &str = "linear_backward";
        let LinearGrads { dy, x, w, dx, dw, db } = grads;
        expect_size(OP, "columns of x (inputs of w)", w.cols(), x.cols())?;
        expect_size(OP, "rows of dy", x.rows(), dy.rows())?;
        expect_size(OP, "columns of dy (rows of w)", w.rows(), dy.cols())?;
        if let Some((dx, _)) = &dx {
            expect_same_shape(OP, ("rows of dx", "columns of dx"), x, dx)?;
        }
        if let Some(dw) = &dw {
            expect_same_shape(OP, ("rows of dw", "columns of dw"), w, dw)?;
        }
        if let Some(db) = &db {
            expect_size(OP, "values of db", w.rows(), db.len())?;
        }
        if let Some((dx, accumulate)) = dx {
            self.matmul(dy.into(), w.into(), dx.as_mut_slice(), accumulate);
        }
        if let Some(dw) = dw {
            self.matmul(Operand::from(dy).transposed(), x.into(), dw.as_mut_slice(), Accumulate::Add);
        }
        if let Some(db) = db {
            self.add_sum_of_rows(dy, db.as_mut_slice());
        }
        Ok(())
    }

    /// Sums within fixed blocks of rows, then over the blocks in order: the same for any number of threads.
    fn add_sum_of_rows(&self, x: &Array, sum: &mut [f32]) {
        let (n, cols) = (x.rows(), x.cols());
        if x.is_empty() {
            return;
        }
        let rows = rows_per_block(n);
        let mut partial = self.scratch.take(n.div_ceil(rows) * cols);
        let block = |(partial, x): (&mut [f32], &[f32])| {
            partial.fill(0.0);
            for row in x.chunks_exact(cols) {
                partial.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
        };
        if self.parallel(x.len()) {
            self.install(|| {
                (partial.par_chunks_mut(cols), x.as_slice().par_chunks(rows * cols))
                    .into_par_iter()
                    .for_each(block);
            });
        } else {
            partial.chunks_mut(cols).zip(x.as_slice().chunks(rows * cols)).for_each(block);
        }
        for partial in partial.chunks_exact(cols) {
            sum.iter_mut().zip(partial).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// Rows of a block where a sum over `n` rows is split: at most 32 blocks, each of at least 16 rows.
pub(crate) fn rows_per_block(n: usize) -> usize {
    n.div_ceil(32).max(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, wide};

    fn reference(x: &[f64], w: &[f64], bias: &[f64], [n, i, o]: [usize; 3]) -> Vec<f64> {
        (0..n * o).map(|at| bias[at % o] + dot(&x[at / o * i..][..i], &w[at % o * i..][..i])).collect()
    }

    #[test]
    fn forward_and_gradients_agree_with_finite_differences() {
        for engine in engines() {
            for shape @ [n, i, o] in [[1, 1, 1], [5, 7, 11], [1, 13, 3], [34, 9, 17]] {
                let (x, w, b) = (random(1, n, i), random(2, o, i), random(3, 1, o));
                let dy = random(4, n, o);
                let mut y = Array::zeros(n, o);
                engine.linear(&x, &w, Some(&b), &mut y).unwrap();
                let (wx, ww, wb, wdy) = (wide(&x), wide(&w), wide(&b), wide(&dy));
                assert_close("y", y.as_slice(), &reference(&wx, &ww, &wb, shape), 1e-5);

                let (mut dx, mut dw, mut db) = (random(5, n, i), Array::zeros(o, i), Array::zeros(1, o));
                let before = wide(&dx);
                engine
                    .linear_backward(LinearGrads {
                        dy: &dy,
                        x: &x,
                        w: &w,
                        dx: Some((&mut dx, Accumulate::Add)),
                        dw: Some(&mut dw),
                        db: Some(&mut db),
                    })
                    .unwrap();
                let want = numeric_gradient(&wx, |x| dot(&wdy, &reference(x, &ww, &wb, shape)));
                let want: Vec<f64> = want.iter().zip(before).map(|(want, before)| want + before).collect();
                assert_close("dx", dx.as_slice(), &want, 1e-5);
                let want = numeric_gradient(&ww, |w| dot(&wdy, &reference(&wx, w, &wb, shape)));
                assert_close("dw", dw.as_slice(), &want, 1e-5);
                let want = numeric_gradient(&wb, |b| dot(&wdy, &reference(&wx, &ww, b, shape)));
                assert_close("db", db.as_slice(), &want, 1e-5);
            }
        }
    }

    #[test]
    fn large_products_agree_on_every_path_and_repeat_to_the_bit() {
        let (n, i, o) = (211, 131, 307);
        let (x, w) = (random(1, n, i), random(2, o, i));
        let want = reference(&wide(&x), &wide(&w), &vec![0.0; o], [n, i, o]);
        for engine in engines() {
            let (mut first, mut second) = (Array::zeros(n, o), Array::zeros(n, o));
            engine.linear(&x, &w, None, &mut first).unwrap();
            engine.linear(&x, &w, None, &mut second).unwrap();
            assert_close("y", first.as_slice(), &want, 1e-5);
            assert_eq!(first, second);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let error = engine.linear(&Array::zeros(2, 3), &Array::zeros(4, 5), None, &mut Array::zeros(2, 4));
        assert_eq!(error.unwrap_err().to_string(), "linear: columns of x (inputs of w) must be 5, found 3");
    }

    #[test]
    fn empty_sides_are_no_trouble() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let mut y = Array::from_vec(2, 3, vec![1.0; 6]).unwrap();
        engine.linear(&Array::zeros(2, 0), &Array::zeros(3, 0), None, &mut y).unwrap();
        assert_eq!(y.as_slice(), [0.0; 6]);
        engine.linear(&Array::zeros(0, 4), &Array::zeros(3, 4), None, &mut Array::zeros(0, 3)).unwrap();
    }
}
