// The functions of cuBLASLt that multiply matrices, in plain loops, from what its documentation says: matrices are
// column-major, d = alpha op(a) op(b) + beta c. Signatures and numbers are those of cublasLt.h.

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "device.hpp"

using namespace stand_in;

namespace {

enum Answer : int { DONE = 0, NOT_INITIALISED = 1, INVALID = 7, FAILED = 13, UNSUPPORTED = 15 };
enum Type : int { F32 = 0, BF16 = 14 };

struct Operation {
    int compute, scale;
    int turned[2];
};

struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t stride;
    uint64_t bytes_of_one() const { return type == BF16 ? 2 : 4; }
    // From the first number to one past the last.
    uint64_t bytes() const { return ((cols - 1) * (uint64_t)stride + rows) * bytes_of_one(); }
};

struct Preference {
    uint64_t workspace = 0;
    // Of a, b, c and d.
    unsigned alignments[4] = {256, 256, 256, 256};
};

// An algorithm is bound to what it was advised for.
struct Algorithm {
    uint64_t mark, workspace;
    unsigned alignments[4];
    uint64_t rows, cols, depth, reserved;
};
static_assert(sizeof(Algorithm) == 64, "cublasLtMatmulAlgo_t");

struct Advice {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

constexpr uint64_t MARK = 0x6e692d646e617473;
// What every product here asks for and writes over, so that a workspace that is missing, or in use, shows.
constexpr uint64_t WORKSPACE = 1 << 16;

struct Sizes {
    uint64_t rows, cols, depth;
};

// Whether layouts and types fit together, and what the product's sizes are.
int check(const Operation &of, const Layout &a, const Layout &b, const Layout &c, const Layout &d, Sizes *sizes) {
    for (const Layout *layout : {&a, &b, &c, &d})
        if (layout->rows == 0 || layout->cols == 0 || layout->stride < (int64_t)layout->rows) return INVALID;
    uint64_t rows = of.turned[0] ? a.cols : a.rows, depth = of.turned[0] ? a.rows : a.cols;
    uint64_t b_rows = of.turned[1] ? b.cols : b.rows, cols = of.turned[1] ? b.rows : b.cols;
    if (b_rows != depth || c.rows != rows || c.cols != cols || d.rows != rows || d.cols != cols) return INVALID;
    *sizes = {rows, cols, depth};
    bool in_f32 = a.type == F32 && b.type == F32 && d.type == F32;
    bool in_bf16 = a.type == BF16 && b.type == BF16 && (d.type == F32 || d.type == BF16);
    bool computes = of.compute == 68 || (of.compute == 77 && in_f32);
    return (in_f32 || in_bf16) && c.type == d.type && of.scale == F32 && computes ? DONE : UNSUPPORTED;
}

float float_of(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

unsigned bits_of(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}

// To nearest, ties to even, `dropped` bits fewer.
float rounded(float value, unsigned dropped) {
    unsigned bits = bits_of(value), half = 1u << (dropped - 1);
    if (value != value) return value;
    return float_of((bits + half - 1 + (bits >> dropped & 1)) & ~(2 * half - 1));
}

float number(const Layout &layout, const void *at, uint64_t row, uint64_t col) {
    uint64_t index = col * (uint64_t)layout.stride + row;
    if (layout.type == F32) return ((const float *)at)[index];
    return float_of((unsigned)((const unsigned short *)at)[index] << 16);
}

void put(const Layout &layout, void *at, uint64_t row, uint64_t col, float value) {
    uint64_t index = col * (uint64_t)layout.stride + row;
    if (layout.type == F32)
        ((float *)at)[index] = value;
    else
        ((unsigned short *)at)[index] = (unsigned short)(bits_of(rounded(value, 16)) >> 16);
}

// op(x) in f32, one column after another.
std::vector<float> unfolded(const Layout &layout, const void *at, bool turned, bool tf32) {
    std::vector<float> values;
    values.reserve(layout.rows * layout.cols);
    uint64_t rows = turned ? layout.cols : layout.rows, cols = turned ? layout.rows : layout.cols;
    for (uint64_t col = 0; col < cols; col++)
        for (uint64_t row = 0; row < rows; row++) {
            float value = turned ? number(layout, at, col, row) : number(layout, at, row, col);
            values.push_back(tf32 ? rounded(value, 13) : value);
        }
    return values;
}

// How many parts the sums of a product are taken in. One; with BSO_STAND_IN_SUMS=by-shape one to three, as the
// algorithms of a GPU differ from shape to shape: who counts on the same bits for a row among more rows is shown wrong.
uint64_t parts(const Sizes &sizes) {
    static const bool by_shape = [] {
        const char *sums = getenv("BSO_STAND_IN_SUMS");
        return sums && !strcmp(sums, "by-shape");
    }();
    return by_shape ? 1 + (sizes.rows + sizes.cols) % 3 : 1;
}

// With BSO_STAND_IN_FAULT set every product is a hundredth too large: a device that computes wrong numbers.
float fault() {
    static const float factor = getenv("BSO_STAND_IN_FAULT") ? 1.01f : 1.0f;
    return factor;
}

// Four columns of sums over first..end of the depth, in order.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("arch=haswell", "default")))
#endif
void add_up(const float *a, const float *const b[4], float *const sums[4], uint64_t rows, uint64_t first,
            uint64_t end) {
    for (uint64_t k = first; k < end; k++) {
        const float *__restrict column = a + k * rows;
        float *__restrict s0 = sums[0], *__restrict s1 = sums[1], *__restrict s2 = sums[2], *__restrict s3 = sums[3];
        float b0 = b[0][k], b1 = b[1][k], b2 = b[2][k], b3 = b[3][k];
        for (uint64_t row = 0; row < rows; row++) {
            float x = column[row];
            s0[row] += x * b0;
            s1[row] += x * b1;
            s2[row] += x * b2;
            s3[row] += x * b3;
        }
    }
}

struct Product {
    Operation of;
    Layout a, b, c, d;
    Sizes sizes;
    float alpha, beta;
    const void *at_a, *at_b, *at_c;
    void *at_d;
};

void multiply(const Product &p) {
    bool tf32 = p.of.compute == 77;
    std::vector<float> a = unfolded(p.a, p.at_a, p.of.turned[0], tf32);
    std::vector<float> b = unfolded(p.b, p.at_b, p.of.turned[1], tf32);
    auto [rows, cols, depth] = p.sizes;
    // Sums of a part, and of all parts.
    std::vector<float> room(4 * rows), total(4 * rows);
    uint64_t count_of_parts = parts(p.sizes);
    for (uint64_t first = 0; first < cols; first += 4) {
        uint64_t count = cols - first < 4 ? cols - first : 4;
        const float *of_b[4];
        float *sums[4];
        for (uint64_t i = 0; i < 4; i++) {
            // Beyond the last column, the last once more.
            of_b[i] = &b[(first + (i < count ? i : count - 1)) * depth];
            sums[i] = &room[i * rows];
        }
        std::fill(total.begin(), total.end(), 0.0f);
        for (uint64_t part = 0; part < count_of_parts; part++) {
            std::fill(room.begin(), room.end(), 0.0f);
            add_up(a.data(), of_b, sums, rows, depth * part / count_of_parts, depth * (part + 1) / count_of_parts);
            for (size_t i = 0; i < total.size(); i++) total[i] += room[i];
        }
        for (uint64_t i = 0; i < count; i++)
            for (uint64_t row = 0; row < rows; row++) {
                // c is not read where beta is 0.
                float old = p.beta == 0.0f ? 0.0f : p.beta * number(p.c, p.at_c, row, first + i);
                put(p.d, p.at_d, row, first + i, fault() * p.alpha * total[i * rows + row] + old);
            }
    }
}

}  // namespace

// Version 0, as NVRTC's.
EXPORTED size_t cublasLtGetVersion() { return 0; }

EXPORTED const char *cublasLtGetStatusString(int status) {
    switch (status) {
        case DONE: return "success";
        case NOT_INITIALISED: return "the library was not initialized";
        case INVALID: return "an unsupported value or parameter was passed to the function";
        case FAILED: return "the GPU program failed to execute";
        case UNSUPPORTED: return "the functionality requested is not supported";
        default: return "unknown";
    }
}

EXPORTED int cublasLtCreate(void **handle) {
    static int made;
    *handle = &made;
    return current_context ? DONE : NOT_INITIALISED;
}

EXPORTED int cublasLtDestroy(void *handle) { return handle ? DONE : NOT_INITIALISED; }

EXPORTED int cublasLtMatmulDescCreate(Operation **operation, int compute, int scale) {
    *operation = new Operation{compute, scale, {0, 0}};
    return DONE;
}

EXPORTED int cublasLtMatmulDescSetAttribute(Operation *operation, int which, const void *value, size_t bytes) {
    // The turns of a and b.
    if (!operation || !value || bytes != 4 || (which != 3 && which != 4)) return INVALID;
    memcpy(&operation->turned[which - 3], value, 4);
    return operation->turned[which - 3] == 0 || operation->turned[which - 3] == 1 ? DONE : INVALID;
}

EXPORTED int cublasLtMatmulDescDestroy(Operation *operation) {
    delete operation;
    return DONE;
}

EXPORTED int cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t cols, int64_t stride) {
    *layout = new Layout{type, rows, cols, stride};
    return DONE;
}

EXPORTED int cublasLtMatrixLayoutDestroy(Layout *layout) {
    delete layout;
    return DONE;
}

EXPORTED int cublasLtMatmulPreferenceCreate(Preference **preference) {
    *preference = new Preference;
    return DONE;
}

EXPORTED int cublasLtMatmulPreferenceSetAttribute(Preference *preference, int which, const void *value, size_t bytes) {
    if (!preference || !value) return INVALID;
    void *to = which == 1 ? (void *)&preference->workspace : nullptr;
    if (which >= 5 && which <= 8) to = &preference->alignments[which - 5];
    if (!to || bytes != (which == 1 ? 8 : 4)) return INVALID;
    memcpy(to, value, bytes);
    return DONE;
}

EXPORTED int cublasLtMatmulPreferenceDestroy(Preference *preference) {
    delete preference;
    return DONE;
}

// One algorithm; none for addresses that are no multiple of 4, so that what happens then is tried, too.
EXPORTED int cublasLtMatmulAlgoGetHeuristic(void *handle, const Operation *operation, const Layout *a, const Layout *b,
                                            const Layout *c, const Layout *d, const Preference *preference, int asked,
                                            Advice *advice, int *found) {
    if (!handle) return NOT_INITIALISED;
    if (!operation || !a || !b || !c || !d || !preference || asked <= 0 || !advice || !found) return INVALID;
    *found = 0;
    Sizes sizes;
    if (int refused = check(*operation, *a, *b, *c, *d, &sizes)) return refused;
    if (preference->workspace < WORKSPACE) return UNSUPPORTED;
    for (unsigned alignment : preference->alignments)
        if (alignment < 4) return UNSUPPORTED;
    Algorithm algorithm = {MARK, WORKSPACE, {}, sizes.rows, sizes.cols, sizes.depth, 0};
    memcpy(algorithm.alignments, preference->alignments, sizeof(algorithm.alignments));
    *advice = {algorithm, WORKSPACE, DONE, 1.0f, {}};
    *found = 1;
    return DONE;
}

EXPORTED int cublasLtMatmul(void *handle, const Operation *operation, const float *alpha, const void *at_a,
                            const Layout *a, const void *at_b, const Layout *b, const float *beta, const void *at_c,
                            const Layout *c, void *at_d, const Layout *d, const Algorithm *algorithm, void *workspace,
                            size_t workspace_bytes, void *stream) {
    if (!handle || !current_context) return NOT_INITIALISED;
    std::lock_guard<std::mutex> locked(lock());
    Device &gpu = device();
    if (gpu.broken) return FAILED;
    auto on = gpu.stream(stream);
    if (!on || !operation || !alpha || !beta || !a || !b || !c || !d || !algorithm) return INVALID;
    Sizes sizes;
    if (int refused = check(*operation, *a, *b, *c, *d, &sizes)) return refused;
    bool own = algorithm->mark == MARK && algorithm->rows == sizes.rows && algorithm->cols == sizes.cols &&
               algorithm->depth == sizes.depth;
    if (!own) return UNSUPPORTED;
    uint64_t space = (uint64_t)workspace;
    if (workspace_bytes < algorithm->workspace || space % 256 != 0 || !gpu.memory.holds(space, workspace_bytes))
        return INVALID;
    const void *addresses[4] = {at_a, at_b, at_c, at_d};
    const Layout *layouts[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        auto address = (uint64_t)addresses[i];
        if (address % algorithm->alignments[i] != 0 || !gpu.memory.holds(address, layouts[i]->bytes())) return INVALID;
    }
    gpu.counts.products++;
    Product product = {*operation, *a, *b, *c, *d, sizes, *alpha, *beta, at_a, at_b, at_c, at_d};
    uint64_t written = algorithm->workspace;
    gpu.ask(on, [=] {
        memset(workspace, 0xff, written);
        multiply(product);
        return SUCCESS;
    });
    return gpu.broken ? FAILED : DONE;
}
