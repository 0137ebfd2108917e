// Products of matrices: c[m][n] (+)= the sum over k of a[m][k] b[k][n]. Number (m, k) of a lies at m a_row + k a_col,
// (k, n) of b at k b_row + n b_col, so that a matrix is read as it lies or turned round. c is row-major. A block gives a
// tile of 64 x 64 and sums over k in order. Simple tiles: what cuBLASLt will do faster is here done surely.

#define SIDE 64

struct Sizes {
    u32 m, n, k;
    u64 a_row, a_col, b_row, b_col;
};

__device__ inline float at_or_zero(const float *x, bool there, u64 at) { return there ? x[at] : 0.0f; }

// In f32; 256 threads, 4 x 4 numbers each.
__device__ void product_f32(const float *a, const float *b, float *c, Sizes s, u32 add) {
    const u32 DEPTH = 16;
    __shared__ float left[DEPTH][SIDE + 1];
    __shared__ float right[DEPTH][SIDE + 1];
    u32 row0 = blockIdx.y * SIDE, col0 = blockIdx.x * SIDE, y = threadIdx.x / 16, x = threadIdx.x % 16;
    float sums[4][4] = {};
    for (u32 k0 = 0; k0 < s.k; k0 += DEPTH) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < SIDE * DEPTH; i += THREADS) {
            // Neighbouring threads read neighbouring numbers, whichever way a matrix lies.
            u32 ka = s.a_col == 1 ? i % DEPTH : i / SIDE, m = s.a_col == 1 ? i / DEPTH : i % SIDE;
            u32 kb = s.b_row == 1 ? i % DEPTH : i / SIDE, n = s.b_row == 1 ? i / DEPTH : i % SIDE;
            bool a_there = row0 + m < s.m && k0 + ka < s.k, b_there = col0 + n < s.n && k0 + kb < s.k;
            left[ka][m] = at_or_zero(a, a_there, (u64)(row0 + m) * s.a_row + (u64)(k0 + ka) * s.a_col);
            right[kb][n] = at_or_zero(b, b_there, (u64)(k0 + kb) * s.b_row + (u64)(col0 + n) * s.b_col);
        }
        __syncthreads();
        for (u32 k = 0; k < DEPTH; k++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
#pragma unroll
                for (u32 j = 0; j < 4; j++) sums[i][j] += left[k][y + 16 * i] * right[k][x + 16 * j];
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            u32 m = row0 + y + 16 * i, n = col0 + x + 16 * j;
            if (m >= s.m || n >= s.n) continue;
            u64 at = (u64)m * s.n + n;
            c[at] = add ? c[at] + sums[i][j] : sums[i][j];
        }
    }
}

// On tensor cores, of factors in bf16 or rounded to it; 256 threads: warp w gives rows 16 (w / 2) on, columns 32 (w % 2) on.
template <class A, class B, class C>
__device__ void product_bf16(const A *a, const B *b, C *c, Sizes s, u32 add) {
    const u32 DEPTH = 32;
    __shared__ Row<DEPTH> left[SIDE];
    __shared__ Row<DEPTH> right[SIDE];
    u32 row0 = blockIdx.y * SIDE, col0 = blockIdx.x * SIDE, own_row = warp() / 2 * 16, own_col = warp() % 2 * 32;
    float sums[4][4] = {};
    for (u32 k0 = 0; k0 < s.k; k0 += DEPTH) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < SIDE * DEPTH; i += THREADS) {
            u32 ka = s.a_col == 1 ? i % DEPTH : i / SIDE, m = s.a_col == 1 ? i / DEPTH : i % SIDE;
            u32 kb = s.b_row == 1 ? i % DEPTH : i / SIDE, n = s.b_row == 1 ? i / DEPTH : i % SIDE;
            bool a_there = row0 + m < s.m && k0 + ka < s.k, b_there = col0 + n < s.n && k0 + kb < s.k;
            u64 a_at = (u64)(row0 + m) * s.a_row + (u64)(k0 + ka) * s.a_col;
            u64 b_at = (u64)(k0 + kb) * s.b_row + (u64)(col0 + n) * s.b_col;
            left[m].values[ka] = round_bf16(a_there ? read(a[a_at]) : 0.0f);
            right[n].values[kb] = round_bf16(b_there ? read(b[b_at]) : 0.0f);
        }
        __syncthreads();
#pragma unroll
        for (u32 k = 0; k < DEPTH; k += 16) {
            u32 of_left[4], of_right[2];
            load_a<DEPTH>(of_left, left, own_row, k);
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                load_b_rows<DEPTH>(of_right, right, own_col + 8 * j, k);
                mma(sums[j], of_left, of_right);
            }
        }
    }
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 m = row0 + own_row + g_of_lane() + i / 2 * 8, n = col0 + own_col + 8 * j + 2 * t_of_lane() + i % 2;
            if (m >= s.m || n >= s.n) continue;
            u64 at = (u64)m * s.n + n;
            write(&c[at], add ? read(c[at]) + sums[j][i] : sums[j][i]);
        }
    }
}

#define PRODUCT(NAME, BODY, A, B, C)                                                                                  \
    extern "C" __global__ void NAME(const A *a, const B *b, C *c, u32 m, u32 n, u32 k, u64 a_row, u64 a_col,         \
                                    u64 b_row, u64 b_col, u32 add) {                                                 \
        Sizes sizes = {m, n, k, a_row, a_col, b_row, b_col};                                                         \
        BODY(a, b, c, sizes, add);                                                                                   \
    }

PRODUCT(product_f32_f32_f32, product_f32, float, float, float)
PRODUCT(product_bf16_bf16_f32, product_bf16, bf16, bf16, float)
PRODUCT(product_bf16_bf16_bf16, product_bf16, bf16, bf16, bf16)
PRODUCT(product_f32_bf16_f32, product_bf16, float, bf16, float)
PRODUCT(product_f32_bf16_bf16, product_bf16, float, bf16, bf16)
