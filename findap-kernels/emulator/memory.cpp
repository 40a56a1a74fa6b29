// Global and shared memory with exact bounds, poison and a race check, and asynchronous copies between them.
//
// Kernels are compiled with -fsanitize=thread but not linked with its library: the compiler calls __tsan_read4 and its like
// before every access, and the functions of those names at the end of this file look the address up. An access must lie
// inside a buffer or an allocated part of shared memory. Two accesses of one number, at least one of them a write, race unless
// one thread makes both or a barrier lies between them; accesses of two blocks in one launch race always. Atomics do not race.

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <sys/mman.h>

#include "machine.hpp"

namespace emulator {

namespace {

constexpr size_t BYTES_PER_CELL = 2; // a bf16 has its own
constexpr u16 ONE_WARP = 0x8000, SEVERAL_WARPS = 0xffff;

// The last accesses of two bytes. An epoch is the time between two barriers of a block; each has a number of its own, so a
// cell of an earlier block or launch is told by its epoch alone.
struct Cell {
    u32 write_epoch, write_tick, read_epoch, read_tick;
    u16 writer, reader; // a thread; for readers also ONE_WARP | warp, or SEVERAL_WARPS
};

std::atomic<u32> last_epoch{0};

// The present of the launch that runs on this thread of the operating system.
struct Present {
    u32 epoch, first_of_block, first_of_launch;
    bool follows_races; // within the block; between blocks races are always followed
};
thread_local Present present;

u32 new_epoch() { return last_epoch.fetch_add(1, std::memory_order_relaxed) + 1; }

bool is_ordered_in_warp(const Thread& me, u32 other_warp, u32 tick) {
    return other_warp == me.warp && tick != me.owner->warps[me.warp].tick;
}

// What is wrong with reading or writing after the write that the cell remembers; null if nothing. What blocks share is global.
const char* after_write(const Cell& cell, bool is_global, const Thread& me) {
    if (cell.write_epoch < (is_global ? present.first_of_launch : present.first_of_block)) return nullptr;
    if (cell.write_epoch < present.first_of_block) return "another block has written";
    bool races = present.follows_races && cell.write_epoch == present.epoch && cell.writer != me.number &&
                 !is_ordered_in_warp(me, cell.writer / WARP_SIZE, cell.write_tick);
    return races ? "another thread has written since the last barrier" : nullptr;
}

// The same of writing after the reads that the cell remembers.
const char* after_read(const Cell& cell, bool is_global, const Thread& me) {
    if (cell.read_epoch < (is_global ? present.first_of_launch : present.first_of_block)) return nullptr;
    if (cell.read_epoch < present.first_of_block) return "another block has read";
    if (!present.follows_races || cell.read_epoch != present.epoch || cell.reader == me.number) return nullptr;
    bool is_warp = cell.reader & ONE_WARP && cell.reader != SEVERAL_WARPS;
    u32 warp = is_warp ? cell.reader & ~ONE_WARP : cell.reader / WARP_SIZE;
    if (cell.reader != SEVERAL_WARPS && is_ordered_in_warp(me, warp, cell.read_tick)) return nullptr;
    return "another thread has read since the last barrier";
}

void remember_read(Cell& cell, const Thread& me) {
    u32 tick = me.owner->warps[me.warp].tick;
    if (cell.read_epoch == present.epoch && cell.reader != me.number) {
        u32 warp = cell.reader & ONE_WARP ? cell.reader & ~ONE_WARP : cell.reader / WARP_SIZE;
        bool same_warp = cell.reader != SEVERAL_WARPS && warp == me.warp;
        bool same_tick = same_warp && cell.read_tick == tick;
        cell.reader = !same_warp ? SEVERAL_WARPS : same_tick ? u16(ONE_WARP | warp) : u16(me.number);
    } else {
        cell.reader = u16(me.number);
    }
    cell.read_epoch = present.epoch;
    cell.read_tick = tick;
}

// Follows one access over its cells; the text of a race, or null.
const char* follow(Cell* cells, bool is_global, size_t offset, size_t bytes, Access access) {
    const Thread& me = self();
    if (access == Access::atomic || bytes < BYTES_PER_CELL) return nullptr;
    for (size_t i = offset / BYTES_PER_CELL; i < (offset + bytes) / BYTES_PER_CELL; i++) {
        Cell& cell = cells[i];
        const char* race = after_write(cell, is_global, me);
        if (!race && access == Access::write) race = after_read(cell, is_global, me);
        if (race) return race;
        if (access == Access::write) {
            cell.write_epoch = present.epoch;
            cell.write_tick = me.owner->warps[me.warp].tick;
            cell.writer = u16(me.number);
        } else {
            remember_read(cell, me);
        }
    }
    return nullptr;
}

const char* verb(Access access) {
    return access == Access::read ? "reads" : access == Access::write ? "writes" : "updates";
}

} // namespace

// ---- Global memory: one reserved range, in which every buffer has its own pages and a gap behind it ----

namespace {

constexpr size_t HEAP_BYTES = 1ull << 34, UNIT_BYTES = 1 << 16, UNITS = HEAP_BYTES / UNIT_BYTES;

struct Buffer {
    unsigned char* begin;
    size_t bytes, first_unit, units; // units without the gap
    std::vector<Cell> cells;
};

struct Heap {
    unsigned char* base = nullptr;
    std::vector<std::atomic<Buffer*>> owner_of_unit{UNITS};
    std::vector<bool> taken = std::vector<bool>(UNITS, false); // the gap counts as taken
    size_t cursor = 0;
    std::mutex mutex;

    Heap() {
        void* range = mmap(nullptr, HEAP_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (range == MAP_FAILED) abort();
        base = static_cast<unsigned char*>(range);
    }

    Buffer* owner(const void* at) const {
        return owner_of_unit[size_t(static_cast<const unsigned char*>(at) - base) / UNIT_BYTES];
    }

    void* allocate(size_t bytes) {
        std::lock_guard<std::mutex> lock(mutex);
        size_t units = (bytes + UNIT_BYTES - 1) / UNIT_BYTES;
        size_t first = find(units + 1);
        if (first == UNITS) return nullptr;
        auto* buffer = new Buffer{base + first * UNIT_BYTES, bytes, first, units, {}};
        if (mprotect(buffer->begin, units * UNIT_BYTES, PROT_READ | PROT_WRITE) != 0) abort();
        memset(buffer->begin, 0xff, bytes);
        buffer->cells.resize((bytes + BYTES_PER_CELL - 1) / BYTES_PER_CELL);
        // the gap has the same owner, so that a report can say whose end was passed
        for (size_t i = first; i <= first + units; i++) {
            owner_of_unit[i] = buffer;
            taken[i] = true;
        }
        cursor = first + units + 1;
        return buffer->begin;
    }

    void release(void* begin) {
        std::lock_guard<std::mutex> lock(mutex);
        Buffer* buffer = owner(begin);
        madvise(buffer->begin, buffer->units * UNIT_BYTES, MADV_DONTNEED);
        mprotect(buffer->begin, buffer->units * UNIT_BYTES, PROT_NONE);
        for (size_t i = buffer->first_unit; i <= buffer->first_unit + buffer->units; i++) {
            owner_of_unit[i] = nullptr;
            taken[i] = false;
        }
        delete buffer;
    }

  private:
    // The first of `count` free units in a row; UNITS if there are none. Goes round, so that a freed buffer stays dead long.
    size_t find(size_t count) {
        for (size_t start : {cursor, size_t(0)}) {
            size_t run = 0;
            for (size_t i = start; i < UNITS; i++) {
                run = taken[i] ? 0 : run + 1;
                if (run == count) return i + 1 - count;
            }
        }
        return UNITS;
    }
};

Heap& heap() {
    static Heap heap;
    return heap;
}

[[noreturn]] void fail_global(const void* at, size_t bytes, Access access, const Buffer* buffer, int line) {
    std::string what = "a thread " + std::string(verb(access)) + " " + std::to_string(bytes) + " bytes ";
    if (!buffer) fail(what + "of global memory that belongs to no buffer", line);
    i64 past = static_cast<const unsigned char*>(at) + bytes - (buffer->begin + buffer->bytes);
    fail(what + "of which the last lies " + std::to_string(past) + " past the end of a buffer of " +
             std::to_string(buffer->bytes),
         line);
}

void check_global(const void* at, size_t bytes, Access access, int line) {
    Buffer* buffer = heap().owner(at);
    size_t offset = buffer ? size_t(static_cast<const unsigned char*>(at) - buffer->begin) : 0;
    if (!buffer || offset + bytes > buffer->bytes) fail_global(at, bytes, access, buffer, line);
    const char* race = follow(buffer->cells.data(), true, offset, bytes, access);
    if (race) {
        fail("race: a thread " + std::string(verb(access)) + " byte " + std::to_string(offset) + " of a buffer of " +
                 std::to_string(buffer->bytes) + ", which " + race,
             line);
    }
}

} // namespace

// ---- Shared memory: a window of 32-bit addresses with the dynamic part first and static arrays behind it ----

namespace {

// Aligned to 128 bytes and no more, as on a device: a kernel that needs 1024 must see to it.
constexpr u32 DYNAMIC_BEGIN = 0x480;
constexpr size_t STATIC_GAP = 64; // dead bytes between static arrays
constexpr size_t WINDOW_BYTES = 512 * 1024;

struct StaticArray {
    const void* site;
    size_t begin;
};

struct SharedMemory {
    unsigned char* window = nullptr;
    size_t dynamic_bytes = 0, end = 0, static_bytes = 0;
    std::vector<StaticArray> arrays;
    std::vector<Cell> cells;
    std::vector<bool> live; // by cell

    void prepare(size_t bytes) {
        if (!window) {
            void* memory = mmap(nullptr, WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED) abort();
            window = static_cast<unsigned char*>(memory);
            cells.resize(WINDOW_BYTES / BYTES_PER_CELL);
            live.resize(WINDOW_BYTES / BYTES_PER_CELL);
        }
        forget();
        dynamic_bytes = bytes;
    }

    void forget() {
        mark(DYNAMIC_BEGIN, end, false);
        arrays.clear();
        static_bytes = 0;
        end = DYNAMIC_BEGIN;
        place(dynamic_bytes);
    }

    // Reserves and poisons `bytes` behind what there is.
    size_t place(size_t bytes) {
        size_t begin = end;
        memset(window + begin, 0xff, bytes);
        mark(begin, begin + bytes, true);
        end = (begin + bytes + STATIC_GAP + 15) / 16 * 16;
        return begin;
    }

    bool has(size_t offset, size_t bytes) const {
        for (size_t at = offset / BYTES_PER_CELL; at <= (offset + bytes - 1) / BYTES_PER_CELL; at++) {
            if (!live[at]) return false;
        }
        return true;
    }

  private:
    void mark(size_t begin, size_t end, bool is_live) {
        for (size_t at = begin / BYTES_PER_CELL; at < (end + BYTES_PER_CELL - 1) / BYTES_PER_CELL; at++)
            live[at] = is_live;
    }
};
thread_local SharedMemory shared;

void check_shared(size_t offset, size_t bytes, Access access, int line) {
    if (offset + bytes > WINDOW_BYTES || !shared.has(offset, bytes)) {
        fail("a thread " + std::string(verb(access)) + " shared memory outside every array, at " +
                 std::to_string(i64(offset) - DYNAMIC_BEGIN) + " of " + std::to_string(shared.dynamic_bytes) +
                 " dynamic bytes",
             line);
    }
    const char* race = follow(shared.cells.data(), false, offset, bytes, access);
    if (race) {
        fail("race: a thread " + std::string(verb(access)) + " shared memory at " + hex(offset) + ", which " + race,
             line);
    }
    if (access == Access::write) remember_store(*self().owner, u32(offset), u32(bytes));
}

inline size_t offset_in(const void* at, const unsigned char* begin) {
    return size_t(static_cast<const unsigned char*>(at) - begin);
}

} // namespace

unsigned char* dynamic_shared() { return shared.window + DYNAMIC_BEGIN; }
unsigned char* shared_begin() { return shared.window; }
u32 shared_end() { return WINDOW_BYTES; }

std::vector<std::pair<u32, u32>> stores_so_far() {
    std::vector<std::pair<u32, u32>> stores;
    for (size_t at = 0; at < shared.end; at += BYTES_PER_CELL) {
        const Cell& cell = shared.cells[at / BYTES_PER_CELL];
        if (cell.write_epoch >= present.first_of_block) stores.emplace_back(cell.writer, u32(at));
    }
    return stores;
}

bool is_shared(u32 address, size_t bytes) { return address + bytes <= WINDOW_BYTES && shared.has(address, bytes); }
u32 shared_address(const void* pointer) { return u32(offset_in(pointer, shared.window)); }
unsigned char* shared_pointer(u32 address) { return shared.window + address; }

void* static_shared(const void* site, size_t bytes) {
    for (const StaticArray& array : shared.arrays) {
        if (array.site == site) return shared.window + array.begin;
    }
    shared.static_bytes += (bytes + 15) / 16 * 16;
    if (shared.static_bytes > MAX_STATIC_SHARED_BYTES) fail("more than 48 KiB of static shared memory", self().line);
    if (shared.static_bytes + shared.dynamic_bytes > MAX_SHARED_BYTES)
        fail("more than 227 KiB of shared memory", self().line);
    shared.arrays.push_back({site, shared.place(bytes)});
    return shared.window + shared.arrays.back().begin;
}

void begin_launch_memory(size_t dynamic_bytes) {
    present.first_of_launch = new_epoch();
    shared.prepare(dynamic_bytes);
}

void begin_block_memory() {
    present.first_of_block = present.epoch = new_epoch();
    present.follows_races = true;
    shared.forget();
}

void order_block_memory() { present.epoch = new_epoch(); }
void give_up_race_check() { present.follows_races = false; }

void check_access(const void* at, size_t bytes, Access access, int line) {
    size_t in_window = offset_in(at, shared.window);
    if (in_window < WINDOW_BYTES) return check_shared(in_window, bytes, access, line);
    if (offset_in(at, heap().base) < HEAP_BYTES) check_global(at, bytes, access, line);
    // else the stack of a thread, or a constant of the program
}

// ---- Asynchronous copies of 16 bytes ----

namespace {

void land(const AsyncCopy& copy, int line) {
    if (copy.valid) check_access(copy.from, 16, Access::read, line);
    check_access(copy.to, 16, Access::write, line);
    if (copy.valid) {
        memcpy(copy.to, copy.from, 16);
    } else {
        memset(copy.to, 0, 16);
    }
}

} // namespace

void copy_async(void* to, const void* from, bool valid, int line) {
    Thread& me = self();
    if (reinterpret_cast<uintptr_t>(to) % 16 || (valid && reinterpret_cast<uintptr_t>(from) % 16)) {
        fail("copy_async_16: an address is not a multiple of 16", line);
    }
    if (offset_in(to, shared.window) >= WINDOW_BYTES) fail("copy_async_16: the target is not shared memory", line);
    AsyncCopy copy{to, from, valid};
    if (me.owner->options->copies_are_late) {
        me.copies.push_back(copy);
    } else {
        land(copy, line);
    }
}

void copy_async_commit() { self().copy_groups.push_back(self().copies.size()); }

void copy_async_wait(int pending, int line) {
    Thread& me = self();
    size_t landed = 0;
    while (me.copy_groups.size() > size_t(pending)) {
        size_t end = me.copy_groups.front();
        for (; landed < end; landed++)
            land(me.copies[landed], line);
        me.copy_groups.erase(me.copy_groups.begin());
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + landed);
    for (size_t& end : me.copy_groups)
        end -= landed;
}

std::string hex(u64 value) {
    const char* digits = "0123456789abcdef";
    std::string text;
    do {
        text.insert(text.begin(), digits[value & 15]);
        value >>= 4;
    } while (value);
    return "0x" + text;
}

} // namespace emulator

// ---- Buffers, for the side that launches ----

extern "C" {

void* findap_emulator_allocate(size_t bytes) { return emulator::heap().allocate(bytes); }
void findap_emulator_release(void* begin) { emulator::heap().release(begin); }

// ---- What the compiler calls before each access of a kernel ----

#define HOOKS(bytes)                                                                                                   \
    void __tsan_read##bytes(void* at) {                                                                                \
        if (emulator::here) emulator::check_access(at, bytes, emulator::Access::read, emulator::self().line);          \
    }                                                                                                                  \
    void __tsan_write##bytes(void* at) {                                                                               \
        if (emulator::here) emulator::check_access(at, bytes, emulator::Access::write, emulator::self().line);         \
    }                                                                                                                  \
    void __tsan_unaligned_read##bytes(void* at) { __tsan_read##bytes(at); }                                            \
    void __tsan_unaligned_write##bytes(void* at) { __tsan_write##bytes(at); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void* at, size_t bytes) {
    if (emulator::here) emulator::check_access(at, bytes, emulator::Access::read, emulator::self().line);
}
void __tsan_write_range(void* at, size_t bytes) {
    if (emulator::here) emulator::check_access(at, bytes, emulator::Access::write, emulator::self().line);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// ---- What it calls where a pointer does not have the alignment of its type, or an index passes the end of a local array ----

struct SourceLocation {
    const char* file;
    u32 line, column;
};

void __ubsan_handle_type_mismatch_v1(SourceLocation* location, uintptr_t at) {
    if (emulator::here)
        emulator::fail("an access is not aligned to its size: address " + emulator::hex(at), int(location->line));
}
void __ubsan_handle_out_of_bounds(SourceLocation* location, uintptr_t index) {
    if (emulator::here)
        emulator::fail("index " + std::to_string(i64(index)) + " is outside of its array", int(location->line));
}
}
