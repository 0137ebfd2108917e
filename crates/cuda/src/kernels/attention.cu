// Attention over segments with a running softmax (arXiv 2205.14135), and its backward from the stored log-sum-exp (arXiv
// 2307.08691), in f32 arithmetic whatever is stored. Correct for every shape up to MAX_DIM; the tensor cores' version is in
// attention_tensor.cu.

// A chunk of columns of keys first..first + OTHER of a segment, zero at and beyond `end`.
template <class T>
__device__ void load_keys(float other[OTHER][CHUNK + 1], const T *x, Segment s, u32 first, u32 end, u64 stride,
                          u64 column, u32 chunk, u32 head_dim) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < OTHER * CHUNK; i += THREADS) {
        u32 key = first + i / CHUNK, j = chunk * CHUNK + i % CHUNK;
        bool there = key < end && j < head_dim;
        other[i / CHUNK][i % CHUNK] = there ? read(x[row_of_key(s, key) * stride + column + j]) : 0.0f;
    }
    __syncthreads();
}

// As load_keys, of a segment's queries (or their gradients), times a factor.
template <class T>
__device__ void load_queries(float other[OTHER][CHUNK + 1], const T *x, Segment s, u32 first, u64 stride, u64 column,
                             u32 chunk, u32 head_dim, float factor) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < OTHER * CHUNK; i += THREADS) {
        u32 query = first + i / CHUNK, j = chunk * CHUNK + i % CHUNK;
        bool there = query < s.len && j < head_dim;
        other[i / CHUNK][i % CHUNK] = there ? read(x[((u64)s.start + query) * stride + column + j]) * factor : 0.0f;
    }
    __syncthreads();
}

// Grid: tiles of OWN queries {segment, first query}, heads.
template <class T>
__device__ void attention(const T *q, const T *k, const T *v, T *out, float *lse, const Segment *segments,
                          const u32 *tiles, Shape shape) {
    __shared__ float queries[OWN][MAX_DIM];
    __shared__ float other[OTHER][CHUNK + 1];
    Segment s = segments[tiles[2 * blockIdx.x]];
    u32 first = tiles[2 * blockIdx.x + 1], count = smaller(OWN, s.len - first), head = blockIdx.y;
    u64 stride = (u64)shape.heads * shape.head_dim, kv_stride = (u64)shape.kv_heads * shape.head_dim;
    u64 column = (u64)head * shape.head_dim, kv_column = (u64)(head / (shape.heads / shape.kv_heads)) * shape.head_dim;
    load_own(queries, q, (u64)s.start + first, count, stride, column, shape.head_dim, shape.scale);

    Running running[SHARE];
#pragma unroll
    for (u32 r = 0; r < SHARE; r++) running[r] = nothing_yet();
    u32 begin = keys_first(s, first, shape.window), limit = keys_end(s, first + count - 1);
    for (u32 key = begin; key < limit; key += OTHER) {
        float weights[SHARE] = {};
        for (u32 c = 0; c * CHUNK < shape.head_dim; c++) {
            load_keys(other, k, s, key, limit, kv_stride, kv_column, c, shape.head_dim);
            add_products(weights, queries, c, other);
        }
#pragma unroll
        for (u32 r = 0; r < SHARE; r++) {
            u32 row = warp() * SHARE + r, query = first + row, mine = key + lane();
            bool seen = row < count && mine < keys_end(s, query) && mine >= keys_first(s, query, shape.window);
            weights[r] = take_in(&running[r], seen, weights[r], shape.cap);
        }
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            if (c * CHUNK >= shape.head_dim) break;
            load_keys(other, v, s, key, limit, kv_stride, kv_column, c, shape.head_dim);
#pragma unroll
            for (u32 r = 0; r < SHARE; r++) add_weighted(running[r].sums[c], weights[r], other);
        }
    }
#pragma unroll
    for (u32 r = 0; r < SHARE; r++) {
        u32 row = warp() * SHARE + r;
        if (row >= count) continue;
        u64 at = (u64)s.start + first + row;
        if (lane() == 0) lse[at * shape.heads + head] = running[r].largest + logf(running[r].total);
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            for (u32 half = 0; half < 2; half++) {
                u32 j = c * CHUNK + half * 32 + lane();
                if (j < shape.head_dim) write(&out[at * stride + column + j], running[r].sums[c][half] / running[r].total);
            }
        }
    }
}

// delta[row, head] = out . dout: what the softmax subtracts. A warp for each.
template <class T>
__device__ void attention_delta(const T *out, const float *dout, float *delta, u32 head_dim, u64 rows) {
    u64 row = (u64)blockIdx.x * WARPS + warp();
    if (row >= rows) return;
    float product = 0.0f;
    for (u32 j = lane(); j < head_dim; j += 32) product += read(out[row * head_dim + j]) * dout[row * head_dim + j];
    product = warp_sum(product);
    if (lane() == 0) delta[row] = product;
}

// Gradient of the queries. Grid as in the forward.
template <class T>
__device__ void attention_dq(const T *q, const T *k, const T *v, const float *dout, const float *lse,
                             const float *delta, float *dq, const Segment *segments, const u32 *tiles, Shape shape) {
    __shared__ float queries[OWN][MAX_DIM];
    __shared__ float douts[OWN][MAX_DIM];
    __shared__ float other[OTHER][CHUNK + 1];
    Segment s = segments[tiles[2 * blockIdx.x]];
    u32 first = tiles[2 * blockIdx.x + 1], count = smaller(OWN, s.len - first), head = blockIdx.y;
    u64 stride = (u64)shape.heads * shape.head_dim, kv_stride = (u64)shape.kv_heads * shape.head_dim;
    u64 column = (u64)head * shape.head_dim, kv_column = (u64)(head / (shape.heads / shape.kv_heads)) * shape.head_dim;
    load_own(queries, q, (u64)s.start + first, count, stride, column, shape.head_dim, shape.scale);
    load_own(douts, dout, (u64)s.start + first, count, stride, column, shape.head_dim, 1.0f);

    float sums[SHARE][CHUNKS][2] = {};
    u32 begin = keys_first(s, first, shape.window), limit = keys_end(s, first + count - 1);
    for (u32 key = begin; key < limit; key += OTHER) {
        float scores[SHARE] = {}, dweights[SHARE] = {};
        for (u32 c = 0; c * CHUNK < shape.head_dim; c++) {
            load_keys(other, k, s, key, limit, kv_stride, kv_column, c, shape.head_dim);
            add_products(scores, queries, c, other);
            load_keys(other, v, s, key, limit, kv_stride, kv_column, c, shape.head_dim);
            add_products(dweights, douts, c, other);
        }
#pragma unroll
        for (u32 r = 0; r < SHARE; r++) {
            u32 row = warp() * SHARE + r, query = first + row, mine = key + lane();
            bool seen = row < count && mine < keys_end(s, query) && mine >= keys_first(s, query, shape.window);
            u64 at = ((u64)s.start + first + (row < count ? row : 0)) * shape.heads + head;
            float weight;
            scores[r] = score_gradient(seen, scores[r], dweights[r], lse[at], delta[at], shape.cap, &weight);
        }
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            if (c * CHUNK >= shape.head_dim) break;
            load_keys(other, k, s, key, limit, kv_stride, kv_column, c, shape.head_dim);
#pragma unroll
            for (u32 r = 0; r < SHARE; r++) add_weighted(sums[r][c], scores[r], other);
        }
    }
#pragma unroll
    for (u32 r = 0; r < SHARE; r++) {
        u32 row = warp() * SHARE + r;
        if (row >= count) continue;
        u64 at = ((u64)s.start + first + row) * stride + column;
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            for (u32 half = 0; half < 2; half++) {
                u32 j = c * CHUNK + half * 32 + lane();
                if (j < shape.head_dim) dq[at + j] = sums[r][c][half] * shape.scale;
            }
        }
    }
}

// Gradients of keys and values. Grid: tiles of OWN rows {first row, rows, first and one past the last of the segments
// that see them, in `visitors`}, key heads.
template <class T>
__device__ void attention_dkv(const T *q, const T *k, const T *v, const float *dout, const float *lse,
                              const float *delta, float *dk, float *dv, const Segment *segments, const u32 *tiles,
                              const u32 *visitors, Shape shape) {
    __shared__ float keys[OWN][MAX_DIM];
    __shared__ float values[OWN][MAX_DIM];
    __shared__ float other[OTHER][CHUNK + 1];
    const u32 *tile = tiles + 4 * blockIdx.x;
    u32 first = tile[0], count = tile[1], kv_head = blockIdx.y, group = shape.heads / shape.kv_heads;
    u64 stride = (u64)shape.heads * shape.head_dim, kv_stride = (u64)shape.kv_heads * shape.head_dim;
    u64 kv_column = (u64)kv_head * shape.head_dim;
    load_own(keys, k, first, count, kv_stride, kv_column, shape.head_dim, 1.0f);
    load_own(values, v, first, count, kv_stride, kv_column, shape.head_dim, 1.0f);

    float dkeys[SHARE][CHUNKS][2] = {}, dvalues[SHARE][CHUNKS][2] = {};
    for (u32 visitor = tile[2]; visitor < tile[3]; visitor++) {
        Segment s = segments[visitors[visitor]];
        u32 from, to;
        queries_seeing(s, first, first + count, shape.window, &from, &to);
        for (u32 query = from; query < to; query += OTHER) {
            for (u32 head = kv_head * group; head < (kv_head + 1) * group; head++) {
                u64 column = (u64)head * shape.head_dim;
                float scores[SHARE] = {}, dweights[SHARE] = {}, weights[SHARE];
                for (u32 c = 0; c * CHUNK < shape.head_dim; c++) {
                    load_queries(other, q, s, query, stride, column, c, shape.head_dim, shape.scale);
                    add_products(scores, keys, c, other);
                    load_queries(other, dout, s, query, stride, column, c, shape.head_dim, 1.0f);
                    add_products(dweights, values, c, other);
                }
                u32 mine = query + lane();
                bool there = mine < to;
                u64 at = ((u64)s.start + (there ? mine : from)) * shape.heads + head;
                float my_lse = lse[at], my_delta = delta[at];
#pragma unroll
                for (u32 r = 0; r < SHARE; r++) {
                    u32 row = warp() * SHARE + r, key = 0;
                    bool seen = there && row < count && key_of_row(s, first + row, &key);
                    seen = seen && key < keys_end(s, mine) && key >= keys_first(s, mine, shape.window);
                    scores[r] =
                        score_gradient(seen, scores[r], dweights[r], my_lse, my_delta, shape.cap, &weights[r]);
                }
#pragma unroll
                for (u32 c = 0; c < CHUNKS; c++) {
                    if (c * CHUNK >= shape.head_dim) break;
                    load_queries(other, dout, s, query, stride, column, c, shape.head_dim, 1.0f);
#pragma unroll
                    for (u32 r = 0; r < SHARE; r++) add_weighted(dvalues[r][c], weights[r], other);
                    load_queries(other, q, s, query, stride, column, c, shape.head_dim, shape.scale);
#pragma unroll
                    for (u32 r = 0; r < SHARE; r++) add_weighted(dkeys[r][c], scores[r], other);
                }
            }
        }
    }
#pragma unroll
    for (u32 r = 0; r < SHARE; r++) {
        u32 row = warp() * SHARE + r;
        if (row >= count) continue;
        u64 at = ((u64)first + row) * kv_stride + kv_column;
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            for (u32 half = 0; half < 2; half++) {
                u32 j = c * CHUNK + half * 32 + lane();
                if (j >= shape.head_dim) continue;
                dk[at + j] = dkeys[r][c][half];
                dv[at + j] = dvalues[r][c][half];
            }
        }
    }
}

#define ATTENTION(KIND, T)                                                                                            \
    extern "C" __global__ void attention_##KIND(const T *q, const T *k, const T *v, T *out, float *lse,              \
                                                const Segment *segments, const u32 *tiles, u32 heads, u32 kv_heads,  \
                                                u32 head_dim, u32 window, float scale, float cap) {                  \
        Shape shape = {heads, kv_heads, head_dim, window, scale, cap};                                               \
        attention(q, k, v, out, lse, segments, tiles, shape);                                                        \
    }                                                                                                                 \
    extern "C" __global__ void attention_delta_##KIND(const T *out, const float *dout, float *delta, u32 head_dim,   \
                                                      u64 rows) {                                                    \
        attention_delta(out, dout, delta, head_dim, rows);                                                           \
    }                                                                                                                 \
    extern "C" __global__ void attention_dq_##KIND(                                                                  \
        const T *q, const T *k, const T *v, const float *dout, const float *lse, const float *delta, float *dq,      \
        const Segment *segments, const u32 *tiles, u32 heads, u32 kv_heads, u32 head_dim, u32 window, float scale,   \
        float cap) {                                                                                                 \
        Shape shape = {heads, kv_heads, head_dim, window, scale, cap};                                               \
        attention_dq(q, k, v, dout, lse, delta, dq, segments, tiles, shape);                                         \
    }                                                                                                                 \
    extern "C" __global__ void attention_dkv_##KIND(                                                                 \
        const T *q, const T *k, const T *v, const float *dout, const float *lse, const float *delta, float *dk,      \
        float *dv, const Segment *segments, const u32 *tiles, const u32 *visitors, u32 heads, u32 kv_heads,          \
        u32 head_dim, u32 window, float scale, float cap) {                                                          \
        Shape shape = {heads, kv_heads, head_dim, window, scale, cap};                                               \
        attention_dkv(q, k, v, dout, lse, delta, dk, dv, segments, tiles, visitors, shape);                          \
    }

ATTENTION(f32, float)
ATTENTION(bf16, bf16)
