//! The products of attention's tiles in either precision: f32 throughout, or factors rounded to bf16 with sums in f32
//! where the processor has the instructions. Attention holds its tiles in f32 and does not know which.

use crate::bf16_kernel::{LeftStrip, Tile, TileTarget};
use crate::bf16_panels::{LEFT, RIGHT, column_stride, pair_rows};
use crate::bf16_round::round_row;
use crate::element::Element;
use crate::tile::{self, Left, PANEL, Panels, Size, Target, pack_transposed};
use crate::{CpuPath, Engine};

/// Columns of a panel in whichever precision has more: where tiles of keys may begin.
pub(crate) const WIDEST: usize = RIGHT;

/// How tiles are multiplied.
#[derive(Clone, Copy)]
pub(crate) enum TileProducts {
    F32(CpuPath),
    /// With AVX512-BF16.
    Bf16,
}

/// A right factor `[depth, columns]`: value `(p, c)` lies in row `p / group` of panel `c / width`. In bf16 a word holds
/// the values of two neighbours along the depth.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    words: &'a [f32],
    width: usize,
    group: usize,
    panel_stride: usize,
    row_stride: usize,
}

impl<'a> Right<'a> {
    /// From column `first` on, a multiple of the panel's width.
    pub(crate) fn columns_from(self, first: usize) -> Self {
        Self { words: self.words.get(first / self.width * self.panel_stride..).unwrap_or_default(), ..self }
    }

    /// From value `first` of the depth on, an even one.
    pub(crate) fn depth_from(self, first: usize) -> Self {
        Self { words: self.words.get(first / self.group * self.row_stride..).unwrap_or_default(), ..self }
    }
}

/// A left factor in f32, `stride` values from row to row; transposed, its columns are the product's rows.
#[derive(Clone, Copy)]
pub(crate) struct LeftTile<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) transposed: bool,
}

impl TileProducts {
    /// The products for arrays of `E`.
    pub(crate) fn of<E: Element>(engine: &Engine) -> Self {
        if E::IS_BF16 && engine.bf16_instructions { Self::Bf16 } else { Self::F32(engine.path()) }
    }

    /// Columns of a panel: what rows of right factors and of targets are padded to.
    pub(crate) const fn width(self) -> usize {
        match self {
            Self::F32(_) => PANEL,
            Self::Bf16 => RIGHT,
        }
    }

    /// Values of the depth in a word.
    fn group(self) -> usize {
        match self {
            Self::F32(_) => 1,
            Self::Bf16 => 2,
        }
    }

    fn depth_rows(self, depth: usize) -> usize {
        depth.div_ceil(self.group())
    }

    /// Room that [`TileProducts::pack_lines`] needs for `lines` columns.
    pub(crate) fn lines_len(self, lines: usize, depth: usize) -> usize {
        lines.next_multiple_of(self.width()) * self.depth_rows(depth)
    }

    /// A right factor with a column per row, summed along the rows, each of `depth` values.
    pub(crate) fn pack_lines<'a, 'r, E: Element>(
        self,
        lines: usize,
        depth: usize,
        row: impl Fn(usize) -> &'r [E],
        room: &'a mut [f32],
    ) -> Right<'a> {
        match self {
            Self::F32(path) => pack_transposed(path, (lines, depth), row, room),
            Self::Bf16 => pack_pairs(lines, depth, row, bytemuck::cast_slice_mut(room)),
        }
        self.packed_lines(room, depth)
    }

    /// What [`TileProducts::pack_lines`] left.
    pub(crate) fn packed_lines(self, words: &[f32], depth: usize) -> Right<'_> {
        let (width, rows) = (self.width(), self.depth_rows(depth));
        Right { words, width, group: self.group(), panel_stride: rows * width, row_stride: width }
    }

    /// Room that [`TileProducts::by_depth`] needs for `depth` rows of `padded` values.
    pub(crate) fn depth_len(self, depth: usize, padded: usize) -> usize {
        match self {
            Self::F32(_) => 0,
            Self::Bf16 => depth.div_ceil(2) * padded,
        }
    }

    /// A right factor with these rows, `padded` values each (a multiple of the width), summed over the rows.
    pub(crate) fn by_depth<'a>(self, rows: &'a [f32], padded: usize, room: &'a mut [f32]) -> Right<'a> {
        let words: &[f32] = match self {
            Self::F32(_) => rows,
            Self::Bf16 => {
                let words = &mut room[..(rows.len() / padded).div_ceil(2) * padded];
                pair_rows(rows, (padded, padded), usize::MAX, (bytemuck::cast_slice_mut(words), padded));
                words
            }
        };
        self.packed_depth(words, padded)
    }

    /// What [`TileProducts::by_depth`] left.
    pub(crate) fn packed_depth(self, words: &[f32], padded: usize) -> Right<'_> {
        Right {
            words,
            width: self.width(),
            group: self.group(),
            panel_stride: self.width(),
            row_stride: padded,
        }
    }

    /// Room that [`TileProducts::multiply`] needs for left factors of at most `rows` by `cols` values.
    pub(crate) fn left_len(self, rows: usize, cols: usize) -> usize {
        match self {
            Self::F32(_) => 0,
            Self::Bf16 => {
                let straight = rows.next_multiple_of(LEFT) * cols.div_ceil(2);
                straight.max(rows.div_ceil(2) * column_stride(cols)) + LEFT
            }
        }
    }

    /// `target = left right` (or `+=`).
    pub(crate) fn multiply(
        self,
        size: Size,
        left: LeftTile<'_>,
        right: Right<'_>,
        target: Target<'_>,
        room: &mut [f32],
    ) {
        match self {
            Self::F32(path) => {
                let (row_stride, col_stride) =
                    if left.transposed { (1, left.stride) } else { (left.stride, 1) };
                let left = Left { values: left.values, row_stride, col_stride };
                let Right { words: values, panel_stride, row_stride, .. } = right;
                tile::multiply(path, size, left, Panels { values, panel_stride, row_stride }, target);
            }
            Self::Bf16 => multiply_bf16(size, left, right, target, bytemuck::cast_slice_mut(room)),
        }
    }
}

fn multiply_bf16(size: Size, left: LeftTile<'_>, right: Right<'_>, target: Target<'_>, room: &mut [u32]) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return;
    }
    let (pairs, panels) = (k.div_ceil(2), n.div_ceil(RIGHT));
    let (line_stride, pair_stride) = if left.transposed {
        let stride = column_stride(m);
        pair_rows(left.values, (left.stride, m), k, (&mut room[..pairs * stride], stride));
        (1, stride)
    } else {
        for (line, words) in room[..m * pairs].chunks_exact_mut(pairs.max(1)).enumerate() {
            round_row(&left.values[line * left.stride..][..k], words);
        }
        (pairs, 1)
    };
    // The kernel reads and writes without checks: these are its conditions. Lines beyond `m` may hold anything.
    let lines = m.next_multiple_of(LEFT);
    assert!(pairs == 0 || room.len() > (lines - 1) * line_stride + (pairs - 1) * pair_stride);
    assert!(
        pairs == 0
            || right.words.len()
                >= (panels - 1) * right.panel_stride + (pairs - 1) * right.row_stride + RIGHT
    );
    assert!(target.values.len() >= (m - 1) * target.row_stride + n);
    for panel in 0..panels {
        for row in (0..m).step_by(LEFT) {
            let words = room.as_ptr().wrapping_add(row * line_stride);
            let tile = Tile {
                pairs,
                left: LeftStrip { words, line_stride, pair_stride },
                right: right.words.as_ptr().wrapping_add(panel * right.panel_stride).cast(),
                right_stride: right.row_stride,
                target: TileTarget {
                    values: target.values.as_mut_ptr().wrapping_add(row * target.row_stride + panel * RIGHT),
                    stride: target.row_stride,
                    rows: LEFT.min(m - row),
                    cols: RIGHT.min(n - panel * RIGHT),
                    add: target.add,
                },
            };
            // SAFETY: the assertions above cover the last element of each operand; `Bf16` is made only where the
            // processor has the instructions.
            unsafe { tile.compute(true) };
        }
    }
}

/// As `pack_transposed`, in pairs along the rows.
fn pack_pairs<'a, E: Element>(rows: usize, depth: usize, row: impl Fn(usize) -> &'a [E], panels: &mut [u32]) {
    for (panel, out) in panels.chunks_exact_mut((depth.div_ceil(2) * RIGHT).max(1)).enumerate() {
        let first = panel * RIGHT;
        let count = RIGHT.min(rows.saturating_sub(first));
        if count < RIGHT {
            out.fill(0);
        }
        for column in 0..count {
            for (out, pair) in out[column..].iter_mut().step_by(RIGHT).zip(row(first + column).chunks(2)) {
                let high = pair.get(1).map_or(0, |high| high.to_bf16_bits());
                *out = u32::from(pair[0].to_bf16_bits()) | u32::from(high) << 16;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, engines, random, rounded};
    use half::bf16;

    /// Factors that are exact in bf16, so that both precisions compute the same product.
    #[test]
    fn both_precisions_agree_with_three_loops_for_every_layout() {
        for engine in engines() {
            let kinds = [TileProducts::of::<f32>(&engine), TileProducts::of::<bf16>(&engine)];
            for products in kinds {
                for (m, n, k) in [(1, 1, 1), (7, 33, 5), (13, 64, 64), (48, 70, 31), (5, 32, 2)] {
                    let exact = |seed, rows, cols| rounded(&random(seed, rows, cols)).to_f32_vec();
                    // a is [m, k], b [k, n] in rows of `padded` values, and their transposes.
                    let (a, b) = (exact(1, m, k), exact(2, k, n));
                    let padded = n.next_multiple_of(products.width());
                    let mut rows = vec![0.0; k * padded];
                    b.chunks(n).zip(rows.chunks_mut(padded)).for_each(|(b, row)| row[..n].copy_from_slice(b));
                    let at: Vec<f32> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
                    let bt: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
                    let mut lines = vec![f32::NAN; products.lines_len(n, k)];
                    let mut depth = vec![f32::NAN; products.depth_len(k, padded)];
                    let rights = [
                        products.pack_lines(n, k, |row| &bt[row * k..][..k], &mut lines),
                        products.by_depth(&rows, padded, &mut depth),
                    ];
                    let lefts = [
                        LeftTile { values: &a, stride: k, transposed: false },
                        LeftTile { values: &at, stride: m, transposed: true },
                    ];
                    let term = |i: usize, p: usize| f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n]);
                    let want: Vec<f64> =
                        (0..m * n).map(|i| 1.0 + (0..k).map(|p| term(i, p)).sum::<f64>()).collect();
                    for (left, right) in lefts.into_iter().flat_map(|left| rights.map(|right| (left, right)))
                    {
                        let mut room = vec![f32::NAN; products.left_len(m.max(k), m.max(k))];
                        let mut got = vec![1.0; m * n];
                        let target = Target { values: &mut got, row_stride: n, add: true };
                        products.multiply(Size { m, n, k }, left, right, target, &mut room);
                        assert_close("tile", &got, &want, 1e-6);
                    }
                }
            }
        }
    }
}
