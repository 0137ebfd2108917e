// Norms of gradients. A block sums its own stretch of values, a last block the blocks' sums in order.

#define STRETCH 16384

extern "C" __global__ void sum_of_squares(const float *x, double *sums, u64 n) {
    __shared__ double room[WARPS];
    u64 first = (u64)blockIdx.x * STRETCH, end = first + STRETCH < n ? first + STRETCH : n;
    double sum = 0.0;
    for (u64 i = first + threadIdx.x; i < end; i += blockDim.x) sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// total += sums[0] + .. + sums[n - 1]; one block
extern "C" __global__ void add_sums(const double *sums, double *total, u64 n) {
    __shared__ double room[WARPS];
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < n; i += blockDim.x) sum += sums[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) *total += sum;
}
