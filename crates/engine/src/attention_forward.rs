//! Attention of one run of query rows over the keys of one head, tile by tile with a running softmax. Knows which
//! keys a query sees only as "all but the last few", or the nearest of these where there is a window; segments and
//! caches are laid out by the callers.

use crate::cpu::vectorised;
use crate::element::Element;
use crate::segments::Segment;
use crate::shared::{SharedMut, carve};
use crate::soft_cap::cap_in_place;
use crate::tile::{PANEL, Size, Target};
use crate::tile_product::{LeftTile, Right, TileProducts, WIDEST};
use crate::vector::{exp_shifted_in_place, max, narrow_scaled, widen_scaled};
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
    pub(crate) fn copy_padded(&self, path: CpuPath, padded: usize, out: &mut [f32]) {
        for (index, out) in out.chunks_exact_mut(padded).take(self.len()).enumerate() {
            let (head, pad) = out.split_at_mut(self.width);
            widen_scaled(path, self.row(index), 1.0, head);
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
    let products = TileProducts::of::<E>(engine);
    let (seen, padded) = (keys.len(), shape.head_dim.next_multiple_of(products.width()));
    let sizes = [products.lines_len(seen, shape.head_dim), seen * padded, products.depth_len(seen, padded)];
    let mut scratch = engine.scratch.take(sizes.iter().sum());
    let [key_room, value_rows, value_room] = carve(&mut scratch, sizes);
    values.copy_padded(engine.path(), padded, value_rows);
    let seen = Seen {
        count: seen,
        keys: products.pack_lines(seen, shape.head_dim, |index| keys.row(index), key_room),
        values: products.by_depth(value_rows, padded, value_room),
    };
    // SAFETY: passed on.
    unsafe { attend_rows(engine, shape, queries, seen, out, lse) };
}

/// Keys and values of one head, packed as the products of the queries' precision read them.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) count: usize,
    /// A column per key.
    pub(crate) keys: Right<'a>,
    /// Summed over the keys.
    pub(crate) values: Right<'a>,
}

/// As [`forward_rows`], of keys and values that are packed.
///
/// # Safety
/// As [`forward_rows`].
pub(crate) unsafe fn attend_rows<E: Element>(
    engine: &Engine,
    shape: AttentionShape,
    queries: Queries<'_, E>,
    seen: Seen<'_>,
    out: &SharedMut<'_, E>,
    lse: Option<&SharedMut<'_>>,
) {
    let AttentionShape { heads, head_dim, scale, .. } = shape;
    let (path, group, products) = (engine.path(), shape.group(), TileProducts::of::<E>(engine));
    let padded = head_dim.next_multiple_of(products.width());
    let rows = tile_queries(group).min(queries.len) * group;
    let sizes = [
        products.left_len(rows, TILE_KEYS.max(head_dim)),
        rows * head_dim,
        rows * TILE_KEYS,
        rows * padded,
        rows,
        rows,
    ];
    let mut scratch = engine.scratch.take(sizes.iter().sum());
    let [left_room, q, scores, sums, maxima, totals] = carve(&mut scratch, sizes);
    for first in (0..queries.len).step_by(tile_queries(group)) {
        let count = tile_queries(group).min(queries.len - first);
        let m = count * group;
        for (index, q) in q.chunks_exact_mut(group * head_dim).take(count).enumerate() {
            let at = ((queries.start + first + index) * heads + queries.kv_head * group) * head_dim;
            widen_scaled(path, &queries.values[at..][..group * head_dim], scale, q);
        }
        maxima[..m].fill(f32::NEG_INFINITY);
        totals[..m].fill(0.0);
        let hidden = seen.count - queries.len;
        let limit = hidden + first + count;
        let begin = first_key(hidden + first + 1, shape);
        for key in (begin..limit).step_by(TILE_KEYS) {
            let width = TILE_KEYS.min(limit - key);
            let left = LeftTile { values: q, stride: head_dim, transposed: false };
            let size = Size { m, n: width.next_multiple_of(products.width()), k: head_dim };
            let target = Target { values: scores, row_stride: TILE_KEYS, add: false };
            products.multiply(size, left, seen.keys.columns_from(key), target, left_room);
            if let Some(cap) = shape.cap {
                cap_rows(path, &mut scores[..m * TILE_KEYS], size.n, cap);
            }
            let edge =
                CausalEdge { visible: hidden + first + 1, window: shape.window(), key, begin, width, group };
            let state = Softmax { maxima: &mut maxima[..m], totals, sums, padded };
            softmax_tile(path, edge, scores, state);
            let left = LeftTile { values: scores, stride: TILE_KEYS, transposed: false };
            let target = Target { values: sums, row_stride: padded, add: key > begin };
            let size = Size { m, n: padded, k: width };
            products.multiply(size, left, seen.values.depth_from(key), target, left_room);
        }
        for row in 0..m {
            let (token, head) = (queries.start + first + row / group, queries.kv_head * group + row % group);
            // SAFETY: this query's row in its head's columns, which are the caller's alone.
            let out = unsafe { out.part((token * heads + head) * head_dim, head_dim) };
            narrow_scaled(path, &sums[row * padded..][..head_dim], 1.0 / totals[row], out);
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
    visible.saturating_sub(shape.window()) / WIDEST * WIDEST
}
const _: () = assert!(TILE_ROWS + WIDEST <= TILE_KEYS);

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
