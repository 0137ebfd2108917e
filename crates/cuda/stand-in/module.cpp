// Files of compiled kernels; see module.hpp.

#include "module.hpp"

#include <dirent.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace stand_in {

uint64_t library_bytes(const char *library) {
    Elf64_Ehdr head;
    memcpy(&head, library, sizeof(head));
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0) return 0;
    // The table of sections is a library's end.
    return head.e_shoff + (uint64_t)head.e_shnum * head.e_shentsize;
}

Folder::Folder() {
    const char *parent = getenv("TMPDIR");
    std::string name = std::string(parent && *parent ? parent : "/tmp") + "/stand-in-XXXXXX";
    if (mkdtemp(name.data())) path = name;
}

Folder::~Folder() {
    if (path.empty()) return;
    if (DIR *folder = opendir(path.c_str())) {
        while (dirent *entry = readdir(folder)) unlink((path + "/" + entry->d_name).c_str());
        closedir(folder);
    }
    rmdir(path.c_str());
}

}  // namespace stand_in
