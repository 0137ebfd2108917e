//! Gradients of attention for one segment and one key head: scores are recomputed tile by tile from the stored
//! log-sum-exp (Dao 2023, arXiv 2307.08691, algorithm 2).

use crate::attention_forward::{CausalEdge, KeyRows, TILE_KEYS, cap_rows, first_key, tile_queries};
use crate::cpu::{mul_add, vectorised};
use crate::element::Element;
use crate::segments::Segment;
use crate::shared::{SharedMut, carve};
use crate::soft_cap::cap_slope;
use crate::tile::{PANEL, Size, Target};
use crate::tile_product::{LeftTile, Right, TileProducts};
use crate::vector::{LANES, add_in_place, exp, narrow_scaled, sum_lanes, widen_scaled};
use crate::{AttentionShape, CpuPath, Engine};

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
    let products = TileProducts::of::<E>(engine);
    let (seen, padded) = (keys.len(), head_dim.next_multiple_of(products.width()));
    let rows = tile_queries(group).min(segment.len) * group;
    let lines = products.lines_len(seen, head_dim);
    let sizes = [lines, lines, seen * padded, products.depth_len(seen, padded), seen * padded, seen * padded];
    let depth = products.depth_len(rows, padded);
    let tile_sizes = [
        rows * padded,
        rows * padded,
        rows * padded,
        rows * TILE_KEYS,
        rows * TILE_KEYS,
        rows,
        rows,
        depth,
        depth,
        products.left_len(rows, TILE_KEYS.max(padded)),
    ];
    let mut scratch = engine.scratch.take(sizes.iter().sum::<usize>() + tile_sizes.iter().sum::<usize>());
    let (whole_part, tile_part) = scratch.split_at_mut(sizes.iter().sum());
    let [key_room, value_room, key_rows, key_depth, dk, dv] = carve(whole_part, sizes);
    let [q, dout, dq, scores, dscores, lse, delta, q_room, dout_room, left_room] =
        carve(tile_part, tile_sizes);
    let key_lines = products.pack_lines(seen, head_dim, |index| keys.row(index), key_room);
    let value_lines = products.pack_lines(seen, head_dim, |index| values.row(index), value_room);
    keys.copy_padded(engine.path(), padded, key_rows);
    let key_rows = products.by_depth(key_rows, padded, key_depth);
    dk.fill(0.0);
    dv.fill(0.0);
    let mut tile = Tile { shape, padded, q, dout, lse, delta };
    let mut work = Work { products, padded, dq, scores, dscores, left_room };
    for first in (0..segment.len).step_by(tile_queries(group)) {
        let count = tile_queries(group).min(segment.len - first);
        tile.gather(engine, stored, (segment.start + first, count), kv_head);
        let m = count * group;
        let queries = Queries {
            q: LeftTile { values: tile.q, stride: padded, transposed: false },
            dout: LeftTile { values: tile.dout, stride: padded, transposed: false },
            q_rows: products.by_depth(&tile.q[..m * padded], padded, q_room),
            dout_rows: products.by_depth(&tile.dout[..m * padded], padded, dout_room),
            lse: &tile.lse[..m],
            delta: tile.delta,
        };
        let hidden = seen - segment.len;
        let limit = hidden + first + count;
        let begin = first_key(hidden + first + 1, shape);
        for key in (begin..limit).step_by(TILE_KEYS) {
            let width = TILE_KEYS.min(limit - key);
            let edge =
                CausalEdge { visible: hidden + first + 1, window: shape.window(), key, begin, width, group };
            let sides = Sides {
                key_lines: key_lines.columns_from(key),
                value_lines: value_lines.columns_from(key),
                key_rows: key_rows.depth_from(key),
                dk: &mut dk[key * padded..],
                dv: &mut dv[key * padded..],
            };
            work.differentiate(engine, edge, shape, &queries, sides);
        }
        // SAFETY: the segment's rows in the columns of this task's heads.
        unsafe { work.write_dq(engine.path(), shape, &grads.dq, (segment.start + first, count), kv_head) };
    }
    for index in 0..seen {
        let at = keys.matrix_row(index) * keys.stride + keys.column;
        for (from, to) in [(&*dk, &grads.dk), (&*dv, &grads.dv)] {
            // SAFETY: a row that the segment sees, in the columns of this task's key head.
            let to = unsafe { to.part(at, head_dim) };
            add_in_place(engine.path(), &from[index * padded..][..head_dim], to);
        }
    }
}

/// What is loaded of a tile of queries, a row per query and head.
struct Tile<'a> {
    shape: AttentionShape,
    padded: usize,
    /// Scaled queries, `[rows, padded]`.
    q: &'a mut [f32],
    dout: &'a mut [f32],
    lse: &'a mut [f32],
    /// Scalar product of output and its gradient: what the softmax subtracts.
    delta: &'a mut [f32],
}

/// The loaded tile as the products read it.
struct Queries<'a> {
    q: LeftTile<'a>,
    dout: LeftTile<'a>,
    q_rows: Right<'a>,
    dout_rows: Right<'a>,
    lse: &'a [f32],
    delta: &'a [f32],
}

/// A tile of keys.
struct Sides<'a> {
    key_lines: Right<'a>,
    value_lines: Right<'a>,
    key_rows: Right<'a>,
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// What is computed of a tile of queries.
struct Work<'a> {
    products: TileProducts,
    padded: usize,
    /// `[rows, padded]`.
    dq: &'a mut [f32],
    /// `[rows, TILE_KEYS]`: scores, then weights.
    scores: &'a mut [f32],
    /// `[rows, TILE_KEYS]`: gradients of the weights, then of the scores.
    dscores: &'a mut [f32],
    left_room: &'a mut [f32],
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
            widen_scaled(engine.path(), &stored.q[at..][..head_dim], scale, q);
            pad.fill(0.0);
            let gradient = &stored.dout[at..][..head_dim];
            let (dout, pad) = self.dout[row * padded..][..padded].split_at_mut(head_dim);
            dout.copy_from_slice(gradient);
            pad.fill(0.0);
            self.delta[row] = product(engine.path(), &stored.out[at..][..head_dim], gradient);
            self.lse[row] = stored.lse[head];
        }
    }
}

impl Work<'_> {
    /// One tile of keys: adds to the tile's `dq` and to the keys' `dk` and `dv`.
    fn differentiate(
        &mut self,
        engine: &Engine,
        edge: CausalEdge,
        shape: AttentionShape,
        queries: &Queries<'_>,
        keys: Sides<'_>,
    ) {
        let Self { products, padded, .. } = *self;
        let (m, k, width) = (queries.lse.len(), shape.head_dim, edge.width);
        let n = width.next_multiple_of(products.width());
        let tile = |values, transposed| LeftTile { values, stride: TILE_KEYS, transposed };

        let target = Target { values: self.scores, row_stride: TILE_KEYS, add: false };
        products.multiply(Size { m, n, k }, queries.q, keys.key_lines, target, self.left_room);
        let target = Target { values: self.dscores, row_stride: TILE_KEYS, add: false };
        products.multiply(Size { m, n, k }, queries.dout, keys.value_lines, target, self.left_room);
        if let Some(cap) = shape.cap {
            cap_rows(engine.path(), &mut self.scores[..m * TILE_KEYS], n, cap);
        }
        let tiles = (&mut *self.scores, &mut *self.dscores);
        score_gradients(engine.path(), edge, tiles, (queries.lse, queries.delta), shape.cap);

        let size = Size { m: width, n: padded, k: m };
        let target = Target { values: keys.dv, row_stride: padded, add: true };
        products.multiply(size, tile(self.scores, true), queries.dout_rows, target, self.left_room);
        let target = Target { values: keys.dk, row_stride: padded, add: true };
        products.multiply(size, tile(self.dscores, true), queries.q_rows, target, self.left_room);
        let target = Target { values: self.dq, row_stride: padded, add: edge.key > edge.begin };
        let size = Size { m, n: padded, k: width };
        products.multiply(size, tile(self.dscores, false), keys.key_rows, target, self.left_room);
    }

    /// # Safety
    /// Nobody else uses these rows in these heads' columns meanwhile.
    unsafe fn write_dq(
        &self,
        path: CpuPath,
        shape: AttentionShape,
        out: &SharedMut<'_>,
        (first, count): (usize, usize),
        kv_head: usize,
    ) {
        let AttentionShape { heads, head_dim, scale, .. } = shape;
        let group = shape.group();
        for row in 0..count * group {
            let head = (first + row / group) * heads + kv_head * group + row % group;
            // SAFETY: by the caller.
            let out = unsafe { out.part(head * head_dim, head_dim) };
            narrow_scaled(path, &self.dq[row * self.padded..][..head_dim], scale, out);
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
