//! Attention of one run of query rows over the keys of one head, tile by tile with a running softmax. Knows which
//! keys a query sees only as "all but the last few", or the nearest of these where there is a window; segments and
//! caches are laid out by the callers.

use crate::cpu::vectorised;
use crate::element::Element;
use crate::segments::Segment;
use crate::shared::{SharedMut, carve};
use crate::soft_cap::cap_in_place;
use crate::tile::{self, Left, PANEL, Panels, Size, Target, pack_transposed};
use crate::vector::{exp_shifted_in_place, max};
use crate::{AttentionShape, CpuPath, Engine};

/// Rows of a tile (queries times the heads that share their keys) that are aimed at: their scores stay in the
/// second cache, and little beyond the causal edge is computed in vain.
const TILE_ROWS: usize = 48;
/// Keys of a tile.
pub(crate) const TILE_KEYS: usize = 256;

/// Queries in a tile.
pub(crate) fn tile_queries(group: usize) -> usize {
    (TILE_ROWS / group).max(1)
}

/// Rows `start..start + len` of the queries, in the heads that use `kv_head`.
#[derive(Clone, Copy)]
pub(crate) struct Queries<'a, E> {
    /// `[rows, heads * head_dim]`.
    pub(crate) values: &'a [E],
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) kv_head: usize,
}

/// The keys (or values) of one head that queries see: a range of rows, then another.
#[derive(Clone, Copy)]
pub(crate) struct KeyRows<'a, E> {
    /// `[rows, kv_heads * head_dim]`.
    pub(crate) values: &'a [E],
    pub(crate) stride: usize,
    pub(crate) column: usize,
    pub(crate) width: usize,
    /// `(start, len)`.
    pub(crate) ranges: [(usize, usize); 2],
}

impl<'a, E: Element> KeyRows<'a, E> {
    /// The context of a segment, then the segment itself.
    pub(crate) fn of_segment(
        values: &'a [E],
        segment: &Segment,
        shape: AttentionShape,
        kv_head: usize,
    ) -> Self {
        let width = shape.head_dim;
        let ranges = [segment.context.unwrap_or((0, 0)), (segment.start, segment.len)];
        Self { values, stride: shape.kv_heads * width, column: kv_head * width, width, ranges }
    }

    pub(crate) fn len(&self) -> usize {
        self.ranges[0].1 + self.ranges[1].1
    }

    /// Row of the matrix that holds key `index`.
    pub(crate) fn matrix_row(&self, index: usize) -> usize {
        let [(first, count), (second, _)] = self.ranges;
        if index < count { first + index } else { second + index - count }
    }

    pub(crate) fn row(&self, index: usize) -> &'a [E] {
        &self.values[self.matrix_row(index) * self.stride + self.column..][..self.width]
    }

    /// As rows of `padded` values, zeros at the end.
    pub(crate) fn copy_padded(&self, padded: usize, out: &mut [f32]) {
        for (index, out) in out.chunks_exact_mut(padded).take(self.len()).enumerate() {
            let (head, pad) = out.split_at_mut(self.width);
            head.iter_mut().zip(self.row(index)).for_each(|(to, from)| *to = from.to_f32());
            pad.fill(0.0);
        }
    }
}

/// Softmax attention of `queries`; query `i` sees all but the last `queries.len - 1 - i` keys, of these the shape's
/// window. Writes the queries' rows of `out` and, where given, of `lse`, in the columns of their heads.
///
/// # Safety
/// Nobody else uses these rows and columns of `out` and `lse` meanwhile.
pub(crate) unsafe fn forward_rows<E: Element>(
    engine: &Engine,
    shape: AttentionShape,
    queries: Queries<'_, E>,
    [keys, values]: [KeyRows<'_, E>; 2],
    out: &SharedMut<'_, E>,
    lse: Option<&SharedMut<'_>>,
) {
    let AttentionShape { heads, head_dim, scale, .. } = shape;
    let (path, group) = (engine.path(), shape.group());
    let (seen, padded) = (keys.len(), head_dim.next_multiple_of(PANEL));
    let rows = tile_queries(group).min(queries.len) * group;
    let sizes = [
        seen.next_multiple_of(PANEL) * head_dim,
        seen * padded,
        rows * head_dim,
        rows * TILE_KEYS,
        rows * padded,
        rows,
        rows,
    ];
    let mut scratch = engine.scratch.take(sizes.iter().sum());
    let [key_panels, value_rows, q, scores, sums, maxima, totals] = carve(&mut scratch, sizes);
    pack_transposed(seen, head_dim, |index| keys.row(index), key_panels);
    values.copy_padded(padded, value_rows);
    for first in (0..queries.len).step_by(tile_queries(group)) {
        let count = tile_queries(group).min(queries.len - first);
        let m = count * group;
        for (index, q) in q.chunks_exact_mut(group * head_dim).take(count).enumerate() {
            let at = ((queries.start + first + index) * heads + queries.kv_head * group) * head_dim;
            let row = &queries.values[at..][..group * head_dim];
            q.iter_mut().zip(row).for_each(|(q, value)| *q = value.to_f32() * scale);
        }
        maxima[..m].fill(f32::NEG_INFINITY);
        totals[..m].fill(0.0);
        let hidden = seen - queries.len;
        let limit = hidden + first + count;
        let begin = first_key(hidden + first + 1, shape);
        for key in (begin..limit).step_by(TILE_KEYS) {
            let width = TILE_KEYS.min(limit - key);
            let right = Panels {
                values: &key_panels[key * head_dim..],
                panel_stride: head_dim * PANEL,
                row_stride: PANEL,
            };
            let left = Left { values: q, row_stride: head_dim, col_stride: 1 };
            let size = Size { m, n: width.next_multiple_of(PANEL), k: head_dim };
            let target = Target { values: scores, row_stride: TILE_KEYS, add: false };
            tile::multiply(path, size, left, right, target);
            if let Some(cap) = shape.cap {
                cap_rows(path, &mut scores[..m * TILE_KEYS], size.n, cap);
            }
            let edge =
                CausalEdge { visible: hidden + first + 1, window: shape.window(), key, begin, width, group };
            let state = Softmax { maxima: &mut maxima[..m], totals, sums, padded };
            softmax_tile(path, edge, scores, state);
            let right =
                Panels { values: &value_rows[key * padded..], panel_stride: PANEL, row_stride: padded };
            let left = Left { values: scores, row_stride: TILE_KEYS, col_stride: 1 };
            let target = Target { values: sums, row_stride: padded, add: key > begin };
            tile::multiply(path, Size { m, n: padded, k: width }, left, right, target);
        }
        for row in 0..m {
            let (token, head) = (queries.start + first + row / group, queries.kv_head * group + row % group);
            let inverse = 1.0 / totals[row];
            // SAFETY: this query's row in its head's columns, which are the caller's alone.
            let out = unsafe { out.part((token * heads + head) * head_dim, head_dim) };
            out.iter_mut()
                .zip(&sums[row * padded..])
                .for_each(|(out, sum)| *out = E::from_f32(sum * inverse));
            if let Some(lse) = lse {
                // SAFETY: as above.
                unsafe { lse.part(token * heads + head, 1)[0] = maxima[row] + totals[row].ln() };
            }
        }
    }
}

/// Caps the first `width` scores of each row of a tile.
pub(crate) fn cap_rows(path: CpuPath, scores: &mut [f32], width: usize, cap: f32) {
    scores.chunks_exact_mut(TILE_KEYS).for_each(|row| cap_in_place(path, &mut row[..width], cap));
}

/// Where the key tiles begin whose first query sees keys below `visible`: a whole panel before its window.
///
/// A tile's last query begins at most a tile's rows later, so that every query sees a key in the first tile of keys.
pub(crate) fn first_key(visible: usize, shape: AttentionShape) -> usize {
    visible.saturating_sub(shape.window()) / PANEL * PANEL
}
const _: () = assert!(TILE_ROWS + PANEL <= TILE_KEYS);

/// Which scores of a tile count: query `i` (row `i * group` and on) sees the last `window` keys below `visible + i`, of
/// which the tile holds `key..key + width`. The first tile is at `begin`.
#[derive(Clone, Copy)]
pub(crate) struct CausalEdge {
    pub(crate) visible: usize,
    pub(crate) window: usize,
    pub(crate) key: usize,
    pub(crate) begin: usize,
    pub(crate) width: usize,
    pub(crate) group: usize,
}

impl CausalEdge {
    /// The tile's keys that `row` sees.
    #[inline(always)]
    pub(crate) fn seen_by(&self, row: usize) -> std::ops::Range<usize> {
        let visible = self.visible + row / self.group;
        let inside = |key: usize| key.saturating_sub(self.key).min(self.width);
        inside(visible.saturating_sub(self.window))..inside(visible)
    }
}

/// The running softmax of a tile's rows.
struct Softmax<'a> {
    maxima: &'a mut [f32],
    totals: &'a mut [f32],
    /// `[rows, padded]`: values weighted so far.
    sums: &'a mut [f32],
    padded: usize,
}

vectorised! {
    /// Turns scores into weights relative to the running maximum, and rescales what was summed under the old one.
    fn softmax_tile(edge: CausalEdge, scores: &mut [f32], state: Softmax<'_>) = softmax_tile_body
}

#[inline(always)]
fn softmax_tile_body<const FMA: bool>(edge: CausalEdge, scores: &mut [f32], state: Softmax<'_>) {
    let Softmax { maxima, totals, sums, padded } = state;
    let whole = edge.width.next_multiple_of(PANEL);
    for (row, maximum) in maxima.iter_mut().enumerate() {
        let scores = &mut scores[row * TILE_KEYS..][..whole];
        let seen = edge.seen_by(row);
        scores[..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..].fill(f32::NEG_INFINITY);
        let largest = max(scores);
        let largest = if largest > *maximum { largest } else { *maximum };
        let total = exp_shifted_in_place::<FMA>(scores, largest);
        if edge.key == edge.begin {
            totals[row] = total;
        } else {
            let shrink = (*maximum - largest).exp();
            totals[row] = totals[row] * shrink + total;
            sums[row * padded..][..padded].iter_mut().for_each(|sum| *sum *= shrink);
        }
        *maximum = largest;
    }
}
