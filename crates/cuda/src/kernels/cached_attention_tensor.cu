// Attention of many new rows over keys and values in pages, on tensor cores: bf16, heads up to D wide. As attention over
// segments there, with the heads that share keys beside one another in a tile.

// Up to OWN_ROWS queries of an entry from number `first` on.
struct ManyTile {
    u32 entry, first;
};

// Grid: tiles, key heads.
template <int D>
__device__ void cached_attention_tensor(const bf16 *q, const bf16 *keys, const bf16 *values, bf16 *out, const u32 *tables,
                                        u32 pages, const Entry *entries, const ManyTile *tiles, Shape shape) {
    const u32 KEYS = 32;
    __shared__ Row<D> queries[OWN_ROWS];
    __shared__ Row<D> key_rows[KEYS];
    __shared__ Row<D> value_rows[KEYS];
    ManyTile tile = tiles[blockIdx.x];
    Entry e = entries[tile.entry];
    u32 group = shape.heads / shape.kv_heads, kv_head = blockIdx.y, first = tile.first;
    u32 count = smaller(OWN_ROWS, e.len * group - first);
    u64 kv_stride = (u64)shape.kv_heads * shape.head_dim, kv_column = (u64)kv_head * shape.head_dim;
    const u32 *table = tables + (u64)e.slot * pages;
    load_tile<D, OWN_ROWS>(queries, q, shape.head_dim, 0, shape.head_dim,
                           [=](u32 r) { return r < count ? head_row(e, first + r, kv_head, shape) : NO_ROW; });

    Running<D> running;
    // Tiles of keys begin at multiples of KEYS, which lie in one page.
    u32 limit = cached_end(e, first + count - 1, group), begin = cached_first(e, first, group, shape.window) / KEYS * KEYS;
    for (u32 key = begin; key < limit; key += KEYS) {
        u64 row = row_in_pool(table, key);
        auto row_of = [=](u32 r) { return key + r < limit ? row + r : NO_ROW; };
        __syncthreads();
        load_tile<D, KEYS>(key_rows, keys, kv_stride, kv_column, shape.head_dim, row_of);
        load_tile<D, KEYS>(value_rows, values, kv_stride, kv_column, shape.head_dim, row_of);
        __syncthreads();
        float scores[KEYS / 8][4] = {};
        add_products<D>(scores, queries, key_rows);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 own = warp() * 16 + g_of_lane() + 8 * half, query = first + own;
            u32 from = cached_first(e, query, group, shape.window), to = own < count ? cached_end(e, query, group) : 0;
            running.template take_in<KEYS>(half, scores, key, from, to, shape);
        }
        running.template add_weighted<KEYS>(scores, value_rows);
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 own = warp() * 16 + g_of_lane() + 8 * half;
        float sum = row_sum(running.total[half]);
        if (own >= count) continue;
        bf16 *to = out + head_row(e, first + own, kv_head, shape) * shape.head_dim;
        write_row<D>(to, running.sums, half, shape.head_dim, 1.0f / sum);
    }
}

#define CACHED_TENSOR(D)                                                                                              \
    extern "C" __global__ void cached_attention_tensor_##D(                                                          \
        const bf16 *q, const bf16 *keys, const bf16 *values, bf16 *out, const u32 *tables, u32 pages,                \
        const Entry *entries, const ManyTile *tiles, u32 heads, u32 kv_heads, u32 head_dim, u32 window, float scale, \
        float cap) {                                                                                                 \
        Shape shape = {heads, kv_heads, head_dim, window, scale, cap};                                               \
        cached_attention_tensor<D>(q, keys, values, out, tables, pages, entries, tiles, shape);                      \
    }

CACHED_TENSOR(64)
CACHED_TENSOR(128)
