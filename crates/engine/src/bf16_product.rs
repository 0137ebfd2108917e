//! Whole bfloat16 products on all threads: blocks of left lines are packed by the task that needs them, right factors
//! come packed (weights once per update, activations once per product).

use std::ops::Range;

use rayon::prelude::*;

use crate::bf16_kernel::{Output, Tile, TileTarget};
use crate::bf16_panels::{LEFT, LeftBlock, Lines, RIGHT};
use crate::element::Element;
use crate::shared::{ColumnsMut, SharedMut};
use crate::{Accumulate, CpuPath, Engine};

/// The right factor, packed: panel `c` (columns `32 c ..`) starts at `c * panel_stride` and holds
/// `[pairs][RIGHT]` words.
#[derive(Clone, Copy)]
pub(crate) struct RightPanels<'a> {
    pub(crate) words: &'a [u32],
    pub(crate) panel_stride: usize,
    pub(crate) pairs: usize,
    pub(crate) cols: usize,
}

/// The right factor of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a, E> {
    /// A weight, packed after its last change.
    Panels(RightPanels<'a>),
    /// Activations: the tasks pack what they need, while it is in the cache.
    Lines(Lines<'a, E>),
}

impl<E: Element> Right<'_, E> {
    fn cols(&self) -> usize {
        match self {
            Self::Panels(panels) => panels.cols,
            Self::Lines(lines) => lines.count,
        }
    }

    fn pairs(&self) -> usize {
        match self {
            Self::Panels(panels) => panels.pairs,
            Self::Lines(lines) => lines.pairs(),
        }
    }

    /// Panels `columns` over pairs `stretch`: the words, and from one panel to the next.
    fn stretch<'b>(
        &'b self,
        path: CpuPath,
        columns: Range<usize>,
        stretch: Range<usize>,
        room: &'b mut [u32],
    ) -> (&'b [u32], usize) {
        match self {
            Self::Panels(panels) => {
                let first = columns.start * panels.panel_stride + stretch.start * RIGHT;
                (&panels.words[first..], panels.panel_stride)
            }
            Self::Lines(lines) => {
                let size = stretch.len() * RIGHT;
                lines.right_panels(path, columns, stretch, room);
                (room, size)
            }
        }
    }
}

/// Words of a block of the left factor that a task packs at a time: a quarter of the second cache.
const BLOCK: usize = 64 * 1024;
/// The same where it packs both factors: the longer the blocks, the less is packed twice.
const PACKED: usize = 88 * 1024;
/// Strips of left lines up to which tasks share out the columns only: a batch of sequences that are being generated.
const FEW_STRIPS: usize = 16;
/// Pairs summed before a product in f32 goes to memory: a panel of the right factor stays in the first cache.
const DEPTH: usize = 128;

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
            lines.right_panels(self.path(), panel..panel + 1, 0..lines.pairs(), words);
        };
        if self.parallel(words.len()) {
            self.install(|| words.par_chunks_mut(stride).enumerate().for_each(pack));
        } else {
            words.chunks_mut(stride).enumerate().for_each(pack);
        }
    }

    /// `out[left lines, right columns] = left right` (or `+=`), `out` in consecutive rows.
    pub(crate) fn product_bf16<L: Element, R: Element, O: Output>(
        &self,
        left: Lines<'_, L>,
        right: Right<'_, R>,
        out: &mut [O],
        accumulate: Accumulate,
    ) {
        let columns = right.cols();
        self.product_bf16_into(left, right, ColumnsMut::all(out, columns), accumulate);
    }

    /// As [`Engine::product_bf16`], into some of the columns of a wider matrix.
    pub(crate) fn product_bf16_into<L: Element, R: Element, O: Output>(
        &self,
        left: Lines<'_, L>,
        right: Right<'_, R>,
        out: ColumnsMut<'_, O>,
        accumulate: Accumulate,
    ) {
        let (m, n, pairs) = (left.count, right.cols(), left.pairs());
        assert!(pairs == right.pairs() && out.hold(m, n), "products are called with shapes that fit");
        let ColumnsMut { values, stride, first: first_column } = out;
        if m == 0 || n == 0 {
            return;
        }
        if pairs == 0 {
            if accumulate == Accumulate::Overwrite {
                let rows = values.chunks_exact_mut(stride);
                rows.for_each(|row| row[first_column..][..n].fill(O::from_f32(0.0)));
            }
            return;
        }
        // Sums in f32 may rest in memory between stretches of the depth; rounded ones may not.
        let depth = if std::mem::size_of::<O>() == 4 { DEPTH.min(pairs) } else { pairs };
        let packs = matches!(right, Right::Lines(_));
        let grid = Grid::of(m, n.div_ceil(RIGHT), depth, packs, self.num_threads());
        let out = SharedMut::new(values);
        self.for_each(grid.tasks(), m * n / 8 * pairs, |task| {
            let (rows, columns) = grid.part(task, m, n.div_ceil(RIGHT));
            let left_room = LeftBlock::words(rows.len(), depth);
            let right_room = if packs { columns.len() * RIGHT * depth } else { 0 };
            let mut scratch = self.scratch.take(left_room + right_room);
            let room: &mut [u32] = bytemuck::cast_slice_mut(&mut scratch);
            let (left_room, right_room) = room.split_at_mut(left_room);
            for start in (0..pairs).step_by(depth) {
                let stretch = start..pairs.min(start + depth);
                let left = left.left_block(self.path(), rows.clone(), stretch.clone(), left_room);
                let (words, panel_stride) =
                    right.stretch(self.path(), columns.clone(), stretch.clone(), right_room);
                for (index, panel) in columns.clone().enumerate() {
                    let right = &words[index * panel_stride..][..stretch.len() * RIGHT];
                    for row in rows.clone().step_by(LEFT) {
                        let (count, cols) = (LEFT.min(rows.end - row), RIGHT.min(n - panel * RIGHT));
                        // SAFETY: tasks have rows and columns of their own, and the tile lies inside them; both sides
                        // hold `stretch.len()` pairs (the strips by their making, the panel by its slice); the engine
                        // checked its instructions.
                        unsafe {
                            let target = TileTarget {
                                values: out.pointer(
                                    row * stride + first_column + panel * RIGHT,
                                    (count - 1) * stride + cols,
                                ),
                                stride,
                                rows: count,
                                cols,
                                add: accumulate == Accumulate::Add || start > 0,
                            };
                            let left = left.strip(row - rows.start);
                            let tile = Tile {
                                pairs: stretch.len(),
                                left,
                                right: right.as_ptr(),
                                right_stride: RIGHT,
                                target,
                            };
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
    /// `packs` says that tasks pack the right factor too: then both sides of a task are as large as the cache allows.
    fn of(m: usize, panels: usize, depth: usize, packs: bool, threads: usize) -> Self {
        let strips = m.div_ceil(LEFT);
        let most = (BLOCK / (LEFT * depth)).max(1);
        if !packs && threads > 1 && strips <= most.min(FEW_STRIPS) && panels >= 2 * threads {
            // All rows at once: each task reads its part of the weight, and reads it once.
            let panels_each = panels.div_ceil(4 * threads);
            return Self {
                rows: strips * LEFT,
                panels: panels_each,
                across: panels.div_ceil(panels_each),
                down: 1,
            };
        }
        let (parts, across) = if packs {
            // A task packs its part of both factors: the fewer tasks, the less is packed twice.
            let (most, widest) = ((PACKED / (LEFT * depth)).max(1), (PACKED / (RIGHT * depth)).max(1));
            (threads * strips.div_ceil(most * threads), panels.div_ceil(widest))
        } else {
            // Four tasks a thread even out what threads meet on their way.
            let aim = if threads == 1 { most } else { strips.div_ceil(4 * threads).clamp(most.min(4), most) };
            let parts = strips.div_ceil(aim).next_multiple_of(threads).min(strips);
            (parts, if threads > 1 { (2 * threads).div_ceil(parts).min(panels) } else { 1 })
        };
        let strips_each = strips.div_ceil(parts);
        let (down, panels_each) = (strips.div_ceil(strips_each), panels.div_ceil(across));
        Self { rows: strips_each * LEFT, panels: panels_each, across: panels.div_ceil(panels_each), down }
    }

    fn tasks(&self) -> usize {
        self.across * self.down
    }

    fn part(&self, task: usize, m: usize, panels: usize) -> (Range<usize>, Range<usize>) {
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
                    let panels = RightPanels { words: &words, panel_stride: pairs * RIGHT, pairs, cols: n };
                    for right in [Right::Panels(panels), Right::Lines(right)] {
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
}
