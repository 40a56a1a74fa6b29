// Fibers, the order in which they run, barriers, and work that the lanes of a warp do together.

#include <algorithm>
#include <cstdlib>
#include <map>
#include <sys/mman.h>

#include "machine.hpp"

namespace emulator {

__thread Coordinates* here = nullptr;

// ---- Fibers ----

#if defined(__x86_64__)
// Saves the registers that a function must keep and the stack pointer, takes another stack, and restores them from there.
extern "C" void emulator_switch(void** save_stack_pointer, void* stack_pointer);
asm(R"(.text
.globl emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch,.-emulator_switch
)");
constexpr int SAVED_REGISTERS = 6;
#else
#error "the emulator needs a context switch for this architecture"
#endif

namespace {

constexpr size_t STACK_BYTES = 128 * 1024, GUARD_BYTES = 4096;

// Stacks are mapped once for each thread of the operating system and serve all its launches.
struct Stacks {
    char* mapping = nullptr;

    char* top(u32 number) {
        if (!mapping) map();
        return mapping + (number + 1) * (STACK_BYTES + GUARD_BYTES);
    }

    ~Stacks() {
        if (mapping) munmap(mapping, bytes());
    }

  private:
    static size_t bytes() { return MAX_THREADS * (STACK_BYTES + GUARD_BYTES); }

    void map() {
        void* memory =
            mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) abort();
        mapping = static_cast<char*>(memory);
        // below each stack lies a page that ends the program rather than let one fiber run into another
        for (u32 i = 0; i < MAX_THREADS; i++)
            mprotect(mapping + i * (STACK_BYTES + GUARD_BYTES), GUARD_BYTES, PROT_NONE);
    }
};
thread_local Stacks stacks;

void to_scheduler(Thread& me) {
    here = nullptr;
    emulator_switch(&me.stack_pointer, me.owner->scheduler_stack_pointer);
    here = &me;
}

[[noreturn]] void abandon(Thread& me) {
    void* never_used;
    here = nullptr;
    emulator_switch(&never_used, me.owner->scheduler_stack_pointer);
    abort();
}

void resume(Thread& thread) {
    thread.owner->statistics->switches++;
    here = &thread;
    emulator_switch(&thread.owner->scheduler_stack_pointer, thread.stack_pointer);
    here = nullptr;
}

void finish_meetings_without(Block& block, Thread& leaver);

[[noreturn]] void fiber_main() {
    Thread& me = self();
    Block& block = *me.owner;
    block.entry->call(block.entry->kernel, block.arguments);
    me.state = State::done;
    block.alive--;
    block.warps[me.warp].exited |= 1u << me.lane;
    if (block.at_barrier > 0) fail("a thread exits while others wait at __syncthreads", me.line);
    finish_meetings_without(block, me);
    abandon(me);
}

void prepare(Thread& thread) {
    void** stack = reinterpret_cast<void**>(stacks.top(thread.number)) - 2;
    stack[0] = reinterpret_cast<void*>(&fiber_main); // where the first switch returns to
    stack[1] = nullptr;
    for (int i = 1; i <= SAVED_REGISTERS; i++)
        stack[-i] = nullptr;
    thread.stack_pointer = stack - SAVED_REGISTERS;
}

// Goes on with another lane of the same warp if one can run: warp-wide work then completes with few switches.
void let_warp_run(Thread& me) {
    Block& block = *me.owner;
    u32 first = me.warp * WARP_SIZE;
    u32 start = block.options->order == Order::random ? block.random.below(WARP_SIZE) : 1;
    for (u32 k = 0; k < WARP_SIZE; k++) {
        u32 step = start + k;
        u32 lane = (block.options->order == Order::reverse ? me.lane - step : me.lane + step) % WARP_SIZE;
        if (first + lane >= block.number_of_threads) continue;
        Thread& other = block.threads[first + lane];
        if (other.state != State::ready || &other == &me) continue;
        block.statistics->switches++;
        here = &other;
        emulator_switch(&me.stack_pointer, other.stack_pointer);
        here = &me;
        return;
    }
    to_scheduler(me);
}

std::string place(const Thread& thread) {
    const dim3& b = thread.block;
    return " [block (" + std::to_string(b.x) + ", " + std::to_string(b.y) + ", " + std::to_string(b.z) + "), thread " +
           std::to_string(thread.number) + ", warp " + std::to_string(thread.warp) + ", lane " +
           std::to_string(thread.lane) + "]";
}

// Says which warps wait for what on which line.
std::string describe_deadlock(const Block& block) {
    constexpr size_t LISTED = 12;
    std::map<std::string, int> waiting;
    for (const Thread& thread : block.threads) {
        if (thread.state == State::done || thread.state == State::ready) continue;
        waiting[std::string(thread.waits_for) + " on line " + std::to_string(thread.line) + " (warp " +
                std::to_string(thread.warp) + ")"]++;
    }
    std::string text = "deadlock; waiting:";
    size_t listed = 0;
    for (const auto& [what, lanes] : waiting) {
        if (listed++ == LISTED) return text + " ...";
        text += " " + what + " x" + std::to_string(lanes) + ";";
    }
    return text;
}

} // namespace

void fail(const std::string& message, int line) {
    Thread& me = self();
    note(*me.owner, message + ", line " + std::to_string(line) + place(me));
    abandon(me);
}

void note(Block& block, const std::string& message) {
    if (block.error.empty()) block.error = message;
}

void wait_until(bool (*may_go_on)(void*), void* condition, const char* waits_for, int line) {
    Thread& me = self();
    me.line = line;
    if (may_go_on(condition)) return;
    me.state = State::polls;
    me.may_go_on = may_go_on;
    me.condition = condition;
    me.waits_for = waits_for;
    let_warp_run(me);
}

void pause() {
    Thread& me = self();
    me.state = State::ready;
    to_scheduler(me);
}

// ---- Barriers ----

void sync_threads(int line) {
    Thread& me = self();
    Block& block = *me.owner;
    if (block.alive < block.number_of_threads) fail("__syncthreads after a thread of the block has exited", line);
    me.state = State::waits_for_block;
    me.waits_for = "__syncthreads";
    me.line = line;
    if (++block.at_barrier < block.alive) {
        let_warp_run(me);
        return;
    }
    for (const Thread& thread : block.threads) {
        if (thread.state == State::waits_for_block && thread.line != line) {
            fail("threads of a block wait at different __syncthreads, the other on line " + std::to_string(thread.line),
                 line);
        }
    }
    block.at_barrier = 0;
    block.statistics->barriers++;
    order_block_memory();
    for (Thread& thread : block.threads) {
        if (thread.state == State::waits_for_block) thread.state = State::ready;
    }
    to_scheduler(me); // so that the order of the threads starts anew
}

// ---- Work of a warp ----

namespace {

void wake(Block& block, u32 warp, u32 lanes) {
    for (u32 lane = 0; lane < WARP_SIZE; lane++) {
        if (lanes >> lane & 1) block.threads[warp * WARP_SIZE + lane].state = State::ready;
    }
}

u32 present_lanes(const Block& block, u32 warp) {
    u32 threads = std::min<u32>(WARP_SIZE, block.number_of_threads - warp * WARP_SIZE);
    return threads == WARP_SIZE ? ALL_LANES : (1u << threads) - 1;
}

bool is_complete(const Block& block, u32 warp, const Meeting& meeting) {
    u32 expected = meeting.mask & present_lanes(block, warp) & ~block.warps[warp].exited;
    return (expected & ~meeting.arrived) == 0;
}

struct ActOf {
    Act act;
    void* deposit;
};

// Does the work of meeting number `i` and takes it off the list.
void hold(Block& block, u32 warp, size_t i) {
    Meeting meeting = block.warps[warp].meetings[i];
    block.warps[warp].meetings.erase(block.warps[warp].meetings.begin() + i);
    void* deposits[WARP_SIZE];
    Act act = nullptr;
    for (u32 lane = 0; lane < WARP_SIZE; lane++) {
        auto* of = static_cast<ActOf*>(meeting.deposits[lane]);
        bool arrived = meeting.arrived >> lane & 1;
        deposits[lane] = arrived ? of->deposit : nullptr;
        if (arrived) act = of->act;
    }
    act(block, deposits, meeting.arrived);
    wake(block, warp, meeting.arrived);
}

void finish_meetings_without(Block& block, Thread& leaver) {
    std::vector<Meeting>& meetings = block.warps[leaver.warp].meetings;
    for (size_t i = 0; i < meetings.size();) {
        if (meetings[i].mask >> leaver.lane & 1 && is_complete(block, leaver.warp, meetings[i])) {
            hold(block, leaver.warp, i);
        } else {
            i++;
        }
    }
}

} // namespace

void meet(const char* name, int variant, u32 mask, int line, void* deposit, Act act) {
    Thread& me = self();
    Block& block = *me.owner;
    Warp& warp = block.warps[me.warp];
    if (!(mask >> me.lane & 1)) fail(std::string(name) + ": the calling lane is not in its own mask", line);
    ActOf mine{act, deposit};
    auto same = [&](const Meeting& m) {
        return m.name == name && m.variant == variant && m.mask == mask && m.line == line;
    };
    auto found = std::find_if(warp.meetings.begin(), warp.meetings.end(), same);
    if (found == warp.meetings.end()) {
        warp.meetings.push_back(Meeting{name, variant, mask, line, 0, {}});
        found = warp.meetings.end() - 1;
    }
    found->arrived |= 1u << me.lane;
    found->deposits[me.lane] = &mine;
    me.state = State::waits_for_warp;
    me.waits_for = name;
    me.line = line;
    if (is_complete(block, me.warp, *found)) {
        hold(block, me.warp, size_t(found - warp.meetings.begin()));
    } else {
        let_warp_run(me);
    }
}

void sync_warp(u32 mask, int line) {
    // lanes of one warp are told apart by ticks as a whole: a partial mask orders more here than on a device
    meet("__syncwarp", 0, mask, line, nullptr,
         [](Block& block, void* const*, u32) { block.warps[self().warp].tick++; });
}

// ---- Blocks and launches ----

namespace {

void reset(Block& block) {
    block.error.clear();
    block.alive = block.number_of_threads;
    block.at_barrier = 0;
    block.hopper.reset();
    block.warps.assign((block.number_of_threads + WARP_SIZE - 1) / WARP_SIZE, Warp());
    for (Thread& thread : block.threads) {
        thread.block = block.index;
        thread.state = State::ready;
        thread.line = 0;
        thread.copies.clear();
        thread.copy_groups.clear();
        prepare(thread);
    }
    begin_block_memory();
}

// The numbers below `count` in the order asked for.
void arrange(std::vector<u32>& numbers, Order order, Random& random) {
    for (u32 i = 0; i < numbers.size(); i++)
        numbers[i] = i;
    if (order == Order::reverse) std::reverse(numbers.begin(), numbers.end());
    if (order != Order::random) return;
    for (u32 i = u32(numbers.size()); i > 1; i--)
        std::swap(numbers[i - 1], numbers[random.below(i)]);
}

} // namespace

bool run_block(Block& block) {
    reset(block);
    std::vector<u32> order(block.number_of_threads);
    arrange(order, block.options->order, block.random);
    while (block.alive > 0) {
        bool any_ran = false;
        for (u32 number : order) {
            Thread& thread = block.threads[number];
            if (thread.state == State::polls && thread.may_go_on(thread.condition)) thread.state = State::ready;
            if (thread.state == State::ready) {
                any_ran = true;
                resume(thread);
            }
            if (!block.error.empty()) return false;
        }
        if (any_ran || block.alive == 0) {
            if (block.options->order == Order::random) arrange(order, Order::random, block.random);
            continue;
        }
        if (!advance_hopper(block)) note(block, describe_deadlock(block));
        if (!block.error.empty()) return false;
    }
    note(block, unfinished_hopper(block));
    return block.error.empty();
}

std::string launch(const Entry& entry, dim3 grid, dim3 size, size_t shared_bytes, void** arguments,
                   const Options& options, Statistics& statistics) {
    u64 blocks = u64(grid.x) * grid.y * grid.z, threads = u64(size.x) * size.y * size.z;
    if (blocks == 0 || threads == 0) return "a grid or block of size 0";
    if (threads > MAX_THREADS) return "a block of " + std::to_string(threads) + " threads; 1024 is the limit";
    if (grid.y > 65535 || grid.z > 65535) return "a grid of more than 65535 blocks along y or z";
    if (shared_bytes > MAX_SHARED_BYTES)
        return std::to_string(shared_bytes) + " bytes of shared memory; 227 KiB is the limit";
    Block block;
    block.number_of_threads = u32(threads);
    block.threads.resize(threads);
    block.random = Random{options.seed * 0x9E3779B97F4A7C15ull + 1};
    block.options = &options;
    block.statistics = &statistics;
    block.entry = &entry;
    block.arguments = arguments;
    for (u32 i = 0; i < threads; i++) {
        Thread& thread = block.threads[i];
        thread.thread = dim3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
        thread.block_size = size;
        thread.grid_size = grid;
        thread.owner = &block;
        thread.number = i;
        thread.warp = i / WARP_SIZE;
        thread.lane = i % WARP_SIZE;
    }
    begin_launch_memory(shared_bytes);
    std::vector<u32> order(blocks);
    arrange(order, options.order, block.random);
    for (u32 i : order) {
        block.index = dim3(i % grid.x, i / grid.x % grid.y, u32(i / (u64(grid.x) * grid.y)));
        if (!run_block(block)) return block.error;
    }
    return "";
}

} // namespace emulator
