// Barriers of sm_90, and what happens when no thread can run.

#include "hopper_machine.hpp"

namespace emulator {

namespace {

constexpr u64 TAG = 0x6d62617272696572ull; // what an initialised barrier holds in memory
constexpr u32 MAX_COUNT = (1 << 20) - 1;

// Runs `part` for the calling thread and turns a note into the end of the thread.
template <typename Part> void or_fail(Part part) {
    Block& block = *self().owner;
    part(block);
    if (block.error.empty()) return;
    std::string error;
    std::swap(error, block.error);
    fail(error, self().line);
}

void end_phase_if_complete(Mbarrier& barrier) {
    if (barrier.pending != 0 || barrier.bytes != 0) return;
    barrier.phase++;
    barrier.pending = barrier.expected;
    barrier.was_waited_for = false;
}

void arrive(Block& block, u32 address, int line) {
    Mbarrier* barrier = find_mbarrier(block, address, line);
    if (!barrier) return;
    if (!barrier->was_waited_for && reports_rules(block)) {
        return note(block, "mbarrier " + hex(address) + ": an arrival in phase " + std::to_string(barrier->phase) +
                               ", but no thread has waited for the phase before");
    }
    if (barrier->pending == 0)
        return note(block, "mbarrier " + hex(address) + ": more arrivals than its count in one phase");
    barrier->pending--;
    end_phase_if_complete(*barrier);
}

} // namespace

Mbarrier* find_mbarrier(Block& block, u32 address, int line) {
    Hopper& hopper = hopper_of(block);
    std::string at = " on line " + std::to_string(line);
    auto found = hopper.barriers.find(address);
    if (found == hopper.barriers.end()) {
        note(block, "mbarrier " + hex(address) + " is used before mbarrier_init," + at);
        return nullptr;
    }
    u64 content;
    memcpy(&content, shared_pointer(address), sizeof content);
    if (content != TAG) {
        note(block, "mbarrier " + hex(address) + " was overwritten; found" + at);
        return nullptr;
    }
    if (!found->second.is_published && here && self().number != found->second.initialiser && reports_rules(block)) {
        note(block, "mbarrier " + hex(address) + " is used before its initialiser's mbarrier_init_fence," + at);
        return nullptr;
    }
    return &found->second;
}

void count_bytes(Block& block, u32 address, i64 bytes, int line) {
    Mbarrier* barrier = find_mbarrier(block, address, line);
    if (!barrier) return;
    barrier->bytes += bytes;
    if (barrier->bytes > i64(MAX_COUNT) || barrier->bytes < -i64(MAX_COUNT)) {
        note(block, "mbarrier " + hex(address) + ": the count of bytes is out of range");
    }
    if (bytes < 0) end_phase_if_complete(*barrier);
}

void mbarrier_init(u32 address, u32 count, int line) {
    Hopper& hopper = hopper_of(*self().owner);
    if (address % 8 || !is_shared(address, 8))
        fail("mbarrier_init: the address is misaligned or not shared memory", line);
    if (count == 0 || count > MAX_COUNT) fail("mbarrier_init: the count is not in 1..2^20", line);
    Mbarrier barrier;
    barrier.expected = barrier.pending = count;
    barrier.initialiser = self().number;
    hopper.barriers[address] = barrier;
    memcpy(shared_pointer(address), &TAG, sizeof TAG);
    memcpy(&hopper.async_view[address], &TAG, sizeof TAG);
}

void mbarrier_init_fence() {
    for (auto& [address, barrier] : hopper_of(*self().owner).barriers) {
        if (barrier.initialiser == self().number) barrier.is_published = true;
    }
}

void mbarrier_arrive(u32 address, int line) {
    self().line = line;
    or_fail([&](Block& block) { arrive(block, address, line); });
}

void mbarrier_arrive_expect(u32 address, u32 bytes, int line) {
    self().line = line;
    or_fail([&](Block& block) {
        count_bytes(block, address, bytes, line);
        if (block.error.empty()) arrive(block, address, line);
    });
}

void mbarrier_wait(u32 address, u32 parity, int line) {
    self().line = line;
    Mbarrier* barrier = nullptr;
    or_fail([&](Block& block) { barrier = find_mbarrier(block, address, line); });
    struct Condition {
        Mbarrier* barrier;
        u32 parity;
    } condition{barrier, parity};
    auto has_ended = [](void* of) {
        auto* condition = static_cast<Condition*>(of);
        return (condition->barrier->phase & 1) != condition->parity;
    };
    wait_until(has_ended, &condition, "mbarrier_wait", line);
    barrier->was_waited_for = true;
}

void named_barrier(u32 number, u32 threads, bool waits, int line) {
    if (number < 1 || number > 15) fail("a named barrier has a number in 1..15", line);
    if (threads == 0 || threads % WARP_SIZE) fail("a named barrier takes whole warps", line);
    NamedBarrier& barrier = hopper_of(*self().owner).named[number];
    if (barrier.arrived && barrier.threads != threads) {
        fail("barrier " + std::to_string(number) + ": threads give different counts", line);
    }
    barrier.threads = threads;
    struct Condition {
        NamedBarrier* barrier;
        u64 generation;
    } condition{&barrier, barrier.generation};
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        barrier.generation++;
    }
    if (!waits) return;
    auto is_over = [](void* of) {
        auto* condition = static_cast<Condition*>(of);
        return condition->barrier->generation != condition->generation;
    };
    wait_until(is_over, &condition, "barrier_sync", line);
}

// ---- The units of a block ----

Hopper& hopper_of(Block& block) {
    if (!block.hopper) {
        block.hopper = std::make_shared<Hopper>();
        block.hopper->groups.resize((block.number_of_threads + WARPGROUP_SIZE - 1) / WARPGROUP_SIZE);
        block.hopper->threads.resize(block.number_of_threads);
        block.hopper->async_view.assign(shared_end(), 0xff);
        give_up_race_check();
        for (const auto& [thread, at] : stores_so_far())
            block.hopper->threads[thread].unpublished.push_back({at, 2});
    }
    return *block.hopper;
}

AsyncThread& async_self() { return hopper_of(*self().owner).threads[self().number]; }

void remember_store(Block& block, u32 at, u32 bytes) {
    if (block.hopper) block.hopper->threads[self().number].unpublished.push_back({at, bytes});
}

bool advance_hopper(Block& block) {
    if (!block.hopper) return false;
    Hopper& hopper = *block.hopper;
    struct Event {
        bool is_copy;
        size_t number;
    };
    std::vector<Event> possible;
    for (size_t i = 0; i < hopper.copies.size(); i++)
        possible.push_back({true, i});
    for (size_t g = 0; g < hopper.groups.size(); g++) {
        const Warpgroup& group = hopper.groups[g];
        if (group.awaited > group.executed && can_execute(group)) possible.push_back({false, g});
    }
    if (possible.empty()) return false;
    Event event = possible[block.random.below(u32(possible.size()))];
    if (!event.is_copy) return execute_products(block, event.number, hopper.groups[event.number].awaited);
    TensorCopy copy = hopper.copies[event.number];
    hopper.copies.erase(hopper.copies.begin() + i64(event.number));
    land(block, copy);
    return true;
}

std::string unfinished_hopper(Block& block) {
    if (!block.hopper || !reports_rules(block)) return "";
    Hopper& hopper = *block.hopper;
    if (!hopper.copies.empty()) return "the block ends with tensor copies under way";
    for (const auto& [address, barrier] : hopper.barriers) {
        if (barrier.bytes != 0) {
            return "the block ends with " + std::to_string(barrier.bytes) +
                   " bytes more expected than landed at mbarrier " + hex(address);
        }
    }
    for (const AsyncThread& thread : hopper.threads) {
        if (!thread.adds.empty()) return "the block ends with a bulk addition that was not waited for";
        if (!thread.in_flight.empty()) return "the block ends with a product that was not waited for";
    }
    return "";
}

} // namespace emulator
