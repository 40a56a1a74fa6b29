// The machine behind the emulator: its threads, warps and blocks, its memory, and how a broken rule is reported.
//
// A launch runs on the caller's thread, one block after another; a block's CUDA threads are fibers that run until they wait.
// So a launch is deterministic: the same options give the same interleaving. Included by the emulator's own files only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "prelude.hpp"

namespace emulator {

constexpr int WARP_SIZE = 32;
constexpr int WARPGROUP_SIZE = 128;
constexpr u32 ALL_LANES = 0xffffffffu;
constexpr u32 MAX_THREADS = 1024;
// What a block may use on every device from sm_80 on is 163 KiB; sm_90 allows 227 KiB, which is the limit here.
constexpr size_t MAX_SHARED_BYTES = 227 * 1024;
constexpr size_t MAX_STATIC_SHARED_BYTES = 48 * 1024;

enum class Order : u32 { forward, reverse, random };

// How a launch is run. The C layout is that of `Options` in mod.rs.
struct Options {
    Order order;           // of threads and of blocks
    u32 copies_are_late;   // asynchronous copies land when waited for (or when nothing else can run), else when issued
    u32 products_are_late; // wgmma reads its operands when waited for, else when its last thread has issued it
    u32 breaks_rules;      // whether broken rules are left unreported, so that only wrong data or a deadlock shows
    u64 seed;
};

// A small generator with a period that is long enough to shuffle (PCG's multiplier).
struct Random {
    u64 state;
    u32 below(u32 limit) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return u32((state >> 33) % limit);
    }
};

// What a launch has done, for tests and curiosity.
struct Statistics {
    u64 switches, barriers, matrix_products, matrix_loads, bank_conflicts, tensor_copies, wide_products;
};

enum class State : u8 { ready, waits_for_warp, waits_for_block, polls, done };

struct Block;

struct AsyncCopy {
    void* to;
    const void* from;
    bool valid;
};

// One CUDA thread, a fiber.
struct Thread : Coordinates {
    void* stack_pointer;
    Block* owner;
    u32 number, warp, lane;
    State state;
    const char* waits_for; // for the report of a deadlock
    int line;              // of the last operation that could wait
    // State::polls: whether the thread may go on
    bool (*may_go_on)(void* condition);
    void* condition;
    std::vector<AsyncCopy> copies;
    std::vector<size_t> copy_groups; // the end of each committed group in `copies`
};

// Work that lanes do together: it happens when the last of `mask` arrives, in that lane, for all.
using Act = void (*)(Block& block, void* const* deposits, u32 lanes);
struct Meeting {
    const char* name;
    int variant;
    u32 mask;
    int line;
    u32 arrived;
    void* deposits[WARP_SIZE];
};

struct Warp {
    std::vector<Meeting> meetings; // more than one while lanes have diverged
    u32 exited = 0;
    u32 tick = 1; // counts __syncwarp: what happened at another tick of the same warp is ordered
};

struct Hopper; // the state of the asynchronous units of sm_90: hopper_machine.hpp

struct Block {
    dim3 index;
    u32 number_of_threads;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    u32 alive, at_barrier;
    void* scheduler_stack_pointer;
    std::string error;
    Random random;
    const Options* options;
    Statistics* statistics;
    std::shared_ptr<Hopper> hopper; // made by the first operation that needs it
    const Entry* entry;
    void** arguments;
};

inline Thread& self() { return *static_cast<Thread*>(here); }

// ---- scheduler.cpp ----

// Ends the launch with a report; the calling thread never goes on.
[[noreturn]] void fail(const std::string& message, int line);
// As `fail`, from outside any thread or where the caller goes on.
void note(Block& block, const std::string& message);
// Lets others run until `condition` holds. The condition must not depend on the caller's stack after it has held.
void wait_until(bool (*may_go_on)(void*), void* condition, const char* waits_for, int line);
// Lets the others run once.
void pause();
// Meets the other lanes of `mask` in the same operation on the same line.
void meet(const char* name, int variant, u32 mask, int line, void* deposit, Act act);
// Runs one block to its end; false if it broke a rule.
bool run_block(Block& block);
// Runs `entry` over the grid and returns the report, empty if all went well.
std::string launch(const Entry& entry, dim3 grid, dim3 block, size_t shared_bytes, void** arguments,
                   const Options& options, Statistics& statistics);

// ---- memory.cpp ----

void begin_launch_memory(size_t dynamic_bytes);
// Forgets what the block before did: fresh poison, no static arrays.
void begin_block_memory();
// A barrier: what was before it is ordered before what comes.
void order_block_memory();
// From now on the block orders its accesses by means that the race check does not follow.
void give_up_race_check();
bool is_shared(u32 address, size_t bytes);
// Reports an access of the running thread that is out of bounds or races; for what the hooks of the compiler do not see.
enum class Access : u8 { read, write, atomic };
void check_access(const void* at, size_t bytes, Access access, int line);
unsigned char* shared_begin();
// The address behind everything that shared memory can hold.
u32 shared_end();
// The number of the thread and the address of each pair of bytes that plain stores of this block have written.
std::vector<std::pair<u32, u32>> stores_so_far();

// ---- mbarrier.cpp; all do nothing in a block that has not used the units of sm_90 ----

// A plain store to shared memory by the running thread.
void remember_store(Block& block, u32 at, u32 bytes);

// Does one asynchronous event; false if none is possible.
bool advance_hopper(Block& block);
// What is left undone at the end of a block.
std::string unfinished_hopper(Block& block);

std::string hex(u64 value);

} // namespace emulator
