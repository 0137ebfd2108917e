// A scalar head: one number a row, and its gradients. Sums in f64, as on the CPU.

// scores[row] = x[row] . head + bias; one block a row, no bias where there is none.
extern "C" __global__ void score(const float *x, const float *head, const float *bias, double *scores, u32 d) {
    __shared__ double room[WARPS];
    x += (u64)blockIdx.x * d;
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < d; i += THREADS) sum += (double)x[i] * (double)head[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) scores[blockIdx.x] = bias ? (double)*bias + sum : sum;
}

// dx[row] = weights[row] head; n values in all.
extern "C" __global__ void score_rows(const float *weights, const float *head, float *dx, u32 d, u64 n) {
    u64 i = global_index();
    if (i < n) dx[i] = weights[i / d] * head[i % d];
}

// dhead += the sum of weights[row] x[row], in the rows' order. The column behind the last is the bias, of ones.
extern "C" __global__ void score_head(const float *weights, const float *x, float *dhead, float *dbias, u32 d, u32 rows) {
    u32 col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col > d) return;
    float *to = col < d ? (dhead ? dhead + col : nullptr) : dbias;
    if (!to) return;
    double sum = 0.0;
    for (u32 row = 0; row < rows; row++) sum += (double)weights[row] * (col < d ? (double)x[(u64)row * d + col] : 1.0);
    *to += (float)sum;
}
