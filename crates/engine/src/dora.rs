//! A weight whose direction and magnitude are trained apart (DoRA, Liu et al. 2024, arXiv 2402.09353, eq. 5): each row
//! of `w + scale b a` is scaled to a length of its own. The rows' lengths are constants of the backward, as the paper's
//! section 4.3 proposes. With dropout the update sees `drop(x)` in place of `x`, as in PEFT:
//! `y = w (x - drop(x)) + (m / |w + scale b a|) (w + scale b a) drop(x) + bias`.

use rayon::prelude::*;

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
        let (rank, cols) = (b.cols(), w.cols());
        let rows = (BLOCK / cols.max(1)).clamp(1, w.rows().max(1));
        let (mut updated, mut scaled) = (self.scratch.take(rows * cols), self.scratch.take(rows * rank));
        for first in (0..w.rows()).step_by(rows) {
            let rows = rows.min(w.rows() - first);
            let (updated, scaled) = (&mut updated[..rows * cols], &mut scaled[..rows * rank]);
            match w {
                Weight::Whole(w, _) => updated.copy_from_slice(&w.as_slice()[first * cols..][..rows * cols]),
                Weight::Quantised(w) => self.decode_block(w, first, 0..cols, updated),
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

impl Dora<'_> {
    fn check(&self, operation: &'static str, x: &Array, y: &Array) -> Result<(), EngineError> {
        self.update.check(operation, x, y)?;
        let outputs = self.w.rows();
        expect_product(operation, [outputs, self.w.cols()], x, y)?;
        self.lengths.check(operation, outputs)?;
        self.bias.map_or(Ok(()), |bias| expect_size(operation, "values of bias", outputs, bias.len()))
    }
}

#[cfg(test)]
mod tests {
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
                    engine
                        .dora_backward(DoraGrads { dy: &dy, x, w, dx: dx_out, da, db, dmagnitude })
                        .unwrap();
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
}
