// Runs CUDA C on the CPU: the threads of a block are fibers that change places at barriers and shuffles, so that the
// kernels' very sources are carried out, block by block. The order of threads is a choice: a result that depends on it
// is a race. It knows what the kernels use, no more.

#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <memory>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)
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

#if defined(__x86_64__)
// Where a stack was left: what a function has to keep lies on it.
typedef void *Place;
extern "C" __attribute__((visibility("hidden"))) void emulator_change(Place *from, const Place *to);
asm(R"(
    .text
    .type emulator_change, @function
emulator_change:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
    .size emulator_change, . - emulator_change
)");
static void change(Place *from, const Place *to) { emulator_change(from, to); }
static void begin_at(Place *place, char *stack, size_t size, void (*start)()) {
    // Six registers, where to begin, and where a caller's address would be.
    void **top = (void **)((size_t)(stack + size) / 16 * 16) - 8;
    memset(top, 0, 8 * sizeof(void *));
    top[6] = (void *)start;
    *place = top;
}
#else
typedef ucontext_t Place;
static void change(Place *from, const Place *to) { swapcontext(from, to); }
static void begin_at(Place *place, char *stack, size_t size, void (*start)()) {
    getcontext(place);
    place->uc_stack.ss_sp = stack;
    place->uc_stack.ss_size = size;
    place->uc_link = nullptr;
    makecontext(place, start, 0);
}
#endif

// A stack that carries threads one after another. A thread that waits keeps its fiber, and the next ones get another:
// a kernel without barriers needs one fiber and changes places once a warp.
struct Fiber {
    static constexpr size_t GUARD = 4096, SIZE = GUARD + (80 << 10);
    Place place;
    char *stack;
    // Where the stack begins is not the same for all: else the fibers' first lines share a few sets of the cache.
    size_t size;

    explicit Fiber(size_t number) : size(SIZE - number % 32 * 320) {
        stack = (char *)mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        // A kernel that needs more stops here instead of writing over what lies below.
        mprotect(stack, GUARD, PROT_NONE);
    }
    ~Fiber() { munmap(stack, SIZE); }
};

enum State { RUNS, AT_BLOCK, AT_WARP, DONE };

struct Thread {
    State state;
    // None before it has begun.
    Fiber *fiber;
};

// What the lanes of a warp show one another, in turns, so that one barrier a shuffle is enough.
struct Warp {
    unsigned long long shown[2][32];
    unsigned turn[32];
    // The factors of a product of matrices, likewise.
    unsigned a[2][32][4], b[2][32][2];
    // Lanes that wait for the others, and that came to their end.
    unsigned waiting, done;
};

constexpr unsigned MOST_THREADS = 1024;
static Thread threads[MOST_THREADS];
static Warp warps[MOST_THREADS / 32];
static std::vector<std::unique_ptr<Fiber>> fibers;
static std::vector<Fiber *> idle;
static Place scheduler;
// The kernel with its arguments, for the current thread.
static void (*body)();
static void **arguments;
static unsigned current, count;
static bool backwards;
// Threads that wait for the whole block, and that came to their end.
static unsigned waiting, done;

static void begin(unsigned index) {
    current = index;
    threadIdx = {index, 0, 0};
}

// The next lane of the warp in the order of `run_warp`, if it can go on.
static bool next_lane(unsigned *next) {
    *next = backwards ? current - 1 : current + 1;
    return current % 32 != (backwards ? 0 : 31) && *next < count && threads[*next].state == RUNS;
}

// To the next lane at once where that has begun, else to the scheduler; comes back when the fiber is resumed.
static void leave(Fiber *fiber) {
    unsigned next;
    if (!next_lane(&next) || !threads[next].fiber) return change(&fiber->place, &scheduler);
    begin(next);
    change(&fiber->place, &threads[next].fiber->place);
}

static void wait(State state) {
    threads[current].state = state;
    (state == AT_WARP ? warps[current / 32].waiting : waiting)++;
    leave(threads[current].fiber);
}

static void carry() {
    Fiber *own = threads[current].fiber;
    for (;;) {
        body();
        threads[current].state = DONE;
        warps[current / 32].done++;
        done++;
        unsigned next;
        if (next_lane(&next) && !threads[next].fiber) {
            threads[next].fiber = own;
            begin(next);
        } else {
            idle.push_back(own);
            leave(own);
        }
    }
}

static Fiber *idle_fiber() {
    if (idle.empty()) {
        fibers.emplace_back(new Fiber(fibers.size()));
        idle.push_back(fibers.back().get());
        begin_at(&idle.back()->place, idle.back()->stack, idle.back()->size, carry);
    }
    Fiber *fiber = idle.back();
    idle.pop_back();
    return fiber;
}

static void resume(unsigned index) {
    begin(index);
    if (!threads[index].fiber) threads[index].fiber = idle_fiber();
    change(&scheduler, &threads[index].fiber->place);
}

// Lets `first..end` go on where all of them wait; false if some never will come.
static bool release(unsigned *waiting, unsigned done, unsigned first, unsigned end) {
    if (*waiting > 0 && done > 0) return false;
    if (*waiting == end - first) {
        for (unsigned i = first; i < end; i++) threads[i].state = RUNS;
        *waiting = 0;
    }
    return true;
}

// Each lane up to its next barrier or shuffle; false where none can go on.
static bool run_warp(unsigned first, unsigned end) {
    bool ran = false;
    for (unsigned i = 0; i < end - first; i++) {
        unsigned index = backwards ? end - 1 - i : first + i;
        if (threads[index].state != RUNS) continue;
        ran = true;
        resume(index);
    }
    return ran;
}

// A warp goes as far as it can before the next one moves, the first or the last warp first: whoever overtakes a missing
// barrier does so in one of the two orders. False: a barrier or shuffle that some threads of the block or lanes of the
// warp do not take part in.
static bool run_warps() {
    unsigned warp_count = (count + 31) / 32;
    for (bool ran = true; ran;) {
        ran = false;
        for (unsigned i = 0; i < warp_count; i++) {
            unsigned first = (backwards ? warp_count - 1 - i : i) * 32, end = first + 32 < count ? first + 32 : count;
            while (run_warp(first, end)) {
                ran = true;
                if (!release(&warps[first / 32].waiting, warps[first / 32].done, first, end)) return false;
            }
        }
        if (!release(&waiting, done, 0, count)) return false;
    }
    return done == count;
}

static bool run_block() {
    for (unsigned i = 0; i < count; i++) threads[i] = {RUNS, nullptr};
    for (unsigned i = 0; i < (count + 31) / 32; i++) {
        memset(warps[i].turn, 0, sizeof(warps[i].turn));
        warps[i].waiting = warps[i].done = 0;
    }
    waiting = done = 0;
    if (run_warps()) return true;
    // Those who wait for ever are given up; their fibers begin anew.
    for (unsigned i = 0; i < count; i++) {
        if (threads[i].state == DONE || !threads[i].fiber) continue;
        Fiber *fiber = threads[i].fiber;
        begin_at(&fiber->place, fiber->stack, fiber->size, carry);
        idle.push_back(fiber);
    }
    return false;
}

template <auto KERNEL> struct Entry;
template <class... A, void (*KERNEL)(A...)> struct Entry<KERNEL> {
    static constexpr unsigned COUNT = sizeof...(A);
    // Bytes of each argument.
    static constexpr unsigned SIZES[] = {(unsigned)sizeof(A)..., 0};

    template <size_t... I> static void call(std::index_sequence<I...>) { KERNEL(*(A *)arguments[I]...); }
    static void of_thread() { call(std::index_sequence_for<A...>()); }

    // `list` points to each argument. 0: done; 2: a barrier or shuffle that some threads do not take part in.
    static int run(unsigned x, unsigned y, unsigned block_threads, void **list, bool in_backward_order) {
        body = of_thread;
        arguments = list;
        count = block_threads;
        backwards = in_backward_order;
        blockDim = {block_threads, 1, 1};
        gridDim = {x, y, 1};
        unsigned long blocks = (unsigned long)x * y;
        for (unsigned long i = 0; i < blocks; i++) {
            unsigned long block = backwards ? blocks - 1 - i : i;
            blockIdx = {(unsigned)(block % x), (unsigned)(block / x), 0};
            if (!run_block()) return 2;
        }
        return 0;
    }
};

// As `run`; 3: another number of arguments, or of other sizes, than the kernel has.
template <auto KERNEL>
static int start(unsigned x, unsigned y, unsigned block_threads, void **list, unsigned given, const unsigned *sizes,
                 bool in_backward_order) {
    using Of = Entry<KERNEL>;
    if (given != Of::COUNT || memcmp(Of::SIZES, sizes, given * sizeof(unsigned)) != 0) return 3;
    return Of::run(x, y, block_threads, list, in_backward_order);
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
