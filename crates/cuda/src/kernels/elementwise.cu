// Sums, copies and scalings of n values.

extern "C" __global__ void round_to_bf16(const float *x, bf16 *y, u64 n) {
    u64 i = global_index();
    if (i < n) y[i] = round_bf16(x[i]);
}

extern "C" __global__ void widen_to_f32(const bf16 *x, float *y, u64 n) {
    u64 i = global_index();
    if (i < n) y[i] = read(x[i]);
}

// y += x
extern "C" __global__ void add_assign(float *y, const float *x, u64 n) {
    u64 i = global_index();
    if (i < n) y[i] += x[i];
}

extern "C" __global__ void scale(float *x, float factor, u64 n) {
    u64 i = global_index();
    if (i < n) x[i] *= factor;
}

// x = cap tanh(x / cap)
extern "C" __global__ void soft_cap(float *x, float cap, u64 n) {
    u64 i = global_index();
    if (i < n) x[i] = cap * tanhf(x[i] / cap);
}

// Every row of y becomes `row`: the bias, before a product is added.
template <class T> __device__ void repeat_row(const float *row, T *y, u32 cols, u64 n) {
    u64 i = global_index();
    if (i < n) write(&y[i], row[i % cols]);
}

extern "C" __global__ void repeat_row_f32(const float *row, float *y, u32 cols, u64 n) { repeat_row(row, y, cols, n); }
extern "C" __global__ void repeat_row_bf16(const float *row, bf16 *y, u32 cols, u64 n) { repeat_row(row, y, cols, n); }
