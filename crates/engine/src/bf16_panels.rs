//! Matrices cut into panels of pairs: the layout in which bfloat16 products read both factors.
//!
//! The instruction multiplies pairs of neighbours along the summed axis, so a panel is a sequence of rows of `W` words,
//! word `c` of row `p` holding values `2p` (low half) and `2p + 1` (high half) of line `c`. Lines that are not there,
//! and the second half of an odd end, are zero.

use std::ops::Range;

use crate::CpuPath;
use crate::bf16_kernel::LeftStrip;
use crate::bf16_round::{natively, round_pairs, round_row};
use crate::cpu::vectorised;
use crate::element::Element;

/// Lines of the left factor that the kernel takes at once.
pub(crate) const LEFT: usize = 12;
/// Lines of the right factor (columns of the product) that the kernel takes at once.
pub(crate) const RIGHT: usize = 32;

/// A matrix `[lines, depth]` or `[depth, lines]` in memory; `depth` is the axis that a product sums over.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a, E> {
    values: &'a [E],
    stride: usize,
    pub(crate) count: usize,
    pub(crate) depth: usize,
    /// Whether a line is a row (else a column).
    rows: bool,
}

impl<'a, E: Element> Lines<'a, E> {
    /// The rows of a matrix with `cols` columns: summed along the columns.
    pub(crate) fn rows(values: &'a [E], cols: usize) -> Self {
        let count = values.len().checked_div(cols).unwrap_or(0);
        Self { values, stride: cols, count, depth: cols, rows: true }
    }

    /// The columns of a matrix with `cols` columns: summed along the rows.
    pub(crate) fn columns(values: &'a [E], cols: usize) -> Self {
        let depth = values.len().checked_div(cols).unwrap_or(0);
        Self { values, stride: cols, count: cols, depth, rows: false }
    }

    /// Pairs along a line.
    pub(crate) fn pairs(&self) -> usize {
        self.depth.div_ceil(2)
    }

    /// Lines `range` as the kernel's left side: where they lie if they can be read as they are, else rounded into
    /// `room`, which holds [`LeftBlock::words`].
    pub(crate) fn left_block(
        &self,
        path: CpuPath,
        range: Range<usize>,
        pairs: Range<usize>,
        room: &mut [u32],
    ) -> LeftBlock {
        let depth = self.depth.min(2 * pairs.end) - 2 * pairs.start;
        if !self.rows {
            let stride = column_stride(range.len());
            let values = &self.values[2 * pairs.start * self.stride + range.start..];
            let block = Block { values, stride: self.stride, count: range.len() };
            let words = &mut room[..pairs.len() * stride];
            match natively(path, values) {
                Some(values) => pair_rows(values, (self.stride, range.len()), depth, (words, stride)),
                None => interleave(path, block, depth, (words, stride)),
            }
            return LeftBlock { words: room.as_ptr(), line_stride: 1, pair_stride: stride };
        }
        let values = &self.values[range.start * self.stride + 2 * pairs.start..];
        let whole = range.len().is_multiple_of(LEFT);
        if E::IS_BF16 && whole && self.depth.is_multiple_of(2) && self.stride.is_multiple_of(2) {
            return LeftBlock { words: values.as_ptr().cast(), line_stride: self.stride / 2, pair_stride: 1 };
        }
        let lines = &mut room[..range.len() * pairs.len()];
        match natively(path, values) {
            Some(values) => {
                for (row, words) in values.chunks(self.stride).zip(lines.chunks_exact_mut(pairs.len())) {
                    round_row(&row[..depth], words);
                }
            }
            None => round_rows(path, Block { values, stride: self.stride, count: range.len() }, depth, lines),
        }
        LeftBlock { words: room.as_ptr(), line_stride: pairs.len(), pair_stride: 1 }
    }

    /// Panels `panels` of the right side, one after another in `room`: `pairs.len()` rows of [`RIGHT`] words each.
    pub(crate) fn right_panels(
        &self,
        path: CpuPath,
        panels: Range<usize>,
        pairs: Range<usize>,
        room: &mut [u32],
    ) {
        let first = panels.start * RIGHT;
        let count = self.count.min(panels.end * RIGHT) - first;
        let depth = self.depth.min(2 * pairs.end) - 2 * pairs.start;
        let room = &mut room[..panels.len() * pairs.len() * RIGHT];
        let (row, column) = if self.rows { (first, 2 * pairs.start) } else { (2 * pairs.start, first) };
        let values = &self.values[row * self.stride + column..];
        let block = Block { values, stride: self.stride, count };
        if self.rows {
            return pack_rows(path, block, depth, room);
        }
        let Some(values) = natively(path, values) else { return pack_columns(path, block, depth, room) };
        for (index, panel) in room.chunks_exact_mut(pairs.len() * RIGHT).enumerate() {
            let count = RIGHT.min(count - index * RIGHT);
            if count < RIGHT {
                panel.fill(0);
            }
            pair_rows(&values[index * RIGHT..], (self.stride, count), depth, (panel, RIGHT));
        }
    }
}

/// Lines of the left factor, ready for the kernel: word `(line, pair)` lies at
/// `line * line_stride + pair * pair_stride`. Whole strips of [`LEFT`] lines may be read; what stands in lines beyond
/// the last is arbitrary.
#[derive(Clone, Copy)]
pub(crate) struct LeftBlock {
    words: *const u32,
    line_stride: usize,
    pair_stride: usize,
}

impl LeftBlock {
    /// Words of room that `lines` lines of `pairs` pairs may need.
    pub(crate) fn words(lines: usize, pairs: usize) -> usize {
        lines.next_multiple_of(LEFT).max(column_stride(lines)) * pairs + LEFT
    }

    /// Lines `first..first + LEFT`.
    pub(crate) fn strip(&self, first: usize) -> LeftStrip {
        let words = self.words.wrapping_add(first * self.line_stride);
        LeftStrip { words, line_stride: self.line_stride, pair_stride: self.pair_stride }
    }
}

/// Words from one pair to the next of `lines` columns: an odd number of cache lines, so that the pairs of a strip spread
/// over the whole first cache.
pub(crate) fn column_stride(lines: usize) -> usize {
    (lines.next_multiple_of(LEFT).div_ceil(16) | 1) * 16
}

/// The part of a matrix that is packed: it starts at the first value.
#[derive(Clone, Copy)]
struct Block<'a, E> {
    values: &'a [E],
    stride: usize,
    /// Number of lines.
    count: usize,
}

/// Pairs of the first `depth` rows (`stride` values apart, the first `count` of each; a missing last row is zeros) as
/// rows of words, `words_stride` apart. Only where the processor rounds by itself.
pub(crate) fn pair_rows(
    values: &[f32],
    (stride, count): (usize, usize),
    depth: usize,
    (words, words_stride): (&mut [u32], usize),
) {
    let mut rows = values.chunks(stride).take(depth).map(|row| &row[..count]);
    for words in words.chunks_mut(words_stride) {
        let Some(low) = rows.next() else { return };
        round_pairs(low, rows.next(), &mut words[..count]);
    }
}

vectorised! {
    /// Rows one after another, an odd end filled up with zero.
    fn round_rows[E: Element][E](block: Block<'_, E>, depth: usize, lines: &mut [u32]) = round_rows_body
}

#[inline(always)]
fn round_rows_body<const FMA: bool, E: Element>(block: Block<'_, E>, depth: usize, lines: &mut [u32]) {
    for (line, words) in lines.chunks_exact_mut(depth.div_ceil(2)).enumerate() {
        let row = &block.values[line * block.stride..][..depth];
        let halves: &mut [u16] = bytemuck::cast_slice_mut(words);
        halves[depth..].fill(0);
        halves.iter_mut().zip(row).for_each(|(half, value)| *half = value.to_bf16_bits());
    }
}

vectorised! {
    /// Columns as rows of pairs, `stride` words apart.
    fn interleave[E: Element][E](block: Block<'_, E>, depth: usize, pairs: (&mut [u32], usize)) = interleave_body
}

#[inline(always)]
fn interleave_body<const FMA: bool, E: Element>(
    block: Block<'_, E>,
    depth: usize,
    (pairs, stride): (&mut [u32], usize),
) {
    for (p, words) in pairs.chunks_exact_mut(stride).enumerate() {
        let low = &block.values[2 * p * block.stride..][..block.count];
        if 2 * p + 1 < depth {
            let high = &block.values[(2 * p + 1) * block.stride..][..block.count];
            for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
                *word = pair_of(*low, *high);
            }
        } else {
            words.iter_mut().zip(low).for_each(|(word, low)| *word = u32::from(low.to_bf16_bits()));
        }
    }
}

vectorised! {
    fn pack_rows[E: Element][E](block: Block<'_, E>, depth: usize, panels: &mut [u32]) = pack_rows_body
}

#[inline(always)]
fn pack_rows_body<const FMA: bool, E: Element>(block: Block<'_, E>, depth: usize, panels: &mut [u32]) {
    for (index, panel) in panels.chunks_exact_mut(depth.div_ceil(2) * RIGHT).enumerate() {
        let count = RIGHT.min(block.count - index * RIGHT);
        if count < RIGHT {
            panel.fill(0);
        }
        for line in 0..count {
            let row = &block.values[(index * RIGHT + line) * block.stride..][..depth];
            let (pairs, rest) = row.as_chunks::<2>();
            let last = rest.iter().map(|value| u32::from(value.to_bf16_bits()));
            let words = panel[line..].iter_mut().step_by(RIGHT);
            for (word, pair) in words.zip(pairs.iter().map(|&[low, high]| pair_of(low, high)).chain(last)) {
                *word = pair;
            }
        }
    }
}

vectorised! {
    fn pack_columns[E: Element][E](block: Block<'_, E>, depth: usize, panels: &mut [u32]) = pack_columns_body
}

/// Panel by panel: the rows of one panel lie in the same cache sets as those of the next.
#[inline(always)]
fn pack_columns_body<const FMA: bool, E: Element>(block: Block<'_, E>, depth: usize, panels: &mut [u32]) {
    let zeros = [E::from_f32(0.0); RIGHT];
    for (index, panel) in panels.chunks_exact_mut(depth.div_ceil(2) * RIGHT).enumerate() {
        let values = &block.values[index * RIGHT..];
        let count = RIGHT.min(block.count - index * RIGHT);
        for (p, words) in panel.as_chunks_mut::<RIGHT>().0.iter_mut().enumerate() {
            let low = &values[2 * p * block.stride..][..count];
            let high =
                if 2 * p + 1 < depth { &values[(2 * p + 1) * block.stride..][..count] } else { &zeros };
            match (low.first_chunk::<RIGHT>(), high.first_chunk::<RIGHT>()) {
                (Some(low), Some(high)) => {
                    for c in 0..RIGHT {
                        words[c] = pair_of(low[c], high[c]);
                    }
                }
                _ => {
                    words.fill(0);
                    for ((word, low), high) in words.iter_mut().zip(low).zip(high) {
                        *word = pair_of(*low, *high);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn pair_of<E: Element>(low: E, high: E) -> u32 {
    u32::from(low.to_bf16_bits()) | u32::from(high.to_bf16_bits()) << 16
}
