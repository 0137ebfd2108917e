// What the attention kernels share: who sees whom.
//
// A segment is {start, len, context start, context len}: its rows see the context, then each other up to themselves.
// Key number i of a segment is row `context start + i` of the matrix, or `start + i - context len` from the context on.
// Query number i of a segment sees the keys up to number `context len + i`, of these the nearest `window`.
//
// Blocks write nothing that another block writes: gradients of keys come from a block for each tile of keys, which
// walks over all segments that see the tile, in order. So no sum depends on which block is first.

struct Segment {
    u32 start, len, context_start, context_len;
};

struct Shape {
    u32 heads, kv_heads, head_dim, window;
    float scale, cap;
};

__device__ inline u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

__device__ inline u64 row_of_key(Segment s, u32 key) {
    return key < s.context_len ? (u64)s.context_start + key : (u64)s.start + key - s.context_len;
}

// Keys first..end that query number `query` sees.
__device__ inline u32 keys_end(Segment s, u32 query) { return s.context_len + query + 1; }
__device__ inline u32 keys_first(Segment s, u32 query, u32 window) {
    u32 end = keys_end(s, query);
    return end > window ? end - window : 0;
}

__device__ inline float cap_score(float score, float cap) { return cap > 0.0f ? cap * tanhf(score / cap) : score; }

// The score's gradient from the score before its cap, and the softmax's weight.
__device__ inline float score_gradient(bool seen, float score, float dweight, float lse, float delta, float cap,
                                       float *weight) {
    score = cap_score(score, cap);
    *weight = seen ? expf(score - lse) : 0.0f;
    float slope = cap > 0.0f ? cap_slope(score, cap) : 1.0f;
    return seen ? *weight * (dweight - delta) * slope : 0.0f;
}

// Queries of segment `s` that may see the rows first..end of the matrix: {first query, one past the last}. The rows are
// of one segment; the context may begin or end among them.
__device__ inline void queries_seeing(Segment s, u32 first, u32 end, u32 window, u32 *from, u32 *to) {
    u32 last_key;
    if (first >= s.start) {
        *from = first - s.start;
        last_key = end - 1 - s.start + s.context_len;
    } else {
        *from = 0;
        u32 context_end = s.context_start + s.context_len;
        last_key = (end < context_end ? end : context_end) - 1 - s.context_start;
    }
    // The last query whose window reaches the last key: context_len + query - last_key < window.
    u64 reach = (u64)last_key + window;
    *to = reach <= s.context_len ? 0 : (reach - s.context_len < s.len ? (u32)(reach - s.context_len) : s.len);
}

// Number of the row among the segment's keys, if the segment sees it at all.
__device__ inline bool key_of_row(Segment s, u32 row, u32 *key) {
    if (row >= s.start) {
        *key = row - s.start + s.context_len;
        return row - s.start < s.len;
    }
    *key = row - s.context_start;
    return row >= s.context_start && *key < s.context_len;
}
