// What all kernels share: numbers, and sums whose order never changes. Standing before each file, in place of headers,
// so that the compiler needs nothing but these texts.

typedef unsigned int u32;
typedef unsigned long long u64;

// bfloat16 as it lies in memory.
struct bf16 {
    unsigned short bits;
};

__device__ inline float read(float value) { return value; }
__device__ inline float read(bf16 value) { return __uint_as_float((u32)value.bits << 16); }

__device__ inline bf16 round_bf16(float value) {
    // To nearest, ties to even; NaN stays NaN.
    u32 bits = __float_as_uint(value);
    bf16 rounded;
    rounded.bits = (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    if (value != value) rounded.bits = (unsigned short)((bits >> 16) | 0x40u);
    return rounded;
}

__device__ inline void write(float *to, float value) { *to = value; }
__device__ inline void write(bf16 *to, float value) { *to = round_bf16(value); }

// Threads of a block of every kernel that does not say otherwise.
#define THREADS 256
#define WARPS (THREADS / 32)
#define ALL_LANES 0xffffffffu
#define INFINITE __uint_as_float(0x7f800000u)
#define NOT_A_NUMBER __uint_as_float(0x7fc00000u)

__device__ inline u64 global_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline u32 lane() { return threadIdx.x & 31u; }
__device__ inline u32 warp() { return threadIdx.x >> 5; }

template <class T> __device__ inline T warp_sum(T value) {
    for (int mask = 16; mask > 0; mask >>= 1) value += __shfl_xor_sync(ALL_LANES, value, mask);
    return value;
}

__device__ inline float warp_max(float value) {
    for (int mask = 16; mask > 0; mask >>= 1) {
        float other = __shfl_xor_sync(ALL_LANES, value, mask);
        value = other > value ? other : value;
    }
    return value;
}

// The sum over a block's threads, in every thread. `room` holds WARPS values and may be used again at once.
template <class T> __device__ inline T block_sum(T value, T *room) {
    value = warp_sum(value);
    if (lane() == 0) room[warp()] = value;
    __syncthreads();
    T sum = room[0];
    for (int i = 1; i < WARPS; i++) sum += room[i];
    __syncthreads();
    return sum;
}

__device__ inline float block_max(float value, float *room) {
    value = warp_max(value);
    if (lane() == 0) room[warp()] = value;
    __syncthreads();
    float largest = room[0];
    for (int i = 1; i < WARPS; i++) largest = room[i] > largest ? room[i] : largest;
    __syncthreads();
    return largest;
}

// The derivative of a soft cap, from the capped value.
__device__ inline float cap_slope(float capped, float cap) {
    float share = capped / cap;
    return 1.0f - share * share;
}
