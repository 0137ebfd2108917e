//! Whole bfloat16 products on all threads: blocks of left lines are packed by the task that needs them, right factors
//! come packed (weights once per update, activations once per product).

use rayon::prelude::*;

use crate::bf16_kernel::{LeftStrip, Output, Tile, TileTarget};
use crate::bf16_panels::{LEFT, Lines, RIGHT};
use crate::element::Element;
use crate::shared::SharedMut;
use crate::{Accumulate, Engine};

/// The right factor, packed: panel `c` (columns `32 c ..`) starts at `c * panel_stride` and holds
/// `[pairs][RIGHT]` words.
#[derive(Clone, Copy)]
pub(crate) struct RightPanels<'a> {
    pub(crate) words: &'a [u32],
    pub(crate) panel_stride: usize,
    pub(crate) pairs: usize,
    pub(crate) cols: usize,
}

/// Words of the left block that a task packs at a time: a quarter of the second cache.
const LEFT_BLOCK: usize = 64 * 1024;
/// Strips of lines that a task works on at a time.
const MOST_STRIPS: usize = 32;
/// Pairs summed before a product in f32 goes to memory: a panel of the right factor stays in the first cache.
const DEPTH: usize = 192;

impl Engine {
    /// Words that [`Engine::pack_right`] needs.
    pub(crate) fn right_words(count: usize, depth: usize) -> usize {
        count.next_multiple_of(RIGHT) * depth.div_ceil(2)
    }

    /// Packs the right factor of a product, a line per column.
    pub(crate) fn pack_right<E: Element>(&self, lines: Lines<'_, E>, words: &mut [u32]) {
        let stride = lines.pairs() * RIGHT;
        if stride == 0 {
            return;
        }
        let words = &mut words[..Self::right_words(lines.count, lines.depth)];
        let pack = |(panel, words): (usize, &mut [u32])| {
            lines.pack::<RIGHT>(self.path(), panel * RIGHT, 0..lines.pairs(), words);
        };
        if self.parallel(words.len()) {
            self.install(|| words.par_chunks_mut(stride).enumerate().for_each(pack));
        } else {
            words.chunks_mut(stride).enumerate().for_each(pack);
        }
    }

    /// `out[left lines, right columns] = left right` (or `+=`), `out` in consecutive rows.
    pub(crate) fn product_bf16<E: Element, O: Output>(
        &self,
        left: Lines<'_, E>,
        right: RightPanels<'_>,
        out: &mut [O],
        accumulate: Accumulate,
    ) {
        let (m, n, pairs) = (left.count, right.cols, left.pairs());
        assert!(pairs == right.pairs && out.len() == m * n, "products are called with shapes that fit");
        if out.is_empty() {
            return;
        }
        if pairs == 0 {
            if accumulate == Accumulate::Overwrite {
                out.fill(O::from_f32(0.0));
            }
            return;
        }
        let panels = n.div_ceil(RIGHT);
        assert!(right.words.len() >= (panels - 1) * right.panel_stride + pairs * RIGHT);
        // Sums in f32 may rest in memory between stretches of the depth; rounded ones may not.
        let depth = if std::mem::size_of::<O>() == 4 { DEPTH.min(pairs) } else { pairs };
        let grid = Grid::of(m, panels, depth, self.num_threads());
        let out = SharedMut::new(out);
        self.for_each(grid.tasks(), m * n / 8 * pairs, |task| {
            let (rows, columns) = grid.part(task, m, panels);
            let mut scratch = self.scratch.take(rows.len().div_ceil(LEFT) * LEFT * depth);
            let packed: &mut [u32] = bytemuck::cast_slice_mut(&mut scratch);
            let strips = rows.len().div_ceil(LEFT);
            let mut left_strips = [LeftStrip::NONE; MOST_STRIPS];
            for start in (0..pairs).step_by(depth) {
                let stretch = start..pairs.min(start + depth);
                let size = stretch.len() * LEFT;
                let lines = left.until(rows.end);
                for (index, room) in packed.chunks_exact_mut(size).take(strips).enumerate() {
                    let first = rows.start + index * LEFT;
                    left_strips[index] = lines.left_strip(self.path(), first, stretch.clone(), room);
                }
                for panel in columns.clone() {
                    let right =
                        &right.words[panel * right.panel_stride + start * RIGHT..][..stretch.len() * RIGHT];
                    for (index, left) in left_strips.iter().enumerate().take(strips) {
                        let row = rows.start + index * LEFT;
                        let (count, cols) = (LEFT.min(rows.end - row), RIGHT.min(n - panel * RIGHT));
                        // SAFETY: tasks have rows and columns of their own, and the tile lies inside them; both sides
                        // hold `stretch.len()` pairs (the strips by their making, the panel by its slice); the engine
                        // checked its instructions.
                        unsafe {
                            let target = TileTarget {
                                values: out.pointer(row * n + panel * RIGHT, (count - 1) * n + cols),
                                stride: n,
                                rows: count,
                                cols,
                                add: accumulate == Accumulate::Add || start > 0,
                            };
                            let tile =
                                Tile { pairs: stretch.len(), left: *left, right: right.as_ptr(), target };
                            tile.compute(self.bf16_instructions);
                        }
                    }
                }
            }
        });
    }
}

/// How a product is cut into tasks: blocks of rows, and of panels where rows are too few for all threads.
struct Grid {
    rows: usize,
    panels: usize,
    across: usize,
    down: usize,
}

impl Grid {
    fn of(m: usize, panels: usize, depth: usize, threads: usize) -> Self {
        let strips = m.div_ceil(LEFT);
        let most = (LEFT_BLOCK / (LEFT * depth)).clamp(1, MOST_STRIPS);
        // Four tasks a thread even out what threads meet on their way.
        let strips_each = if threads == 1 { most } else { strips.div_ceil(4 * threads).clamp(1, most) };
        let strips_each = strips_each.max(most.min(4)).min(strips);
        let down = strips.div_ceil(strips_each);
        let across =
            if threads > 1 && down < 2 * threads { (2 * threads).div_ceil(down).min(panels) } else { 1 };
        let panels_each = panels.div_ceil(across);
        Self { rows: strips_each * LEFT, panels: panels_each, across: panels.div_ceil(panels_each), down }
    }

    fn tasks(&self) -> usize {
        self.across * self.down
    }

    fn part(&self, task: usize, m: usize, panels: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let (row, column) = (task / self.across * self.rows, task % self.across * self.panels);
        (row..m.min(row + self.rows), column..panels.min(column + self.panels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Array;
    use crate::testing::{assert_close, engines, random};
    use half::bf16;

    fn rounded(array: &Array) -> Vec<bf16> {
        array.as_slice().iter().map(|&value| bf16::from_f32(value)).collect()
    }

    /// Three loops over rounded factors, in f64.
    fn reference(a: &[bf16], b: &[bf16], [m, n, k]: [usize; 3]) -> Vec<f64> {
        let product = |i: usize, j: usize| -> f64 {
            (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[j * k + p])).sum()
        };
        (0..m * n).map(|at| 1.0 + product(at / n, at % n)).collect()
    }

    #[test]
    fn every_size_and_orientation_agrees_with_three_loops() {
        for engine in engines() {
            for shape @ [m, n, k] in
                [[1, 1, 1], [12, 32, 2], [13, 33, 5], [25, 64, 400], [200, 70, 384], [3, 900, 31]]
            {
                // a is [m, k], b [n, k]; their transposes lie beside them.
                let (a, b) = (rounded(&random(1, m, k)), rounded(&random(2, n, k)));
                let transpose = |x: &[bf16], rows: usize| -> Vec<bf16> {
                    (0..x.len()).map(|at| x[at % rows * k + at / rows]).collect()
                };
                let (at, bt) = (transpose(&a, m), transpose(&b, n));
                let want = reference(&a, &b, shape);
                for (left, right) in [
                    (Lines::rows(&a, k), Lines::rows(&b, k)),
                    (Lines::rows(&a, k), Lines::columns(&bt, n)),
                    (Lines::columns(&at, m), Lines::columns(&bt, n)),
                ] {
                    let mut words = vec![u32::MAX; Engine::right_words(n, k)];
                    engine.pack_right(right, &mut words);
                    let pairs = k.div_ceil(2);
                    let right = RightPanels { words: &words, panel_stride: pairs * RIGHT, pairs, cols: n };
                    let mut out = vec![1.0_f32; m * n];
                    engine.product_bf16(left, right, &mut out, Accumulate::Add);
                    assert_close("product", &out, &want, 2e-6);
                    let mut out = vec![bf16::ONE; m * n];
                    engine.product_bf16(left, right, &mut out, Accumulate::Add);
                    let out: Vec<f32> = out.into_iter().map(f32::from).collect();
                    assert_close("rounded product", &out, &want, 1.0 / 256.0);
                }
            }
        }
    }
}
