// Rotary position embedding, in place: value j of a head turns with value j + half by the angle of the row's position;
// values from 2 half on stay. A thread takes a pair; `inverse` turns back, which is the backward.

template <class T>
__device__ void rotary(T *x, const u32 *positions, const float *cosines, const float *sines, u32 half, u32 head_dim,
                       u32 heads, u32 inverse, u64 pairs) {
    u64 i = global_index();
    if (i >= pairs) return;
    u32 j = (u32)(i % half);
    u64 head = i / half;
    u64 angle = (u64)positions[head / heads] * half + j;
    float cosine = cosines[angle], sine = inverse ? -sines[angle] : sines[angle];
    T *first = &x[head * head_dim + j], *second = first + half;
    float a = read(*first), b = read(*second);
    write(first, a * cosine - b * sine);
    write(second, b * cosine + a * sine);
}

extern "C" __global__ void rotary_f32(float *x, const u32 *positions, const float *cosines, const float *sines,
                                      u32 half, u32 head_dim, u32 heads, u32 inverse, u64 pairs) {
    rotary(x, positions, cosines, sines, half, head_dim, heads, inverse, pairs);
}

extern "C" __global__ void rotary_bf16(bf16 *x, const u32 *positions, const float *cosines, const float *sines,
                                       u32 half, u32 head_dim, u32 heads, u32 inverse, u64 pairs) {
    rotary(x, positions, cosines, sines, half, head_dim, heads, inverse, pairs);
}
