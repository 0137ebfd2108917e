// Attention in bf16 on tensor cores, forward and backward: products of 16 x 16 by 16 x 8 numbers with sums in f32
// (mma.m16n8k16). Queries, keys, values and the gradient of the output are rounded to bf16, weights and score gradients
// are before their products; scores, softmax and sums are in f32.

struct Columns {
    u64 stride, kv_stride, column, kv_column;
};

__device__ inline Columns columns_of(Shape shape, u32 head) {
    u32 kv_head = head / (shape.heads / shape.kv_heads);
    Columns columns = {(u64)shape.heads * shape.head_dim, (u64)shape.kv_heads * shape.head_dim,
                       (u64)head * shape.head_dim, (u64)kv_head * shape.head_dim};
    return columns;
}

// Grid: tiles of OWN_ROWS queries {segment, first query}, heads.
template <int D>
__device__ void attention_tensor(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse,
                                 const Segment *segments, const u32 *tiles, Shape shape) {
    const u32 KEYS = 32;
    __shared__ Row<D> queries[OWN_ROWS];
    __shared__ Row<D> keys[KEYS];
    __shared__ Row<D> values[KEYS];
    Segment s = segments[tiles[2 * blockIdx.x]];
    u32 first = tiles[2 * blockIdx.x + 1], count = smaller(OWN_ROWS, s.len - first), head = blockIdx.y;
    Columns at = columns_of(shape, head);
    load_tile<D, OWN_ROWS>(queries, q, at.stride, at.column, shape.head_dim,
                           [=](u32 r) { return r < count ? (u64)s.start + first + r : NO_ROW; });

    Running<D> running;
    u32 begin = keys_first(s, first, shape.window), limit = keys_end(s, first + count - 1);
    for (u32 key = begin; key < limit; key += KEYS) {
        auto row_of = [=](u32 r) { return key + r < limit ? row_of_key(s, key + r) : NO_ROW; };
        __syncthreads();
        load_tile<D, KEYS>(keys, k, at.kv_stride, at.kv_column, shape.head_dim, row_of);
        load_tile<D, KEYS>(values, v, at.kv_stride, at.kv_column, shape.head_dim, row_of);
        __syncthreads();
        float scores[KEYS / 8][4] = {};
        add_products<D>(scores, queries, keys);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 row = warp() * 16 + g_of_lane() + 8 * half, query = first + row;
            u32 from = keys_first(s, query, shape.window), to = row < count ? keys_end(s, query) : 0;
            running.template take_in<KEYS>(half, scores, key, from, to, shape);
        }
        running.template add_weighted<KEYS>(scores, values);
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 row = warp() * 16 + g_of_lane() + 8 * half;
        float sum = row_sum(running.total[half]);
        if (row >= count) continue;
        u64 to = (u64)s.start + first + row;
        if (t_of_lane() == 0) lse[to * shape.heads + head] = running.largest[half] + logf(sum);
        write_row<D>(out + to * at.stride + at.column, running.sums, half, shape.head_dim, 1.0f / sum);
    }
}

// Gradient of the queries. Grid as in the forward.
template <int D>
__device__ void attention_tensor_dq(const bf16 *q, const bf16 *k, const bf16 *v, const float *dout, const float *lse,
                                    const float *delta, float *dq, const Segment *segments, const u32 *tiles,
                                    Shape shape) {
    const u32 KEYS = 16;
    __shared__ Row<D> queries[OWN_ROWS];
    __shared__ Row<D> douts[OWN_ROWS];
    __shared__ Row<D> keys[KEYS];
    __shared__ Row<D> values[KEYS];
    Segment s = segments[tiles[2 * blockIdx.x]];
    u32 first = tiles[2 * blockIdx.x + 1], count = smaller(OWN_ROWS, s.len - first), head = blockIdx.y;
    Columns at = columns_of(shape, head);
    auto own = [=](u32 r) { return r < count ? (u64)s.start + first + r : NO_ROW; };
    load_tile<D, OWN_ROWS>(queries, q, at.stride, at.column, shape.head_dim, own);
    load_tile<D, OWN_ROWS>(douts, dout, at.stride, at.column, shape.head_dim, own);

    float sums[D / 8][4] = {};
    u32 begin = keys_first(s, first, shape.window), limit = keys_end(s, first + count - 1);
    for (u32 key = begin; key < limit; key += KEYS) {
        auto row_of = [=](u32 r) { return key + r < limit ? row_of_key(s, key + r) : NO_ROW; };
        __syncthreads();
        load_tile<D, KEYS>(keys, k, at.kv_stride, at.kv_column, shape.head_dim, row_of);
        load_tile<D, KEYS>(values, v, at.kv_stride, at.kv_column, shape.head_dim, row_of);
        __syncthreads();
        float scores[2][4] = {}, dweights[2][4] = {};
        u32 a[4], b[2];
        add_products<D>(scores, queries, keys);
        add_products<D>(dweights, douts, values);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 row = warp() * 16 + g_of_lane() + 8 * half, query = first + row;
            u32 from = keys_first(s, query, shape.window), to = row < count ? keys_end(s, query) : 0;
            u64 of = ((u64)s.start + first + (row < count ? row : 0)) * shape.heads + head;
            float my_lse = lse[of], my_delta = delta[of], weight;
#pragma unroll
            for (u32 i = 0; i < KEYS / 4; i++) {
                u32 mine = key + i / 2 * 8 + 2 * t_of_lane() + i % 2, e = 2 * half + i % 2;
                bool seen = mine < to && mine >= from;
                scores[i / 2][e] = score_gradient(seen, scores[i / 2][e] * shape.scale, dweights[i / 2][e], my_lse,
                                                  my_delta, shape.cap, &weight);
            }
        }
        as_a(a, scores[0], scores[1]);
#pragma unroll
        for (u32 n = 0; n < D / 8; n++) {
            load_b_cols<D>(b, keys, 0, n * 8);
            mma(sums[n], a, b);
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 row = warp() * 16 + g_of_lane() + 8 * half;
        if (row >= count) continue;
        float *to = dq + ((u64)s.start + first + row) * at.stride + at.column;
        write_row<D>(to, sums, half, shape.head_dim, shape.scale);
    }
}

// Gradients of keys and values. Grid: tiles of OWN_ROWS rows {first row, rows, first and one past the last of the
// segments that see them, in `visitors`}, key heads.
template <int D>
__device__ void attention_tensor_dkv(const bf16 *q, const bf16 *k, const bf16 *v, const float *dout, const float *lse,
                                     const float *delta, float *dk, float *dv, const Segment *segments,
                                     const u32 *tiles, const u32 *visitors, Shape shape) {
    const u32 QUERIES = 16;
    __shared__ Row<D> keys[OWN_ROWS];
    __shared__ Row<D> values[OWN_ROWS];
    __shared__ Row<D> queries[QUERIES];
    __shared__ Row<D> douts[QUERIES];
    const u32 *tile = tiles + 4 * blockIdx.x;
    u32 first = tile[0], count = tile[1], group = shape.heads / shape.kv_heads, head = blockIdx.y * group;
    Columns own_at = columns_of(shape, head);
    auto own = [=](u32 r) { return r < count ? (u64)first + r : NO_ROW; };
    load_tile<D, OWN_ROWS>(keys, k, own_at.kv_stride, own_at.kv_column, shape.head_dim, own);
    load_tile<D, OWN_ROWS>(values, v, own_at.kv_stride, own_at.kv_column, shape.head_dim, own);

    float dkeys[D / 8][4] = {}, dvalues[D / 8][4] = {};
    for (u32 visitor = tile[2]; visitor < tile[3]; visitor++) {
        Segment s = segments[visitors[visitor]];
        u32 from, to;
        queries_seeing(s, first, first + count, shape.window, &from, &to);
        for (u32 query = from; query < to; query += QUERIES) {
            for (u32 h = head; h < head + group; h++) {
                Columns at = columns_of(shape, h);
                auto row_of = [=](u32 r) { return query + r < to ? (u64)s.start + query + r : NO_ROW; };
                __syncthreads();
                load_tile<D, QUERIES>(queries, q, at.stride, at.column, shape.head_dim, row_of);
                load_tile<D, QUERIES>(douts, dout, at.stride, at.column, shape.head_dim, row_of);
                __syncthreads();
                // A row of these for each key, a column for each query.
                float scores[2][4] = {}, weights[2][4] = {};
                u32 a[4], b[2];
                add_products<D>(scores, keys, queries);
                add_products<D>(weights, values, douts);
#pragma unroll
                for (u32 i = 0; i < QUERIES / 4; i++) {
                    u32 mine = query + i / 2 * 8 + 2 * t_of_lane() + i % 2;
                    bool there = mine < to;
                    u64 of = ((u64)s.start + (there ? mine : from)) * shape.heads + h;
                    float my_lse = lse[of], my_delta = delta[of];
#pragma unroll
                    for (u32 half = 0; half < 2; half++) {
                        u32 row = warp() * 16 + g_of_lane() + 8 * half, e = 2 * half + i % 2, key = 0;
                        bool seen = there && row < count && key_of_row(s, first + row, &key);
                        seen = seen && key < keys_end(s, mine) && key >= keys_first(s, mine, shape.window);
                        float weight;
                        scores[i / 2][e] = score_gradient(seen, scores[i / 2][e] * shape.scale, weights[i / 2][e],
                                                          my_lse, my_delta, shape.cap, &weight);
                        weights[i / 2][e] = weight;
                    }
                }
                u32 a_weights[4];
                as_a(a, scores[0], scores[1]);
                as_a(a_weights, weights[0], weights[1]);
#pragma unroll
                for (u32 n = 0; n < D / 8; n++) {
                    load_b_cols<D>(b, queries, 0, n * 8);
                    mma(dkeys[n], a, b);
                    load_b_cols<D>(b, douts, 0, n * 8);
                    mma(dvalues[n], a_weights, b);
                }
            }
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 row = warp() * 16 + g_of_lane() + 8 * half;
        if (row >= count) continue;
        u64 to = ((u64)first + row) * own_at.kv_stride + own_at.kv_column;
        write_row<D>(dk + to, dkeys, half, shape.head_dim, shape.scale);
        write_row<D>(dv + to, dvalues, half, shape.head_dim, 1.0f);
    }
}

#define TENSOR(D)                                                                                                     \
    extern "C" __global__ void attention_tensor_##D(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out,          \
                                                    float *lse, const Segment *segments, const u32 *tiles,           \
                                                    u32 heads, u32 kv_heads, u32 head_dim, u32 window, float scale,  \
                                                    float cap) {                                                     \
        Shape shape = {heads, kv_heads, head_dim, window, scale, cap};                                               \
        attention_tensor<D>(q, k, v, out, lse, segments, tiles, shape);                                              \
    }                                                                                                                 \
    extern "C" __global__ void attention_tensor_dq_##D(                                                              \
        const bf16 *q, const bf16 *k, const bf16 *v, const float *dout, const float *lse, const float *delta,        \
        float *dq, const Segment *segments, const u32 *tiles, u32 heads, u32 kv_heads, u32 head_dim, u32 window,     \
        float scale, float cap) {                                                                                    \
        Shape shape = {heads, kv_heads, head_dim, window, scale, cap};                                               \
        attention_tensor_dq<D>(q, k, v, dout, lse, delta, dq, segments, tiles, shape);                               \
    }                                                                                                                 \
    extern "C" __global__ void attention_tensor_dkv_##D(                                                             \
        const bf16 *q, const bf16 *k, const bf16 *v, const float *dout, const float *lse, const float *delta,        \
        float *dk, float *dv, const Segment *segments, const u32 *tiles, const u32 *visitors, u32 heads,             \
        u32 kv_heads, u32 head_dim, u32 window, float scale, float cap) {                                            \
        Shape shape = {heads, kv_heads, head_dim, window, scale, cap};                                               \
        attention_tensor_dkv<D>(q, k, v, dout, lse, delta, dk, dv, segments, tiles, visitors, shape);                \
    }

TENSOR(64)
TENSOR(128)
