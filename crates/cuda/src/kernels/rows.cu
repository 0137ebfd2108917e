// Rows of a table by index, and rows added back into it: embeddings, and the rows that the head reads.

// out[i] = x[index[i]], rows of `cols` values; n values in all.
template <class T> __device__ void gather(const T *x, const u32 *index, T *out, u32 cols, u64 n) {
    u64 i = global_index();
    if (i < n) out[i] = x[(u64)index[i / cols] * cols + i % cols];
}

extern "C" __global__ void gather_rows_f32(const float *x, const u32 *index, float *out, u32 cols, u64 n) {
    gather(x, index, out, cols, n);
}

extern "C" __global__ void gather_rows_bf16(const bf16 *x, const u32 *index, bf16 *out, u32 cols, u64 n) {
    gather(x, index, out, cols, n);
}

// out[i] += x[index[i]]
extern "C" __global__ void add_gathered_rows(const float *x, const u32 *index, float *out, u32 cols, u64 n) {
    u64 i = global_index();
    if (i < n) out[i] += x[(u64)index[i / cols] * cols + i % cols];
}

// x[targets[g]] += rows[order[starts[g]]] + .. + rows[order[starts[g + 1] - 1]]: one block row for each target, its rows
// in their order, so that a row that is hit often adds up the same way every time.
extern "C" __global__ void add_row_groups(const float *rows, const u32 *targets, const u32 *starts, const u32 *order,
                                          float *x, u32 cols) {
    u32 col = blockIdx.y * blockDim.x + threadIdx.x;
    if (col >= cols) return;
    u64 at = (u64)targets[blockIdx.x] * cols + col;
    float sum = x[at];
    for (u32 i = starts[blockIdx.x]; i < starts[blockIdx.x + 1]; i++) sum += rows[(u64)order[i] * cols + col];
    x[at] = sum;
}
