//! Keys and values of sequences being generated. What is computed of them is in `cached_attention`.

use half::bf16;

use crate::accelerator::{CacheSize, CachedSequences};
use crate::array::Values;
use crate::element::Element;
use crate::error::{expect_indices, expect_size};
use crate::tile_product::{Right, TileProducts};
use crate::{Array, DType, Engine, EngineError};

/// One layer's keys and values for a number of slots. A slot holds one sequence, for each key head as rows
/// `[length, head_dim]`, which grow as rows are appended; clearing a slot keeps its memory for the next sequence.
#[derive(Debug)]
pub struct KvCache {
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    /// On a device there are as many, all empty.
    slots: Vec<Slot>,
    on_device: Option<Box<dyn CachedSequences>>,
}

#[derive(Debug, Clone)]
struct Slot {
    length: usize,
    /// One for each key head: attention reads a head from one end to the other.
    heads: Vec<Head>,
}

/// The rows of one head.
#[derive(Debug, Clone)]
pub(crate) enum Head {
    /// As they are.
    F32 { keys: Vec<f32>, values: Vec<f32> },
    /// Packed as the products read them: attention packs nothing again.
    Bf16(PackedHead),
}

/// Keys as panels with a column per key, values as rows of pairs of keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct PackedHead {
    keys: Vec<u32>,
    values: Vec<u32>,
    length: usize,
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
    /// Empty slots for keys and values of `kv_heads * head_dim` numbers each, in f32 or bf16.
    ///
    /// # Errors
    /// f16, which no operation computes in.
    pub fn new(slots: usize, kv_heads: usize, head_dim: usize, dtype: DType) -> Result<Self, EngineError> {
        let head = match dtype {
            DType::F32 => Head::F32 { keys: Vec::new(), values: Vec::new() },
            DType::Bf16 => Head::Bf16(PackedHead::default()),
            DType::F16 => return Err(EngineError::NoArithmetic(dtype)),
        };
        let slot = Slot { length: 0, heads: vec![head; kv_heads] };
        Ok(Self { kv_heads, head_dim, dtype, slots: vec![slot; slots], on_device: None })
    }

    pub(crate) fn on_device(&self) -> Option<&dyn CachedSequences> {
        self.on_device.as_deref()
    }

    /// Bytes that the kept rows take.
    pub fn size_in_bytes(&self) -> usize {
        (0..self.slots()).map(|slot| self.len(slot) * self.row_bytes()).sum()
    }

    /// Bytes of one row: its keys and values.
    pub fn row_bytes(&self) -> usize {
        2 * self.dtype.size_in_bytes() * self.width()
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Number of rows in a slot (0 where there is no such slot).
    pub fn len(&self, slot: usize) -> usize {
        match &self.on_device {
            Some(sequences) => sequences.len(slot),
            None => self.slots.get(slot).map_or(0, |slot| slot.length),
        }
    }

    /// Whether a slot holds nothing.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// Precision of the rows.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Forgets the sequence of a slot and takes memory for `rows` rows of the next, where it has not got it: rows
    /// appended beyond that still fit, at the price of moving what is there.
    pub fn clear(&mut self, slot: usize, rows: usize) {
        if let Some(sequences) = &mut self.on_device {
            return sequences.clear(slot);
        }
        let Some(slot) = self.slots.get_mut(slot) else { return };
        slot.length = 0;
        for head in &mut slot.heads {
            match head {
                Head::F32 { keys, values } => {
                    for buffer in [keys, values] {
                        buffer.clear();
                        buffer.reserve_exact(rows * self.head_dim);
                    }
                }
                Head::Bf16(head) => head.clear(rows, self.head_dim),
            }
        }
    }

    pub(crate) fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    pub(crate) fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    pub(crate) fn head(&self, slot: usize, kv_head: usize) -> &Head {
        &self.slots[slot].heads[kv_head]
    }

    /// Appends each entry's rows of `k` and `v` (`[n, kv_heads * head_dim]`, rotary applied, in the cache's precision)
    /// to its slot.
    ///
    /// # Errors
    /// A slot or row that is not there; shapes that do not fit; another precision.
    pub fn append(&mut self, rows: &[CachedRows], k: &Array, v: &Array) -> Result<(), EngineError> {
        const OP: &str = "kv cache append";
        expect_size(OP, "columns of k", self.width(), k.cols())?;
        expect_size(OP, "columns of v", self.width(), v.cols())?;
        expect_size(OP, "rows of v", k.rows(), v.rows())?;
        check_rows(OP, rows, self.slots(), k.rows())?;
        if let Some(sequences) = &mut self.on_device {
            return sequences.append(rows, k, v);
        }
        match (self.dtype, k.values(), v.values()) {
            (DType::F32, Values::F32(k), Values::F32(v)) => {
                self.append_to_heads(rows, [k, v], |head, [key, value]| {
                    if let Head::F32 { keys, values } = head {
                        keys.extend_from_slice(key);
                        values.extend_from_slice(value);
                    }
                });
            }
            (DType::Bf16, Values::Bf16(k), Values::Bf16(v)) => {
                self.append_to_heads(rows, [k, v], |head, row| {
                    if let Head::Bf16(head) = head {
                        head.push(row);
                    }
                });
            }
            _ => return Err(EngineError::mixed(OP)),
        }
        Ok(())
    }

    fn append_to_heads<E>(
        &mut self,
        rows: &[CachedRows],
        [k, v]: [&[E]; 2],
        push: impl Fn(&mut Head, [&[E]; 2]),
    ) {
        let (width, head_dim) = (self.width(), self.head_dim);
        for entry in rows {
            let slot = &mut self.slots[entry.slot];
            slot.length += entry.len;
            for row in entry.start..entry.start + entry.len {
                for (index, head) in slot.heads.iter_mut().enumerate() {
                    push(head, [k, v].map(|x| &x[row * width + index * head_dim..][..head_dim]));
                }
            }
        }
    }
}

impl Engine {
    /// Empty slots where the engine computes, as [`KvCache::new`] makes them on the host, of at most `rows` rows each.
    ///
    /// # Errors
    /// As [`KvCache::new`]; a device that has not got the memory, which it takes as sequences grow.
    pub fn kv_cache(
        &self,
        (slots, rows): (usize, usize),
        (kv_heads, head_dim): (usize, usize),
        dtype: DType,
    ) -> Result<KvCache, EngineError> {
        let mut cache = KvCache::new(slots, kv_heads, head_dim, dtype)?;
        if let Some(accelerator) = self.accelerator() {
            let size = CacheSize { slots, rows, kv_heads, head_dim, dtype };
            cache.on_device = Some(accelerator.clone().kv_cache(size)?);
        }
        Ok(cache)
    }
}

impl PackedHead {
    const PANEL: usize = TileProducts::Bf16.width();

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    fn clear(&mut self, rows: usize, head_dim: usize) {
        self.length = 0;
        self.keys.clear();
        self.values.clear();
        self.keys.reserve_exact(rows.next_multiple_of(Self::PANEL) * head_dim.div_ceil(2));
        self.values.reserve_exact(rows.div_ceil(2) * head_dim.next_multiple_of(Self::PANEL));
    }

    fn push(&mut self, [key, value]: [&[bf16]; 2]) {
        let panel = key.len().div_ceil(2) * Self::PANEL;
        let column = self.length % Self::PANEL;
        if column == 0 {
            self.keys.resize(self.keys.len() + panel, 0);
        }
        let last = self.keys.len() - panel;
        for (word, pair) in self.keys[last + column..].iter_mut().step_by(Self::PANEL).zip(key.chunks(2)) {
            let high = pair.get(1).map_or(0, |high| high.to_bf16_bits());
            *word = u32::from(pair[0].to_bf16_bits()) | u32::from(high) << 16;
        }
        let padded = value.len().next_multiple_of(Self::PANEL);
        let high = self.length % 2;
        if high == 0 {
            self.values.resize(self.values.len() + padded, 0);
        }
        let last = self.values.len() - padded;
        for (word, value) in self.values[last..].iter_mut().zip(value) {
            *word |= u32::from(value.to_bf16_bits()) << (16 * high);
        }
        self.length += 1;
    }

    /// The keys, a column each.
    pub(crate) fn keys(&self, head_dim: usize) -> Right<'_> {
        TileProducts::Bf16.packed_lines(bytemuck::cast_slice(&self.keys), head_dim)
    }

    /// The values, summed over the keys.
    pub(crate) fn values(&self, head_dim: usize) -> Right<'_> {
        let padded = head_dim.next_multiple_of(Self::PANEL);
        TileProducts::Bf16.packed_depth(bytemuck::cast_slice(&self.values), padded)
    }

    /// One key and value in f32: what a processor without the products' instructions reads.
    pub(crate) fn row(&self, index: usize, key: &mut [f32], value: &mut [f32]) {
        let wide =
            |word: u32, high: usize| f32::from_bits(if high == 1 { word & 0xffff_0000 } else { word << 16 });
        let panel = key.len().div_ceil(2) * Self::PANEL;
        let words = &self.keys[index / Self::PANEL * panel + index % Self::PANEL..];
        for (i, key) in key.iter_mut().enumerate() {
            *key = wide(words[i / 2 * Self::PANEL], i % 2);
        }
        let padded = value.len().next_multiple_of(Self::PANEL);
        let words = &self.values[index / 2 * padded..];
        value.iter_mut().zip(words).for_each(|(value, word)| *value = wide(*word, index % 2));
    }
}

/// Slots and rows that exist, rows ascending without overlap.
pub(crate) fn check_rows(
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
