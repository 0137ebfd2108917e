// What attention in f32 arithmetic shares, over segments and over a cache: a block has OWN rows of queries (or keys) in
// shared memory, and walks over the other side OTHER rows and CHUNK columns at a time.

#define MAX_DIM 256
#define CHUNK 64
#define CHUNKS (MAX_DIM / CHUNK)
// Rows of a block's own tile (where a file has not said), a warp's share of them, and of the other side's tile, a lane each.
#ifndef OWN
#define OWN 16
#endif
#define SHARE (OWN / WARPS)
#define OTHER 32

// `values[row][j] = factor x[row, j]` for the OWN rows of a tile, zero outside it.
template <class T>
__device__ void load_own(float values[OWN][MAX_DIM], const T *x, u64 first_row, u32 count, u64 stride, u64 column,
                         u32 head_dim, float factor) {
    for (u32 i = threadIdx.x; i < OWN * MAX_DIM; i += THREADS) {
        u32 row = i / MAX_DIM, j = i % MAX_DIM;
        bool there = row < count && j < head_dim;
        values[row][j] = there ? read(x[(first_row + row) * stride + column + j]) * factor : 0.0f;
    }
}

// products[r] += sum over the chunk of own[warp's row r][chunk + j] other[lane][j]
__device__ inline void add_products(float products[SHARE], const float own[OWN][MAX_DIM], u32 chunk,
                                    const float other[OTHER][CHUNK + 1]) {
    for (u32 j = 0; j < CHUNK; j++) {
        float value = other[lane()][j];
#pragma unroll
        for (u32 r = 0; r < SHARE; r++) products[r] += own[warp() * SHARE + r][chunk * CHUNK + j] * value;
    }
}

// sums[r][lane's columns of the chunk] += sum over the lanes of weight[r] other[lane]
__device__ inline void add_weighted(float sums[2], float weight, const float other[OTHER][CHUNK + 1]) {
    for (u32 i = 0; i < OTHER; i++) {
        float share = __shfl_sync(ALL_LANES, weight, i);
        sums[0] += share * other[i][lane()];
        sums[1] += share * other[i][lane() + 32];
    }
}

// A row's softmax over the keys so far: the largest score, the sum of e^(score - that), and the values weighted by these; a
// lane has two columns of every chunk of them.
struct Running {
    float largest, total, sums[CHUNKS][2];
};

__device__ inline Running nothing_yet() {
    Running running = {-INFINITE, 0.0f, {}};
    return running;
}

// Takes in a key a lane, by its score before the cap; gives its weight, by which its values are still to be added.
__device__ inline float take_in(Running *running, bool seen, float score, float cap) {
    score = seen ? cap_score(score, cap) : -INFINITE;
    float top = warp_max(score);
    top = top > running->largest ? top : running->largest;
    // Nothing seen so far: nothing to rescale.
    float keep = running->largest == -INFINITE ? 0.0f : expf(running->largest - top);
    float weight = seen ? expf(score - top) : 0.0f;
    running->total = running->total * keep + warp_sum(weight);
    running->largest = top;
#pragma unroll
    for (u32 c = 0; c < CHUNKS; c++) {
        running->sums[c][0] *= keep;
        running->sums[c][1] *= keep;
    }
    return weight;
}
