// The asynchronous units of sm_90 as the emulator has them: what is under way in one block.
//
// Shared memory exists twice. Threads see one copy; products and bulk additions see the other, which a thread's plain stores
// reach only by its own async_fence. Tensor copies write both.
#pragma once

#include <deque>
#include <map>

#include "machine.hpp"

namespace emulator {

// The rules of the PTX document, section "Contents of the mbarrier object".
struct Mbarrier {
    u32 expected = 0, pending = 0;
    i64 bytes = 0; // expected minus landed
    u64 phase = 0;
    bool was_waited_for = true; // the phase before, by anyone
    u32 initialiser = 0;        // the thread
    bool is_published = false;  // its mbarrier_init_fence has followed
};

struct NamedBarrier {
    u32 threads = 0, arrived = 0;
    u64 generation = 0;
};

// Some rows of a box that has not landed.
struct TensorCopy {
    TensorMap map;
    u32 to, barrier;
    i32 corner[5];
    u32 first_row, last_row;
    int line;
};

struct BulkAdd {
    float* to;
    u32 from, bytes;
    bool is_done;
};

// A plain store to shared memory that its thread has not published yet.
struct Store {
    u32 at, bytes;
};

// The accumulator of one or more products: 64 rows of n.
struct Accumulator {
    int n;
    std::vector<float> x;
};

struct WideProduct : Product {
    int line;
    u32 arrived;
    bool is_chained; // goes on with an accumulator that is in flight
    std::shared_ptr<Accumulator> sum;
    u32 registers[WARPGROUP_SIZE][4];
};

struct Warpgroup {
    std::deque<WideProduct> queue; // issued, not executed
    int executed = 0, awaited = 0; // numbers of products
};

// An accumulator of a thread whose registers hold NaN until the thread waits.
struct InFlight {
    float* registers;
    std::shared_ptr<Accumulator> sum;
    int last; // the newest product on it
};

// What one thread has under way.
struct AsyncThread {
    int issued = 0;
    std::vector<int> groups; // products issued at each commit
    std::vector<InFlight> in_flight;
    bool has_fenced = false;
    std::vector<BulkAdd> adds;
    std::vector<size_t> add_groups;
    std::vector<Store> unpublished;
};

struct Hopper {
    std::map<u32, Mbarrier> barriers;
    NamedBarrier named[16];
    std::vector<TensorCopy> copies;
    std::vector<Warpgroup> groups;
    std::vector<AsyncThread> threads;
    std::vector<unsigned char> async_view; // by shared address
};

// The block's units, made at the first use: from then on barriers are not the only order, and the race check is given up.
Hopper& hopper_of(Block& block);
AsyncThread& async_self();
inline bool reports_rules(const Block& block) { return !block.options->breaks_rules; }

// mbarrier.cpp
// The barrier at an address, or null after a note of what is wrong.
Mbarrier* find_mbarrier(Block& block, u32 address, int line);
// Counts bytes that are expected (positive) or have landed (negative).
void count_bytes(Block& block, u32 address, i64 bytes, int line);

// tensor_copy.cpp
void land(Block& block, const TensorCopy& copy);
// Address bits 4.. exclusive-or bits 7..: the place of a chunk.
u32 swizzled(u32 address, u64 swizzle);
// Whether the asynchronous units would read something else here than the threads have stored.
bool is_unpublished(Block& block, u32 address, u32 bytes);

// wide_product.cpp
// Executes whole products of group `g` in order up to number `end`; whether there were any.
bool execute_products(Block& block, size_t g, int end);
bool can_execute(const Warpgroup& group);

} // namespace emulator
