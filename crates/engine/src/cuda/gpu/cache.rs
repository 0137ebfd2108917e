//! Keys and values of sequences being generated, in the pages of a pool (`bso_cuda::operation::PageTables`).

use std::sync::Arc;

use bso_cuda::operation::{self, AttentionKernels, CachePool, Cached, CachedTiles, PAGE, PageTables};
use bso_cuda::{Buffer, CudaError, Number};

use super::Cuda;
use super::views::{failed, number, view};
use crate::accelerator::{CacheSize, CachedSequences};
use crate::{Array, AttentionShape, CachedRows, EngineError};

/// One layer's. The pool grows with its sequences, up to as many pages as all of them can fill.
#[derive(Debug)]
pub(super) struct Pages {
    cuda: Arc<Cuda>,
    keys: Buffer,
    values: Buffer,
    number: Number,
    /// Numbers of a row.
    width: usize,
    /// Pages of a slot, and in all, at most.
    most: [usize; 2],
    tables: PageTables,
}

impl Pages {
    pub(super) fn new(cuda: Arc<Cuda>, size: CacheSize) -> Result<Self, EngineError> {
        let CacheSize { slots, rows, kv_heads, head_dim, dtype } = size;
        let each = rows.div_ceil(PAGE);
        let [keys, values] = [cuda.gpu.buffer(0).map_err(failed)?, cuda.gpu.buffer(0).map_err(failed)?];
        Ok(Self {
            cuda,
            keys,
            values,
            number: number(dtype),
            width: kv_heads * head_dim,
            most: [each, slots.saturating_mul(each)],
            tables: PageTables::new(slots, rows, 0).map_err(failed)?,
        })
    }

    /// Takes pages for these rows: at least as many again as there are, so that a sequence seldom waits for a move.
    fn make_room(&mut self, rows: &[operation::CachedRows]) -> Result<(), CudaError> {
        let ([longest, needed], there) = (self.tables.needs(rows)?, self.tables.pages());
        if needed <= there {
            return Ok(());
        }
        let pages = needed.max((2 * there).min(self.most[1]));
        let (gpu, number, width) = (&self.cuda.gpu, self.number, self.width);
        for pool in [&mut self.keys, &mut self.values] {
            let bytes = pages.saturating_mul(PAGE * width * number.size_in_bytes());
            let larger = gpu.buffer(bytes)?;
            let kept = there * PAGE;
            gpu.copy(pool.view(number, kept, width)?, larger.view(number, kept, width)?)?;
            *pool = larger;
        }
        self.tables.grow(longest, pages)
    }

    fn pool(&self) -> Result<CachePool<'_>, EngineError> {
        let rows = self.tables.pages() * PAGE;
        let keys = self.keys.view(self.number, rows, self.width).map_err(failed)?;
        let values = self.values.view(self.number, rows, self.width).map_err(failed)?;
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
        let entries = entries(rows);
        self.make_room(&entries).map_err(failed)?;
        let list = self.tables.extend(&entries, k.rows()).map_err(failed)?;
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
        let tables = tables
            .part(0, self.tables.slots(), self.tables.tables().len() / self.tables.slots().max(1))
            .map_err(failed)?;
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
