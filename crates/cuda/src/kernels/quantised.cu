// Weights in few bits, widened, and their products with few rows: numbers in eight bits with a scale for each row, or
// NormalFloat in four with a scale for each BLOCK numbers (arXiv 2305.14314), which may itself be in eight bits. The numbers are
// the CPU's to the bit.

#define BLOCK 64
// Scales in eight bits that share a scale of their own.
#define SCALES 256

// The levels, as the paper's appendix E prints them.
__device__ const float NF4_LEVELS[16] = {-1.0f,         -0.6961928f,  -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f,
                                         -0.091050036f, 0.0f,         0.0795803f,   0.1609302f,  0.2461123f,   0.33791524f,
                                         0.44070983f,   0.562617f,    0.72295684f,  1.0f};

// Rounded by itself: the compiler would join it with a sum that follows.
__device__ inline float product_alone(float a, float b) {
#ifdef EMULATED
    volatile float product = a * b;
    return product;
#else
    return __fmul_rn(a, b);
#endif
}

// Where scales are as they are.
struct PlainScales {
    const float *absmax;
    __device__ float of(u64 block) const { return absmax[block]; }
};

// Where they are levels times the scale of SCALES of them, from their mean.
struct NestedScales {
    const unsigned char *codes;
    const float *absmax, *levels;
    float mean;
    __device__ float of(u64 block) const {
        return product_alone(levels[codes[block]], absmax[block / SCALES]) + mean;
    }
};

// Number `at` of a weight, row after row.
template <class S> __device__ inline float nf4_at(const unsigned char *pairs, S scales, u64 at) {
    u32 pair = pairs[at / 2];
    return NF4_LEVELS[at % 2 == 0 ? pair >> 4 : pair & 15u] * scales.of(at / BLOCK);
}

// Number i of a part that is `width` wide, of a weight `cols` wide, where the part begins at number `corner`.
__device__ inline u64 in_weight(u64 i, u32 width, u32 cols, u64 corner) { return corner + i / width * cols + i % width; }

template <class T>
__device__ void widen_int8(const signed char *codes, const float *scales, T *out, u32 width, u32 cols, u64 corner, u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    u64 at = in_weight(i, width, cols, corner);
    write(&out[i], (float)codes[at] * scales[at / cols]);
}

template <class S, class T>
__device__ void widen_nf4(const unsigned char *pairs, S scales, T *out, u32 width, u32 cols, u64 corner, u64 n) {
    u64 i = global_index();
    if (i < n) write(&out[i], nf4_at(pairs, scales, in_weight(i, width, cols, corner)));
}

// Eight numbers from `at` on, a multiple of 8, of row `row`; `levels` are NF4_LEVELS in shared memory.
struct Int8Weight {
    const unsigned char *codes;
    const float *scales;
    __device__ void eight(u64 at, u32 row, const float *, float values[8]) const {
        const u32 *words = (const u32 *)(codes + at);
        float scale = scales[row];
#pragma unroll
        for (u32 i = 0; i < 8; i++) values[i] = (float)(signed char)(words[i / 4] >> (8 * (i % 4))) * scale;
    }
};

template <class S> struct Nf4Weight {
    const unsigned char *pairs;
    S scales;
    __device__ void eight(u64 at, u32, const float *levels, float values[8]) const {
        u32 word = *(const u32 *)(pairs + at / 2);
        float scale = scales.of(at / BLOCK);
#pragma unroll
        for (u32 i = 0; i < 8; i++) values[i] = levels[word >> (4 * (i ^ 1u)) & 15u] * scale;
    }
};

__device__ inline void begin_levels(float levels[16]) {
    if (threadIdx.x < 16) levels[threadIdx.x] = NF4_LEVELS[threadIdx.x];
    __syncthreads();
}

// Numbers from `corner` on, a multiple of 8, eight a thread, of a weight whose rows are whole eights.
template <class W, class T> __device__ void widen_eights(W weight, T *out, u32 cols, u64 corner, u64 n) {
    __shared__ float levels[16];
    begin_levels(levels);
    u64 i = global_index() * 8, at = corner + i;
    if (i >= n) return;
    float values[8];
    weight.eight(at, (u32)(at / cols), levels, values);
    store_eight(&out[i], values);
}

#define WIDEN(KIND, T)                                                                                                \
    extern "C" __global__ void widen_int8_##KIND(const signed char *codes, const float *scales, T *out, u32 width,   \
                                                 u32 cols, u64 corner, u64 n) {                                      \
        widen_int8(codes, scales, out, width, cols, corner, n);                                                      \
    }                                                                                                                 \
    extern "C" __global__ void widen_nf4_##KIND(const unsigned char *pairs, const float *absmax, T *out, u32 width,  \
                                                u32 cols, u64 corner, u64 n) {                                       \
        widen_nf4(pairs, PlainScales{absmax}, out, width, cols, corner, n);                                          \
    }                                                                                                                 \
    extern "C" __global__ void widen_nested_nf4_##KIND(const unsigned char *pairs, const unsigned char *scales,      \
                                                       const float *absmax, const float *levels, float mean, T *out, \
                                                       u32 width, u32 cols, u64 corner, u64 n) {                     \
        widen_nf4(pairs, NestedScales{scales, absmax, levels, mean}, out, width, cols, corner, n);                   \
    }

#define WIDEN_EIGHTS(KIND, T)                                                                                         \
    extern "C" __global__ void widen_eights_int8_##KIND(const unsigned char *codes, const float *scales, T *out,     \
                                                        u32 cols, u64 corner, u64 n) {                               \
        widen_eights(Int8Weight{codes, scales}, out, cols, corner, n);                                               \
    }                                                                                                                 \
    extern "C" __global__ void widen_eights_nf4_##KIND(const unsigned char *pairs, const float *absmax, T *out,      \
                                                       u32 cols, u64 corner, u64 n) {                                \
        widen_eights(Nf4Weight<PlainScales>{pairs, {absmax}}, out, cols, corner, n);                                 \
    }                                                                                                                 \
    extern "C" __global__ void widen_eights_nested_nf4_##KIND(                                                       \
        const unsigned char *pairs, const unsigned char *scales, const float *absmax, const float *levels,           \
        float mean, T *out, u32 cols, u64 corner, u64 n) {                                                           \
        widen_eights(Nf4Weight<NestedScales>{pairs, {scales, absmax, levels, mean}}, out, cols, corner, n);          \
    }

WIDEN(f32, float)
WIDEN(bf16, bf16)
WIDEN_EIGHTS(f32, float)
WIDEN_EIGHTS(bf16, bf16)
