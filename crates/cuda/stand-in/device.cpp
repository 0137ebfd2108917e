// Memory, streams and counts of the stand-in; see device.hpp.

#include "device.hpp"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

namespace stand_in {

// Bytes on either side of an allocation; every one is 0xff, and so is fresh memory: NaN to whoever reads it as numbers.
static constexpr size_t MARGIN = 512;
// As cuMemAlloc promises.
static constexpr size_t ALIGNMENT = 256;
// A stream with more waiting work is carried out.
static constexpr size_t LONGEST_QUEUE = 4096;

Memory::Memory() {
    const char *limit = getenv("BSO_STAND_IN_MEMORY");
    limit_ = limit ? strtoull(limit, nullptr, 10) : (size_t)4 << 30;
}

Status Memory::take(uint64_t *address, size_t bytes) {
    if (!address || bytes == 0) return INVALID_VALUE;
    if (bytes > limit_ - used_) return OUT_OF_MEMORY;
    size_t room = (MARGIN + bytes + MARGIN + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    char *block = (char *)aligned_alloc(ALIGNMENT, room);
    if (!block) return OUT_OF_MEMORY;
    memset(block, 0xff, room);
    *address = (uint64_t)(block + MARGIN);
    device_[*address] = bytes;
    used_ += bytes;
    return SUCCESS;
}

Status Memory::free(uint64_t address) {
    auto found = device_.find(address);
    if (found == device_.end()) return INVALID_VALUE;
    used_ -= found->second;
    ::free((char *)address - MARGIN);
    device_.erase(found);
    return SUCCESS;
}

// Whether the bytes are all of one piece.
static bool within(const std::map<uint64_t, size_t> &pieces, uint64_t address, size_t bytes) {
    auto after = pieces.upper_bound(address);
    if (after == pieces.begin()) return false;
    auto [start, size] = *--after;
    return address - start <= size && bytes <= size - (address - start);
}

bool Memory::holds(uint64_t address, size_t bytes) const { return within(device_, address, bytes); }

bool Memory::is_pinned(const void *address, size_t bytes) const { return within(pinned_, (uint64_t)address, bytes); }

static bool untouched(const char *margin) {
    static const std::vector<char> fresh(MARGIN, (char)0xff);
    return memcmp(margin, fresh.data(), MARGIN) == 0;
}

bool Memory::whole() const {
    for (auto [address, bytes] : device_) {
        const char *start = (const char *)address;
        if (untouched(start - MARGIN) && untouched(start + bytes)) continue;
        fprintf(stderr, "stand-in: something wrote beside an allocation of %zu bytes\n", bytes);
        return false;
    }
    return true;
}

Status Memory::take_pinned(void **address, size_t bytes) {
    if (!address || bytes == 0) return INVALID_VALUE;
    *address = malloc(bytes);
    if (!*address) return OUT_OF_MEMORY;
    memset(*address, 0xff, bytes);
    pinned_[(uint64_t)*address] = bytes;
    return SUCCESS;
}

Status Memory::free_pinned(void *address) {
    if (!pinned_.erase((uint64_t)address)) return INVALID_VALUE;
    ::free(address);
    return SUCCESS;
}

Device::Device() {
    const char *order = getenv("BSO_STAND_IN_ORDER");
    backwards = order && !strcmp(order, "backwards");
    streams[nullptr] = std::make_shared<Stream>();
}

std::shared_ptr<Stream> Device::stream(void *handle) const {
    auto found = streams.find(handle);
    return found == streams.end() ? nullptr : found->second;
}

Status Device::ask(const std::shared_ptr<Stream> &stream, Work work) {
    stream->queue.push_back(std::move(work));
    stream->asked++;
    return stream->queue.size() > LONGEST_QUEUE ? carry_out(*stream, stream->asked) : SUCCESS;
}

Status Device::carry_out(Stream &stream, uint64_t until) {
    while (!broken && stream.done < until && !stream.queue.empty()) {
        Work work = std::move(stream.queue.front());
        stream.queue.pop_front();
        Status status = work();
        if (status) broken = status;
        stream.done++;
    }
    return broken;
}

Status Device::wait(Stream &stream, uint64_t until) {
    carry_out(stream, until);
    if (!broken && !memory.whole()) broken = ILLEGAL_ADDRESS;
    return broken;
}

Status Device::wait_for_all() {
    for (auto &[handle, stream] : streams) carry_out(*stream, stream->asked);
    if (!broken && !memory.whole()) broken = ILLEGAL_ADDRESS;
    return broken;
}

thread_local void *current_context = nullptr;

// Never destroyed: the program may still call at its very end.
Device &device() {
    static Device *device = new Device;
    return *device;
}

std::mutex &lock() {
    static std::mutex *lock = new std::mutex;
    return *lock;
}

void *primary_context() {
    static int context;
    return &context;
}

__attribute__((destructor)) static void report() {
    if (!getenv("BSO_STAND_IN_LOG")) return;
    const Device &gpu = device();
    const Counts &of = gpu.counts;
    fprintf(stderr,
            "stand-in: %lu launches, %lu products, %lu copies of %lu bytes to the device, %lu copies of %lu bytes back, "
            "%lu allocations (%lu bytes at most, %zu at the end), %lu waits\n",
            of.launches, of.products, of.copies_in, of.bytes_in, of.copies_out, of.bytes_out, of.allocations,
            of.most_bytes, gpu.memory.used(), of.waits);
}

}  // namespace stand_in
