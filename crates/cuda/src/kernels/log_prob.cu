// The log-probability of one chosen token per row, over the vocabulary in chunks: logits of `width` tokens from `first`
// on are there at a time. A row keeps its largest logit, the sum of e^(logit - that), and its target's logit.

extern "C" __global__ void log_prob_begin(float *largest, double *sums, float *target_logits, u64 rows) {
    u64 i = global_index();
    if (i >= rows) return;
    largest[i] = -INFINITE;
    sums[i] = 0.0;
    target_logits[i] = NOT_A_NUMBER;
}

__device__ inline float capped(float logit, float cap) { return cap > 0.0f ? cap * tanhf(logit / cap) : logit; }

// One block a row; a cap of 0 is none.
extern "C" __global__ void log_prob_chunk(const float *logits, const u32 *targets, float *largest, double *sums,
                                          float *target_logits, u32 first, u32 width, float cap) {
    __shared__ float room[WARPS];
    u64 row = blockIdx.x;
    logits += row * width;
    float before = largest[row], top = before;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float logit = capped(logits[i], cap);
        top = logit > top ? logit : top;
    }
    top = block_max(top, room);
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) sum += expf(capped(logits[i], cap) - top);
    sum = block_sum(sum, room);
    if (threadIdx.x != 0) return;
    u32 target = targets[row] - first;
    if (targets[row] >= first && target < width) target_logits[row] = capped(logits[target], cap);
    sums[row] = sums[row] * exp((double)before - (double)top) + (double)sum;
    largest[row] = top;
}

extern "C" __global__ void log_prob_end(const float *largest, const double *sums, const float *target_logits,
                                        double *log_probs, float *lse, u64 rows) {
    u64 i = global_index();
    if (i >= rows) return;
    double exact = (double)largest[i] + log(sums[i]);
    log_probs[i] = (double)target_logits[i] - exact;
    lse[i] = (float)exact;
}

// dlogits = weight (1 at the target - softmax), back through the cap where there is one. In f32 it may lie where the
// logits do. n = rows width.
template <class T>
__device__ void log_prob_gradient(const float *logits, const u32 *targets, const float *lse, const float *weights,
                                  T *dlogits, u32 first, u32 width, float cap, u64 n) {
    u64 i = global_index();
    if (i >= n) return;
    u64 row = i / width;
    u32 token = first + (u32)(i % width);
    float logit = capped(logits[i], cap), weight = weights[row];
    float slope = cap > 0.0f ? cap_slope(logit, cap) : 1.0f;
    float gradient = -weight * expf(logit - lse[row]) * slope;
    if (targets[row] == token) gradient += weight * slope;
    write(&dlogits[i], gradient);
}

extern "C" __global__ void log_prob_gradient_f32(const float *logits, const u32 *targets, const float *lse,
                                                 const float *weights, float *dlogits, u32 first, u32 width, float cap,
                                                 u64 n) {
    log_prob_gradient(logits, targets, lse, weights, dlogits, first, width, cap, n);
}

extern "C" __global__ void log_prob_gradient_bf16(const float *logits, const u32 *targets, const float *lse,
                                                  const float *weights, bf16 *dlogits, u32 first, u32 width, float cap,
                                                  u64 n) {
    log_prob_gradient(logits, targets, lse, weights, dlogits, first, width, cap, n);
}
