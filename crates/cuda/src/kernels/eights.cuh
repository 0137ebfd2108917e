// Eight neighbours at once, where these begin at a multiple of 16 bytes.

struct alignas(16) Four {
    u32 words[4];
};

__device__ inline void load_eight(float values[8], const float *x) {
    Four low = *(const Four *)x, high = *(const Four *)(x + 4);
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        values[i] = __uint_as_float(low.words[i]);
        values[4 + i] = __uint_as_float(high.words[i]);
    }
}

__device__ inline void load_eight(float values[8], const bf16 *x) {
    Four all = *(const Four *)x;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        values[2 * i] = __uint_as_float(all.words[i] << 16);
        values[2 * i + 1] = __uint_as_float(all.words[i] & 0xffff0000u);
    }
}

__device__ inline void store_eight(float *x, const float values[8]) {
    Four low, high;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        low.words[i] = __float_as_uint(values[i]);
        high.words[i] = __float_as_uint(values[4 + i]);
    }
    *(Four *)x = low;
    *(Four *)(x + 4) = high;
}

__device__ inline void store_eight(bf16 *x, const float values[8]) {
    Four all;
#pragma unroll
    for (u32 i = 0; i < 4; i++)
        all.words[i] = (u32)round_bf16(values[2 * i]).bits | (u32)round_bf16(values[2 * i + 1]).bits << 16;
    *(Four *)x = all;
}
