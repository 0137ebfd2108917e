// Keys and values of sequences being generated, in pages of a pool, and attention of new rows over them.
//
// Keys are taken in spans of SPAN, each with a softmax of its own, and the spans are joined in order: a block that does all
// spans of its queries and blocks that do one each (joined by join_spans) give the same bits, whichever other rows are there.

#define SPAN 256
#define EVERY_SPAN 0xffffffffu

// Up to OWN queries of an entry from number `first` on. `span` is one, or EVERY_SPAN; a span by itself is kept, for the entry's
// row r, in line `parts + r spans + span`.
struct CachedTile {
    u32 entry, first, span, parts;
};

// keys[place] = k[row], values[place] = v[row] for every {row, place}; n values in all.
template <class T> __device__ void append(const T *k, const T *v, T *keys, T *values, const u32 *rows, u32 width, u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    const u32 *pair = rows + 2 * (i / width);
    u64 from = (u64)pair[0] * width + i % width, to = (u64)pair[1] * width + i % width;
    keys[to] = k[from];
    values[to] = v[from];
}

// One more span behind those of `all`.
__device__ inline void join(Running *all, const Running &span) {
    float top = span.largest > all->largest ? span.largest : all->largest;
    float keep = all->largest == -INFINITE ? 0.0f : expf(all->largest - top);
    float take = span.largest == -INFINITE ? 0.0f : expf(span.largest - top);
    all->largest = top;
    // The roundings are said, so that every place where this stands has the same.
    all->total = fmaf(span.total, take, all->total * keep);
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) {
        all->sums[c][0] = fmaf(span.sums[c][0], take, all->sums[c][0] * keep);
        all->sums[c][1] = fmaf(span.sums[c][1], take, all->sums[c][1] * keep);
    }
}

// The lane's columns of a row's softmax.
template <class T> __device__ void write_weighted(T *out, const Running &running, u32 head_dim) {
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) {
        for (u32 half = 0; half < 2; half++) {
            u32 j = c * CHUNK + half * 32 + lane();
            if (j < head_dim) write(&out[j], running.sums[c][half] / running.total);
        }
    }
}

// A line's head in the parts: largest score, total, then the weighted values.
__device__ inline u64 part_at(u64 line, u32 head, Shape shape) {
    return (line * shape.heads + head) * (shape.head_dim + 2);
}

// A chunk of columns of `count` rows of a pool, zero behind them.
template <class T>
__device__ void load_cached(float other[OTHER][CHUNK + 1], const T *pool, u64 first_row, u32 count, u64 stride, u64 column,
                            u32 chunk, u32 head_dim) {
    __syncthreads();
    // Whole heads of eights begin at multiples of 16 bytes, if the pool does.
    if (head_dim % 8 == 0 && (u64)pool % 16 == 0) {
        static_assert(OTHER * CHUNK / 8 == THREADS, "a thread takes eight neighbours");
        u32 key = threadIdx.x / (CHUNK / 8), j = threadIdx.x % (CHUNK / 8) * 8;
        float values[8] = {};
        if (key < count && chunk * CHUNK + j < head_dim)
            load_eight(values, &pool[(first_row + key) * stride + column + chunk * CHUNK + j]);
#pragma unroll
        for (u32 i = 0; i < 8; i++) other[key][j + i] = values[i];
    } else {
        for (u32 i = threadIdx.x; i < OTHER * CHUNK; i += THREADS) {
            u32 key = i / CHUNK, j = chunk * CHUNK + i % CHUNK;
            bool there = key < count && j < head_dim;
            other[key][i % CHUNK] = there ? read(pool[(first_row + key) * stride + column + j]) : 0.0f;
        }
    }
    __syncthreads();
}

// Grid: tiles, key heads.
template <class T>
__device__ void cached_attention(const T *q, const T *keys, const T *values, T *out, float *parts, const u32 *tables,
                                 u32 pages, const Entry *entries, const CachedTile *tiles, Shape shape) {
    __shared__ float queries[OWN][MAX_DIM];
    __shared__ float other[OTHER][CHUNK + 1];
    CachedTile tile = tiles[blockIdx.x];
    Entry e = entries[tile.entry];
    u32 group = shape.heads / shape.kv_heads, kv_head = blockIdx.y, count = smaller(OWN, e.len * group - tile.first);
    u64 kv_stride = (u64)shape.kv_heads * shape.head_dim, kv_column = (u64)kv_head * shape.head_dim;
    const u32 *table = tables + (u64)e.slot * pages;
    for (u32 i = threadIdx.x; i < OWN * MAX_DIM; i += THREADS) {
        u32 number = tile.first + i / MAX_DIM, j = i % MAX_DIM;
        bool there = i / MAX_DIM < count && j < shape.head_dim;
        float value = there ? read(q[head_row(e, number, kv_head, shape) * shape.head_dim + j]) : 0.0f;
        queries[i / MAX_DIM][j] = value * shape.scale;
    }

    // Keys that any of the queries sees; tiles of keys begin at multiples of OTHER, which lie in one page.
    u32 limit = cached_end(e, tile.first + count - 1, group);
    u32 begin = cached_first(e, tile.first, group, shape.window) / OTHER * OTHER;
    u32 from = begin / SPAN, to = (limit + SPAN - 1) / SPAN;
    if (tile.span != EVERY_SPAN) {
        from = tile.span > from ? tile.span : from;
        to = smaller(to, tile.span + 1);
    }
    Running all[SHARE];
#pragma unroll
    for (u32 r = 0; r < SHARE; r++) all[r] = nothing_yet();
    for (u32 span = from; span < to; span++) {
        Running running[SHARE];
#pragma unroll
        for (u32 r = 0; r < SHARE; r++) running[r] = nothing_yet();
        u32 end = smaller(limit, (span + 1) * SPAN);
        for (u32 key = begin > span * SPAN ? begin : span * SPAN; key < end; key += OTHER) {
            u64 row = row_in_pool(table, key);
            u32 there = smaller(OTHER, end - key);
            bool idle = warp() * SHARE >= count;
            float weights[SHARE] = {};
            for (u32 c = 0; c * CHUNK < shape.head_dim; c++) {
                load_cached(other, keys, row, there, kv_stride, kv_column, c, shape.head_dim);
                if (!idle) add_products(weights, queries, c, other);
            }
#pragma unroll
            for (u32 r = 0; r < SHARE; r++) {
                if (idle) break;
                u32 mine = key + lane(), row = warp() * SHARE + r, number = tile.first + row;
                bool seen = row < count && mine < cached_end(e, number, group);
                seen = seen && mine >= cached_first(e, number, group, shape.window);
                weights[r] = take_in(&running[r], seen, weights[r], shape.cap);
            }
#pragma unroll
            for (u32 c = 0; c < CHUNKS; c++) {
                if (c * CHUNK >= shape.head_dim) break;
                load_cached(other, values, row, there, kv_stride, kv_column, c, shape.head_dim);
#pragma unroll
                for (u32 r = 0; r < SHARE; r++) {
                    if (!idle) add_weighted(running[r].sums[c], weights[r], other);
                }
            }
        }
#pragma unroll
        for (u32 r = 0; r < SHARE; r++) join(&all[r], running[r]);
    }

    u32 spans = (e.before + e.len + SPAN - 1) / SPAN;
#pragma unroll
    for (u32 r = 0; r < SHARE; r++) {
        u32 number = warp() * SHARE + r;
        if (number >= count) continue;
        number += tile.first;
        if (tile.span == EVERY_SPAN) {
            write_weighted(out + head_row(e, number, kv_head, shape) * shape.head_dim, all[r], shape.head_dim);
            continue;
        }
        u64 line = (u64)tile.parts + (u64)(number / group) * spans + tile.span;
        float *part = parts + part_at(line, kv_head * group + number % group, shape);
        if (lane() == 0) {
            part[0] = all[r].largest;
            part[1] = all[r].total;
        }
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            for (u32 half = 0; half < 2; half++) {
                u32 j = c * CHUNK + half * 32 + lane();
                if (j < shape.head_dim) part[2 + j] = all[r].sums[c][half];
            }
        }
    }
}

// out[row] from its spans, in order, for every {row, first line, lines}. Grid: rows, heads by WARPS; a warp a head.
template <class T> __device__ void join_spans(const float *parts, T *out, const u32 *rows, Shape shape) {
    const u32 *row = rows + 3 * blockIdx.x;
    u32 head = blockIdx.y * WARPS + warp();
    if (head >= shape.heads) return;
    Running all = nothing_yet();
    for (u32 line = row[1]; line < row[1] + row[2]; line++) {
        const float *part = parts + part_at(line, head, shape);
        Running span = {part[0], part[1], {}};
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            for (u32 half = 0; half < 2; half++) {
                u32 j = c * CHUNK + half * 32 + lane();
                if (j < shape.head_dim) span.sums[c][half] = part[2 + j];
            }
        }
        join(&all, span);
    }
    write_weighted(out + ((u64)row[0] * shape.heads + head) * shape.head_dim, all, shape.head_dim);
}

// Three blocks of attention fit a multiprocessor: left to itself, the compiler takes too many registers for the third.
#define CACHED(KIND, T)                                                                                               \
    extern "C" __global__ void append_rows_##KIND(const T *k, const T *v, T *keys, T *values, const u32 *rows,       \
                                                  u32 width, u64 n) {                                                \
        append(k, v, keys, values, rows, width, n);                                                                  \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 3) cached_attention_##KIND(                                \
        const T *q, const T *keys, const T *values, T *out, float *parts, const u32 *tables, u32 pages,              \
        const Entry *entries, const CachedTile *tiles, u32 heads, u32 kv_heads, u32 head_dim, u32 window,            \
        float scale, float cap) {                                                                                    \
        Shape shape = {heads, kv_heads, head_dim, window, scale, cap};                                               \
        cached_attention(q, keys, values, out, parts, tables, pages, entries, tiles, shape);                         \
    }                                                                                                                 \
    extern "C" __global__ void join_spans_##KIND(const float *parts, T *out, const u32 *rows, u32 heads,             \
                                                 u32 kv_heads, u32 head_dim, u32 window, float scale, float cap) {   \
        Shape shape = {heads, kv_heads, head_dim, window, scale, cap};                                               \
        join_spans(parts, out, rows, shape);                                                                         \
    }

CACHED(f32, float)
CACHED(bf16, bf16)
