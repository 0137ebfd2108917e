// What compiled kernels look like: a head, then the bytes of a shared library that exports a table of kernels.
#pragma once

#include <stdint.h>

#include <string>

namespace stand_in {

struct Head {
    char mark[8];
    // Bytes of the library, and their checksum.
    uint64_t bytes, sum;
};
constexpr char MARK[8] = {'s', 't', 'a', 'n', 'd', '-', 'i', 'n'};

// FNV-1a.
inline uint64_t checksum(const char *bytes, uint64_t count) {
    uint64_t sum = 0xcbf29ce484222325;
    for (uint64_t i = 0; i < count; i++) sum = (sum ^ (unsigned char)bytes[i]) * 0x100000001b3;
    return sum;
}

// An entry of the table, which ends with one without a name; generated in nvrtc.cpp.
struct Kernel {
    const char *name;
    unsigned count;
    // Bytes of each argument.
    const unsigned *sizes;
    // 0 where every thread came to its end.
    int (*run)(unsigned x, unsigned y, unsigned threads, void **arguments, bool backwards);
};
constexpr char TABLE[] = "stand_in_kernels";

// How long a shared library says that it is; 0 where it is none.
uint64_t library_bytes(const char *library);

// A folder of its own that goes with all that is in it.
struct Folder {
    std::string path;
    Folder();
    ~Folder();
};

}  // namespace stand_in
