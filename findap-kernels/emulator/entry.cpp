// The list of kernels and the functions that Rust calls.

#include <algorithm>

#include "machine.hpp"

namespace emulator {

namespace {

Entry* first_entry = nullptr;

const Entry* find(const char* name) {
    for (const Entry* entry = first_entry; entry; entry = entry->next) {
        if (strcmp(entry->name, name) == 0) return entry;
    }
    return nullptr;
}

} // namespace

void Entry::enlist(Entry* entry) {
    entry->next = first_entry;
    first_entry = entry;
}

namespace {

// What is wrong with the arguments: a device would read past them or take one for another.
std::string check_kinds(const Entry& entry, const Kind* kinds, size_t count) {
    if (count != entry.num_kinds) {
        return "the kernel has " + std::to_string(entry.num_kinds) + " parameters; the launch has " +
               std::to_string(count);
    }
    for (size_t i = 0; i < count; i++) {
        if (kinds[i] == entry.kinds[i]) continue;
        const char* names[] = {"a pointer", "an integer of 4 bytes", "an integer of 8 bytes", "a float",
                               "a double", "a tensor map"};
        return "parameter " + std::to_string(i) + " of the kernel is " + names[size_t(entry.kinds[i])] +
               "; the launch has " + names[size_t(kinds[i])];
    }
    return "";
}

} // namespace

} // namespace emulator

// A launch as Rust describes it: the layout of `Request` in mod.rs.
struct Request {
    const char* name;
    u32 grid[3], block[3];
    u32 shared_bytes;
    u32 num_arguments;
    void** arguments;
    const emulator::Kind* kinds;
};

// Runs a kernel. Returns whether all went well; otherwise writes a report of at most `report_bytes`, with its final zero.
extern "C" bool findap_emulator_launch(const Request* request, const emulator::Options* options,
                                       emulator::Statistics* statistics, char* report, size_t report_bytes) {
    const emulator::Entry* entry = emulator::find(request->name);
    std::string error = entry ? emulator::check_kinds(*entry, request->kinds, request->num_arguments)
                              : "no kernel of this name is compiled for the emulator";
    if (error.empty()) {
        const u32 *grid = request->grid, *block = request->block;
        error = emulator::launch(*entry, dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]),
                                 request->shared_bytes, request->arguments, *options, *statistics);
    }
    size_t length = std::min(error.size(), report_bytes - 1);
    memcpy(report, error.data(), length);
    report[length] = 0;
    return error.empty();
}
