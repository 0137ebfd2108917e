//! Keys and values in the pages of a pool, and attention of new rows over them. Which blocks there are is worked out on the
//! host once a step and serves every layer, whatever its window.

use super::attention::{AttentionKernels, AttentionShape};
use super::pages::{CachedRows, PAGE, PageTables, check_rows};
use super::{WARPS, arguments, blocks, fit, kernel_of, start, start_blocks_of};
use crate::CudaError;
use crate::view::{Argument, Launcher, Number, View};

/// Keys that have a softmax of their own before these are joined, as in `cached_attention.cu`.
const SPAN: usize = 256;
/// Queries of a block of the plain kernel, as in `cached.cuh`.
const OWN: usize = 8;
/// Stands for all spans.
const EVERY_SPAN: u32 = u32::MAX;
/// Entries of at most so many rows have a block for each span; those of more have blocks enough by their rows, and go to the
/// tensor cores where these serve.
const FEW_ROWS: usize = 16;

/// The rows of a step as the kernels read them: lists of u32, made on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CachedTiles {
    /// `[entries, 4]`: slot, first row of the queries, rows, rows of the slot before these.
    pub entries: Vec<u32>,
    /// `[tiles, 4]`: entry, first query (row by row, head by head of a key head's), span or `u32::MAX` for all, first line of
    /// the entry's parts.
    pub tiles: Vec<u32>,
    /// `[rows, 3]`: row of the output, first line of its parts, lines.
    pub joins: Vec<u32>,
    /// `[tiles, 2]`: entry, first query; for the tensor cores.
    pub many: Vec<u32>,
    /// Lines of the parts; room for them is `[lines, heads * (head_dim + 2)]` in f32.
    pub lines: usize,
}

impl CachedTiles {
    /// Of entries of a batch of `n` rows, which the tables already count; `heads` share a key head. With the plain kernels a row
    /// has the same bits whichever others are there; tensor cores take entries of more than 16 rows, and give others than the plain
    /// kernels do.
    ///
    /// # Errors
    /// A slot or row that is not there, rows that do not ascend, a slot with fewer rows than its entry.
    pub fn of(
        tables: &PageTables,
        rows: &[CachedRows],
        n: usize,
        (heads, kernels): (usize, AttentionKernels),
    ) -> Result<Self, CudaError> {
        const OP: &str = "cached_attention";
        check_rows(OP, rows, tables.slots(), n)?;
        let mut lists = Self::default();
        let small = |size: usize| fit(OP, "rows", size);
        for (index, entry) in rows.iter().enumerate() {
            let length = tables.len(entry.slot);
            let Some(before) = length.checked_sub(entry.len) else {
                let reason = format!("slot {} holds {length} rows, fewer than entry {index}", entry.slot);
                return Err(CudaError::shape(OP, reason));
            };
            for part in [entry.slot, entry.start, entry.len, before] {
                lists.entries.push(small(part)?);
            }
            let (index, spans) = (small(index)?, small(length.div_ceil(SPAN))?);
            let (few, parts) = (entry.len <= FEW_ROWS, small(lists.lines)?);
            let split = spans > 1 && few;
            let kernels = if few { AttentionKernels::Plain } else { kernels };
            let own = if kernels == AttentionKernels::Tensor { kernels.tile() } else { OWN };
            for first in (0..entry.len * heads).step_by(own) {
                let first = small(first)?;
                if kernels == AttentionKernels::Tensor {
                    lists.many.extend([index, first]);
                } else if split {
                    (0..spans).for_each(|span| lists.tiles.extend([index, first, span, parts]));
                } else {
                    lists.tiles.extend([index, first, EVERY_SPAN, 0]);
                }
            }
            if split {
                for row in entry.start..entry.start + entry.len {
                    lists.joins.extend([small(row)?, small(lists.lines)?, spans]);
                    lists.lines += spans as usize;
                }
            }
        }
        Ok(lists)
    }
}

/// A layer's keys and values, each `[pages * PAGE, kv_heads * head_dim]` in one precision.
#[derive(Debug, Clone, Copy)]
pub struct CachePool<'a> {
    /// Keys.
    pub keys: View<'a>,
    /// Values.
    pub values: View<'a>,
}

impl CachePool<'_> {
    fn check(&self, operation: &'static str, number: Number, width: usize) -> Result<(), CudaError> {
        let len = self.keys.len();
        self.keys.expect(operation, "keys of the pool", number, len)?;
        self.values.expect(operation, "values of the pool", number, len)?;
        if self.keys.cols() != width || !self.keys.rows().is_multiple_of(PAGE) {
            let reason = format!("a pool of {} x {}", self.keys.rows(), self.keys.cols());
            return Err(CudaError::shape(
                operation,
                format!("{reason}; pages of {PAGE} x {width} are wanted"),
            ));
        }
        Ok(())
    }
}

/// Copies rows of `k` and `v` (`[n, kv_heads * head_dim]`, rotary applied) to their places in the pool, by the list of
/// [`PageTables::extend`].
///
/// # Errors
/// Sizes or precisions that do not fit.
pub fn append_rows(
    on: &dyn Launcher,
    [k, v]: [View<'_>; 2],
    rows: View<'_>,
    pool: CachePool<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "append_rows";
    let kernel = kernel_of(OP, k.number(), ["append_rows_f32", "append_rows_bf16"])?;
    v.expect(OP, "v", k.number(), k.len())?;
    pool.check(OP, k.number(), k.cols())?;
    rows.expect(OP, "rows", Number::U32, rows.len() / 2 * 2)?;
    let (values, width) = (rows.len() / 2 * k.cols(), fit(OP, "columns", k.cols())?);
    let list = arguments![k, v, pool.keys, pool.values, rows, width, values as u64];
    start(on, kernel, [blocks(OP, values)?, 1], list)
}

/// What [`cached_attention`] reads.
#[derive(Debug, Clone, Copy)]
pub struct Cached<'a> {
    /// Queries, `[n, heads * head_dim]`, in the pool's precision.
    pub q: View<'a>,
    /// The layer's keys and values, those of the new rows among them.
    pub pool: CachePool<'a>,
    /// [`PageTables::tables`], `[slots, pages of a slot]`.
    pub tables: View<'a>,
    /// The lists of [`CachedTiles`] on the device: `entries, tiles, joins, many`.
    pub lists: [View<'a>; 4],
    /// [`CachedTiles::lines`].
    pub lines: usize,
    /// Heads and scale.
    pub shape: AttentionShape,
}

/// Attention of new rows over the slots, which already hold their own keys and values: row `i` of an entry's `len` sees all
/// but the last `len - 1 - i` rows of its slot, of these the shape's window. Rows of `out` (as `q` is) that no entry names
/// are left alone. `parts` is room for `lines` of `heads * (head_dim + 2)` numbers in f32.
///
/// # Errors
/// Sizes or precisions that do not fit.
pub fn cached_attention(
    on: &dyn Launcher,
    cached: Cached<'_>,
    parts: View<'_>,
    out: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "cached_attention";
    let Cached { q, pool, tables, lists: [entries, tiles, joins, many], lines, shape } = cached;
    shape.check(OP)?;
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    let number = q.number();
    q.expect(OP, "q", number, q.rows() * heads * head_dim)?;
    out.expect(OP, "out", number, q.len())?;
    pool.check(OP, number, kv_heads * head_dim)?;
    for list in [tables, entries, tiles, joins, many] {
        list.expect(OP, "lists", Number::U32, list.len())?;
    }
    parts.expect(OP, "parts", Number::F32, lines * heads * (head_dim + 2))?;
    let kernel = kernel_of(OP, number, ["cached_attention_f32", "cached_attention_bf16"])?;
    let pages = fit(OP, "pages of a slot", tables.cols())?;
    let list: &[Argument] = arguments![q, pool.keys, pool.values, out, parts, tables, pages, entries, tiles];
    let grid = [fit(OP, "tiles", tiles.len() / 4)?, fit(OP, "heads", kv_heads)?];
    start(on, kernel, grid, &[list, &shape.arguments()].concat())?;
    let kernel = kernel_of(OP, number, ["join_spans_f32", "join_spans_bf16"])?;
    let list: &[Argument] = arguments![parts, out, joins];
    let grid = [fit(OP, "rows", joins.len() / 3)?, fit(OP, "heads", heads.div_ceil(WARPS))?];
    start(on, kernel, grid, &[list, &shape.arguments()].concat())?;
    if many.is_empty() {
        return Ok(());
    }
    let tensor = AttentionKernels::Tensor;
    if AttentionKernels::of(number, head_dim) != tensor {
        return Err(CudaError::shape(OP, format!("no tensor cores for heads of {head_dim} in {number:?}")));
    }
    let kernel = if head_dim <= 64 { "cached_attention_tensor_64" } else { "cached_attention_tensor_128" };
    let list: &[Argument] = arguments![q, pool.keys, pool.values, out, tables, pages, entries, many];
    let grid = [fit(OP, "tiles", many.len() / 2)?, fit(OP, "heads", kv_heads)?];
    start_blocks_of(tensor.threads(), on, kernel, grid, &[list, &shape.arguments()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_over_many_keys_are_split_and_joined() {
        let mut tables = PageTables::new(3, 700, 30).unwrap();
        let entry = |slot, start, len| CachedRows { slot, start, len };
        tables.extend(&[entry(2, 0, 600), entry(0, 600, 20)], 620).unwrap();
        let rows = [entry(0, 0, 1), entry(2, 1, 2), entry(1, 3, 0)];
        let plain = |heads| (heads, AttentionKernels::Plain);
        let lists = CachedTiles::of(&tables, &rows, 3, plain(12)).unwrap();
        assert_eq!(lists.entries, [0, 0, 1, 19, 2, 1, 2, 598, 1, 3, 0, 0]);
        let all = u32::MAX;
        let tiles = [[0, 0, all, 0], [0, 8, all, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 2, 0], [1, 8, 0, 0]];
        assert_eq!(lists.tiles[..24], *tiles.as_flattened());
        assert_eq!(lists.tiles.len(), 4 * 11);
        assert_eq!((&*lists.joins, lists.lines), (&[1, 0, 3, 2, 3, 3][..], 6));
        let all = [entry(2, 0, 600), entry(0, 600, 1)];
        let whole = CachedTiles::of(&tables, &all, 601, plain(1)).unwrap();
        assert_eq!((whole.tiles.len(), whole.many.len(), whole.lines), (4 * 76, 0, 0));
        let whole = CachedTiles::of(&tables, &all, 601, (1, AttentionKernels::Tensor)).unwrap();
        assert_eq!((whole.tiles.len(), whole.many.len(), whole.lines), (4, 2 * 10, 0));
        assert!(CachedTiles::of(&tables, &[entry(0, 0, 21)], 21, plain(1)).is_err());
        assert!(CachedTiles::of(&tables, &[entry(3, 0, 1)], 1, plain(1)).is_err());
    }
}
