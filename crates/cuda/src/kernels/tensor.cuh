// Tensor cores: products of 16 x 16 by 16 x 8 numbers in bf16 with sums in f32, and tiles in shared memory as they read
// them.

// Numbers between the end of a row in shared memory and the next one: rows start in different banks.
#define PAD 8

// c += a b. Of lane l, with g = l / 4 and t = l % 4: a holds rows g and g + 8 at columns 2t, 2t + 1 (a[0], a[1]) and
// 2t + 8, 2t + 9 (a[2], a[3]); b column g at rows 2t, 2t + 1 (b[0]) and 2t + 8, 2t + 9 (b[1]); c row g (c[0], c[1]) and
// g + 8 (c[2], c[3]) at columns 2t, 2t + 1.
#ifndef EMULATED
__device__ inline void mma(float c[4], const u32 a[4], const u32 b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

__device__ inline u32 g_of_lane() { return lane() / 4; }
__device__ inline u32 t_of_lane() { return lane() % 4; }

__device__ inline u32 pack(bf16 low, bf16 high) { return (u32)low.bits | (u32)high.bits << 16; }
__device__ inline u32 pack(float low, float high) { return pack(round_bf16(low), round_bf16(high)); }

// Eight neighbours in bf16, moved at once.
struct alignas(16) Eight {
    u32 pairs[4];
};

// A tile of rows in shared memory.
template <int D> struct Row {
    union {
        bf16 values[D + PAD];
        u32 pairs[(D + PAD) / 2];
        Eight eights[(D + PAD) / 8];
    };
    // From an even column on.
    __device__ u32 pair(u32 col) const { return pairs[col / 2]; }
};

// a = tile[row .. row + 16][col .. col + 16]
template <int D> __device__ inline void load_a(u32 a[4], const Row<D> *tile, u32 row, u32 col) {
    const Row<D> &upper = tile[row + g_of_lane()], &lower = tile[row + g_of_lane() + 8];
    col += 2 * t_of_lane();
    a[0] = upper.pair(col);
    a[1] = lower.pair(col);
    a[2] = upper.pair(col + 8);
    a[3] = lower.pair(col + 8);
}

// b[k][n] = tile[row + n][col + k]: the other side's rows are the product's columns.
template <int D> __device__ inline void load_b_rows(u32 b[2], const Row<D> *tile, u32 row, u32 col) {
    const Row<D> &mine = tile[row + g_of_lane()];
    b[0] = mine.pair(col + 2 * t_of_lane());
    b[1] = mine.pair(col + 2 * t_of_lane() + 8);
}

// b[k][n] = tile[row + k][col + n]: sums go over the other side's rows.
template <int D> __device__ inline void load_b_cols(u32 b[2], const Row<D> *tile, u32 row, u32 col) {
    row += 2 * t_of_lane();
    col += g_of_lane();
    b[0] = pack(tile[row].values[col], tile[row + 1].values[col]);
    b[1] = pack(tile[row + 8].values[col], tile[row + 9].values[col]);
}

// Two neighbouring 16 x 8 results as the left side of the next product.
__device__ inline void as_a(u32 a[4], const float left[4], const float right[4]) {
    a[0] = pack(left[0], left[1]);
    a[1] = pack(left[2], left[3]);
    a[2] = pack(right[0], right[1]);
    a[3] = pack(right[2], right[3]);
}
