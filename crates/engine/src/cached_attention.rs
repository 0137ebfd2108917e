//! Attention of new rows over the keys and values that a cache holds.

use half::bf16;

use crate::array::{Values, ValuesMut};
use crate::attention_forward::{KeyRows, Queries, Seen, attend_rows, forward_rows};
use crate::cpu::{mul_add, vectorised};
use crate::element::Element;
use crate::error::{expect_same_shape, expect_size};
use crate::kv_cache::{Head, PackedHead, check_rows};
use crate::row_products::{self, Rows};
use crate::shared::{SharedMut, carve};
use crate::soft_cap::cap_in_place;
use crate::tile_product::TileProducts;
use crate::vector::{exp_shifted_in_place, max};
use crate::{Array, AttentionShape, CachedRows, DType, Engine, EngineError, KvCache};

impl Engine {
    /// Attention of new rows over the cache, which already holds their own keys and values: row `i` of an entry's
    /// `len` sees all but the last `len - 1 - i` rows of its slot, of these the shape's window. `q`, `out` are `[n, heads * head_dim]`; rows of
    /// `out` that no entry names are left alone. One row per entry is decoding, more are a prompt (chunk).
    ///
    /// # Errors
    /// A slot or row that is not there, entries that are not in ascending order of their rows or share one, a slot
    /// with fewer rows than its entry; shapes that do not fit.
    pub fn cached_attention(
        &self,
        q: &Array,
        rows: &[CachedRows],
        cache: &KvCache,
        shape: AttentionShape,
        out: &mut Array,
    ) -> Result<(), EngineError> {
        const OP: &str = "cached_attention";
        shape.check(OP)?;
        expect_size(OP, "columns of q", shape.heads * shape.head_dim, q.cols())?;
        expect_size(OP, "width of the cache", shape.kv_heads * shape.head_dim, cache.width())?;
        expect_size(OP, "heads of the cache", shape.kv_heads, cache.kv_heads())?;
        expect_same_shape(OP, ("rows of out", "columns of out"), q, out)?;
        check_rows(OP, rows, cache.slots(), q.rows())?;
        for entry in rows {
            if cache.len(entry.slot) < entry.len {
                let reason = format!(
                    "slot {} holds {} rows, fewer than the {} asked about; append their keys and values first",
                    entry.slot,
                    cache.len(entry.slot),
                    entry.len
                );
                return Err(EngineError::Invalid { operation: OP, reason });
            }
        }
        if let Some(sequences) = cache.on_device() {
            return sequences.attend(q, rows, shape, out);
        }
        match (q.values(), cache.dtype(), out.values_mut()) {
            (Values::F32(q), DType::F32, ValuesMut::F32(out)) => {
                self.attend_entries(rows, cache, shape, out, |task, head, out| match head {
                    // SAFETY: passed on.
                    Head::F32 { keys, values } => unsafe {
                        self.attend_plain(shape, task, (q, keys, values), out);
                    },
                    Head::Bf16(_) => {}
                });
            }
            (Values::Bf16(q), DType::Bf16, ValuesMut::Bf16(out)) => {
                self.attend_entries(rows, cache, shape, out, |task, head, out| match head {
                    // SAFETY: passed on.
                    Head::Bf16(head) => unsafe { self.attend_packed(shape, task, (q, head), out) },
                    Head::F32 { .. } => {}
                });
            }
            _ => return Err(EngineError::mixed(OP)),
        }
        Ok(())
    }

    /// Hands each entry and key head to `attend`, on all threads: a task writes the rows of its entry in the columns of
    /// its heads, and entries share no row.
    fn attend_entries<E: Element>(
        &self,
        rows: &[CachedRows],
        cache: &KvCache,
        shape: AttentionShape,
        out: &mut [E],
        attend: impl Fn((CachedRows, usize), &Head, &SharedMut<'_, E>) + Sync + Send,
    ) {
        let out = SharedMut::new(out);
        let pairs: usize = rows.iter().map(|entry| entry.len * cache.len(entry.slot)).sum();
        let steps = pairs.saturating_mul(shape.heads * shape.head_dim / 8);
        self.for_each(rows.len() * shape.kv_heads, steps, |task| {
            let (entry, kv_head) = (rows[task / shape.kv_heads], task % shape.kv_heads);
            if entry.len > 0 {
                attend((entry, kv_head), cache.head(entry.slot, kv_head), &out);
            }
        });
    }

    /// # Safety
    /// Nobody else uses the entry's rows of `out` in the columns of these heads meanwhile.
    unsafe fn attend_plain(
        &self,
        shape: AttentionShape,
        (entry, kv_head): (CachedRows, usize),
        (q, keys, values): (&[f32], &[f32], &[f32]),
        out: &SharedMut<'_>,
    ) {
        let AttentionShape { kv_heads, head_dim, scale, .. } = shape;
        let length = keys.len() / head_dim;
        if entry.len > 1 {
            let queries = Queries { values: q, start: entry.start, len: entry.len, kv_head };
            let rows = |values| KeyRows {
                values,
                stride: head_dim,
                column: 0,
                width: head_dim,
                ranges: [(0, 0), (0, length)],
            };
            // SAFETY: passed on.
            return unsafe { forward_rows(self, shape, queries, [rows(keys), rows(values)], out, None) };
        }
        let group = shape.group();
        let unseen = length.saturating_sub(shape.window());
        let [keys, values] = [keys, values].map(|rows| &rows[unseen * head_dim..]);
        let length = length - unseen;
        let at = (entry.start * kv_heads + kv_head) * group * head_dim;
        let mut scores = self.scratch.take(group * length);
        // SAFETY: passed on.
        let out = unsafe { out.part(at, group * head_dim) };
        let query = Rows::of(&q[at..][..group * head_dim], head_dim);
        row_products::multiply(self.path(), query, Rows::of(keys, head_dim), |row, key, sums| {
            let scores = &mut scores[row * length + key..][..sums.len()];
            scores.iter_mut().zip(sums).for_each(|(score, sum)| *score = sum * scale);
        });
        if let Some(cap) = shape.cap {
            cap_in_place(self.path(), &mut scores, cap);
        }
        weigh_values(self.path(), &mut scores, values, length, out);
    }

    /// # Safety
    /// As [`Engine::attend_plain`].
    unsafe fn attend_packed(
        &self,
        shape: AttentionShape,
        (entry, kv_head): (CachedRows, usize),
        (q, head): (&[bf16], &PackedHead),
        out: &SharedMut<'_, bf16>,
    ) {
        let (head_dim, count) = (shape.head_dim, head.len());
        let queries = Queries { values: q, start: entry.start, len: entry.len, kv_head };
        let products = TileProducts::of::<bf16>(self);
        if matches!(products, TileProducts::Bf16) {
            let seen = Seen { count, keys: head.keys(head_dim), values: head.values(head_dim) };
            // SAFETY: passed on.
            return unsafe { attend_rows(self, shape, queries, seen, out, None) };
        }
        let padded = head_dim.next_multiple_of(products.width());
        let sizes = [count * head_dim, products.lines_len(count, head_dim), count * padded];
        let mut scratch = self.scratch.take(sizes.iter().sum());
        let [key_rows, key_room, value_rows] = carve(&mut scratch, sizes);
        value_rows.fill(0.0);
        for (index, (key, value)) in
            key_rows.chunks_exact_mut(head_dim).zip(value_rows.chunks_exact_mut(padded)).enumerate()
        {
            head.row(index, key, &mut value[..head_dim]);
        }
        let key_rows = &*key_rows;
        let seen = Seen {
            count,
            keys: products.pack_lines(count, head_dim, |i| &key_rows[i * head_dim..][..head_dim], key_room),
            values: products.by_depth(value_rows, padded, &mut []),
        };
        // SAFETY: passed on.
        unsafe { attend_rows(self, shape, queries, seen, out, None) };
    }
}

vectorised! {
    /// For each query head (`length` scores, a part of `out`): the values weighted by the softmax of the scores.
    fn weigh_values(scores: &mut [f32], values: &[f32], length: usize, out: &mut [f32]) = weigh_values_body
}

#[inline(always)]
fn weigh_values_body<const FMA: bool>(scores: &mut [f32], values: &[f32], length: usize, out: &mut [f32]) {
    /// Value rows added at once: the sums are loaded and stored once for all of them.
    const AT_ONCE: usize = 8;
    let width = values.len() / length;
    for (scores, out) in scores.chunks_exact_mut(length).zip(out.chunks_exact_mut(width)) {
        let largest = max(scores);
        let inverse = 1.0 / exp_shifted_in_place::<FMA>(scores, largest);
        out.fill(0.0);
        let (blocks, rest) = scores.as_chunks::<AT_ONCE>();
        let (block_values, rest_values) = values.split_at(blocks.len() * AT_ONCE * width);
        for (weights, values) in blocks.iter().zip(block_values.chunks_exact(AT_ONCE * width)) {
            let rows: [&[f32]; AT_ONCE] = std::array::from_fn(|i| &values[i * width..][..width]);
            for (column, out) in out.iter_mut().enumerate() {
                let mut sum = *out;
                for i in 0..AT_ONCE {
                    sum = mul_add::<FMA>(weights[i], rows[i][column], sum);
                }
                *out = sum;
            }
        }
        for (weight, values) in rest.iter().zip(rest_values.chunks_exact(width)) {
            out.iter_mut().zip(values).for_each(|(out, value)| *out = mul_add::<FMA>(*weight, *value, *out));
        }
        out.iter_mut().for_each(|out| *out *= inverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, engines, random, rounded, wide};
    use crate::{Qkv, Segments};

    /// Two sequences fed in chunks of uneven size, beside attention over the whole of each.
    #[test]
    fn chunks_and_single_rows_equal_attention_over_the_whole_sequence() {
        for (heads, kv_heads, head_dim, window) in
            [(1, 1, 8, None), (6, 2, 5, Some(33)), (4, 4, 16, None), (3, 1, 64, Some(1)), (14, 2, 64, None)]
        {
            let cap = window.map(|_| 0.7);
            let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.25, window, cap };
            let qkv = [heads, kv_heads, kv_heads].into_iter().zip(1..);
            let exact = qkv.map(|(heads, seed)| random(seed, 337, heads * head_dim)).collect::<Vec<_>>();
            let narrow = exact.iter().map(rounded).collect::<Vec<_>>();
            for engine in engines() {
                chunks_equal_the_whole(&engine, shape, &exact, 2e-6);
                // Both ways round the weights of the softmax, but in tiles of other sizes.
                chunks_equal_the_whole(&engine, shape, &narrow, 1.0 / 64.0);
            }
        }
    }

    fn chunks_equal_the_whole(engine: &Engine, shape: AttentionShape, qkv: &[Array], tolerance: f64) {
        let [q, k, v] = qkv else { unreachable!() };
        let (lengths, tokens, dtype) = ([37, 300], 337, q.dtype());
        let segments = Segments::independent(&lengths);
        let mut want = Array::zeros_of(dtype, tokens, q.cols()).unwrap();
        let mut lse = Array::zeros(tokens, shape.heads);
        engine.attention(Qkv { q, k, v }, &segments, shape, &mut want, &mut lse).unwrap();
        let mut cache = KvCache::new(3, shape.kv_heads, shape.head_dim, dtype).unwrap();
        // Slot 2 holds the first sequence, slot 0 the second; slot 1 stays empty.
        let mut done = [0, 0];
        for step in [[30, 290], [1, 1], [1, 1], [5, 0], [0, 7], [0, 1]] {
            let index: Vec<usize> = (0..2)
                .flat_map(|s| {
                    let from = s * lengths[0] + done[s];
                    from..from + step[s]
                })
                .collect();
            let pick = |x: &Array| {
                let mut rows = Array::zeros_of(x.dtype(), index.len(), x.cols()).unwrap();
                engine.gather_rows(x, &index, &mut rows).unwrap();
                rows
            };
            let rows = [
                CachedRows { slot: 2, start: 0, len: step[0] },
                CachedRows { slot: 0, start: step[0], len: step[1] },
            ];
            cache.append(&rows, &pick(k), &pick(v)).unwrap();
            let mut out = pick(q);
            engine.cached_attention(&pick(q), &rows, &cache, shape, &mut out).unwrap();
            assert_close("out", &out.to_f32_vec(), &wide(&pick(&want)), tolerance);
            (0..2).for_each(|s| done[s] += step[s]);
        }
        assert_eq!((cache.len(2), cache.len(1), cache.len(0)), (37, 0, 300));
        cache.clear(2, 5);
        assert!(cache.is_empty(2));
    }

    #[test]
    fn a_row_has_the_same_bits_whichever_rows_come_with_it() {
        let shape =
            AttentionShape { heads: 6, kv_heads: 2, head_dim: 32, scale: 0.2, window: None, cap: None };
        for engine in engines() {
            let [q, k, v] =
                [(1, 192), (2, 64), (3, 64)].map(|(seed, cols)| rounded(&random(seed, 300, cols)));
            let run = |chunk: usize| {
                let mut cache = KvCache::new(1, 2, 32, DType::Bf16).unwrap();
                let mut last = Vec::new();
                for start in (0..300).step_by(chunk) {
                    let index: Vec<usize> = (start..300.min(start + chunk)).collect();
                    let pick = |x: &Array| {
                        let mut rows = Array::zeros_of(DType::Bf16, index.len(), x.cols()).unwrap();
                        engine.gather_rows(x, &index, &mut rows).unwrap();
                        rows
                    };
                    let rows = [CachedRows { slot: 0, start: 0, len: index.len() }];
                    cache.append(&rows, &pick(&k), &pick(&v)).unwrap();
                    let mut out = pick(&q);
                    engine.cached_attention(&pick(&q), &rows, &cache, shape, &mut out).unwrap();
                    last = out.to_f32_vec()[(index.len() - 1) * 192..].to_vec();
                }
                last
            };
            assert_eq!(run(300), run(7));
            assert_eq!(run(300), run(1));
        }
    }

    #[test]
    fn slots_rows_and_lengths_that_are_not_there_are_refused() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let shape =
            AttentionShape { heads: 2, kv_heads: 1, head_dim: 4, scale: 1.0, window: None, cap: None };
        let mut cache = KvCache::new(1, 1, 4, DType::F32).unwrap();
        let (q, kv) = (Array::zeros(2, 8), Array::zeros(2, 4));
        let entry = |slot, start, len| CachedRows { slot, start, len };
        assert!(cache.append(&[entry(1, 0, 1)], &kv, &kv).is_err());
        assert!(cache.append(&[entry(0, 1, 2)], &kv, &kv).is_err());
        assert!(cache.append(&[entry(0, usize::MAX, 2)], &kv, &kv).is_err());
        assert!(cache.append(&[entry(0, 0, 1)], &kv, &Array::zeros(2, 3)).is_err());
        cache.append(&[entry(0, 0, 1)], &kv, &kv).unwrap();
        let mut out = Array::zeros(2, 8);
        assert!(engine.cached_attention(&q, &[entry(0, 0, 2)], &cache, shape, &mut out).is_err());
        let twice = [entry(0, 0, 1), entry(0, 0, 1)];
        assert!(engine.cached_attention(&q, &twice, &cache, shape, &mut out).is_err());
        assert!(engine.cached_attention(&q, &[entry(0, 0, 1)], &cache, shape, &mut out).is_ok());
        let narrow = rounded(&kv);
        assert!(cache.append(&[entry(0, 0, 1)], &narrow, &narrow).is_err(), "another precision");
        assert!(engine.cached_attention(&rounded(&q), &[entry(0, 0, 1)], &cache, shape, &mut out).is_err());
    }
}
