// The functions of libcuda.so.1 that ask for and describe the device, load modules and launch kernels. Signatures and
// numbers are those of cuda.h.

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "device.hpp"
#include "module.hpp"

using namespace stand_in;

static constexpr char NAME[] = "stand-in (no GPU: kernels as C++ on the CPU)";

EXPORTED int cuInit(unsigned) { return SUCCESS; }

EXPORTED int cuDriverGetVersion(int *version) {
    *version = 12080;
    return SUCCESS;
}

EXPORTED int cuDeviceGetCount(int *count) {
    *count = 1;
    return SUCCESS;
}

EXPORTED int cuDeviceGet(int *handle, int ordinal) {
    *handle = 0;
    return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}

EXPORTED int cuDeviceGetName(char *name, int room, int) {
    snprintf(name, (size_t)room, "%s", NAME);
    return SUCCESS;
}

EXPORTED int cuDeviceTotalMem_v2(size_t *bytes, int) {
    *bytes = device().memory.limit();
    return SUCCESS;
}

EXPORTED int cuDeviceGetAttribute(int *value, int which, int) {
    switch (which) {
        case 1: *value = 1024; break;         // threads of a block
        case 8: *value = 48 << 10; break;     // shared memory of a block
        case 10: *value = 32; break;          // lanes of a warp
        case 16: *value = 1; break;           // multiprocessors
        case 75: *value = 9; break;           // compute capability, major
        case 76: *value = 0; break;           // and minor
        case 97: *value = 227 << 10; break;   // shared memory of a block that asks for it
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

EXPORTED int cuGetErrorString(int status, const char **words) {
    switch (status) {
        case SUCCESS: *words = "no error"; break;
        case INVALID_VALUE: *words = "invalid argument"; break;
        case OUT_OF_MEMORY: *words = "out of memory"; break;
        case INVALID_DEVICE: *words = "invalid device ordinal"; break;
        case INVALID_IMAGE: *words = "device kernel image is invalid"; break;
        case INVALID_CONTEXT: *words = "invalid device context"; break;
        case INVALID_HANDLE: *words = "invalid resource handle"; break;
        case NOT_FOUND: *words = "named symbol not found"; break;
        case NOT_READY: *words = "device not ready"; break;
        case ILLEGAL_ADDRESS: *words = "an illegal memory access was encountered"; break;
        case CONTEXT_IS_DESTROYED: *words = "context is destroyed"; break;
        case LAUNCH_FAILED: *words = "unspecified launch failure"; break;
        case NOT_SUPPORTED: *words = "operation not supported"; break;
        default: *words = nullptr; return INVALID_VALUE;
    }
    return SUCCESS;
}

EXPORTED int cuDevicePrimaryCtxRetain(void **context, int) {
    std::lock_guard<std::mutex> locked(lock());
    device().retained++;
    *context = primary_context();
    return SUCCESS;
}

EXPORTED int cuDevicePrimaryCtxRelease_v2(int) {
    std::lock_guard<std::mutex> locked(lock());
    if (device().retained == 0) return INVALID_CONTEXT;
    device().retained--;
    return SUCCESS;
}

EXPORTED int cuCtxSetCurrent(void *context) {
    if (context && context != primary_context()) return INVALID_CONTEXT;
    current_context = context;
    return SUCCESS;
}

struct Function {
    const Kernel *kernel;
};

struct Module {
    void *library;
    std::vector<std::unique_ptr<Function>> functions;
};

// Opens the library in a file that is gone at once.
static void *open_library(const char *bytes, size_t count) {
    Folder folder;
    std::string path = folder.path + "/kernels.so";
    FILE *file = fopen(path.c_str(), "wb");
    if (!file) return nullptr;
    bool written = fwrite(bytes, 1, count, file) == count;
    written &= fclose(file) == 0;
    return written ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
}

EXPORTED int cuModuleLoadData(Module **module, const void *image) {
    ENTER;
    Head head;
    memcpy(&head, image, sizeof(head));
    const char *bytes = (const char *)image + sizeof(head);
    if (memcmp(head.mark, MARK, sizeof(MARK)) != 0) return INVALID_IMAGE;
    // The caller does not say how much is there: nothing is read before the library's own head agrees.
    if (head.bytes != library_bytes(bytes) || head.sum != checksum(bytes, head.bytes)) return INVALID_IMAGE;
    void *library = open_library(bytes, head.bytes);
    if (!library) return INVALID_IMAGE;
    *module = new Module{library, {}};
    return SUCCESS;
}

EXPORTED int cuModuleUnload(Module *module) {
    ENTER;
    if (gpu.wait_for_all()) return gpu.broken;
    dlclose(module->library);
    delete module;
    return SUCCESS;
}

EXPORTED int cuModuleGetFunction(Function **function, Module *module, const char *name) {
    ENTER;
    auto *kernel = (const Kernel *)dlsym(module->library, TABLE);
    for (; kernel && kernel->name; kernel++) {
        if (strcmp(kernel->name, name) != 0) continue;
        module->functions.emplace_back(new Function{kernel});
        *function = module->functions.back().get();
        return SUCCESS;
    }
    return NOT_FOUND;
}

EXPORTED int cuLaunchKernel(Function *function, unsigned x, unsigned y, unsigned z, unsigned threads,
                            unsigned threads_y, unsigned threads_z, unsigned shared, void *stream, void **arguments,
                            void **extra) {
    ENTER;
    auto to = gpu.stream(stream);
    if (!to || !function) return INVALID_HANDLE;
    if (x == 0 || y == 0 || z == 0 || threads == 0 || threads_y == 0 || threads_z == 0) return INVALID_VALUE;
    if (x > 0x7fffffff || y > 65535 || threads > 1024) return INVALID_VALUE;
    if (z != 1 || threads_y != 1 || threads_z != 1 || shared != 0 || extra) return NOT_SUPPORTED;
    const Kernel *kernel = function->kernel;
    // The arguments are copied, each into cells of its own.
    std::vector<uint64_t> cells;
    std::vector<size_t> starts;
    for (unsigned i = 0; i < kernel->count; i++) {
        starts.push_back(cells.size());
        cells.resize(cells.size() + (kernel->sizes[i] + 7) / 8);
        memcpy(&cells[starts.back()], arguments[i], kernel->sizes[i]);
    }
    gpu.counts.launches++;
    bool backwards = gpu.backwards;
    return gpu.ask(to, [=]() mutable {
        std::vector<void *> list;
        for (size_t start : starts) list.push_back(&cells[start]);
        if (kernel->run(x, y, threads, list.data(), backwards) == 0) return SUCCESS;
        fprintf(stderr, "stand-in: %s: a barrier or shuffle that some threads do not take part in\n", kernel->name);
        return LAUNCH_FAILED;
    });
}
