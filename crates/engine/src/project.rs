//! Several products of the same rows at once, for passes without a backward: `out = x w^T + bias` for each weight,
//! or added to what `out` holds. In f32 few rows (decoding) read the weights once, a panel at a time that is laid out for
//! the product in the cache, in one go for all threads; rows in bf16 go through the packed weights however few they are.

use crate::array::{Values, with_values};
use crate::bf16_panels::Lines;
use crate::bf16_product::Right;
use crate::element::Element;
use crate::error::expect_size;
use crate::matmul::Operand;
use crate::shared::{SharedMut, carve};
use crate::tile::{self, Left, PANEL, Panels, Size};
use crate::{Accumulate, Array, CpuPath, DType, Engine, EngineError, Weight};
use std::ops::Range;

/// One of the products of [`Engine::project`].
#[derive(Debug)]
pub struct Projection<'a> {
    /// `[o, i]`; packed where the rows are in bf16.
    pub weight: Weight<'a>,
    /// `[1, o]`.
    pub bias: Option<&'a Array>,
    /// `[n, o]`, in f32 or the rows' precision.
    pub out: &'a mut Array,
    /// Whether `out` is replaced or added to.
    pub accumulate: Accumulate,
}

impl<'a> Projection<'a> {
    /// Replaces `out`.
    pub fn new(weight: impl Into<Weight<'a>>, bias: Option<&'a Array>, out: &'a mut Array) -> Self {
        Self { weight: weight.into(), bias, out, accumulate: Accumulate::Overwrite }
    }

    /// Adds to `out`.
    pub fn added(weight: impl Into<Weight<'a>>, bias: Option<&'a Array>, out: &'a mut Array) -> Self {
        Self { weight: weight.into(), bias, out, accumulate: Accumulate::Add }
    }
}

/// Most rows for which this beats a product that packs both factors.
const FEW_ROWS: usize = 128;
/// Columns of a task.
const COLUMNS: usize = 4 * PANEL;
/// Values of a panel that are laid out at once: so deep a panel stays in the first cache beside the rows it meets.
const DEPTH: usize = 512;

impl Engine {
    /// `out[n, o] = x[n, i] weight[o, i]^T (+ bias[1, o])`, or `+=`, for each projection.
    ///
    /// With at most 128 rows, a row's results do not depend on how many there are.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn project<const N: usize>(
        &self,
        x: &Array,
        projections: [Projection<'_>; N],
    ) -> Result<(), EngineError> {
        const OP: &str = "project";
        for projection in &projections {
            let Projection { weight, bias, out, .. } = projection;
            if x.dtype() == DType::Bf16 {
                weight.refuse_codes(OP)?
            } else {
                weight.values(OP).map(|_| ())?
            }
            expect_size(OP, "columns of x (inputs of the weight)", weight.cols(), x.cols())?;
            expect_size(OP, "rows of out", x.rows(), out.rows())?;
            expect_size(OP, "columns of out (rows of the weight)", weight.rows(), out.cols())?;
            if let Some(bias) = bias {
                expect_size(OP, "values of bias", weight.rows(), bias.len())?;
            }
        }
        if let Some(gpu) = x.accelerator() {
            return projections.into_iter().try_for_each(|projection| {
                let Projection { weight, bias, out, mut accumulate } = projection;
                match (bias, accumulate) {
                    (None, _) => {}
                    (Some(bias), Accumulate::Overwrite) => gpu.repeat_row(bias, out)?,
                    (Some(bias), Accumulate::Add) => gpu.add_row(bias, out)?,
                }
                if bias.is_some() {
                    accumulate = Accumulate::Add;
                }
                gpu.product((x, false), (weight.on_device(OP, x.dtype())?, true), out, accumulate)
            });
        }
        if let Values::Bf16(x_values) = x.values() {
            let rows = Lines::rows(x_values, x.cols());
            return projections.into_iter().try_for_each(|projection| {
                let Projection { weight, bias, out, accumulate } = projection;
                let right = Right::<f32>::Panels(weight.packed(OP, false)?.forward(0, weight.rows()));
                with_values!(ValuesMut, out.values_mut(), |out| {
                    let accumulate = lay_bias(bias, out, accumulate);
                    self.product_bf16(rows, right, out, accumulate);
                });
                Ok(())
            });
        }
        if projections.iter().any(|projection| projection.out.dtype() != DType::F32) {
            return Err(EngineError::mixed(OP));
        }
        if x.is_empty() || x.rows() > FEW_ROWS {
            projections.into_iter().try_for_each(|projection| self.project_many_rows(x, projection))
        } else {
            self.project_few_rows(x, projections.map(Target::new));
            Ok(())
        }
    }

    fn project_many_rows(&self, x: &Array, projection: Projection<'_>) -> Result<(), EngineError> {
        let Projection { weight, bias, out, accumulate } = projection;
        let weight = Operand::from(weight.values("project")?).transposed();
        let accumulate = lay_bias(bias, out.as_mut_slice(), accumulate);
        self.matmul(x.into(), weight, out.as_mut_slice(), accumulate);
        Ok(())
    }

    fn project_few_rows<const N: usize>(&self, x: &Array, targets: [Option<Target<'_>>; N]) {
        let targets = || targets.iter().flatten();
        let outputs: usize = targets().map(|target| target.weight.rows()).sum();
        let tasks = targets().map(Target::tasks).sum();
        self.for_each(tasks, x.len() * outputs / 16, |mut task| {
            for target in targets() {
                if task < target.tasks() {
                    // SAFETY: each task has columns of its own.
                    unsafe { target.compute(self, x, task * COLUMNS) };
                    return;
                }
                task -= target.tasks();
            }
        });
    }
}

/// Lays the bias into the rows of `out` (or adds it), for a product that is added to them.
fn lay_bias<E: Element>(bias: Option<&Array>, out: &mut [E], accumulate: Accumulate) -> Accumulate {
    let Some(bias) = bias.filter(|bias| !bias.is_empty()) else { return accumulate };
    for row in out.chunks_exact_mut(bias.len()) {
        for (out, bias) in row.iter_mut().zip(bias.as_slice()) {
            let before = if accumulate == Accumulate::Add { out.to_f32() } else { 0.0 };
            *out = E::from_f32(before + bias);
        }
    }
    Accumulate::Add
}

/// A projection whose output several tasks write.
struct Target<'a> {
    weight: &'a Array,
    bias: Option<&'a Array>,
    out: SharedMut<'a>,
    add: bool,
}

impl<'a> Target<'a> {
    /// None of a weight that is not whole, which the checks refuse.
    fn new(projection: Projection<'a>) -> Option<Self> {
        let Projection { weight, bias, out, accumulate } = projection;
        let (Weight::Whole(weight, _), out) = (weight, SharedMut::new(out.as_mut_slice())) else {
            return None;
        };
        Some(Self { weight, bias, out, add: accumulate == Accumulate::Add })
    }

    fn tasks(&self) -> usize {
        self.weight.rows().div_ceil(COLUMNS)
    }

    /// Up to [`COLUMNS`] columns from `first` on.
    ///
    /// # Safety
    /// Nobody else uses these columns of the output meanwhile.
    unsafe fn compute(&self, engine: &Engine, x: &Array, first: usize) {
        let end = self.weight.rows().min(first + COLUMNS);
        let mut scratch = engine.scratch.take(PANEL * (DEPTH + x.rows()));
        let [panel, sums] = carve(&mut scratch, [PANEL * DEPTH, PANEL * x.rows()]);
        for first in (first..end).step_by(PANEL) {
            let columns = first..end.min(first + PANEL);
            self.sum(engine.path(), x, columns.clone(), (panel, sums));
            for (row, sums) in sums.chunks_exact(PANEL).enumerate() {
                // SAFETY: by the caller.
                let out = unsafe { self.out.part(row * self.weight.rows() + first, columns.len()) };
                if self.add {
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                } else {
                    out.copy_from_slice(&sums[..columns.len()]);
                }
                if let Some(bias) = self.bias {
                    out.iter_mut().zip(&bias.as_slice()[first..]).for_each(|(out, bias)| *out += bias);
                }
            }
        }
    }

    /// `sums`, a row of [`PANEL`] for each row of `x`: its products with a panel of weight rows, which are laid out as
    /// columns on the way. A sum runs along the depth in order, however many rows there are.
    fn sum(&self, path: CpuPath, x: &Array, columns: Range<usize>, (panel, sums): (&mut [f32], &mut [f32])) {
        let inputs = x.cols();
        for start in (0..inputs.max(1)).step_by(DEPTH) {
            let depth = DEPTH.min(inputs - start);
            let panel = &mut panel[..PANEL * depth];
            let row = |i: usize| &self.weight.row(columns.start + i)[start..start + depth];
            tile::pack_transposed(path, (columns.len(), depth), row, panel);
            tile::multiply(
                path,
                Size { m: x.rows(), n: PANEL, k: depth },
                Left { values: &x.as_slice()[start..], row_stride: inputs, col_stride: 1 },
                Panels { values: panel, panel_stride: 0, row_stride: PANEL },
                tile::Target { values: sums, row_stride: PANEL, add: start > 0 },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PackedWeight;
    use crate::testing::{assert_close, engines, random, rounded, wide};

    #[test]
    fn few_and_many_rows_agree_with_linear_replacing_and_adding() {
        for engine in engines() {
            for (n, i) in [(1, 7), (5, 700), (64, 96), (200, 40)] {
                let (x, w, v) = (random(1, n, i), random(2, 150, i), random(3, 70, i));
                let (bias, before) = (random(4, 1, 70), random(5, n, 70));
                let (mut want_w, mut want_v) = (Array::zeros(n, 150), Array::zeros(n, 70));
                engine.linear(&x, &w, None, &mut want_w).unwrap();
                engine.linear(&x, &v, Some(&bias), &mut want_v).unwrap();
                engine.add_assign(&mut want_v, &before).unwrap();
                let (mut out_w, mut out_v) = (random(6, n, 150), before.clone());
                engine
                    .project(
                        &x,
                        [
                            Projection::new(&w, None, &mut out_w),
                            Projection::added(&v, Some(&bias), &mut out_v),
                        ],
                    )
                    .unwrap();
                assert_close("replaced", out_w.as_slice(), &wide(&want_w), 1e-5);
                assert_close("added", out_v.as_slice(), &wide(&want_v), 1e-5);
                engine.project(&x, [Projection::new(&v, Some(&bias), &mut out_v)]).unwrap();
                engine.linear(&x, &v, Some(&bias), &mut want_v).unwrap();
                assert_close("with bias", out_v.as_slice(), &wide(&want_v), 1e-5);
            }
        }
    }

    #[test]
    fn a_row_gives_the_same_bits_alone_as_in_a_batch() {
        for engine in engines() {
            let w = random(2, 300, 600);
            let mut packed = PackedWeight::new(300, 600, false);
            engine.pack_weight(&w, &mut packed).unwrap();
            let w = Weight::new(&w, Some(&packed));
            for x in [random(1, 64, 600), rounded(&random(1, 64, 600))] {
                let mut together = Array::zeros(64, 300);
                engine.project(&x, [Projection::new(w, None, &mut together)]).unwrap();
                for row in [0, 31, 63] {
                    let mut single = Array::zeros_of(x.dtype(), 1, 600).unwrap();
                    engine.gather_rows(&x, &[row], &mut single).unwrap();
                    let mut alone = Array::zeros(1, 300);
                    engine.project(&single, [Projection::new(w, None, &mut alone)]).unwrap();
                    assert_eq!(alone.as_slice(), together.row(row));
                }
            }
        }
    }

    #[test]
    fn rows_in_bf16_agree_with_linear_replacing_and_adding() {
        for engine in engines() {
            let (x, w, bias) = (rounded(&random(1, 5, 40)), random(2, 70, 40), random(3, 1, 70));
            let mut packed = PackedWeight::new(70, 40, false);
            engine.pack_weight(&w, &mut packed).unwrap();
            let w = Weight::new(&w, Some(&packed));
            let mut want = Array::zeros(5, 70);
            engine.linear(&x, w, Some(&bias), &mut want).unwrap();
            let (mut replaced, mut added) = (random(4, 5, 70), Array::zeros(5, 70));
            engine.project(&x, [Projection::new(w, Some(&bias), &mut replaced)]).unwrap();
            assert_eq!(replaced, want);
            let mut narrow = rounded(&random(5, 5, 70));
            engine.project(&x, [Projection::new(w, Some(&bias), &mut narrow)]).unwrap();
            assert_close("rounded", &narrow.to_f32_vec(), &wide(&want), 1.0 / 128.0);
            added.fill(1.0);
            engine.project(&x, [Projection::added(w, Some(&bias), &mut added)]).unwrap();
            let want: Vec<f64> = wide(&want).iter().map(|value| value + 1.0).collect();
            assert_close("added", added.as_slice(), &want, 1e-6);
            let mut narrow = rounded(&added);
            assert!(engine.project(&random(6, 5, 40), [Projection::new(w, None, &mut narrow)]).is_err());
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_and_empty_ones_are_not() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let (x, w) = (Array::zeros(2, 3), Array::zeros(4, 3));
        assert!(engine.project(&x, [Projection::new(&w, None, &mut Array::zeros(2, 3))]).is_err());
        let bias = Array::zeros(1, 5);
        assert!(engine.project(&x, [Projection::new(&w, Some(&bias), &mut Array::zeros(2, 4))]).is_err());
        let mut out = random(1, 2, 4);
        let (x, w) = (Array::zeros(2, 0), Array::zeros(4, 0));
        engine.project(&x, [Projection::new(&w, None, &mut out)]).unwrap();
        assert_eq!(out.as_slice(), [0.0; 8]);
    }
}
