//! Products with a weight in few bits. A block of the weight is widened into working memory, multiplied as any other factor
//! and forgotten: whole rows of it in the forward, whole columns in the backward, so that no sum is cut.

use crate::array::{Values, ValuesMut, with_values};
use crate::bf16_kernel::Output;
use crate::bf16_panels::{Lines, RIGHT};
use crate::bf16_product::{Right, RightPanels};
use crate::element::Element;
use crate::matmul::Operand;
use crate::shared::ColumnsMut;
use crate::{Accumulate, DType, Engine, EngineError, QuantisedWeight};
use half::bf16;

/// Numbers of the weight that are widened at a time: 4 MB in f32, which stay in the last cache and are enough for the
/// products to run at full speed.
const BLOCK: usize = 1 << 20;
/// Lines of a block come in groups: panels of the products are whole then, and scales seldom cut.
const GROUP: usize = 64;

/// Which lines of the weight are columns of the product.
#[derive(Clone, Copy)]
enum Side {
    Rows,
    Columns,
}

impl Engine {
    /// `y[n, o] = x[n, i] w[o, i]^T` (or `+=`), in the precision of `x`.
    pub(crate) fn times_quantised(
        &self,
        (x, cols): (Values<'_>, usize),
        w: &QuantisedWeight,
        y: ValuesMut<'_>,
        accumulate: Accumulate,
    ) -> Result<(), EngineError> {
        match (x, y) {
            (Values::F32(x), ValuesMut::F32(y)) => {
                self.by_blocks_f32(Operand::rows_of(x, cols), (w, Side::Rows), y, accumulate);
            }
            (Values::F32(_), ValuesMut::Bf16(_)) => return Err(EngineError::mixed("times_quantised")),
            (Values::Bf16(x), y) => with_values!(ValuesMut, y, |y| {
                self.by_blocks_bf16(Lines::rows(x, cols), (w, Side::Rows), y, accumulate);
            }),
        }
        Ok(())
    }

    /// `dx[n, i] = dy[n, o] w[o, i]` (or `+=`), in products of bf16 where the forward's were.
    pub(crate) fn gradient_times_quantised(
        &self,
        (dy, bf16): (Values<'_>, bool),
        w: &QuantisedWeight,
        dx: ValuesMut<'_>,
        accumulate: Accumulate,
    ) -> Result<(), EngineError> {
        match (dy, dx) {
            (dy, dx) if bf16 => with_values!(Values, dy, |dy| with_values!(ValuesMut, dx, |dx| {
                self.by_blocks_bf16(Lines::rows(dy, w.rows()), (w, Side::Columns), dx, accumulate);
            })),
            (Values::F32(dy), ValuesMut::F32(dx)) => {
                self.by_blocks_f32(Operand::rows_of(dy, w.rows()), (w, Side::Columns), dx, accumulate);
            }
            _ => return Err(EngineError::mixed("gradient_times_quantised")),
        }
        Ok(())
    }

    fn by_blocks_f32(
        &self,
        left: Operand<'_>,
        (w, side): (&QuantisedWeight, Side),
        out: &mut [f32],
        accumulate: Accumulate,
    ) {
        let (lines, depth) = side.shape(w);
        let mut room = self.scratch.take(side.block(w) * depth);
        for first in (0..lines).step_by(side.block(w)) {
            let count = side.block(w).min(lines - first);
            let block = &mut room[..count * depth];
            self.widen(w, side, first, block);
            let right = match side {
                Side::Rows => Operand::rows_of(block, depth).transposed(),
                Side::Columns => Operand::rows_of(block, count),
            };
            let columns = ColumnsMut { values: &mut *out, stride: lines, first };
            self.matmul_into(left, right, columns, accumulate);
        }
    }

    fn by_blocks_bf16<L: Element, O: Output>(
        &self,
        left: Lines<'_, L>,
        (w, side): (&QuantisedWeight, Side),
        out: &mut [O],
        accumulate: Accumulate,
    ) {
        let (lines, depth) = side.shape(w);
        let most = side.block(w);
        let mut room = self.scratch.take((most * depth).div_ceil(2));
        let mut panels = self.scratch.take(Self::right_words(most, depth));
        for first in (0..lines).step_by(most) {
            let count = most.min(lines - first);
            let block: &mut [bf16] = &mut bytemuck::cast_slice_mut(&mut room)[..count * depth];
            self.widen(w, side, first, block);
            let right = match side {
                Side::Rows => Lines::rows(block, depth),
                Side::Columns => Lines::columns(block, count),
            };
            let words: &mut [u32] = bytemuck::cast_slice_mut(&mut panels);
            self.pack_right(right, words);
            let pairs = right.pairs();
            let right = RightPanels { words, panel_stride: pairs * RIGHT, pairs, cols: count };
            let columns = ColumnsMut { values: &mut *out, stride: lines, first };
            self.product_bf16_into(left, Right::<f32>::Panels(right), columns, accumulate);
        }
    }

    /// Lines from `first` on, as many as `block` holds, as they lie in the weight.
    fn widen<E: Element>(&self, w: &QuantisedWeight, side: Side, first: usize, block: &mut [E]) {
        match side {
            Side::Rows => self.decode_block(w, first, 0..w.cols(), block),
            Side::Columns => {
                let count = block.len().checked_div(w.rows()).unwrap_or(0);
                self.decode_block(w, 0, first..first + count, block);
            }
        }
    }
}

impl Side {
    /// Number of lines, and their length, over which the product sums.
    fn shape(self, w: &QuantisedWeight) -> (usize, usize) {
        match self {
            Self::Rows => (w.rows(), w.cols()),
            Self::Columns => (w.cols(), w.rows()),
        }
    }

    /// Lines that are widened at a time.
    fn block(self, w: &QuantisedWeight) -> usize {
        let (lines, depth) = self.shape(w);
        lines_at_a_time(lines, depth)
    }
}

fn lines_at_a_time(lines: usize, depth: usize) -> usize {
    (BLOCK / depth.max(1) / GROUP * GROUP).max(GROUP).min(lines.max(1))
}

impl QuantisedWeight {
    /// Bytes of working memory that products with a weight `[rows, cols]` borrow, forward or backward, the larger.
    pub fn room_of(rows: usize, cols: usize, dtype: DType) -> usize {
        let of = |lines: usize, depth: usize| {
            let most = lines_at_a_time(lines, depth);
            match dtype {
                DType::F32 => 4 * most * depth,
                _ => 2 * most * depth + 4 * Engine::right_words(most, depth),
            }
        };
        of(rows, cols).max(of(cols, rows))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, dot, engines, random, rounded, wide};
    use crate::{
        Accumulate, Array, DType, LinearGrads, Quantisation, QuantisedWeight, Weight,
        quantised_weight::tests::KINDS,
    };

    fn column(values: &[f64], cols: usize, c: usize) -> Vec<f64> {
        values.iter().skip(c).step_by(cols).copied().collect()
    }

    #[test]
    fn products_agree_with_the_numbers_that_the_weight_holds() {
        for engine in engines() {
            for [n, i, o] in [[1, 1, 1], [5, 7, 11], [34, 130, 97], [3, 0, 4], [0, 4, 3]] {
                for kind in KINDS {
                    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::Bf16, 1.0 / 100.0)] {
                        let (x, dy, before) = (random(1, n, i), random(4, n, o), random(5, n, i));
                        let [x, dy, before] = match dtype {
                            DType::F32 => [x, dy, before],
                            _ => [&x, &dy, &before].map(rounded),
                        };
                        let quantised = engine.quantise(&random(2, o, i), kind).unwrap();
                        let mut w = Array::zeros(o, i);
                        engine.dequantise(&quantised, &mut w).unwrap();
                        if dtype == DType::Bf16 {
                            w = rounded(&w);
                        }
                        let (wx, ww, wdy, b) = (wide(&x), wide(&w), wide(&dy), random(3, 1, o));
                        let mut y = Array::zeros_of(dtype, n, o).unwrap();
                        engine.linear(&x, &quantised, Some(&b), &mut y).unwrap();
                        let want: Vec<f64> = (0..n * o)
                            .map(|at| {
                                f64::from(b.as_slice()[at % o])
                                    + dot(&wx[at / o * i..][..i], &ww[at % o * i..][..i])
                            })
                            .collect();
                        assert_close("y", &y.to_f32_vec(), &want, tolerance);
                        let mut dx = before.clone();
                        let (w, dx_to) = (Weight::from(&quantised), Some((&mut dx, Accumulate::Add)));
                        engine
                            .linear_backward(LinearGrads { dy: &dy, x: &x, w, dx: dx_to, dw: None, db: None })
                            .unwrap();
                        let want: Vec<f64> = (0..n * i)
                            .map(|at| {
                                wide(&before)[at] + dot(&wdy[at / i * o..][..o], &column(&ww, i, at % i))
                            })
                            .collect();
                        assert_close("dx", &dx.to_f32_vec(), &want, tolerance);
                    }
                }
            }
        }
    }

    /// Wide enough that it takes several blocks either way, the last of them short.
    #[test]
    fn many_blocks_give_what_one_product_gives() {
        let (n, i, o) = (70, 1300, 1500);
        for engine in engines() {
            let quantised = engine.quantise(&random(2, o, i), Quantisation::Nf4 { nested: false }).unwrap();
            let mut w = Array::zeros(o, i);
            engine.dequantise(&quantised, &mut w).unwrap();
            let mut packed = crate::PackedWeight::new(o, i, true);
            engine.pack_weight(&w, &mut packed).unwrap();
            for dtype in [DType::F32, DType::Bf16] {
                let [x, dy] = [random(1, n, i), random(4, n, o)].map(|a| a.to_dtype(dtype).unwrap());
                let run = |w: Weight<'_>| {
                    let mut y = Array::zeros_of(dtype, n, o).unwrap();
                    let mut dx = Array::zeros_of(dtype, n, i).unwrap();
                    engine.linear(&x, w, None, &mut y).unwrap();
                    let dx_to = Some((&mut dx, Accumulate::Overwrite));
                    engine
                        .linear_backward(LinearGrads { dy: &dy, x: &x, w, dx: dx_to, dw: None, db: None })
                        .unwrap();
                    (y, dx)
                };
                let (found, want) = (run((&quantised).into()), run(Weight::new(&w, Some(&packed))));
                if dtype == DType::Bf16 {
                    assert!(found == want, "the same factors, summed in the same order");
                }
                assert_close("y", &found.0.to_f32_vec(), &wide(&want.0), 1e-6);
                assert_close("dx", &found.1.to_f32_vec(), &wide(&want.1), 1e-6);
                let room = QuantisedWeight::room_of(o, i, dtype);
                assert!(room < 9 << 20, "{room}");
            }
        }
    }

    #[test]
    fn a_gradient_of_the_weight_and_products_of_generation_are_refused() {
        let engine = crate::Engine::cpu(Some(1)).unwrap();
        let w = engine.quantise(&random(1, 3, 64), Quantisation::Int8).unwrap();
        let (x, mut y, mut dw) = (random(2, 2, 64), Array::zeros(2, 3), Array::zeros(3, 64));
        let grads = LinearGrads {
            dy: &Array::zeros(2, 3),
            x: &x,
            w: (&w).into(),
            dx: None,
            dw: Some(&mut dw),
            db: None,
        };
        assert!(engine.linear_backward(grads).unwrap_err().to_string().contains("few bits"));
        let error = engine.project(&x, [crate::Projection::new(&w, None, &mut y)]).unwrap_err();
        assert!(error.to_string().contains("few bits"), "{error}");
    }
}
