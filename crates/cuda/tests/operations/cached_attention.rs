//! Attention over keys and values in pages: prompts, chunks of them and single rows, of slots whose pages lie among one
//! another.

use bso_cuda::Number;
use bso_cuda::operation::{
    self, AttentionKernels, CachePool, Cached, CachedRows, CachedTiles, PAGE, PageTables, append_rows,
};
use bso_engine::{Array, AttentionShape, DType, Engine, KvCache};

use crate::machine::{BF16, F32, Held, Machine, assert_close, on_every_machine, random_of, zeros_of};

/// Beyond the span whose keys have a softmax of their own, and its double.
const LENGTHS: [usize; 2] = [75, 540];
const TOKENS: usize = LENGTHS[0] + LENGTHS[1];
const PAGES: usize = 14;
const SLOTS: usize = 3;

/// A layer's cache on a machine.
struct Layer<'a> {
    machine: &'a Machine<'a>,
    shape: AttentionShape,
    dtype: DType,
    kernels: AttentionKernels,
    pages: PageTables,
    keys: Held,
    values: Held,
}

impl<'a> Layer<'a> {
    fn new(machine: &'a Machine<'a>, shape: AttentionShape, dtype: DType, kernels: AttentionKernels) -> Self {
        // Room that no row was written to holds NaN, which no sum may read.
        let number = if dtype == DType::Bf16 { Number::Bf16 } else { Number::F32 };
        let pool = || machine.room(number, PAGES * PAGE, shape.kv_heads * shape.head_dim);
        let pages = PageTables::new(SLOTS, 600, PAGES).unwrap();
        Self { machine, shape, dtype, kernels, pages, keys: pool(), values: pool() }
    }

    fn pool(&self) -> CachePool<'_> {
        CachePool { keys: self.keys.view(), values: self.values.view() }
    }

    /// Appends the rows' keys and values and gives the attention of those in `asked`.
    fn step(&mut self, [q, k, v]: [&Array; 3], rows: &[CachedRows], asked: &[CachedRows]) -> Held {
        let (machine, on) = (self.machine, self.machine.on());
        let [hq, hk, hv] = [q, k, v].map(|array| machine.array(array));
        let list = machine.indices(&self.pages.extend(rows, k.rows()).unwrap());
        append_rows(on, [hk.view(), hv.view()], list.view(), self.pool()).unwrap();
        let AttentionShape { heads, kv_heads, head_dim, scale, window, cap } = self.shape;
        let tiles = CachedTiles::of(&self.pages, asked, q.rows(), (heads / kv_heads, self.kernels)).unwrap();
        let lists =
            [&tiles.entries, &tiles.tiles, &tiles.joins, &tiles.many].map(|list| machine.indices(list));
        let tables = machine.index_rows(SLOTS, self.pages.tables());
        let cached = Cached {
            q: hq.view(),
            pool: self.pool(),
            tables: tables.view(),
            lists: lists.each_ref().map(|list| list.view()),
            lines: tiles.lines,
            shape: operation::AttentionShape { heads, kv_heads, head_dim, scale, window, cap },
        };
        let parts = machine.room(Number::F32, tiles.lines, heads * (head_dim + 2));
        let out = machine.array(&zeros_of(self.dtype, q.rows(), q.cols()));
        operation::cached_attention(on, cached, parts.view(), out.view()).unwrap();
        // What lies behind the parts and the lists is still as it was.
        machine.values(&parts);
        out
    }
}

fn pick(engine: &Engine, x: &Array, index: &[usize]) -> Array {
    let mut rows = zeros_of(x.dtype(), index.len(), x.cols());
    engine.gather_rows(x, index, &mut rows).unwrap();
    rows
}

fn inputs(shape: AttentionShape, dtype: DType) -> [Array; 3] {
    [(1, shape.heads), (2, shape.kv_heads), (3, shape.kv_heads)].map(|(seed, heads)| {
        let mut x = random_of(DType::F32, seed, TOKENS, heads * shape.head_dim);
        x.as_mut_slice().iter_mut().for_each(|x| *x *= 2.0);
        x.to_dtype(dtype).unwrap()
    })
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> AttentionShape {
    let cap = window.map(|_| 1.5);
    AttentionShape { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window, cap }
}

#[test]
fn prompts_chunks_and_single_rows_agree_with_the_cpu() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for shape in [shape(1, 1, 200, None), shape(2, 2, 72, Some(300)), shape(3, 1, 8, Some(1))] {
            check(&engine, machine, shape, (DType::F32, AttentionKernels::Plain), F32);
        }
        for shape in [shape(4, 2, 64, None), shape(18, 1, 5, Some(33))] {
            check(&engine, machine, shape, (DType::F32, AttentionKernels::Plain), F32);
            // As for attention over segments: the CPU also rounds scaled queries and weights.
            check(&engine, machine, shape, (DType::Bf16, AttentionKernels::Plain), 2.0 * BF16);
            check(&engine, machine, shape, (DType::Bf16, AttentionKernels::Tensor), 2.0 * BF16);
        }
        for shape in [shape(2, 2, 72, Some(300)), shape(3, 1, 128, None)] {
            check(&engine, machine, shape, (DType::Bf16, AttentionKernels::Tensor), 2.0 * BF16);
        }
    });
}

fn check(
    engine: &Engine,
    machine: &Machine<'_>,
    shape: AttentionShape,
    (dtype, kernels): (DType, AttentionKernels),
    tolerance: f64,
) {
    let qkv = inputs(shape, dtype);
    let mut layer = Layer::new(machine, shape, dtype, kernels);
    let mut cache = KvCache::new(SLOTS, shape.kv_heads, shape.head_dim, dtype).unwrap();
    // Slot 2 holds the first sequence, slot 0 the second; slot 1 stays empty.
    let mut done = [0, 0];
    for step in [[0, 40], [60, 215], [1, 1], [5, 0], [1, 261], [0, 1], [3, 17], [1, 1]] {
        let mut index = Vec::new();
        let mut rows = Vec::new();
        for (s, slot) in [(0, 2), (1, 0)] {
            let from = s * LENGTHS[0] + done[s];
            rows.push(CachedRows { slot, start: index.len(), len: step[s] });
            index.extend(from..from + step[s]);
            done[s] += step[s];
        }
        let [q, k, v] = qkv.each_ref().map(|x| pick(engine, x, &index));
        let same = |rows: &[CachedRows]| -> Vec<bso_engine::CachedRows> {
            let of = |r: &CachedRows| bso_engine::CachedRows { slot: r.slot, start: r.start, len: r.len };
            rows.iter().map(of).collect()
        };
        let found = layer.step([&q, &k, &v], &rows, &rows);
        cache.append(&same(&rows), &k, &v).unwrap();
        let mut want = zeros_of(dtype, q.rows(), q.cols());
        engine.cached_attention(&q, &same(&rows), &cache, shape, &mut want).unwrap();
        let what = format!("{shape:?} in {dtype:?} ({kernels:?}), {step:?}");
        assert_close(&what, machine, &found, &want.to_f32_vec(), tolerance);
    }
}

#[test]
fn a_row_has_the_same_bits_whichever_rows_come_with_it() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for (shape, dtype) in [(shape(2, 1, 16, None), DType::F32), (shape(3, 1, 8, Some(290)), DType::Bf16)]
        {
            let qkv = inputs(shape, dtype);
            let last = |chunks: &[usize]| {
                let mut layer = Layer::new(machine, shape, dtype, AttentionKernels::Plain);
                let (mut start, mut last) = (LENGTHS[0], Vec::new());
                for len in chunks {
                    let index: Vec<usize> = (start..start + len).collect();
                    let [q, k, v] = qkv.each_ref().map(|x| pick(&engine, x, &index));
                    let rows = [CachedRows { slot: 1, start: 0, len: *len }];
                    let out = machine.values(&layer.step([&q, &k, &v], &rows, &rows));
                    last = out[(len - 1) * q.cols()..].to_vec();
                    start += len;
                }
                last
            };
            let whole = last(&[540]);
            assert_eq!(whole, last(&[527, 12, 1]), "alone, its spans by themselves");
            assert_eq!(whole, last(&[180, 345, 15]), "among others");
        }
    });
}

#[test]
fn rows_that_are_not_asked_about_stay_and_their_keys_are_seen() {
    let (engine, shape) = (Engine::cpu(Some(1)).unwrap(), shape(2, 1, 8, None));
    on_every_machine(|machine| {
        let qkv = inputs(shape, DType::F32);
        let index: Vec<usize> = (0..30).collect();
        let [q, k, v] = qkv.each_ref().map(|x| pick(&engine, x, &index));
        let rows = [CachedRows { slot: 0, start: 0, len: 30 }];
        let all = machine.values(&Layer::new(machine, shape, DType::F32, AttentionKernels::Plain).step(
            [&q, &k, &v],
            &rows,
            &rows,
        ));
        let asked = [CachedRows { slot: 0, start: 29, len: 1 }];
        let one = machine.values(&Layer::new(machine, shape, DType::F32, AttentionKernels::Plain).step(
            [&q, &k, &v],
            &rows,
            &asked,
        ));
        assert!(one[..29 * 16].iter().all(|x| *x == 0.0));
        assert_eq!(one[29 * 16..], all[29 * 16..]);
    });
}
