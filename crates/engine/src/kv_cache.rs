//! Keys and values of sequences being generated, and attention of new rows over them.

use crate::attention_forward::{KeyRows, Queries, forward_rows};
use crate::cpu::{mul_add, vectorised};
use crate::error::{expect_indices, expect_same_shape, expect_size};
use crate::shared::SharedMut;
use crate::vector::{dot, exp_shifted_in_place, max};
use crate::{Array, AttentionShape, Engine, EngineError};

/// One layer's keys and values for a number of slots. A slot holds one sequence as rows
/// `[length, kv_heads * head_dim]`, which grow as rows are appended; clearing a slot keeps its memory for the next
/// sequence.
#[derive(Debug, Clone)]
pub struct KvCache {
    width: usize,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
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
        self.slots.iter().map(|slot| 4 * (slot.keys.len() + slot.values.len())).sum()
    }

    /// Empty slots for keys and values of `kv_heads * head_dim` numbers each.
    pub fn new(slots: usize, kv_heads: usize, head_dim: usize) -> Self {
        Self { width: kv_heads * head_dim, slots: vec![Slot::default(); slots] }
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Number of rows in a slot (0 where there is no such slot).
    pub fn len(&self, slot: usize) -> usize {
        self.slots.get(slot).map_or(0, |slot| slot.keys.len() / self.width.max(1))
    }

    /// Whether a slot holds nothing.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// Forgets the sequence of a slot.
    pub fn clear(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.keys.clear();
            slot.values.clear();
        }
    }

    /// Appends each entry's rows of `k` and `v` (`[n, kv_heads * head_dim]`, rotary applied) to its slot.
    ///
    /// # Errors
    /// A slot or row that is not there; shapes that do not fit.
    pub fn append(&mut self, rows: &[CachedRows], k: &Array, v: &Array) -> Result<(), EngineError> {
        const OP: &str = "kv cache append";
        expect_size(OP, "columns of k", self.width, k.cols())?;
        expect_size(OP, "columns of v", self.width, v.cols())?;
        expect_size(OP, "rows of v", k.rows(), v.rows())?;
        check_rows(OP, rows, self.slots(), k.rows())?;
        for entry in rows {
            let slot = &mut self.slots[entry.slot];
            let range = entry.start * self.width..(entry.start + entry.len) * self.width;
            slot.keys.extend_from_slice(&k.as_slice()[range.clone()]);
            slot.values.extend_from_slice(&v.as_slice()[range]);
        }
        Ok(())
    }
}

impl Engine {
    /// Attention of new rows over the cache, which already holds their own keys and values: row `i` of an entry's
    /// `len` sees all but the last `len - 1 - i` rows of its slot. `q`, `out` are `[n, heads * head_dim]`; rows of
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
        expect_size(OP, "width of the cache", shape.kv_heads * shape.head_dim, cache.width)?;
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
            let slot = &cache.slots[entry.slot];
            // SAFETY: a task writes the rows of its entry in the columns of its heads, and entries share no row.
            unsafe { self.attend_slot(shape, entry, (q, slot, kv_head), &out) };
        });
        Ok(())
    }

    /// # Safety
    /// Nobody else uses the entry's rows of `out` in the columns of these heads meanwhile.
    unsafe fn attend_slot(
        &self,
        shape: AttentionShape,
        entry: CachedRows,
        (q, slot, kv_head): (&Array, &Slot, usize),
        out: &SharedMut<'_>,
    ) {
        let AttentionShape { kv_heads, head_dim, scale, .. } = shape;
        let (stride, column) = (kv_heads * head_dim, kv_head * head_dim);
        let length = slot.keys.len() / stride;
        if entry.len > 1 {
            let queries = Queries { values: q.as_slice(), start: entry.start, len: entry.len, kv_head };
            let rows =
                |values| KeyRows { values, stride, column, width: head_dim, ranges: [(0, 0), (0, length)] };
            // SAFETY: passed on.
            unsafe { forward_rows(self, shape, queries, [rows(&slot.keys), rows(&slot.values)], out, None) };
        } else if entry.len == 1 {
            let group = shape.group();
            let at = (entry.start * kv_heads + kv_head) * group * head_dim;
            let mut scores = self.scratch.take(group * length);
            // SAFETY: passed on.
            let out = unsafe { out.part(at, group * head_dim) };
            let query = &q.as_slice()[at..][..group * head_dim];
            let seen =
                Seen { keys: &slot.keys, values: &slot.values, stride, column, width: head_dim, scale };
            attend_one(self.path(), query, seen, &mut scores, out);
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

/// What one new row sees: every row of a slot, in one key head.
#[derive(Clone, Copy)]
struct Seen<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    stride: usize,
    column: usize,
    width: usize,
    scale: f32,
}

vectorised! {
    /// Attention of one row's query heads that share a key head. `scores` has room for heads x rows seen.
    fn attend_one(query: &[f32], seen: Seen<'_>, scores: &mut [f32], out: &mut [f32]) = attend_one_body
}

#[inline(always)]
fn attend_one_body<const FMA: bool>(query: &[f32], seen: Seen<'_>, scores: &mut [f32], out: &mut [f32]) {
    let Seen { keys, values, stride, column, width, scale } = seen;
    let length = keys.len() / stride;
    for (index, key) in keys.chunks_exact(stride).enumerate() {
        let key = &key[column..][..width];
        for (head, query) in query.chunks_exact(width).enumerate() {
            scores[head * length + index] = dot::<FMA>(query, key) * scale;
        }
    }
    for (scores, out) in scores.chunks_exact_mut(length).zip(out.chunks_exact_mut(width)) {
        let largest = max(scores);
        let inverse = 1.0 / exp_shifted_in_place::<FMA>(scores, largest);
        out.fill(0.0);
        for (weight, value) in scores.iter().zip(values.chunks_exact(stride)) {
            for (out, value) in out.iter_mut().zip(&value[column..][..width]) {
                *out = mul_add::<FMA>(*weight, *value, *out);
            }
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
        for (heads, kv_heads, head_dim) in [(1, 1, 8), (6, 2, 5), (4, 4, 16), (3, 1, 64)] {
            let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.3 };
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
                cache.clear(2);
                assert!(cache.is_empty(2));
            }
        }
    }

    #[test]
    fn slots_rows_and_lengths_that_are_not_there_are_refused() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 4, scale: 1.0 };
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
