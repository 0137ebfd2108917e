//! Matrices cut into panels of pairs: the layout in which bfloat16 products read both factors.
//!
//! The instruction multiplies pairs of neighbours along the summed axis, so a panel is a sequence of rows of `W` words,
//! word `c` of row `p` holding values `2p` (low half) and `2p + 1` (high half) of line `c`. Lines that are not there,
//! and the second half of an odd end, are zero.

use std::ops::Range;

use crate::CpuPath;
use crate::bf16_kernel::LeftStrip;
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

    /// The lines before `end`.
    pub(crate) fn until(self, end: usize) -> Self {
        Self { count: self.count.min(end), ..self }
    }

    /// Pairs along a line.
    pub(crate) fn pairs(&self) -> usize {
        self.depth.div_ceil(2)
    }

    /// [`LEFT`] lines from `first` as the kernel's left side: where they lie if they can be read as they are, else
    /// rounded into `room`, `LEFT * pairs.len()` words.
    pub(crate) fn left_strip(
        &self,
        path: CpuPath,
        first: usize,
        pairs: Range<usize>,
        room: &mut [u32],
    ) -> LeftStrip {
        if !self.rows {
            self.pack::<LEFT>(path, first, pairs, room);
            return LeftStrip { words: room.as_ptr(), line_stride: 1, pair_stride: LEFT };
        }
        let count = LEFT.min(self.count - first);
        let values = &self.values[first * self.stride + 2 * pairs.start..];
        if E::IS_BF16 && count == LEFT && self.depth.is_multiple_of(2) && self.stride.is_multiple_of(2) {
            let words = values.as_ptr().cast();
            return LeftStrip { words, line_stride: self.stride / 2, pair_stride: 1 };
        }
        let room = &mut room[..LEFT * pairs.len()];
        let depth = self.depth.min(2 * pairs.end) - 2 * pairs.start;
        let (lines, none) = room.split_at_mut(count * pairs.len());
        round_rows(path, Block { values, stride: self.stride, count }, depth, lines);
        none.fill(0);
        LeftStrip { words: room.as_ptr(), line_stride: pairs.len(), pair_stride: 1 }
    }

    /// Fills `panel` (rows of `W` words, one per pair of `pairs`) with lines `first..first + W`.
    pub(crate) fn pack<const W: usize>(
        &self,
        path: CpuPath,
        first: usize,
        pairs: Range<usize>,
        panel: &mut [u32],
    ) {
        let panel = &mut panel[..pairs.len() * W];
        let count = W.min(self.count.saturating_sub(first));
        let depth = self.depth.min(2 * pairs.end);
        let start = 2 * pairs.start;
        if count < W {
            panel.fill(0);
        }
        if self.rows {
            let block =
                Block { values: &self.values[first * self.stride + start..], stride: self.stride, count };
            pack_rows::<E, W>(path, block, depth - start, panel);
        } else {
            let block =
                Block { values: &self.values[start * self.stride + first..], stride: self.stride, count };
            pack_columns::<E, W>(path, block, depth - start, panel);
        }
    }
}

/// The part of a matrix that goes into one panel: it starts at the first value.
#[derive(Clone, Copy)]
struct Block<'a, E> {
    values: &'a [E],
    stride: usize,
    /// Lines, at most the panel's width.
    count: usize,
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
    fn pack_rows[E: Element, const W: usize][E, W](block: Block<'_, E>, depth: usize, panel: &mut [u32]) = pack_rows_body
}

#[inline(always)]
fn pack_rows_body<const FMA: bool, E: Element, const W: usize>(
    block: Block<'_, E>,
    depth: usize,
    panel: &mut [u32],
) {
    for line in 0..block.count {
        let (pairs, rest) = block.values[line * block.stride..][..depth].as_chunks::<2>();
        let words = panel[line..].iter_mut().step_by(W);
        let last = rest.iter().map(|value| u32::from(value.to_bf16_bits()));
        for (word, pair) in words.zip(pairs.iter().map(|&[low, high]| pair_of(low, high)).chain(last)) {
            *word = pair;
        }
    }
}

vectorised! {
    fn pack_columns[E: Element, const W: usize][E, W](block: Block<'_, E>, depth: usize, panel: &mut [u32]) = pack_columns_body
}

#[inline(always)]
fn pack_columns_body<const FMA: bool, E: Element, const W: usize>(
    block: Block<'_, E>,
    depth: usize,
    panel: &mut [u32],
) {
    let Block { values, stride, count } = block;
    let (rows, _) = panel.as_chunks_mut::<W>();
    let whole = |at: usize| values[at * stride..].first_chunk::<W>();
    for (p, words) in rows.iter_mut().enumerate() {
        let (low, high) = (2 * p, 2 * p + 1);
        match (count == W && high < depth).then(|| whole(low).zip(whole(high))).flatten() {
            Some((low, high)) => {
                for c in 0..W {
                    words[c] = pair_of(low[c], high[c]);
                }
            }
            None => {
                for (c, word) in words.iter_mut().enumerate().take(count) {
                    let high = if high < depth { values[high * stride + c] } else { E::from_f32(0.0) };
                    *word = pair_of(values[low * stride + c], high);
                }
            }
        }
    }
}

#[inline(always)]
fn pair_of<E: Element>(low: E, high: E) -> u32 {
    u32::from(low.to_bf16_bits()) | u32::from(high.to_bf16_bits()) << 16
}
