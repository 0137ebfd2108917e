// Keys and values of sequences being generated, in pages of a pool.
//
// A pool is a matrix [pages * PAGE, kv_heads * head_dim]; row i of a slot lies in row `tables[slot][i / PAGE] PAGE + i % PAGE`.
// The queries of an entry that share a key head are counted row by row, and in a row head by head.

#define PAGE 64
// Queries of a block of the plain kernel: a warp each where a single row is asked about, for whom keys come in soonest.
#define OWN 8

// Rows start.. of the queries are the newest `len` of a slot, behind `before` others.
struct Entry {
    u32 slot, start, len, before;
};

__device__ inline u64 row_in_pool(const u32 *table, u32 row) { return (u64)table[row / PAGE] * PAGE + row % PAGE; }

// Where a query lies, in heads.
__device__ inline u64 head_row(Entry e, u32 query, u32 kv_head, Shape shape) {
    u32 group = shape.heads / shape.kv_heads;
    return (u64)(e.start + query / group) * shape.heads + kv_head * group + query % group;
}

// Keys first..end that a query sees.
__device__ inline u32 cached_end(Entry e, u32 query, u32 group) { return e.before + query / group + 1; }
__device__ inline u32 cached_first(Entry e, u32 query, u32 group, u32 window) {
    u32 end = cached_end(e, query, group);
    return end > window ? end - window : 0;
}
