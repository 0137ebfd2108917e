// What low-rank updates with lengths of their own (DoRA, arXiv 2402.09353) need beside products: columns scaled, the lengths
// of a weight's rows, and the gradient of these.

// What a row of a weight is scaled by, whose length was `norm` and becomes `magnitude`: a row without a length has no direction
// either.
extern "C" __global__ void length_factors(const float *magnitude, const float *norm, float *factors, u64 n) {
    u64 i = global_index();
    if (i < n) factors[i] = norm[i] == 0.0f ? 0.0f : magnitude[i] / norm[i];
}

// y = factors[col] x + bias[col] + rest, without what is not there; n values in all.
template <class T>
__device__ void scale_columns(const float *x, const float *factors, const float *bias, const float *rest, T *y, u32 cols,
                              u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    u32 col = (u32)(i % cols);
    float value = factors[col] * x[i];
    if (bias) value += bias[col];
    if (rest) value += rest[i];
    write(&y[i], value);
}

extern "C" __global__ void scale_columns_f32(const float *x, const float *factors, const float *bias, const float *rest,
                                             float *y, u32 cols, u64 n) {
    scale_columns(x, factors, bias, rest, y, cols, n);
}

extern "C" __global__ void scale_columns_bf16(const float *x, const float *factors, const float *bias, const float *rest,
                                              bf16 *y, u32 cols, u64 n) {
    scale_columns(x, factors, bias, rest, y, cols, n);
}

// y (+)= (factors[col] - less) x
extern "C" __global__ void add_scaled_columns(const float *x, const float *factors, float less, float *y, u32 add, u32 cols,
                                              u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    float value = (factors[i % cols] - less) * x[i];
    y[i] = add ? y[i] + value : value;
}

// partial[chunk][col] = sum over the chunk's rows of (x + more) dy, `more` where it is there
extern "C" __global__ void column_dots(const float *x, const float *more, const float *dy, double *partial, u32 cols, u32 rows,
                                       u32 per_chunk) {
    u32 col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= cols) return;
    u32 end = (blockIdx.y + 1) * per_chunk < rows ? (blockIdx.y + 1) * per_chunk : rows;
    double sum = 0.0;
    for (u32 row = blockIdx.y * per_chunk; row < end; row++) {
        u64 at = (u64)row * cols + col;
        sum += (double)(more ? x[at] + more[at] : x[at]) * (double)dy[at];
    }
    partial[(u64)blockIdx.y * cols + col] = sum;
}

// dmagnitude += (partial[0] + partial[1] + ..) / norm
extern "C" __global__ void add_length_gradient(const double *partial, const float *norm, float *dmagnitude, u32 cols,
                                               u32 chunks) {
    u32 col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= cols || norm[col] == 0.0f) return;
    double sum = 0.0;
    for (u32 chunk = 0; chunk < chunks; chunk++) sum += partial[(u64)chunk * cols + col];
    dmagnitude[col] += (float)(sum / (double)norm[col]);
}

#define ROWS 4

// norm[row] = |w[row] + scale b[row] a|, without the update where its rank is 0. A block takes ROWS rows, so that `a` is read
// once for these.
template <class T>
__device__ void row_norms(const T *w, const float *a, const float *b, float scale, float *norm, u32 rank, u32 cols, u32 rows) {
    __shared__ double room[WARPS];
    u32 first = blockIdx.x * ROWS;
    double squares[ROWS] = {};
    for (u32 col = threadIdx.x; col < cols; col += THREADS) {
        float updated[ROWS];
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) updated[r] = first + r < rows ? read(w[(u64)(first + r) * cols + col]) : 0.0f;
        for (u32 k = 0; k < rank; k++) {
            float value = a[(u64)k * cols + col];
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) {
                if (first + r < rows) updated[r] += scale * b[(u64)(first + r) * rank + k] * value;
            }
        }
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) squares[r] += (double)updated[r] * (double)updated[r];
    }
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
        double square = block_sum(squares[r], room);
        if (threadIdx.x == 0 && first + r < rows) norm[first + r] = (float)sqrt(square);
    }
}

extern "C" __global__ void row_norms_f32(const float *w, const float *a, const float *b, float scale, float *norm, u32 rank,
                                         u32 cols, u32 rows) {
    row_norms(w, a, b, scale, norm, rank, cols, rows);
}

extern "C" __global__ void row_norms_bf16(const bf16 *w, const float *a, const float *b, float scale, float *norm, u32 rank,
                                          u32 cols, u32 rows) {
    row_norms(w, a, b, scale, norm, rank, cols, rows);
}
