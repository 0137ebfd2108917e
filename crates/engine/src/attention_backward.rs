//! Gradients of attention for one segment and one key head: scores are recomputed tile by tile from the stored
//! log-sum-exp (Dao 2023, arXiv 2307.08691, algorithm 2).

use crate::attention_forward::{CausalEdge, KeyRows, TILE_KEYS, cap_rows, first_key, tile_queries};
use crate::cpu::{mul_add, vectorised};
use crate::element::Element;
use crate::segments::Segment;
use crate::shared::{SharedMut, carve};
use crate::soft_cap::cap_slope;
use crate::tile::{self, Left, PANEL, Panels, Size, Target, pack_transposed};
use crate::vector::{LANES, exp, sum_lanes};
use crate::{AttentionShape, Engine};

/// What the forward left, by value, and the gradient that comes in.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a, E> {
    pub(crate) q: &'a [E],
    pub(crate) k: &'a [E],
    pub(crate) v: &'a [E],
    pub(crate) out: &'a [E],
    pub(crate) lse: &'a [f32],
    pub(crate) dout: &'a [f32],
}

/// Gradients that all tasks write, each its own rows and columns.
pub(crate) struct SharedGrads<'a> {
    pub(crate) dq: SharedMut<'a>,
    pub(crate) dk: SharedMut<'a>,
    pub(crate) dv: SharedMut<'a>,
}

/// Writes `dq` of the segment's rows; adds to `dk` and `dv` of its rows and its context's.
///
/// # Safety
/// Nobody else uses these rows in the columns of `kv_head` (and of the query heads that use it) meanwhile.
pub(crate) unsafe fn backward_segment<E: Element>(
    engine: &Engine,
    shape: AttentionShape,
    stored: Stored<'_, E>,
    (segment, kv_head): (&Segment, usize),
    grads: &SharedGrads<'_>,
) {
    let head_dim = shape.head_dim;
    let group = shape.group();
    let keys = KeyRows::of_segment(stored.k, segment, shape, kv_head);
    let values = KeyRows::of_segment(stored.v, segment, shape, kv_head);
    let (seen, padded) = (keys.len(), head_dim.next_multiple_of(PANEL));
    let whole = seen.next_multiple_of(PANEL);
    let rows = tile_queries(group).min(segment.len) * group;
    let sizes = [whole * head_dim, whole * head_dim, seen * padded, seen * padded, seen * padded];
    let tile_sizes =
        [rows * padded, rows * padded, rows * padded, rows * TILE_KEYS, rows * TILE_KEYS, rows, rows];
    let mut scratch = engine.scratch.take(sizes.iter().sum::<usize>() + tile_sizes.iter().sum::<usize>());
    let (whole_part, tile_part) = scratch.split_at_mut(sizes.iter().sum());
    let [key_panels, value_panels, key_rows, dk, dv] = carve(whole_part, sizes);
    let [q, dout, dq, scores, dscores, lse, delta] = carve(tile_part, tile_sizes);
    pack_transposed(seen, head_dim, |index| keys.row(index), key_panels);
    pack_transposed(seen, head_dim, |index| values.row(index), value_panels);
    keys.copy_padded(padded, key_rows);
    dk.fill(0.0);
    dv.fill(0.0);
    let mut tile = Tile { shape, padded, q, dout, dq, scores, dscores, lse, delta };
    for first in (0..segment.len).step_by(tile_queries(group)) {
        let count = tile_queries(group).min(segment.len - first);
        tile.gather(engine, stored, (segment.start + first, count), kv_head);
        let hidden = seen - segment.len;
        let limit = hidden + first + count;
        let begin = first_key(hidden + first + 1, shape);
        for key in (begin..limit).step_by(TILE_KEYS) {
            let width = TILE_KEYS.min(limit - key);
            let edge =
                CausalEdge { visible: hidden + first + 1, window: shape.window(), key, begin, width, group };
            let sides = Sides {
                key_panels: &key_panels[key * head_dim..],
                value_panels: &value_panels[key * head_dim..],
                key_rows: &key_rows[key * padded..],
                dk: &mut dk[key * padded..],
                dv: &mut dv[key * padded..],
            };
            tile.differentiate(engine, edge, count * group, sides);
        }
        // SAFETY: the segment's rows in the columns of this task's heads.
        unsafe { tile.write_dq(&grads.dq, (segment.start + first, count), kv_head) };
    }
    for index in 0..seen {
        let at = keys.matrix_row(index) * keys.stride + keys.column;
        for (from, to) in [(&*dk, &grads.dk), (&*dv, &grads.dv)] {
            // SAFETY: a row that the segment sees, in the columns of this task's key head.
            let to = unsafe { to.part(at, head_dim) };
            to.iter_mut().zip(&from[index * padded..]).for_each(|(to, from)| *to += from);
        }
    }
}

/// What a tile of queries holds, a row per query and head.
struct Tile<'a> {
    shape: AttentionShape,
    padded: usize,
    /// Scaled queries, `[rows, padded]`.
    q: &'a mut [f32],
    dout: &'a mut [f32],
    dq: &'a mut [f32],
    /// `[rows, TILE_KEYS]`: scores, then weights.
    scores: &'a mut [f32],
    /// `[rows, TILE_KEYS]`: gradients of the weights, then of the scores.
    dscores: &'a mut [f32],
    lse: &'a mut [f32],
    /// Scalar product of output and its gradient: what the softmax subtracts.
    delta: &'a mut [f32],
}

/// A tile of keys.
struct Sides<'a> {
    key_panels: &'a [f32],
    value_panels: &'a [f32],
    key_rows: &'a [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

impl Tile<'_> {
    /// Loads queries `first..first + count` (rows of the batch) in the heads that use `kv_head`.
    fn gather<E: Element>(
        &mut self,
        engine: &Engine,
        stored: Stored<'_, E>,
        (first, count): (usize, usize),
        kv_head: usize,
    ) {
        let AttentionShape { heads, head_dim, scale, .. } = self.shape;
        let (group, padded) = (self.shape.group(), self.padded);
        for row in 0..count * group {
            let head = (first + row / group) * heads + kv_head * group + row % group;
            let at = head * head_dim;
            let (q, pad) = self.q[row * padded..][..padded].split_at_mut(head_dim);
            q.iter_mut().zip(&stored.q[at..]).for_each(|(q, value)| *q = value.to_f32() * scale);
            pad.fill(0.0);
            let gradient = &stored.dout[at..][..head_dim];
            let (dout, pad) = self.dout[row * padded..][..padded].split_at_mut(head_dim);
            dout.copy_from_slice(gradient);
            pad.fill(0.0);
            self.delta[row] = product(engine.path(), &stored.out[at..][..head_dim], gradient);
            self.lse[row] = stored.lse[head];
        }
    }

    /// One tile of keys: adds to the tile's `dq` and to the keys' `dk` and `dv`.
    fn differentiate(&mut self, engine: &Engine, edge: CausalEdge, m: usize, keys: Sides<'_>) {
        let (path, k, padded) = (engine.path(), self.shape.head_dim, self.padded);
        let (n, width) = (edge.width.next_multiple_of(PANEL), edge.width);
        let by_row = |values, stride| Left { values, row_stride: stride, col_stride: 1 };
        let transposed = |values| Left { values, row_stride: 1, col_stride: TILE_KEYS };
        let packed = |values| Panels { values, panel_stride: k * PANEL, row_stride: PANEL };
        let plain = |values| Panels { values, panel_stride: PANEL, row_stride: padded };

        let target = Target { values: self.scores, row_stride: TILE_KEYS, add: false };
        tile::multiply(path, Size { m, n, k }, by_row(self.q, padded), packed(keys.key_panels), target);
        let target = Target { values: self.dscores, row_stride: TILE_KEYS, add: false };
        tile::multiply(path, Size { m, n, k }, by_row(self.dout, padded), packed(keys.value_panels), target);
        if let Some(cap) = self.shape.cap {
            cap_rows(path, &mut self.scores[..m * TILE_KEYS], n, cap);
        }
        let tiles = (&mut *self.scores, &mut *self.dscores);
        score_gradients(path, edge, tiles, (&self.lse[..m], self.delta), self.shape.cap);

        let target = Target { values: keys.dv, row_stride: padded, add: true };
        let size = Size { m: width, n: padded, k: m };
        tile::multiply(path, size, transposed(self.scores), plain(self.dout), target);
        let target = Target { values: keys.dk, row_stride: padded, add: true };
        tile::multiply(path, size, transposed(self.dscores), plain(self.q), target);
        let target = Target { values: self.dq, row_stride: padded, add: edge.key > edge.begin };
        let size = Size { m, n: padded, k: width };
        tile::multiply(path, size, by_row(self.dscores, TILE_KEYS), plain(keys.key_rows), target);
    }

    /// # Safety
    /// Nobody else uses these rows in these heads' columns meanwhile.
    unsafe fn write_dq(&self, out: &SharedMut<'_>, (first, count): (usize, usize), kv_head: usize) {
        let AttentionShape { heads, head_dim, scale, .. } = self.shape;
        let group = self.shape.group();
        for row in 0..count * group {
            let head = (first + row / group) * heads + kv_head * group + row % group;
            // SAFETY: by the caller.
            let out = unsafe { out.part(head * head_dim, head_dim) };
            out.iter_mut().zip(&self.dq[row * self.padded..]).for_each(|(out, dq)| *out = dq * scale);
        }
    }
}

vectorised! {
    fn product[E: Element][E](a: &[E], b: &[f32]) -> f32 = product_body
}

#[inline(always)]
fn product_body<const FMA: bool, E: Element>(a: &[E], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] = mul_add::<FMA>(a[lane].to_f32(), b[lane], lanes[lane]);
        }
    }
    a_rest.iter().zip(b_rest).fold(sum_lanes(lanes), |sum, (a, b)| mul_add::<FMA>(a.to_f32(), *b, sum))
}

vectorised! {
    /// Scores become weights `p = e^(score - lse)`, gradients of weights become gradients of scores
    /// `p * (gradient - delta)`, times the cap's slope where scores are capped; both zero where a row does not see a key.
    fn score_gradients(
        edge: CausalEdge,
        tiles: (&mut [f32], &mut [f32]),
        rows: (&[f32], &[f32]),
        cap: Option<f32>,
    ) = score_gradients_body
}

#[inline(always)]
fn score_gradients_body<const FMA: bool>(
    edge: CausalEdge,
    (scores, dscores): (&mut [f32], &mut [f32]),
    (lse, delta): (&[f32], &[f32]),
    cap: Option<f32>,
) {
    let whole = edge.width.next_multiple_of(PANEL);
    for (row, (&lse, &delta)) in lse.iter().zip(delta).enumerate() {
        let seen = edge.seen_by(row);
        let scores = &mut scores[row * TILE_KEYS..][..whole];
        let dscores = &mut dscores[row * TILE_KEYS..][..whole];
        let both = scores[seen.clone()].iter_mut().zip(&mut dscores[seen.clone()]);
        // The choice is made once a row: the plain loop is that of uncapped attention.
        match cap.map(|cap| 1.0 / cap) {
            None => both.for_each(|(score, dscore)| {
                *score = exp::<FMA>(*score - lse);
                *dscore = *score * (*dscore - delta);
            }),
            Some(inverse) => both.for_each(|(score, dscore)| {
                let slope = cap_slope(*score, inverse);
                *score = exp::<FMA>(*score - lse);
                *dscore = *score * (*dscore - delta) * slope;
            }),
        }
        for unseen in [0..seen.start, seen.end..whole] {
            scores[unseen.clone()].fill(0.0);
            dscores[unseen].fill(0.0);
        }
    }
}
