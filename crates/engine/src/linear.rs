//! Matrix products: `y = x w^T + bias` with PyTorch's weight layout, and its backward. The input's precision decides
//! how they are computed: f32 throughout, or bf16 factors with sums in f32.

use rayon::prelude::*;

use crate::accelerator::DeviceWeight;
use crate::array::{Values, ValuesMut, with_values};
use crate::bf16_panels::Lines;
use crate::bf16_product::Right;
use crate::element::Element;
use crate::error::{expect_same_shape, expect_size};
use crate::matmul::Operand;
use crate::{Array, DType, Engine, EngineError, Weight};

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
    /// Gradient of the output, `[n, o]`, in f32 or the precision of `x`.
    pub dy: &'a Array,
    /// The forward input, `[n, i]`.
    pub x: &'a Array,
    /// The forward weight, `[o, i]`.
    pub w: Weight<'a>,
    /// Gradient of the input, `[n, i]`.
    pub dx: Option<(&'a mut Array, Accumulate)>,
    /// Gradient of the weight, `[o, i]`; added to.
    pub dw: Option<&'a mut Array>,
    /// Gradient of the bias, `[1, o]`; added to.
    pub db: Option<&'a mut Array>,
}

impl Engine {
    /// `y[n, o] = x[n, i] w[o, i]^T (+ bias[1, o])`. Where `x` is in bf16, `w` must be packed and `y` may be in either
    /// precision.
    ///
    /// # Errors
    /// Shapes that do not fit; a weight that is not packed.
    pub fn linear<'a>(
        &self,
        x: &Array,
        w: impl Into<Weight<'a>>,
        bias: Option<&Array>,
        y: &mut Array,
    ) -> Result<(), EngineError> {
        const OP: &str = "linear";
        let w: Weight<'_> = w.into();
        expect_size(OP, "columns of x (inputs of w)", w.cols(), x.cols())?;
        expect_size(OP, "rows of y", x.rows(), y.rows())?;
        expect_size(OP, "columns of y (rows of w)", w.rows(), y.cols())?;
        let mut accumulate = Accumulate::Overwrite;
        if let Some(gpu) = y.accelerator() {
            if let Some(bias) = bias {
                expect_size(OP, "values of bias", w.rows(), bias.len())?;
                gpu.repeat_row(bias, y)?;
                accumulate = Accumulate::Add;
            }
            return gpu.product((x, false), (w.on_device(OP, x.dtype())?, true), y, accumulate);
        }
        if let Some(bias) = bias {
            expect_size(OP, "values of bias", w.rows(), bias.len())?;
            with_values!(ValuesMut, y.values_mut(), |y| repeat_row(bias.as_slice(), y));
            accumulate = Accumulate::Add;
        }
        self.times_weight(OP, (x.values(), x.cols()), w, y.values_mut(), accumulate)
    }

    /// `dx = dy w`, `dw += dy^T x`, `db += sum of the rows of dy`.
    ///
    /// # Errors
    /// Shapes that do not fit; bf16 inputs with a weight that is not packed for gradients.
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
            expect_same_shape(OP, ("rows of dw", "columns of dw"), w.values(OP)?, dw)?;
        }
        if let Some(db) = &db {
            expect_size(OP, "values of db", w.rows(), db.len())?;
        }
        if let Some(gpu) = x.accelerator() {
            if let Some((dx, accumulate)) = dx {
                gpu.product((dy, false), (w.on_device(OP, x.dtype())?, false), dx, accumulate)?;
            }
            if let Some(dw) = dw {
                gpu.product((dy, true), (DeviceWeight::Whole(x), false), dw, Accumulate::Add)?;
            }
            return db.map_or(Ok(()), |db| gpu.add_sum_of_rows(dy, db));
        }
        let bf16 = x.dtype() == DType::Bf16;
        if let Some((dx, accumulate)) = dx {
            self.gradient_times_weight(OP, (dy.values(), bf16), w, dx.values_mut(), accumulate)?;
        }
        if let Some(dw) = dw {
            self.add_weight_gradient((dy.values(), dy.cols()), (x.values(), x.cols()), dw.as_mut_slice());
        }
        if let Some(db) = db {
            with_values!(Values, dy.values(), |dy_values| {
                self.add_sum_of_rows(dy_values, dy.cols(), db.as_mut_slice());
            });
        }
        Ok(())
    }

    /// `y[n, o] = x[n, i] w[o, i]^T` (or `+=`), in the precision of `x`. Shapes are the caller's to have checked.
    pub(crate) fn times_weight(
        &self,
        operation: &'static str,
        (x, cols): (Values<'_>, usize),
        w: Weight<'_>,
        y: ValuesMut<'_>,
        accumulate: Accumulate,
    ) -> Result<(), EngineError> {
        match (x, y, w) {
            (_, y, _) if cols == 0 => empty_sum(y, accumulate),
            (x, y, Weight::Quantised(w)) => {
                return self.times_quantised((x, cols), w, y, accumulate);
            }
            (Values::F32(x), ValuesMut::F32(y), w) => {
                let w = Operand::from(w.values(operation)?).transposed();
                self.matmul(Operand::rows_of(x, cols), w, y, accumulate);
            }
            (Values::F32(_), ValuesMut::Bf16(_), _) => return Err(mixed(operation)),
            (Values::Bf16(x), y, w) => {
                let right = Right::<f32>::Panels(w.packed(operation, false)?.forward(0, w.rows()));
                with_values!(ValuesMut, y, |y| self.product_bf16(Lines::rows(x, cols), right, y, accumulate));
            }
        }
        Ok(())
    }

    /// `dx[n, i] = dy[n, o] w[o, i]` (or `+=`), in products of bf16 where the forward's were.
    pub(crate) fn gradient_times_weight(
        &self,
        operation: &'static str,
        (dy, bf16): (Values<'_>, bool),
        w: Weight<'_>,
        dx: ValuesMut<'_>,
        accumulate: Accumulate,
    ) -> Result<(), EngineError> {
        let outputs = w.rows();
        if outputs == 0 {
            empty_sum(dx, accumulate);
            return Ok(());
        }
        if let Weight::Quantised(w) = w {
            return self.gradient_times_quantised((dy, bf16), w, dx, accumulate);
        }
        if bf16 {
            let right = Right::<f32>::Panels(w.packed(operation, true)?.backward(0, outputs));
            with_values!(Values, dy, |dy| {
                let left = Lines::rows(dy, outputs);
                with_values!(ValuesMut, dx, |dx| self.product_bf16(left, right, dx, accumulate));
            });
            return Ok(());
        }
        let (Values::F32(dy), ValuesMut::F32(dx)) = (dy, dx) else { return Err(mixed(operation)) };
        self.matmul(Operand::rows_of(dy, outputs), w.values(operation)?.into(), dx, accumulate);
        Ok(())
    }

    /// `dw[o, i] += dy[n, o]^T x[n, i]`, in the precision of `x`.
    pub(crate) fn add_weight_gradient(
        &self,
        (dy, outputs): (Values<'_>, usize),
        (x, inputs): (Values<'_>, usize),
        dw: &mut [f32],
    ) {
        if dw.is_empty() {
            return;
        }
        match (dy, x) {
            (Values::F32(dy), Values::F32(x)) => {
                let dy = Operand::rows_of(dy, outputs).transposed();
                self.matmul(dy, Operand::rows_of(x, inputs), dw, Accumulate::Add);
            }
            (dy, x) => with_values!(Values, dy, |dy| with_values!(Values, x, |x| {
                let right = Right::Lines(Lines::columns(x, inputs));
                self.product_bf16(Lines::columns(dy, outputs), right, dw, Accumulate::Add);
            })),
        }
    }

    /// Sums within fixed blocks of rows, then over the blocks in order: the same for any number of threads.
    fn add_sum_of_rows<E: Element>(&self, x: &[E], cols: usize, sum: &mut [f32]) {
        let n = x.len().checked_div(cols).unwrap_or(0);
        if n == 0 {
            return;
        }
        let rows = rows_per_block(n);
        let mut partial = self.scratch.take(n.div_ceil(rows) * cols);
        let block = |(partial, x): (&mut [f32], &[E])| {
            partial.fill(0.0);
            for row in x.chunks_exact(cols) {
                partial.iter_mut().zip(row).for_each(|(sum, value)| *sum += value.to_f32());
            }
        };
        if self.parallel(x.len()) {
            self.install(|| {
                (partial.par_chunks_mut(cols), x.par_chunks(rows * cols)).into_par_iter().for_each(block);
            });
        } else {
            partial.chunks_mut(cols).zip(x.chunks(rows * cols)).for_each(block);
        }
        for partial in partial.chunks_exact(cols) {
            sum.iter_mut().zip(partial).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// Rows in f32 with a result in bf16, or the reverse: no operation of a decoder asks for it.
fn mixed(operation: &'static str) -> EngineError {
    let reason = "rows in f32 have their results and gradients in f32".to_owned();
    EngineError::Invalid { operation, reason }
}

/// A product that sums over nothing.
fn empty_sum(y: ValuesMut<'_>, accumulate: Accumulate) {
    if accumulate == Accumulate::Overwrite {
        with_values!(ValuesMut, y, |y| y.fill(Element::from_f32(0.0)));
    }
}

/// Every row of `y` becomes `row`.
fn repeat_row<E: Element>(row: &[f32], y: &mut [E]) {
    for y in y.chunks_exact_mut(row.len().max(1)) {
        y.iter_mut().zip(row).for_each(|(y, value)| *y = E::from_f32(*value));
    }
}

/// Rows of a block where a sum over `n` rows is split: at most 32 blocks, each of at least 16 rows.
pub(crate) fn rows_per_block(n: usize) -> usize {
    n.div_ceil(32).max(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PackedWeight;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, rounded, wide};

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
                        w: (&w).into(),
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
    fn bf16_products_agree_with_rounded_factors_on_every_path() {
        let (n, i, o) = (150, 66, 97);
        for engine in engines() {
            let (x, w, b, dy) =
                (rounded(&random(1, n, i)), random(2, o, i), random(3, 1, o), rounded(&random(4, n, o)));
            let mut packed = PackedWeight::new(o, i, true);
            engine.pack_weight(&w, &mut packed).unwrap();
            let weight = Weight::new(&w, Some(&packed));
            let (wx, ww, wdy) = (wide(&x), wide(&rounded(&w)), wide(&dy));
            let want = reference(&wx, &ww, &wide(&b), [n, i, o]);
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::Bf16, 1.0 / 128.0)] {
                let mut y = Array::zeros_of(dtype, n, o).unwrap();
                engine.linear(&x, weight, Some(&b), &mut y).unwrap();
                assert_close("y", &y.to_f32_vec(), &want, tolerance);
                let mut dx = Array::zeros_of(dtype, n, i).unwrap();
                let (mut dw, mut db) = (Array::zeros(o, i), Array::zeros(1, o));
                let grads = LinearGrads {
                    dy: &dy,
                    x: &x,
                    w: weight,
                    dx: Some((&mut dx, Accumulate::Overwrite)),
                    dw: Some(&mut dw),
                    db: Some(&mut db),
                };
                engine.linear_backward(grads).unwrap();
                let column = |values: &[f64], cols: usize, c: usize| -> Vec<f64> {
                    values.iter().skip(c).step_by(cols).copied().collect()
                };
                let want: Vec<f64> =
                    (0..n * i).map(|at| dot(&wdy[at / i * o..][..o], &column(&ww, i, at % i))).collect();
                assert_close("dx", &dx.to_f32_vec(), &want, tolerance);
                let want: Vec<f64> =
                    (0..o * i).map(|at| dot(&column(&wdy, o, at / i), &column(&wx, i, at % i))).collect();
                assert_close("dw", dw.as_slice(), &want, 1e-6);
                let want: Vec<f64> = (0..o).map(|c| column(&wdy, o, c).iter().sum()).collect();
                assert_close("db", db.as_slice(), &want, 1e-6);
            }
            assert!(engine.linear(&x, &w, None, &mut Array::zeros(n, o)).is_err(), "not packed");
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
