// Dropout without a stored mask: whether a value is dropped follows from a key, its row and its column, with the
// numbers that the CPU draws. A thread takes two neighbouring values, which share one draw of 64 bits.

// The finaliser of SplitMix64 after its increment.
__device__ inline u64 mix(u64 x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// to (+)= kept from, in `rows` rows of `cols` values
template <class F, class T>
__device__ void dropout(const F *from, T *to, u64 key, u64 first_row, u64 threshold, float factor, u32 cols, u64 rows,
                        u32 add) {
    u64 pairs = (cols + 1) / 2, i = global_index();
    if (i >= rows * pairs) return;
    u64 row = i / pairs, pair = i % pairs;
    u64 bits = mix(mix(key ^ mix(first_row + row)) + pair);
    u64 draws[2] = {bits >> 32, bits & 0xffffffffull};
    for (u32 j = 0; j < 2; j++) {
        u64 col = 2 * pair + j;
        if (col >= cols) return;
        u64 at = row * cols + col;
        float kept = draws[j] < threshold ? 0.0f : read(from[at]) * factor;
        write(&to[at], add ? read(to[at]) + kept : kept);
    }
}

#define DROPOUT(NAME, FROM, TO)                                                                                      \
    extern "C" __global__ void NAME(const FROM *from, TO *to, u64 key, u64 first_row, u64 threshold, float factor,  \
                                    u32 cols, u64 rows, u32 add) {                                                  \
        dropout(from, to, key, first_row, threshold, factor, cols, rows, add);                                      \
    }

DROPOUT(dropout_f32_f32, float, float)
DROPOUT(dropout_f32_bf16, float, bf16)
DROPOUT(dropout_bf16_f32, bf16, float)
DROPOUT(dropout_bf16_bf16, bf16, bf16)
