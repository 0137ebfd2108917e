// What attention on tensor cores shares, over segments and over a cache. Heads up to D wide, zeros beyond their width.
//
// A block has four warps of 16 own rows each (queries, or keys in attention_tensor_dkv) and walks over tiles of the
// other side, one tile at a time.

#define BLOCK_THREADS 128
#define OWN_ROWS 64

__device__ inline Eight load_eight(const bf16 *x) { return *(const Eight *)x; }
__device__ inline Eight load_eight(const float *x) {
    Eight eight;
#pragma unroll
    for (u32 i = 0; i < 4; i++) eight.pairs[i] = pack(x[2 * i], x[2 * i + 1]);
    return eight;
}

// A row `r` of the tile is row `row_of(r)` of x, in the columns of a head; zeros where that is NO_ROW.
#define NO_ROW 0xffffffffffffffffull

template <int D, int ROWS, class T, class RowOf>
__device__ inline void load_tile(Row<D> *tile, const T *x, u64 stride, u64 column, u32 head_dim, RowOf row_of) {
    // Whole heads of eights, which begin at multiples of 16 bytes: all strides are multiples of the head's width.
    if (head_dim % 8 == 0 && (u64)x % 16 == 0) {
        for (u32 i = threadIdx.x; i < ROWS * D / 8; i += BLOCK_THREADS) {
            u32 r = i / (D / 8), j = i % (D / 8) * 8;
            u64 row = row_of(r);
            Eight eight = {};
            if (row != NO_ROW && j < head_dim) eight = load_eight(&x[row * stride + column + j]);
            tile[r].eights[j / 8] = eight;
        }
        return;
    }
    for (u32 i = threadIdx.x; i < ROWS * D; i += BLOCK_THREADS) {
        u32 r = i / D, j = i % D;
        u64 row = row_of(r);
        float value = row != NO_ROW && j < head_dim ? read(x[row * stride + column + j]) : 0.0f;
        tile[r].values[j] = round_bf16(value);
    }
}

// The largest, and the sum, over the four lanes that hold a row.
__device__ inline float row_max(float value) {
    for (int mask = 1; mask <= 2; mask <<= 1) {
        float other = __shfl_xor_sync(ALL_LANES, value, mask);
        value = other > value ? other : value;
    }
    return value;
}

__device__ inline float row_sum(float value) {
    for (int mask = 1; mask <= 2; mask <<= 1) value += __shfl_xor_sync(ALL_LANES, value, mask);
    return value;
}

// Adds to `sums` the products of the warp's 16 rows of `own`, D wide, with the rows of `other`, eight a group.
template <int D, int GROUPS>
__device__ inline void add_products(float (&sums)[GROUPS][4], const Row<D> *own, const Row<D> *other) {
#pragma unroll
    for (u32 j = 0; j < D; j += 16) {
        u32 a[4], b[2];
        load_a<D>(a, own, warp() * 16, j);
#pragma unroll
        for (u32 n = 0; n < GROUPS; n++) {
            load_b_rows<D>(b, other, n * 8, j);
            mma(sums[n], a, b);
        }
    }
}

// Adds sums[.][2 half + e] of the 16 x D result to `to`, times a factor, for the warp's row of that half.
template <int D, class T>
__device__ inline void write_row(T *to, const float sums[D / 8][4], u32 half, u32 head_dim, float factor) {
#pragma unroll
    for (u32 n = 0; n < D / 8; n++) {
#pragma unroll
        for (u32 e = 0; e < 2; e++) {
            u32 j = n * 8 + 2 * t_of_lane() + e;
            if (j < head_dim) write(&to[j], sums[n][2 * half + e] * factor);
        }
    }
}

// The softmax of the warp's rows over the keys so far, of which a lane has rows g and g + 8: their largest scores, the sums of
// e^(score - that) over the lane's own keys, and the values weighted by these, as `mma` leaves them.
template <int D> struct Running {
    float largest[2] = {-INFINITE, -INFINITE}, total[2] = {0.0f, 0.0f}, sums[D / 8][4] = {};

    // Takes in the products of one of the rows with KEYS keys from `key` on, of which it sees from..to: they become weights.
    template <int KEYS>
    __device__ inline void take_in(u32 half, float (&scores)[KEYS / 8][4], u32 key, u32 from, u32 to, Shape shape) {
        float top = largest[half];
#pragma unroll
        for (u32 i = 0; i < KEYS / 4; i++) {
            u32 mine = key + i / 2 * 8 + 2 * t_of_lane() + i % 2;
            float *score = &scores[i / 2][2 * half + i % 2];
            *score = mine < to && mine >= from ? cap_score(*score * shape.scale, shape.cap) : -INFINITE;
            top = *score > top ? *score : top;
        }
        top = row_max(top);
        float keep = largest[half] == -INFINITE ? 0.0f : expf(largest[half] - top);
        total[half] *= keep;
        largest[half] = top;
#pragma unroll
        for (u32 i = 0; i < KEYS / 4; i++) {
            float *score = &scores[i / 2][2 * half + i % 2];
            *score = *score == -INFINITE ? 0.0f : expf(*score - top);
            total[half] += *score;
        }
#pragma unroll
        for (u32 n = 0; n < D / 8; n++) {
            sums[n][2 * half] *= keep;
            sums[n][2 * half + 1] *= keep;
        }
    }

    // Adds the values of the keys that both rows took in, by their weights.
    template <int KEYS> __device__ inline void add_weighted(const float (&weights)[KEYS / 8][4], const Row<D> *values) {
#pragma unroll
        for (u32 j = 0; j < KEYS; j += 16) {
            u32 a[4], b[2];
            as_a(a, weights[j / 8], weights[j / 8 + 1]);
#pragma unroll
            for (u32 n = 0; n < D / 8; n++) {
                load_b_cols<D>(b, values, j, n * 8);
                mma(sums[n], a, b);
            }
        }
    }
};
