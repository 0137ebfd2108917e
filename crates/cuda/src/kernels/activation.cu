// SwiGLU and GELU, forward and backward, of n values; all arrays in one precision.

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class T> __device__ void swiglu(const T *gate, const T *up, T *out, u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    float g = read(gate[i]);
    write(&out[i], g * sigmoid(g) * read(up[i]));
}

template <class T>
__device__ void swiglu_backward(const T *dout, const T *gate, const T *up, T *dgate, T *dup, u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    float d = read(dout[i]), g = read(gate[i]), s = sigmoid(g);
    float by_gate = d * read(up[i]) * s * (1.0f + g * (1.0f - s));
    write(&dup[i], d * g * s);
    write(&dgate[i], by_gate);
}

extern "C" __global__ void swiglu_f32(const float *gate, const float *up, float *out, u64 n) {
    swiglu(gate, up, out, n);
}

extern "C" __global__ void swiglu_bf16(const bf16 *gate, const bf16 *up, bf16 *out, u64 n) { swiglu(gate, up, out, n); }

extern "C" __global__ void swiglu_backward_f32(const float *dout, const float *gate, const float *up, float *dgate,
                                               float *dup, u64 n) {
    swiglu_backward(dout, gate, up, dgate, dup, n);
}

extern "C" __global__ void swiglu_backward_bf16(const bf16 *dout, const bf16 *gate, const bf16 *up, bf16 *dgate,
                                                bf16 *dup, u64 n) {
    swiglu_backward(dout, gate, up, dgate, dup, n);
}

// The curve's value and slope at x, exact (by erf) or by the tanh approximation.
__device__ inline void gelu_at(u32 exact, float x, float *value, float *slope) {
    const float root = 0.7978845608f, cube = 0.044715f;
    if (exact) {
        float share = 0.5f + 0.5f * erff(x * 0.7071067812f);
        float density = 0.5f * root * expf(-0.5f * x * x);
        *value = x * share;
        *slope = x * density + share;
    } else {
        float square = x * x;
        float turned = tanhf(root * x * (cube * square + 1.0f));
        float share = 0.5f + 0.5f * turned;
        *value = x * share;
        *slope = share + 0.5f * x * (1.0f - turned * turned) * root * (3.0f * cube * square + 1.0f);
    }
}

// out = gelu(x), times `up` where there is one
template <class T> __device__ void gelu(const T *x, const T *up, T *out, u32 exact, u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    float value, slope;
    gelu_at(exact, read(x[i]), &value, &slope);
    write(&out[i], up ? value * read(up[i]) : value);
}

template <class T>
__device__ void gelu_backward(const T *dout, const T *x, const T *up, T *dx, T *dup, u32 exact, u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    float value, slope, d = read(dout[i]);
    gelu_at(exact, read(x[i]), &value, &slope);
    float by_x = up ? d * read(up[i]) * slope : d * slope;
    if (up) write(&dup[i], d * value);
    write(&dx[i], by_x);
}

extern "C" __global__ void gelu_f32(const float *x, const float *up, float *out, u32 exact, u64 n) {
    gelu(x, up, out, exact, n);
}

extern "C" __global__ void gelu_bf16(const bf16 *x, const bf16 *up, bf16 *out, u32 exact, u64 n) {
    gelu(x, up, out, exact, n);
}

extern "C" __global__ void gelu_backward_f32(const float *dout, const float *x, const float *up, float *dx, float *dup,
                                             u32 exact, u64 n) {
    gelu_backward(dout, x, up, dx, dup, exact, n);
}

extern "C" __global__ void gelu_backward_bf16(const bf16 *dout, const bf16 *x, const bf16 *up, bf16 *dx, bf16 *dup,
                                              u32 exact, u64 n) {
    gelu_backward(dout, x, up, dx, dup, exact, n);
}
