//! Keys and values of sequences being generated, in the pages of a pool (`bso_cuda::operation::PageTables`).

use std::sync::Arc;

use bso_cuda::operation::{self, AttentionKernels, CachePool, Cached, CachedTiles, PAGE, PageTables};
use bso_cuda::{Buffer, Number};

use super::gpu::Cuda;
use super::views::{failed, number, view};
use crate::accelerator::{CacheSize, CachedSequences};
use crate::{Array, AttentionShape, CachedRows, EngineError};

/// One layer's.
#[derive(Debug)]
pub(super) struct Pages {
    cuda: Arc<Cuda>,
    keys: Buffer,
    values: Buffer,
    number: Number,
    /// Rows of the pool, and numbers of a row.
    shape: [usize; 2],
    /// Pages of a slot.
    pages: usize,
    tables: PageTables,
}

impl Pages {
    pub(super) fn new(cuda: Arc<Cuda>, size: CacheSize) -> Result<Self, EngineError> {
        let CacheSize { slots, rows, kv_heads, head_dim, dtype } = size;
        let (number, pages, width) = (number(dtype), rows.div_ceil(PAGE), kv_heads * head_dim);
        let pool = slots.saturating_mul(pages);
        let shape = [pool.saturating_mul(PAGE), width];
        let bytes = shape[0].saturating_mul(width).saturating_mul(number.size_in_bytes());
        let [keys, values] =
            [cuda.gpu.buffer(bytes).map_err(failed)?, cuda.gpu.buffer(bytes).map_err(failed)?];
        let tables = PageTables::new(slots, rows, pool).map_err(failed)?;
        Ok(Self { cuda, keys, values, number, shape, pages, tables })
    }

    fn pool(&self) -> Result<CachePool<'_>, EngineError> {
        let [rows, cols] = self.shape;
        let keys = self.keys.view(self.number, rows, cols).map_err(failed)?;
        let values = self.values.view(self.number, rows, cols).map_err(failed)?;
        Ok(CachePool { keys, values })
    }
}

impl CachedSequences for Pages {
    fn len(&self, slot: usize) -> usize {
        self.tables.len(slot)
    }

    fn clear(&mut self, slot: usize) {
        self.tables.clear(slot);
    }

    fn append(&mut self, rows: &[CachedRows], k: &Array, v: &Array) -> Result<(), EngineError> {
        let list = self.tables.extend(&entries(rows), k.rows()).map_err(failed)?;
        let (cuda, pool) = (&self.cuda, self.pool()?);
        let mut state = cuda.state();
        let list = state.lists.view(&cuda.gpu, &list).map_err(failed)?;
        operation::append_rows(&cuda.gpu, [view(k)?, view(v)?], list, pool).map_err(failed)
    }

    fn attend(
        &self,
        q: &Array,
        rows: &[CachedRows],
        shape: AttentionShape,
        out: &mut Array,
    ) -> Result<(), EngineError> {
        let (gpu, pool) = (&self.cuda.gpu, self.pool()?);
        let AttentionShape { heads, kv_heads, head_dim, scale, window, cap } = shape;
        let kernels = AttentionKernels::of(self.number, head_dim);
        let group = (heads / kv_heads.max(1), kernels);
        let tiles = CachedTiles::of(&self.tables, &entries(rows), q.rows(), group).map_err(failed)?;
        let mut guard = self.cuda.state();
        let state = &mut *guard;
        let mut list = |values: &[u32]| state.lists.view(gpu, values).map_err(failed);
        let lists = [list(&tiles.entries)?, list(&tiles.tiles)?, list(&tiles.joins)?, list(&tiles.many)?];
        let tables = list(self.tables.tables())?;
        let tables = tables.part(0, self.tables.slots(), self.pages).map_err(failed)?;
        let wanted = (Number::F32, tiles.lines, heads * (head_dim + 2));
        let [parts] = state.room.views(gpu, [wanted]).map_err(failed)?;
        let shape = operation::AttentionShape { heads, kv_heads, head_dim, scale, window, cap };
        let cached = Cached { q: view(q)?, pool, tables, lists, lines: tiles.lines, shape };
        operation::cached_attention(gpu, cached, parts, view(out)?).map_err(failed)
    }
}

fn entries(rows: &[CachedRows]) -> Vec<operation::CachedRows> {
    let entry = |&CachedRows { slot, start, len }: &CachedRows| operation::CachedRows { slot, start, len };
    rows.iter().map(entry).collect()
}
