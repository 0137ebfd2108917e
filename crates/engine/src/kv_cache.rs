//! Keys and values of sequences being generated, and attention of new rows over them.

use crate::attention_forward::{KeyRows, Queries, forward_rows};
use crate::cpu::{mul_add, vectorised};
use crate::error::{expect_indices, expect_same_shape, expect_size};
use crate::row_products::{self, Rows};
use crate::shared::SharedMut;
use crate::soft_cap::cap_in_place;
use crate::vector::{exp_shifted_in_place, max};
use crate::{Array, AttentionShape, Engine, EngineError};

/// One layer's keys and values for a number of slots. A slot holds one sequence, for each key head as rows
/// `[length, head_dim]`, which grow as rows are appended; clearing a slot keeps its memory for the next sequence.
#[derive(Debug, Clone)]
pub struct KvCache {
    kv_heads: usize,
    head_dim: usize,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone)]
struct Slot {
    length: usize,
    /// One for each key head: attention reads a head from one end to the other.
    heads: Vec<Head>,
}

#[derive(Debug, Clone, Default)]
struct Head {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Rows `start..start + len` of a packed batch are the newest rows of the sequence in `slot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedRows {
    /// Slot of the cache.
    pub slot: usize,
    /// First row of the batch.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
}

impl KvCache {
    /// Bytes that the kept rows take.
    pub fn size_in_bytes(&self) -> usize {
        self.slots.iter().map(|slot| slot.length * self.row_bytes()).sum()
    }

    /// Bytes of one row: its keys and values.
    pub fn row_bytes(&self) -> usize {
        2 * size_of::<f32>() * self.width()
    }

    /// Empty slots for keys and values of `kv_heads * head_dim` numbers each.
    pub fn new(slots: usize, kv_heads: usize, head_dim: usize) -> Self {
        let slot = Slot { length: 0, heads: vec![Head::default(); kv_heads] };
        Self { kv_heads, head_dim, slots: vec![slot; slots] }
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Number of rows in a slot (0 where there is no such slot).
    pub fn len(&self, slot: usize) -> usize {
        self.slots.get(slot).map_or(0, |slot| slot.length)
    }

    /// Whether a slot holds nothing.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// Forgets the sequence of a slot and takes memory for `rows` rows of the next, where it has not got it: rows
    /// appended beyond that still fit, at the price of moving what is there.
    pub fn clear(&mut self, slot: usize, rows: usize) {
        let values = rows * self.head_dim;
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.length = 0;
            for buffer in slot.heads.iter_mut().flat_map(|head| [&mut head.keys, &mut head.values]) {
                buffer.clear();
                buffer.reserve_exact(values);
            }
        }
    }

    fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Appends each entry's rows of `k` and `v` (`[n, kv_heads * head_dim]`, rotary applied) to its slot.
    ///
    /// # Errors
    /// A slot or row that is not there; shapes that do not fit.
    pub fn append(&mut self, rows: &[CachedRows], k: &Array, v: &Array) -> Result<(), EngineError> {
        const OP: &str = "kv cache append";
        expect_size(OP, "columns of k", self.width(), k.cols())?;
        expect_size(OP, "columns of v", self.width(), v.cols())?;
        expect_size(OP, "rows of v", k.rows(), v.rows())?;
        check_rows(OP, rows, self.slots(), k.rows())?;
        for entry in rows {
            let slot = &mut self.slots[entry.slot];
            slot.length += entry.len;
            for row in entry.start..entry.start + entry.len {
                let [keys, values] = [k, v].map(|x| x.row(row).chunks_exact(self.head_dim.max(1)));
                for (head, (key, value)) in slot.heads.iter_mut().zip(keys.zip(values)) {
                    head.keys.extend_from_slice(key);
                    head.values.extend_from_slice(value);
                }
            }
        }
        Ok(())
    }
}

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
        expect_size(OP, "heads of the cache", shape.kv_heads, cache.kv_heads)?;
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
        let out = SharedMut::new(out.as_mut_slice());
        let pairs: usize = rows.iter().map(|entry| entry.len * cache.len(entry.slot)).sum();
        let steps = pairs.saturating_mul(shape.heads * shape.head_dim / 8);
        self.for_each(rows.len() * shape.kv_heads, steps, |task| {
            let (entry, kv_head) = (rows[task / shape.kv_heads], task % shape.kv_heads);
            let head = &cache.slots[entry.slot].heads[kv_head];
            // SAFETY: a task writes the rows of its entry in the columns of its heads, and entries share no row.
            unsafe { self.attend_head(shape, entry, (q, head, kv_head), &out) };
        });
        Ok(())
    }

    /// # Safety
    /// Nobody else uses the entry's rows of `out` in the columns of these heads meanwhile.
    unsafe fn attend_head(
        &self,
        shape: AttentionShape,
        entry: CachedRows,
        (q, head, kv_head): (&Array, &Head, usize),
        out: &SharedMut<'_>,
    ) {
        let AttentionShape { kv_heads, head_dim, scale, .. } = shape;
        let length = head.keys.len() / head_dim;
        if entry.len > 1 {
            let queries = Queries { values: q.as_slice(), start: entry.start, len: entry.len, kv_head };
            let rows = |values| KeyRows {
                values,
                stride: head_dim,
                column: 0,
                width: head_dim,
                ranges: [(0, 0), (0, length)],
            };
            // SAFETY: passed on.
            unsafe { forward_rows(self, shape, queries, [rows(&head.keys), rows(&head.values)], out, None) };
        } else if entry.len == 1 {
            let group = shape.group();
            let unseen = length.saturating_sub(shape.window());
            let [keys, values] = [&head.keys, &head.values].map(|rows| &rows[unseen * head_dim..]);
            let length = length - unseen;
            let at = (entry.start * kv_heads + kv_head) * group * head_dim;
            let mut scores = self.scratch.take(group * length);
            // SAFETY: passed on.
            let out = unsafe { out.part(at, group * head_dim) };
            let query = Rows::of(&q.as_slice()[at..][..group * head_dim], head_dim);
            row_products::multiply(self.path(), query, Rows::of(keys, head_dim), |row, key, sums| {
                let scores = &mut scores[row * length + key..][..sums.len()];
                scores.iter_mut().zip(sums).for_each(|(score, sum)| *score = sum * scale);
            });
            if let Some(cap) = shape.cap {
                cap_in_place(self.path(), &mut scores, cap);
            }
            weigh_values(self.path(), &mut scores, values, length, out);
        }
    }
}

/// Slots and rows that exist, rows ascending without overlap.
fn check_rows(
    operation: &'static str,
    rows: &[CachedRows],
    slots: usize,
    n: usize,
) -> Result<(), EngineError> {
    expect_indices(operation, "slot", rows.iter().map(|entry| entry.slot), slots)?;
    let mut next = 0;
    for (index, entry) in rows.iter().enumerate() {
        let end = entry.start.checked_add(entry.len).filter(|&end| entry.start >= next && end <= n);
        let Some(end) = end else {
            let reason = format!(
                "entry {index} (rows from {}, {} of them) overlaps the one before it or leaves the {n} rows",
                entry.start, entry.len
            );
            return Err(EngineError::Invalid { operation, reason });
        };
        next = end;
    }
    Ok(())
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
    use crate::testing::{assert_close, engines, random, wide};
    use crate::{Qkv, Segments};

    /// Two sequences fed in chunks of uneven size, beside attention over the whole of each.
    #[test]
    fn chunks_and_single_rows_equal_attention_over_the_whole_sequence() {
        for (heads, kv_heads, head_dim, window) in
            [(1, 1, 8, None), (6, 2, 5, Some(33)), (4, 4, 16, None), (3, 1, 64, Some(1))]
        {
            let cap = window.map(|_| 0.7);
            let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.3, window, cap };
            let lengths = [37, 300];
            let tokens = 337;
            let (q, k, v) = (
                random(1, tokens, heads * head_dim),
                random(2, tokens, kv_heads * head_dim),
                random(3, tokens, kv_heads * head_dim),
            );
            let segments = Segments::independent(&lengths);
            for engine in engines() {
                let (mut want, mut lse) = (Array::zeros(tokens, q.cols()), Array::zeros(tokens, heads));
                let qkv = Qkv { q: &q, k: &k, v: &v };
                engine.attention(qkv, &segments, shape, &mut want, &mut lse).unwrap();
                let mut cache = KvCache::new(3, kv_heads, head_dim);
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
                        let mut rows = Array::zeros(index.len(), x.cols());
                        engine.gather_rows(x, &index, &mut rows).unwrap();
                        rows
                    };
                    let rows = [
                        CachedRows { slot: 2, start: 0, len: step[0] },
                        CachedRows { slot: 0, start: step[0], len: step[1] },
                    ];
                    cache.append(&rows, &pick(&k), &pick(&v)).unwrap();
                    let mut out = random(9, index.len(), q.cols());
                    engine.cached_attention(&pick(&q), &rows, &cache, shape, &mut out).unwrap();
                    assert_close("out", out.as_slice(), &wide(&pick(&want)), 2e-6);
                    (0..2).for_each(|s| done[s] += step[s]);
                }
                assert_eq!((cache.len(2), cache.len(1), cache.len(0)), (37, 0, 300));
                cache.clear(2, 5);
                assert!(cache.is_empty(2));
            }
        }
    }

    #[test]
    fn slots_rows_and_lengths_that_are_not_there_are_refused() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let shape =
            AttentionShape { heads: 2, kv_heads: 1, head_dim: 4, scale: 1.0, window: None, cap: None };
        let mut cache = KvCache::new(1, 1, 4);
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
    }
}
