// RMSNorm and LayerNorm, forward and backward, and sums down the columns. A warp takes a run of d values (a row, or
// a head of one); what adds up over runs is summed per chunk of them, and the chunks in order.

template <class T>
__device__ void rms_norm(const float *x, const float *weight, float offset, float eps, T *y, float *inv_rms, u32 d,
                         u32 runs) {
    u32 run = blockIdx.x * WARPS + warp();
    if (run >= runs) return;
    x += (u64)run * d;
    y += (u64)run * d;
    float square = 0.0f;
    for (u32 i = lane(); i < d; i += 32) square += x[i] * x[i];
    float inv = 1.0f / sqrtf(warp_sum(square) / (float)d + eps);
    if (lane() == 0) inv_rms[run] = inv;
    for (u32 i = lane(); i < d; i += 32) write(&y[i], x[i] * inv * (offset + weight[i]));
}

extern "C" __global__ void rms_norm_f32(const float *x, const float *weight, float offset, float eps, float *y,
                                        float *inv_rms, u32 d, u32 runs) {
    rms_norm(x, weight, offset, eps, y, inv_rms, d, runs);
}

extern "C" __global__ void rms_norm_bf16(const float *x, const float *weight, float offset, float eps, bf16 *y,
                                         float *inv_rms, u32 d, u32 runs) {
    rms_norm(x, weight, offset, eps, y, inv_rms, d, runs);
}

// dx (+)= inv (g - x inv^2 mean(g x)), g = dy (offset + weight)
extern "C" __global__ void rms_norm_backward(const float *dy, const float *x, const float *weight, float offset,
                                             const float *inv_rms, float *dx, u32 add, u32 d, u32 runs) {
    u32 run = blockIdx.x * WARPS + warp();
    if (run >= runs) return;
    dy += (u64)run * d;
    x += (u64)run * d;
    dx += (u64)run * d;
    float inv = inv_rms[run], product = 0.0f;
    for (u32 i = lane(); i < d; i += 32) product += dy[i] * (offset + weight[i]) * x[i];
    float along = warp_sum(product) * inv * inv / (float)d;
    for (u32 i = lane(); i < d; i += 32) {
        float gradient = inv * (dy[i] * (offset + weight[i]) - x[i] * along);
        dx[i] = add ? dx[i] + gradient : gradient;
    }
}

// partial[chunk][i] = sum over the chunk's runs of dy x inv
extern "C" __global__ void rms_norm_weight(const float *dy, const float *x, const float *inv_rms, float *partial, u32 d,
                                           u32 runs, u32 per_chunk) {
    u32 col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= d) return;
    u32 end = (blockIdx.y + 1) * per_chunk < runs ? (blockIdx.y + 1) * per_chunk : runs;
    float sum = 0.0f;
    for (u32 run = blockIdx.y * per_chunk; run < end; run++) {
        u64 at = (u64)run * d + col;
        sum += dy[at] * x[at] * inv_rms[run];
    }
    partial[(u64)blockIdx.y * d + col] = sum;
}

__device__ inline float mean_of(const float *x, u32 d) {
    float sum = 0.0f;
    for (u32 i = lane(); i < d; i += 32) sum += x[i];
    return warp_sum(sum) / (float)d;
}

template <class T>
__device__ void layer_norm(const float *x, const float *weight, const float *bias, float eps, T *y, float *inv_std,
                           u32 d, u32 rows) {
    u32 row = blockIdx.x * WARPS + warp();
    if (row >= rows) return;
    x += (u64)row * d;
    y += (u64)row * d;
    // The mean first: rows far from zero keep their spread.
    float mean = mean_of(x, d), square = 0.0f;
    for (u32 i = lane(); i < d; i += 32) square += (x[i] - mean) * (x[i] - mean);
    float inv = 1.0f / sqrtf(warp_sum(square) / (float)d + eps);
    if (lane() == 0) inv_std[row] = inv;
    for (u32 i = lane(); i < d; i += 32) write(&y[i], (x[i] - mean) * inv * weight[i] + bias[i]);
}

extern "C" __global__ void layer_norm_f32(const float *x, const float *weight, const float *bias, float eps, float *y,
                                          float *inv_std, u32 d, u32 rows) {
    layer_norm(x, weight, bias, eps, y, inv_std, d, rows);
}

extern "C" __global__ void layer_norm_bf16(const float *x, const float *weight, const float *bias, float eps, bf16 *y,
                                           float *inv_std, u32 d, u32 rows) {
    layer_norm(x, weight, bias, eps, y, inv_std, d, rows);
}

// dx (+)= inv (g - mean(g) - (x - mean) inv^2 mean(g (x - mean))), g = dy weight; leaves each row's mean of x.
extern "C" __global__ void layer_norm_backward(const float *dy, const float *x, const float *weight,
                                               const float *inv_std, float *means, float *dx, u32 add, u32 d,
                                               u32 rows) {
    u32 row = blockIdx.x * WARPS + warp();
    if (row >= rows) return;
    dy += (u64)row * d;
    x += (u64)row * d;
    dx += (u64)row * d;
    float mean = mean_of(x, d), inv = inv_std[row], level = 0.0f, along = 0.0f;
    if (lane() == 0) means[row] = mean;
    for (u32 i = lane(); i < d; i += 32) {
        float g = dy[i] * weight[i];
        level += g;
        along += g * (x[i] - mean);
    }
    level = warp_sum(level) / (float)d;
    along = warp_sum(along) * inv * inv / (float)d;
    for (u32 i = lane(); i < d; i += 32) {
        float gradient = inv * (dy[i] * weight[i] - level - (x[i] - mean) * along);
        dx[i] = add ? dx[i] + gradient : gradient;
    }
}

// partial[chunk] = d sums for the weight, then d for the bias
extern "C" __global__ void layer_norm_weight(const float *dy, const float *x, const float *inv_std, const float *means,
                                             float *partial, u32 d, u32 rows, u32 per_chunk) {
    u32 col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= d) return;
    u32 end = (blockIdx.y + 1) * per_chunk < rows ? (blockIdx.y + 1) * per_chunk : rows;
    float weight = 0.0f, bias = 0.0f;
    for (u32 row = blockIdx.y * per_chunk; row < end; row++) {
        u64 at = (u64)row * d + col;
        weight += dy[at] * inv_std[row] * (x[at] - means[row]);
        bias += dy[at];
    }
    partial[(u64)blockIdx.y * 2 * d + col] = weight;
    partial[((u64)blockIdx.y * 2 + 1) * d + col] = bias;
}

// partial[chunk][i] = sum over the chunk's rows of x: the gradient of a bias
template <class T> __device__ void column_sums(const T *x, float *partial, u32 cols, u32 rows, u32 per_chunk) {
    u32 col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= cols) return;
    u32 end = (blockIdx.y + 1) * per_chunk < rows ? (blockIdx.y + 1) * per_chunk : rows;
    float sum = 0.0f;
    for (u32 row = blockIdx.y * per_chunk; row < end; row++) sum += read(x[(u64)row * cols + col]);
    partial[(u64)blockIdx.y * cols + col] = sum;
}

extern "C" __global__ void column_sums_f32(const float *x, float *partial, u32 cols, u32 rows, u32 per_chunk) {
    column_sums(x, partial, cols, rows, per_chunk);
}

extern "C" __global__ void column_sums_bf16(const bf16 *x, float *partial, u32 cols, u32 rows, u32 per_chunk) {
    column_sums(x, partial, cols, rows, per_chunk);
}

// sum[i] += partial[0][i] + partial[1][i] + .., rows of `stride` values from `first` on
extern "C" __global__ void add_partials(const float *partial, float *sum, u32 cols, u32 stride, u32 first, u32 chunks) {
    u32 col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= cols) return;
    float total = sum[col];
    for (u32 chunk = 0; chunk < chunks; chunk++) total += partial[(u64)chunk * stride + first + col];
    sum[col] = total;
}
