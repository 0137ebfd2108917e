//! A weight whose direction and magnitude are trained apart (DoRA, Liu et al. 2024, arXiv 2402.09353, eq. 5): each row
//! of `w + scale b a` is scaled to a length of its own. The rows' lengths are constants of the backward, as the paper's
//! section 4.3 proposes. With dropout the update sees `drop(x)` in place of `x`, as in PEFT:
//! `y = w (x - drop(x)) + (m / |w + scale b a|) (w + scale b a) drop(x) + bias`.

use rayon::prelude::*;

use crate::accelerator::{DeviceDora, DeviceDoraGrads};
use crate::array::{Values, ValuesMut, with_values};
use crate::dropout::Mask;
use crate::element::Element;
use crate::error::{expect_product, expect_same_shape, expect_size};
use crate::low_rank::Numbers;
use crate::matmul::Operand;
use crate::scratch::Scratch;
use crate::{Accumulate, Array, DType, Engine, EngineError, LowRank, Weight};

/// A weight `[o, i]` with its update.
#[derive(Debug, Clone, Copy)]
pub struct Dora<'a> {
    /// The frozen weight.
    pub w: Weight<'a>,
    /// The frozen bias, `[1, o]`.
    pub bias: Option<&'a Array>,
    /// The update of its direction.
    pub update: LowRank<'a>,
    /// The lengths of its rows.
    pub lengths: RowLengths<'a>,
}

/// Lengths of the `o` rows of an updated weight.
#[derive(Debug, Clone, Copy)]
pub struct RowLengths<'a> {
    /// As trained, `[1, o]`.
    pub magnitude: &'a Array,
    /// Before they are scaled, by [`Engine::updated_row_norms`], `[1, o]`.
    pub norm: &'a Array,
}

/// Arguments of [`Engine::dora_backward`].
#[derive(Debug)]
pub struct DoraGrads<'a> {
    /// Gradient of the output, `[n, o]`, in f32 or the precision of `x`.
    pub dy: &'a Array,
    /// The forward input, `[n, i]`.
    pub x: &'a Array,
    /// The forward's weight, dropout included.
    pub w: Dora<'a>,
    /// Gradient of the input, `[n, i]`.
    pub dx: (&'a mut Array, Accumulate),
    /// Gradient of `a`; added to.
    pub da: &'a mut Array,
    /// Gradient of `b`; added to.
    pub db: &'a mut Array,
    /// Gradient of the magnitude, `[1, o]`; added to.
    pub dmagnitude: &'a mut Array,
}

impl Engine {
    /// `y[n, o] = (m / norm) (w + scale b a) x + bias`.
    ///
    /// # Errors
    /// Shapes that do not fit; where `x` is in bf16, a weight that is not packed.
    pub fn dora(&self, x: &Array, w: Dora<'_>, y: &mut Array) -> Result<(), EngineError> {
        const OP: &str = "dora";
        w.check(OP, x, y)?;
        if let Some(gpu) = y.accelerator() {
            return gpu.dora(x, w.on_device(OP, x.dtype())?, y);
        }
        let mut room = Numbers::of_dropout(self, x, w.update.dropout);
        let seen = self.seen(x, w.update.dropout, &mut room);
        let factors = w.lengths.factors();
        let mut rest = self.scratch.take(w.update.dropout.map_or(0, |_| x.rows() * y.cols()));
        let updated = if w.update.dropout.is_some() {
            self.dropped(OP, (seen, x), (w, &factors), &mut rest)?
        } else {
            self.updated(OP, (seen, x), w)?.0
        };
        let cols = y.cols();
        let row = |(row, y): (usize, &mut dyn FnMut(usize, f32))| {
            for (column, factor) in factors.iter().enumerate() {
                let at = row * cols + column;
                let bias = w.bias.map_or(0.0, |bias| bias.as_slice()[column]);
                y(column, factor * updated[at] + bias + rest.get(at).copied().unwrap_or(0.0));
            }
        };
        with_values!(ValuesMut, y.values_mut(), |y| {
            self.install(|| {
                y.par_chunks_mut(cols.max(1)).enumerate().for_each(|(index, y)| {
                    row((index, &mut |column, value| y[column] = Element::from_f32(value)));
                });
            });
        });
        Ok(())
    }

    /// Leaves `w x + (m / norm - 1) w seen` in `rest`, and gives `scale b a seen`: summed so, rows whose lengths are as
    /// they were have the bits of `w x`, whatever precision `seen` was rounded to.
    fn dropped<'a>(
        &'a self,
        operation: &'static str,
        (seen, x): (Values<'_>, &Array),
        (w, factors): (Dora<'_>, &[f32]),
        rest: &mut [f32],
    ) -> Result<Scratch<'a>, EngineError> {
        let (cols, overwrite) = (x.cols(), Accumulate::Overwrite);
        let mut update = self.scratch.take(rest.len());
        self.times_weight(operation, (x.values(), cols), w.w, ValuesMut::F32(rest), overwrite)?;
        self.times_weight(operation, (seen, cols), w.w, ValuesMut::F32(&mut update), overwrite)?;
        let width = factors.len().max(1);
        self.install(|| {
            rest.par_chunks_exact_mut(width).zip(update.par_chunks_exact(width)).for_each(|(rest, seen)| {
                let values = seen.iter().zip(factors);
                rest.iter_mut().zip(values).for_each(|(rest, (seen, factor))| *rest += (factor - 1.0) * seen);
            });
        });
        let inner = self.inner(operation, (seen, x), w.update)?;
        let inner = (inner.values(), w.update.rank());
        self.times_weight(operation, inner, w.update.b, ValuesMut::F32(&mut update), overwrite)?;
        Ok(update)
    }

    /// The gradients of [`Engine::dora`], the norm a constant.
    ///
    /// # Errors
    /// Shapes that do not fit; bf16 inputs with a weight that is not packed for gradients.
    pub fn dora_backward(&self, grads: DoraGrads<'_>) -> Result<(), EngineError> {
        const OP: &str = "dora_backward";
        let DoraGrads { dy, x, w, dx: (dx, accumulate), da, db, dmagnitude } = grads;
        w.check(OP, x, dy)?;
        expect_same_shape(OP, ("rows of dx", "columns of dx"), x, dx)?;
        expect_size(OP, "values of dmagnitude", dy.cols(), dmagnitude.len())?;
        if let Some(gpu) = dx.accelerator() {
            let w = w.on_device(OP, x.dtype())?;
            expect_same_shape(OP, ("rows of da", "columns of da"), w.update.a, da)?;
            expect_same_shape(OP, ("rows of db", "columns of db"), w.update.b, db)?;
            let (read, dx, added) = ([dy, x], (dx, accumulate), [da, db, dmagnitude]);
            return gpu.dora_backward(DeviceDoraGrads { read, w, dx, added });
        }
        let (bf16, dropout, update) = (x.dtype() == DType::Bf16, w.update.dropout, w.update);
        let mut room = Numbers::of_dropout(self, x, dropout);
        let seen = self.seen(x, dropout, &mut room);
        let (mut updated, inner) = self.updated(OP, (seen, x), w)?;
        let (factors, cols) = (w.lengths.factors(), dy.cols().max(1));
        let dy_wide = dy.to_f32_vec();

        // d/dm of m / norm (w + ..) x, then the gradient of the product before it was scaled, in the same memory.
        let mut sums = vec![0.0_f64; factors.len()];
        for (updated, dy) in updated.chunks_exact(cols).zip(dy_wide.chunks_exact(cols)) {
            let values = updated.iter().zip(dy);
            sums.iter_mut().zip(values).for_each(|(sum, (u, d))| *sum += f64::from(u * d));
        }
        w.lengths.add_gradient(0, &sums, dmagnitude);
        for (updated, dy) in updated.chunks_exact_mut(cols).zip(dy_wide.chunks_exact(cols)) {
            let values = dy.iter().zip(&factors);
            updated.iter_mut().zip(values).for_each(|(u, (d, factor))| *u = d * factor);
        }
        let mut dupdated = updated;
        let dinner = self.low_rank_grads(OP, (seen, x), (Values::F32(&dupdated), inner), update, (da, db))?;

        let Some(dropout) = dropout else {
            self.gradient_times_weight(OP, (Values::F32(&dupdated), bf16), w.w, dx.values_mut(), accumulate)?;
            let dinner = (dinner.values(), bf16);
            return self.gradient_times_weight(OP, dinner, update.a, dx.values_mut(), Accumulate::Add);
        };
        self.gradient_times_weight(OP, (Values::F32(&dy_wide), bf16), w.w, dx.values_mut(), accumulate)?;
        dupdated.iter_mut().zip(&dy_wide).for_each(|(u, d)| *u -= d);
        let mut dseen = self.scratch.take(x.len());
        let overwrite = Accumulate::Overwrite;
        self.gradient_times_weight(
            OP,
            (Values::F32(&dupdated), bf16),
            w.w,
            ValuesMut::F32(&mut dseen),
            overwrite,
        )?;
        let dseen_values = ValuesMut::F32(&mut dseen);
        self.gradient_times_weight(OP, (dinner.values(), bf16), update.a, dseen_values, Accumulate::Add)?;
        let cols = x.cols();
        with_values!(ValuesMut, dx.values_mut(), |dx| self.drop_out(dropout, (&dseen, cols), dx, Mask::Add));
        Ok(())
    }

    /// `(w + scale b a) seen` in f32, and the update's inner product.
    fn updated<'a>(
        &'a self,
        operation: &'static str,
        (seen, x): (Values<'_>, &Array),
        w: Dora<'_>,
    ) -> Result<(Scratch<'a>, Numbers<'a>), EngineError> {
        let mut updated = self.scratch.take(x.rows() * w.w.rows());
        let inner = self.inner(operation, (seen, x), w.update)?;
        let out = ValuesMut::F32(&mut updated);
        self.times_weight(operation, (seen, x.cols()), w.w, out, Accumulate::Overwrite)?;
        let out = ValuesMut::F32(&mut updated);
        self.times_weight(operation, (inner.values(), w.update.rank()), w.update.b, out, Accumulate::Add)?;
        Ok((updated, inner))
    }

    /// The lengths of the rows of `w + scale b a`, into `norm`; some rows at a time.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn updated_row_norms<'a>(
        &self,
        w: impl Into<Weight<'a>>,
        (a, b, scale): (&Array, &Array, f32),
        norm: &mut Array,
    ) -> Result<(), EngineError> {
        const OP: &str = "updated_row_norms";
        let w: Weight<'_> = w.into();
        expect_size(OP, "values of norm", w.rows(), norm.len())?;
        expect_size(OP, "columns of b (rows of a)", a.rows(), b.cols())?;
        expect_size(OP, "rows of b", w.rows(), b.rows())?;
        expect_size(OP, "columns of a", w.cols(), a.cols())?;
        if let Some(gpu) = norm.accelerator() {
            return gpu.updated_row_norms(w.on_device(OP, DType::F32)?, (a, b, scale), norm);
        }
        let (rank, cols) = (b.cols(), w.cols());
        let rows = (BLOCK / cols.max(1)).clamp(1, w.rows().max(1));
        let (mut updated, mut scaled) = (self.scratch.take(rows * cols), self.scratch.take(rows * rank));
        for first in (0..w.rows()).step_by(rows) {
            let rows = rows.min(w.rows() - first);
            let (updated, scaled) = (&mut updated[..rows * cols], &mut scaled[..rows * rank]);
            match w {
                Weight::Quantised(w) => self.decode_block(w, first, 0..cols, updated),
                w => updated.copy_from_slice(&w.values(OP)?.as_slice()[first * cols..][..rows * cols]),
            }
            let b = &b.as_slice()[first * rank..];
            scaled.iter_mut().zip(b).for_each(|(scaled, b)| *scaled = scale * b);
            self.matmul(Operand::rows_of(scaled, rank), a.into(), updated, Accumulate::Add);
            self.row_norms(updated, cols, &mut norm.as_mut_slice()[first..][..rows]);
        }
        Ok(())
    }

    /// Scales each row of `w` to the length in `magnitude`; rows of zeros stay.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn set_row_norms(&self, w: &mut Array, magnitude: &Array) -> Result<(), EngineError> {
        expect_size("set_row_norms", "values of magnitude", w.rows(), magnitude.len())?;
        let mut norm = Array::zeros(1, w.rows());
        self.row_norms(w.as_slice(), w.cols(), norm.as_mut_slice());
        let cols = w.cols().max(1);
        let rows = w.as_mut_slice().chunks_exact_mut(cols);
        for (row, (norm, magnitude)) in rows.zip(norm.as_slice().iter().zip(magnitude.as_slice())) {
            let factor = factor(*magnitude, *norm);
            row.iter_mut().for_each(|x| *x *= factor);
        }
        Ok(())
    }

    fn row_norms(&self, w: &[f32], cols: usize, norm: &mut [f32]) {
        let length = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
        self.install(|| {
            norm.par_iter_mut()
                .zip(w.par_chunks_exact(cols.max(1)))
                .for_each(|(norm, row)| *norm = length(row));
        });
    }
}

/// Numbers of a weight whose rows' lengths are taken at a time.
const BLOCK: usize = 1 << 20;

/// A row without a length has no direction either.
fn factor(magnitude: f32, norm: f32) -> f32 {
    if norm == 0.0 { 0.0 } else { magnitude / norm }
}

impl RowLengths<'_> {
    /// What each row is scaled by.
    pub(crate) fn factors(&self) -> Vec<f32> {
        let lengths = self.magnitude.as_slice().iter().zip(self.norm.as_slice());
        lengths.map(|(magnitude, norm)| factor(*magnitude, *norm)).collect()
    }

    /// From `sums`, those over the inputs of an output before its row was scaled times its gradient, for the rows from `first`.
    pub(crate) fn add_gradient(&self, first: usize, sums: &[f64], dmagnitude: &mut Array) {
        let norms = self.norm.as_slice()[first..].iter().zip(sums);
        for (dm, (norm, sum)) in dmagnitude.as_mut_slice()[first..].iter_mut().zip(norms) {
            *dm += if *norm == 0.0 { 0.0 } else { (sum / f64::from(*norm)) as f32 };
        }
    }

    pub(crate) fn check(&self, operation: &'static str, rows: usize) -> Result<(), EngineError> {
        expect_size(operation, "values of magnitude", rows, self.magnitude.len())?;
        expect_size(operation, "values of norm", rows, self.norm.len())
    }
}

impl<'a> Dora<'a> {
    /// The same as a device takes it, for rows in this precision.
    fn on_device(&self, operation: &'static str, dtype: DType) -> Result<DeviceDora<'a>, EngineError> {
        let Self { w, bias, update, lengths: RowLengths { magnitude, norm } } = *self;
        let (w, update) = (w.on_device(operation, dtype)?, update.on_device(operation, dtype)?);
        Ok(DeviceDora { w, bias, update, lengths: [magnitude, norm] })
    }

    fn check(&self, operation: &'static str, x: &Array, y: &Array) -> Result<(), EngineError> {
        self.update.check(operation, x, y)?;
        let outputs = self.w.rows();
        expect_product(operation, [outputs, self.w.cols()], x, y)?;
        self.lengths.check(operation, outputs)?;
        self.bias.map_or(Ok(()), |bias| expect_size(operation, "values of bias", outputs, bias.len()))
    }
}

#[cfg(test)]
#[path = "dora_tests.rs"]
mod tests;
