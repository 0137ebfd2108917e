// The functions of NVRTC, over the system's C++ compiler: "code" is a shared library of the source behind emulate.hpp
// with a table of its kernels. Signatures and numbers are those of nvrtc.h.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "device.hpp"
#include "module.hpp"

using namespace stand_in;

// emulate.hpp as text, written by the build.
static constexpr char EMULATE[] =
#include "emulate.inc"
    ;

static constexpr int ARCHITECTURES[] = {80, 90, 100, 120};

enum Result : int { COMPILED = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6 };

struct Program {
    std::string name, source, log, code;
};

// Version 0: no NVRTC says that of itself. The minor number changes with emulate.hpp, which is in all code, so that a
// cache of kernels does not keep what an older one gave.
EXPORTED int nvrtcVersion(int *major, int *minor) {
    *major = 0;
    *minor = (int)(checksum(EMULATE, sizeof(EMULATE)) >> 33);
    return COMPILED;
}

EXPORTED int nvrtcGetNumSupportedArchs(int *count) {
    *count = sizeof(ARCHITECTURES) / sizeof(int);
    return COMPILED;
}

EXPORTED int nvrtcGetSupportedArchs(int *architectures) {
    memcpy(architectures, ARCHITECTURES, sizeof(ARCHITECTURES));
    return COMPILED;
}

EXPORTED const char *nvrtcGetErrorString(int status) {
    switch (status) {
        case COMPILED: return "NVRTC_SUCCESS";
        case INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
        case INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
        case INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
        case COMPILATION: return "NVRTC_ERROR_COMPILATION";
        default: return "NVRTC_ERROR unknown";
    }
}

EXPORTED int nvrtcCreateProgram(Program **program, const char *source, const char *name, int headers,
                                const char *const *, const char *const *) {
    if (!program || !source || headers != 0) return INVALID_INPUT;
    *program = new Program{name ? name : "default_program", source, "", ""};
    return COMPILED;
}

EXPORTED int nvrtcDestroyProgram(Program **program) {
    if (!program || !*program) return INVALID_PROGRAM;
    delete *program;
    *program = nullptr;
    return COMPILED;
}

static bool known(const std::string &option) {
    const std::string architecture = "--gpu-architecture=sm_";
    if (option.compare(0, architecture.size(), architecture) != 0) return option.compare(0, 2, "--") == 0;
    for (int chip : ARCHITECTURES)
        if (option.substr(architecture.size()) == std::to_string(chip)) return true;
    return false;
}

static std::string text_of(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

// Runs the compiler in `folder`, whose file `log` then holds what it said.
static bool compiler(const std::string &folder, const std::string &arguments) {
    std::string command = "cd '" + folder + "' && LC_ALL=C ${CXX:-g++} -std=c++17 " + arguments + " 2>>log";
    return system(command.c_str()) == 0;
}

// Names of the kernels, macros written out.
static std::set<std::string> kernels(const std::string &written_out) {
    static const std::regex form("extern\\s+\"C\"\\s+__global__\\s+void\\s+(?:__launch_bounds__\\s*\\([^()]*\\)\\s*)?(\\w+)\\s*\\(");
    std::set<std::string> names;
    for (std::sregex_iterator at(written_out.begin(), written_out.end(), form), end; at != end; ++at)
        names.insert((*at)[1]);
    return names;
}

EXPORTED int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    if (!program) return INVALID_PROGRAM;
    for (int i = 0; i < count; i++) {
        if (known(options[i])) continue;
        program->log = "invalid value or option: " + std::string(options[i]);
        return INVALID_OPTION;
    }
    Folder folder;
    if (folder.path.empty()) return COMPILATION;
    auto in = [&](const char *name) { return folder.path + "/" + name; };
    std::string source = "#line 1 \"" + program->name + "\"\n" + program->source;
    std::ofstream(in("emulate.hpp")) << EMULATE;
    std::ofstream(in("source.cpp")) << source;
    bool built = compiler(folder.path, "-DEMULATED -E -P -o written_out source.cpp");
    std::string table;
    for (const std::string &name : kernels(text_of(in("written_out"))))
        table += "    {\"" + name + "\", Entry<" + name + ">::COUNT, Entry<" + name + ">::SIZES, Entry<" + name + ">::run},\n";
    std::ofstream(in("kernels.cpp"))
        << "#include \"emulate.hpp\"\n" << source
        << "\n#line 1 \"table of kernels\"\n"
           "using emulator::Entry;\n"
           "struct Kernel {\n    const char *name;\n    unsigned count;\n    const unsigned *sizes;\n"
           "    int (*run)(unsigned, unsigned, unsigned, void **, bool);\n};\n"
           "extern \"C\" const Kernel " << TABLE << "[] = {\n" << table << "    {nullptr, 0, nullptr, nullptr}};\n";
    // No symbol is shared between libraries: a program may load one file of kernels twice.
    built = built && compiler(folder.path, "-O2 -shared -fPIC -fno-gnu-unique -U_FORTIFY_SOURCE -Wno-unknown-pragmas "
                                           "-o kernels.so kernels.cpp");
    program->log = text_of(in("log"));
    if (!built) return COMPILATION;
    std::string library = text_of(in("kernels.so"));
    Head head = {{}, library.size(), checksum(library.data(), library.size())};
    memcpy(head.mark, MARK, sizeof(MARK));
    program->code = std::string((const char *)&head, sizeof(head)) + library;
    return COMPILED;
}

EXPORTED int nvrtcGetProgramLogSize(Program *program, size_t *bytes) {
    *bytes = program->log.size() + 1;
    return COMPILED;
}

EXPORTED int nvrtcGetProgramLog(Program *program, char *log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return COMPILED;
}

EXPORTED int nvrtcGetCUBINSize(Program *program, size_t *bytes) {
    *bytes = program->code.size();
    return COMPILED;
}

EXPORTED int nvrtcGetCUBIN(Program *program, char *code) {
    memcpy(code, program->code.data(), program->code.size());
    return COMPILED;
}
