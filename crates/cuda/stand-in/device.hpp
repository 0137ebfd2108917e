// A stand-in for a GPU: its memory, its streams and what it counts. Nothing is carried out when it is asked for, only
// when somebody waits: who reads a result too early, or writes too early over what a copy still has to read, gets wrong
// numbers, as on a GPU.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace stand_in {

// Of CUresult, what is used here.
enum Status : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    CONTEXT_IS_DESTROYED = 709,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
};

using Work = std::function<Status()>;

struct Stream {
    std::deque<Work> queue;
    // Pieces of work asked for and done since it was made.
    uint64_t asked = 0, done = 0;
};

struct Event {
    // The stream on which it was last recorded, and the number of pieces of work after which it has happened.
    std::shared_ptr<Stream> stream;
    uint64_t after = 0;
    double seconds = 0.0;
};

// Printed at the end where BSO_STAND_IN_LOG is set.
struct Counts {
    uint64_t launches = 0, products = 0, copies_in = 0, bytes_in = 0, copies_out = 0, bytes_out = 0;
    uint64_t allocations = 0, most_bytes = 0, waits = 0;
};

class Memory {
  public:
    Memory();
    size_t limit() const { return limit_; }
    size_t used() const { return used_; }
    Status take(uint64_t *address, size_t bytes);
    Status free(uint64_t address);
    // Whether the bytes are all of one allocation.
    bool holds(uint64_t address, size_t bytes) const;
    // Whether nobody has written beside an allocation.
    bool whole() const;
    Status take_pinned(void **address, size_t bytes);
    Status free_pinned(void *address);
    bool is_pinned(const void *address, size_t bytes) const;

  private:
    // Bytes by address.
    std::map<uint64_t, size_t> device_, pinned_;
    size_t limit_, used_ = 0;
};

struct Device {
    Memory memory;
    Counts counts;
    // By handle; null is the default stream.
    std::map<void *, std::shared_ptr<Stream>> streams;
    // Once something went wrong every later call fails.
    Status broken = SUCCESS;
    unsigned retained = 0;
    bool backwards;

    Device();
    std::shared_ptr<Stream> stream(void *handle) const;
    // Queues; carries out what waits where that is much.
    Status ask(const std::shared_ptr<Stream> &stream, Work work);
    // Carries out the stream's work up to number `until`, and what it waits for.
    Status carry_out(Stream &stream, uint64_t until);
    // As somebody who waits for it: also looks whether memory is whole.
    Status wait(Stream &stream, uint64_t until);
    Status wait_for_all();
};

// The one device, and who may touch it.
Device &device();
std::mutex &lock();
// Whether the calling thread has made the context current.
extern thread_local void *current_context;
void *primary_context();

// What every call begins with that needs a context.
#define ENTER                                                                                                          \
    std::lock_guard<std::mutex> locked(stand_in::lock());                                                              \
    stand_in::Device &gpu = stand_in::device();                                                                        \
    if (!stand_in::current_context) return stand_in::INVALID_CONTEXT;                                                  \
    if (gpu.retained == 0) return stand_in::CONTEXT_IS_DESTROYED;                                                      \
    if (gpu.broken) return gpu.broken

}  // namespace stand_in
