//! The product with a low-rank update of a weight (LoRA, Hu et al. 2021, arXiv 2106.09685, eq. 3), added to what the
//! weight itself gave: `y += scale (drop(x) a^T) b^T`, and its backward. The update `b a` is never formed.

use crate::accelerator::DeviceLowRank;
use crate::array::{Values, ValuesMut, with_values};
use crate::dropout::{Dropout, Mask};
use crate::element::Element;
use crate::error::{expect_product, expect_same_shape, expect_size};
use crate::matmul::Operand;
use crate::scratch::Scratch;
use crate::{Accumulate, Array, DType, Engine, EngineError, Weight};

/// A low-rank update of a weight `[o, i]`.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// `[r, i]`.
    pub a: Weight<'a>,
    /// `[o, r]`.
    pub b: Weight<'a>,
    /// Factor of the update.
    pub scale: f32,
    /// On its input, in training.
    pub dropout: Option<Dropout>,
}

/// Arguments of [`Engine::low_rank_backward`].
#[derive(Debug)]
pub struct LowRankGrads<'a> {
    /// Gradient of the output, `[n, o]`, in f32 or the precision of `x`.
    pub dy: &'a Array,
    /// The forward input, `[n, i]`.
    pub x: &'a Array,
    /// The forward's update, dropout included.
    pub w: LowRank<'a>,
    /// Gradient of the input, `[n, i]`; added to.
    pub dx: &'a mut Array,
    /// Gradient of `a`; added to.
    pub da: &'a mut Array,
    /// Gradient of `b`; added to.
    pub db: &'a mut Array,
}

impl Engine {
    /// `y[n, o] += scale (drop(x[n, i]) a[r, i]^T) b[o, r]^T`. Where `x` is in bf16, `a` and `b` must be packed and `y` may be
    /// in either precision.
    ///
    /// # Errors
    /// Shapes that do not fit; a weight that is not packed.
    pub fn low_rank(&self, x: &Array, w: LowRank<'_>, y: &mut Array) -> Result<(), EngineError> {
        const OP: &str = "low_rank";
        w.check(OP, x, y)?;
        if let Some(gpu) = y.accelerator() {
            return gpu.low_rank(x, w.on_device(OP, x.dtype())?, y);
        }
        let mut room = Numbers::of_dropout(self, x, w.dropout);
        let seen = self.seen(x, w.dropout, &mut room);
        let inner = self.inner(OP, (seen, x), w)?;
        self.times_weight(OP, (inner.values(), w.rank()), w.b, y.values_mut(), Accumulate::Add)
    }

    /// `db += dy^T z`, `da += dz^T drop(x)` and `dx += drop'(dz a)`, with `z = scale drop(x) a^T` and
    /// `dz = scale dy b`.
    ///
    /// # Errors
    /// Shapes that do not fit; bf16 inputs with a weight that is not packed for gradients.
    pub fn low_rank_backward(&self, grads: LowRankGrads<'_>) -> Result<(), EngineError> {
        const OP: &str = "low_rank_backward";
        let LowRankGrads { dy, x, w, dx, da, db } = grads;
        w.check(OP, x, dy)?;
        expect_same_shape(OP, ("rows of dx", "columns of dx"), x, dx)?;
        if let Some(gpu) = dx.accelerator() {
            let w = w.on_device(OP, x.dtype())?;
            expect_same_shape(OP, ("rows of da", "columns of da"), w.a, da)?;
            expect_same_shape(OP, ("rows of db", "columns of db"), w.b, db)?;
            return gpu.low_rank_backward([dy, x], w, [dx, da, db]);
        }
        let bf16 = x.dtype() == DType::Bf16;
        let mut room = Numbers::of_dropout(self, x, w.dropout);
        let seen = self.seen(x, w.dropout, &mut room);
        let inner = self.inner(OP, (seen, x), w)?;
        let dinner = self.low_rank_grads(OP, (seen, x), (dy.values(), inner), w, (da, db))?;
        let Some(dropout) = w.dropout else {
            let dinner = (dinner.values(), bf16);
            return self.gradient_times_weight(OP, dinner, w.a, dx.values_mut(), Accumulate::Add);
        };
        let mut dseen = self.scratch.take(x.len());
        let dseen_values = ValuesMut::F32(&mut dseen);
        let overwrite = Accumulate::Overwrite;
        self.gradient_times_weight(OP, (dinner.values(), bf16), w.a, dseen_values, overwrite)?;
        let cols = x.cols();
        with_values!(ValuesMut, dx.values_mut(), |dx| self.drop_out(dropout, (&dseen, cols), dx, Mask::Add));
        Ok(())
    }

    /// Adds the gradients of `a` and `b`; gives that of the inner product, in the memory of `inner`.
    pub(crate) fn low_rank_grads<'a>(
        &self,
        operation: &'static str,
        (seen, x): (Values<'_>, &Array),
        (dy, inner): (Values<'_>, Numbers<'a>),
        w: LowRank<'_>,
        (da, db): (&mut Array, &mut Array),
    ) -> Result<Numbers<'a>, EngineError> {
        let (bf16, rank, outputs) = (x.dtype() == DType::Bf16, w.rank(), w.b.rows());
        expect_same_shape(operation, ("rows of da", "columns of da"), w.a.values(operation)?, da)?;
        expect_same_shape(operation, ("rows of db", "columns of db"), w.b.values(operation)?, db)?;
        self.add_weight_gradient((dy, outputs), (inner.values(), rank), db.as_mut_slice());
        let mut dinner = inner;
        let overwrite = Accumulate::Overwrite;
        self.gradient_times_weight(operation, (dy, bf16), w.b, dinner.values_mut(), overwrite)?;
        dinner.scale(w.scale);
        self.add_weight_gradient((dinner.values(), rank), (seen, x.cols()), da.as_mut_slice());
        Ok(dinner)
    }

    /// `w[o, i] += scale b[o, r] a[r, i]`: the update itself, once and for all.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add_low_rank(&self, a: &Array, b: &Array, scale: f32, w: &mut Array) -> Result<(), EngineError> {
        const OP: &str = "add_low_rank";
        expect_size(OP, "columns of b (rows of a)", a.rows(), b.cols())?;
        expect_size(OP, "rows of w", b.rows(), w.rows())?;
        expect_size(OP, "columns of w", a.cols(), w.cols())?;
        let mut scaled = self.scratch.take(b.len());
        scaled.iter_mut().zip(b.as_slice()).for_each(|(scaled, b)| *scaled = scale * b);
        let b = Operand::rows_of(&scaled, b.cols());
        self.matmul(b, a.into(), w.as_mut_slice(), Accumulate::Add);
        Ok(())
    }

    /// The input after dropout, in `room` where there is any.
    pub(crate) fn seen<'a>(
        &self,
        x: &'a Array,
        dropout: Option<Dropout>,
        room: &'a mut Numbers<'_>,
    ) -> Values<'a> {
        let Some(dropout) = dropout else { return x.values() };
        with_values!(Values, x.values(), |x_values| {
            with_values!(ValuesMut, room.values_mut(), |room| {
                self.drop_out(dropout, (x_values, x.cols()), room, Mask::Replace);
            });
        });
        room.values()
    }

    /// `scale seen a^T`, in the precision of `x`.
    pub(crate) fn inner(
        &self,
        operation: &'static str,
        (seen, x): (Values<'_>, &Array),
        w: LowRank<'_>,
    ) -> Result<Numbers<'_>, EngineError> {
        let mut inner = Numbers::take(self, x.dtype(), x.rows() * w.rank());
        self.times_weight(operation, (seen, x.cols()), w.a, inner.values_mut(), Accumulate::Overwrite)?;
        inner.scale(w.scale);
        Ok(inner)
    }
}

impl<'a> LowRank<'a> {
    /// The same as a device takes it, for rows in this precision.
    pub(crate) fn on_device(
        &self,
        operation: &'static str,
        dtype: DType,
    ) -> Result<DeviceLowRank<'a>, EngineError> {
        let Self { a, b, scale, dropout } = *self;
        let [a, b] = [a.whole_on_device(operation, dtype)?, b.whole_on_device(operation, dtype)?];
        Ok(DeviceLowRank { a, b, scale, dropout })
    }

    pub(crate) fn rank(&self) -> usize {
        self.a.rows()
    }

    pub(crate) fn check(&self, operation: &'static str, x: &Array, y: &Array) -> Result<(), EngineError> {
        expect_size(operation, "columns of b (rows of a)", self.rank(), self.b.cols())?;
        expect_product(operation, [self.b.rows(), self.a.cols()], x, y)
    }
}

/// Borrowed working memory in either precision.
pub(crate) struct Numbers<'a> {
    memory: Scratch<'a>,
    dtype: DType,
    len: usize,
}

impl<'a> Numbers<'a> {
    pub(crate) fn take(engine: &'a Engine, dtype: DType, len: usize) -> Self {
        let words = if dtype == DType::F32 { len } else { len.div_ceil(2) };
        Self { memory: engine.scratch.take(words), dtype, len }
    }

    /// For the input after dropout; nothing where nothing is dropped.
    pub(crate) fn of_dropout(engine: &'a Engine, x: &Array, dropout: Option<Dropout>) -> Self {
        Self::take(engine, x.dtype(), dropout.map_or(0, |_| x.len()))
    }

    pub(crate) fn values(&self) -> Values<'_> {
        match self.dtype {
            DType::F32 => Values::F32(&self.memory),
            _ => Values::Bf16(&bytemuck::cast_slice(&self.memory)[..self.len]),
        }
    }

    pub(crate) fn values_mut(&mut self) -> ValuesMut<'_> {
        match self.dtype {
            DType::F32 => ValuesMut::F32(&mut self.memory),
            _ => ValuesMut::Bf16(&mut bytemuck::cast_slice_mut(&mut self.memory)[..self.len]),
        }
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn scale(&mut self, factor: f32) {
        with_values!(ValuesMut, self.values_mut(), |values| {
            values.iter_mut().for_each(|x| *x = Element::from_f32(x.to_f32() * factor));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PackedWeight;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, rounded, wide};

    const SCALE: f64 = 1.5;

    /// `before + scale (mask x a^T) b^T` in f64.
    fn reference(x: &[f64], a: &[f64], b: &[f64], mask: &[f64], [n, i, r, o]: [usize; 4]) -> Vec<f64> {
        let x: Vec<f64> = x.iter().zip(mask).map(|(x, m)| x * m).collect();
        let z: Vec<f64> = (0..n * r).map(|at| dot(&x[at / r * i..][..i], &a[at % r * i..][..i])).collect();
        (0..n * o).map(|at| SCALE * dot(&z[at / o * r..][..r], &b[at % o * r..][..r])).collect()
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
            for shape @ [n, i, r, o] in [[1, 1, 1, 1], [5, 7, 2, 11], [34, 9, 3, 17]] {
                for dropout in DROPOUTS {
                    let (x, a, b, dy) = (random(1, n, i), random(2, r, i), random(3, o, r), random(4, n, o));
                    let w = LowRank { a: (&a).into(), b: (&b).into(), scale: SCALE as f32, dropout };
                    let mask = mask(&engine, dropout, n, i);
                    let (wx, wa, wb, wdy) = (wide(&x), wide(&a), wide(&b), wide(&dy));
                    let mut y = random(5, n, o);
                    let sum = |before: Vec<f64>, more: Vec<f64>| -> Vec<f64> {
                        before.iter().zip(more).map(|(a, b)| a + b).collect()
                    };
                    let want = sum(wide(&y), reference(&wx, &wa, &wb, &mask, shape));
                    engine.low_rank(&x, w, &mut y).unwrap();
                    assert_close("y", y.as_slice(), &want, 1e-5);

                    let (mut dx, mut da, mut db) = (random(6, n, i), random(7, r, i), random(8, o, r));
                    let before = [wide(&dx), wide(&da), wide(&db)];
                    let (dx, da, db) = (&mut dx, &mut da, &mut db);
                    engine.low_rank_backward(LowRankGrads { dy: &dy, x: &x, w, dx, da, db }).unwrap();
                    let [before_x, before_a, before_b] = before;
                    let loss = |x: &[f64], a: &[f64], b: &[f64]| dot(&wdy, &reference(x, a, b, &mask, shape));
                    let want = sum(before_x, numeric_gradient(&wx, |x| loss(x, &wa, &wb)));
                    assert_close("dx", dx.as_slice(), &want, 1e-5);
                    let want = sum(before_a, numeric_gradient(&wa, |a| loss(&wx, a, &wb)));
                    assert_close("da", da.as_slice(), &want, 1e-5);
                    let want = sum(before_b, numeric_gradient(&wb, |b| loss(&wx, &wa, b)));
                    assert_close("db", db.as_slice(), &want, 1e-5);
                }
            }
        }
    }

    #[test]
    fn bf16_products_agree_with_f32_within_their_rounding() {
        let (n, i, r, o) = (70, 66, 5, 41);
        for engine in engines() {
            for dropout in DROPOUTS {
                let (x, a, b) = (rounded(&random(1, n, i)), random(2, r, i), random(3, o, r));
                let mut packed = [PackedWeight::new(r, i, true), PackedWeight::new(o, r, true)];
                engine.pack_weight(&a, &mut packed[0]).unwrap();
                engine.pack_weight(&b, &mut packed[1]).unwrap();
                let scale = SCALE as f32;
                let exact = LowRank { a: (&a).into(), b: (&b).into(), scale, dropout };
                let [pa, pb] = packed.each_ref().map(Some);
                let (a, b) = (Weight::new(&a, pa), Weight::new(&b, pb));
                let coarse = LowRank { a, b, scale, dropout };
                let (wide_x, dy) = (x.to_dtype(DType::F32).unwrap(), rounded(&random(4, n, o)));
                let wide_dy = dy.to_dtype(DType::F32).unwrap();
                let run = |x: &Array, dy: &Array, w: LowRank<'_>, dtype: DType| {
                    let mut y = Array::zeros_of(dtype, n, o).unwrap();
                    let mut dx = Array::zeros_of(dtype, n, i).unwrap();
                    let (mut da, mut db) = (Array::zeros(r, i), Array::zeros(o, r));
                    engine.low_rank(x, w, &mut y).unwrap();
                    let (da_out, db_out) = (&mut da, &mut db);
                    let grads = LowRankGrads { dy, x, w, dx: &mut dx, da: da_out, db: db_out };
                    engine.low_rank_backward(grads).unwrap();
                    [y, dx, da, db].map(|array| array.to_f32_vec())
                };
                let want = run(&wide_x, &wide_dy, exact, DType::F32);
                for dtype in [DType::F32, DType::Bf16] {
                    let found = run(&x, &dy, coarse, dtype);
                    for (name, (found, want)) in ["y", "dx", "da", "db"].iter().zip(found.iter().zip(&want)) {
                        let want: Vec<f64> = want.iter().map(|x| f64::from(*x)).collect();
                        assert_close(name, found, &want, 1.0 / 64.0);
                    }
                }
            }
        }
    }

    #[test]
    fn an_added_update_gives_what_the_update_beside_the_weight_gives() {
        let (n, i, r, o) = (9, 12, 3, 20);
        for engine in engines() {
            let (x, mut w, a, b) = (random(1, n, i), random(2, o, i), random(3, r, i), random(4, o, r));
            let mut beside = Array::zeros(n, o);
            engine.linear(&x, &w, None, &mut beside).unwrap();
            let update = LowRank { a: (&a).into(), b: (&b).into(), scale: 0.7, dropout: None };
            engine.low_rank(&x, update, &mut beside).unwrap();
            engine.add_low_rank(&a, &b, 0.7, &mut w).unwrap();
            let mut added = Array::zeros(n, o);
            engine.linear(&x, &w, None, &mut added).unwrap();
            assert_close("added", added.as_slice(), &wide(&beside), 1e-5);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let (a, b) = (Array::zeros(2, 3), Array::zeros(4, 1));
        let w = LowRank { a: (&a).into(), b: (&b).into(), scale: 1.0, dropout: None };
        let error = engine.low_rank(&Array::zeros(5, 3), w, &mut Array::zeros(5, 4)).unwrap_err();
        assert_eq!(error.to_string(), "low_rank: columns of b (rows of a) must be 2, found 1");
    }
}
