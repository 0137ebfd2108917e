// The functions of libcuda.so.1 that take memory, copy and fill. Signatures are those of cuda.h.

#include <string.h>

#include "device.hpp"

using namespace stand_in;

EXPORTED int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    ENTER;
    Status taken = gpu.memory.take(address, bytes);
    if (taken) return taken;
    gpu.counts.allocations++;
    if (gpu.memory.used() > gpu.counts.most_bytes) gpu.counts.most_bytes = gpu.memory.used();
    return SUCCESS;
}

EXPORTED int cuMemFree_v2(uint64_t address) {
    ENTER;
    gpu.counts.waits++;
    if (gpu.wait_for_all()) return gpu.broken;
    return gpu.memory.free(address);
}

EXPORTED int cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER;
    *free = gpu.memory.limit() - gpu.memory.used();
    *total = gpu.memory.limit();
    return SUCCESS;
}

EXPORTED int cuMemAllocHost_v2(void **address, size_t bytes) {
    ENTER;
    return gpu.memory.take_pinned(address, bytes);
}

EXPORTED int cuMemFreeHost(void *address) {
    ENTER;
    gpu.counts.waits++;
    if (gpu.wait_for_all()) return gpu.broken;
    return gpu.memory.free_pinned(address);
}

EXPORTED int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    ENTER;
    auto on = gpu.stream(stream);
    if (!on) return INVALID_HANDLE;
    if (!gpu.memory.holds(to, bytes)) return INVALID_VALUE;
    gpu.counts.copies_in++;
    gpu.counts.bytes_in += bytes;
    if (gpu.memory.is_pinned(from, bytes))
        return gpu.ask(on, [=] {
            memcpy((void *)to, from, bytes);
            return SUCCESS;
        });
    // Other memory of the host is read before the call returns.
    std::shared_ptr<char[]> read(new char[bytes]);
    memcpy(read.get(), from, bytes);
    return gpu.ask(on, [=] {
        memcpy((void *)to, read.get(), bytes);
        return SUCCESS;
    });
}

EXPORTED int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    ENTER;
    auto on = gpu.stream(stream);
    if (!on) return INVALID_HANDLE;
    if (!gpu.memory.holds(from, bytes)) return INVALID_VALUE;
    gpu.counts.copies_out++;
    gpu.counts.bytes_out += bytes;
    if (gpu.memory.is_pinned(to, bytes))
        return gpu.ask(on, [=] {
            memcpy(to, (const void *)from, bytes);
            return SUCCESS;
        });
    // Other memory of the host has the bytes when the call returns.
    gpu.counts.waits++;
    if (gpu.wait(*on, on->asked)) return gpu.broken;
    memcpy(to, (const void *)from, bytes);
    return SUCCESS;
}

EXPORTED int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    ENTER;
    auto on = gpu.stream(stream);
    if (!on) return INVALID_HANDLE;
    if (!gpu.memory.holds(to, bytes) || !gpu.memory.holds(from, bytes)) return INVALID_VALUE;
    return gpu.ask(on, [=] {
        memmove((void *)to, (const void *)from, bytes);
        return SUCCESS;
    });
}

EXPORTED int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) {
    ENTER;
    auto on = gpu.stream(stream);
    if (!on) return INVALID_HANDLE;
    if (!gpu.memory.holds(to, bytes)) return INVALID_VALUE;
    return gpu.ask(on, [=] {
        memset((void *)to, value, bytes);
        return SUCCESS;
    });
}

EXPORTED int cuMemsetD32Async(uint64_t to, unsigned value, size_t count, void *stream) {
    ENTER;
    auto on = gpu.stream(stream);
    if (!on) return INVALID_HANDLE;
    if (to % 4 != 0 || count > SIZE_MAX / 4 || !gpu.memory.holds(to, 4 * count)) return INVALID_VALUE;
    return gpu.ask(on, [=] {
        for (size_t i = 0; i < count; i++) ((unsigned *)to)[i] = value;
        return SUCCESS;
    });
}
