// Runs CUDA C on the CPU, for tests: the threads of a block are fibers that change places at barriers and shuffles, so
// that the kernels' very sources are carried out, block by block. The order of fibers is a choice: a result that
// depends on it is a race. It knows what the kernels use, no more.

#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
// Instructions of tensor cores are carried out here.
#define EMULATED

struct Index {
    unsigned x, y, z;
};
static Index blockIdx, blockDim, gridDim, threadIdx;

static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}

namespace emulator {

enum State { RUNS, AT_BLOCK, AT_WARP, DONE };

struct Fiber {
    State state;
    bool started;
    jmp_buf place;
    ucontext_t context;
    std::vector<char> stack;
};

// What the lanes of a warp show one another, in turns, so that one barrier a shuffle is enough.
struct Warp {
    unsigned long long shown[2][32];
    unsigned turn[32];
    // The factors of a product of matrices, likewise.
    unsigned a[2][32][4], b[2][32][2];
};

static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static std::function<void()> body;
static unsigned current;
static jmp_buf scheduler;

static void wait(State state) {
    fibers[current].state = state;
    if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}

static void enter() {
    body();
    fibers[current].state = DONE;
    _longjmp(scheduler, 1);
}

static void resume(unsigned index) {
    current = index;
    threadIdx = {index, 0, 0};
    Fiber &fiber = fibers[index];
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

// Lets those go on who wait where all of `first..end` wait; false if some never will come.
static bool release(State state, unsigned first, unsigned end) {
    unsigned waiting = 0, done = 0;
    for (unsigned i = first; i < end; i++) {
        waiting += fibers[i].state == state;
        done += fibers[i].state == DONE;
    }
    if (waiting > 0 && done > 0) return false;
    if (waiting == end - first)
        for (unsigned i = first; i < end; i++) fibers[i].state = RUNS;
    return true;
}

// Each lane up to its next barrier or shuffle; false where none can go on.
static bool run_warp(unsigned first, unsigned end, bool backwards) {
    bool ran = false;
    for (unsigned i = 0; i < end - first; i++) {
        unsigned index = backwards ? end - 1 - i : first + i;
        if (fibers[index].state != RUNS) continue;
        ran = true;
        resume(index);
    }
    return ran;
}

// A warp goes as far as it can before the next one moves, the first or the last warp first: whoever overtakes a missing
// barrier does so in one of the two orders. 0: done; 2: a barrier or shuffle that some threads of the block or lanes of the warp do not take part in.
static int run_block(unsigned threads, bool backwards) {
    fibers.resize(threads);
    warps.assign((threads + 31) / 32, Warp());
    for (Fiber &fiber : fibers) {
        fiber.state = RUNS;
        fiber.started = false;
        fiber.stack.resize(1 << 16);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
    }
    unsigned count = (unsigned)warps.size();
    for (bool ran = true; ran;) {
        ran = false;
        for (unsigned i = 0; i < count; i++) {
            unsigned first = (backwards ? count - 1 - i : i) * 32, end = first + 32 < threads ? first + 32 : threads;
            while (run_warp(first, end, backwards)) {
                ran = true;
                if (!release(AT_WARP, first, end)) return 2;
            }
        }
        if (!release(AT_BLOCK, 0, threads)) return 2;
    }
    for (Fiber &fiber : fibers)
        if (fiber.state != DONE) return 2;
    return 0;
}

template <class... A, size_t... I>
static int run(void (*kernel)(A...), std::index_sequence<I...>, unsigned x, unsigned y, unsigned threads, void **list,
               bool backwards) {
    body = [=] { kernel(*(A *)list[I]...); };
    blockDim = {threads, 1, 1};
    gridDim = {x, y, 1};
    for (unsigned i = 0; i < x * y; i++) {
        unsigned block = backwards ? x * y - 1 - i : i;
        blockIdx = {block % x, block / x, 0};
        if (int failed = run_block(threads, backwards)) return failed;
    }
    return 0;
}

// 3: another number of arguments than the kernel has.
template <class... A>
static int start(void (*kernel)(A...), unsigned x, unsigned y, unsigned threads, void **list, unsigned count,
                 const unsigned *sizes, bool backwards) {
    const unsigned expected[] = {(unsigned)sizeof(A)...};
    if (count != sizeof...(A) || memcmp(expected, sizes, sizeof(expected)) != 0) return 3;
    return run(kernel, std::index_sequence_for<A...>(), x, y, threads, list, backwards);
}

template <class T> static T shuffle(T value, unsigned source) {
    unsigned lane = current % 32;
    Warp &warp = warps[current / 32];
    unsigned long long *shown = warp.shown[warp.turn[lane]++ % 2];
    memcpy(&shown[lane], &value, sizeof(T));
    wait(AT_WARP);
    memcpy(&value, &shown[source % 32], sizeof(T));
    return value;
}

// Half of a register as bfloat16.
static float half_of(unsigned pair, unsigned which) { return __uint_as_float(pair >> (16 * which) << 16); }

// mma.m16n8k16 in the lanes' layout: number (row, k) of the left side, (k, col) of the right one.
static float left_of(unsigned (*a)[4], unsigned row, unsigned k) {
    return half_of(a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
}
static float right_of(unsigned (*b)[2], unsigned k, unsigned col) {
    return half_of(b[col * 4 + k % 8 / 2][k / 8], k % 2);
}

}  // namespace emulator

static inline void __syncthreads() { emulator::wait(emulator::AT_BLOCK); }
static inline void __syncwarp() { emulator::wait(emulator::AT_WARP); }

template <class T> static inline T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::shuffle(value, emulator::current % 32 ^ mask);
}
template <class T> static inline T __shfl_sync(unsigned, T value, unsigned source) {
    return emulator::shuffle(value, source);
}

static inline void mma(float c[4], const unsigned a[4], const unsigned b[2]) {
    using namespace emulator;
    unsigned lane = current % 32;
    Warp &warp = warps[current / 32];
    unsigned turn = warp.turn[lane]++ % 2;
    memcpy(warp.a[turn][lane], a, sizeof(warp.a[turn][lane]));
    memcpy(warp.b[turn][lane], b, sizeof(warp.b[turn][lane]));
    wait(AT_WARP);
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, col = 2 * (lane % 4) + i % 2;
        for (unsigned k = 0; k < 16; k++) c[i] += left_of(warp.a[turn], row, k) * right_of(warp.b[turn], k, col);
    }
}
