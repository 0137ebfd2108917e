//! Keys and values of sequences being generated, and attention of new rows over them.

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
        let _ = (rows, k, v);
        todo!()
    }
}

impl Engine {
    /// Attention of new rows over the cache, which already holds their own keys and values: row `i` of an entry's
    /// `len` sees all but the last `len - 1 - i` rows of its slot. `q`, `out` are `[n, heads * head_dim]`; rows of
    /// `out` that no entry names are left alone. One row per entry is decoding, more are a prompt (chunk).
    ///
    /// # Errors
    /// A slot or row that is not there, entries whose rows overlap, a slot with fewer rows than its entry; shapes
    /// that do not fit.
    pub fn cached_attention(
        &self,
        q: &Array,
        rows: &[CachedRows],
        cache: &KvCache,
        shape: AttentionShape,
        out: &mut Array,
    ) -> Result<(), EngineError> {
        let _ = (q, rows, cache, shape, out);
        todo!()
    }
}
