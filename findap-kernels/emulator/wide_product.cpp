// Products of a warpgroup (wgmma): threads hand in their parts and go on; the product happens later.

#include <algorithm>

#include "hopper_machine.hpp"

namespace emulator {

namespace {

constexpr u32 NOT_YET = 0x7fc0dead; // what accumulator registers hold from issue to wait
constexpr int ROWS = 64, DEPTH = 16;

// ---- Layouts: register i of thread t, from the figures of the PTX document for wgmma .m64nNk16 ----

int row_of_d(int t, int i) { return 16 * (t / 32) + t % 32 / 4 + 8 * (i / 2 % 2); }
int column_of_d(int t, int i) { return 8 * (i / 4) + 2 * (t % 4) + i % 2; }
int row_of_a(int t, int r) { return 16 * (t / 32) + t % 32 / 4 + 8 * (r % 2); }
int column_of_a(int t, int r, int half) { return 2 * (t % 4) + half + 8 * (r / 2); }

// ---- Operands in shared memory ----

struct Descriptor {
    u32 start, leading, stride, base_offset;
    u64 swizzle;
    explicit Descriptor(u64 bits)
        : start(u32(bits & 0x3FFF) << 4), leading(u32(bits >> 16 & 0x3FFF) << 4), stride(u32(bits >> 32 & 0x3FFF) << 4),
          base_offset(u32(bits >> 49 & 7)), swizzle(bits >> 62) {}

    u32 span() const { return swizzle == SWIZZLE_128B ? 128 : swizzle == SWIZZLE_64B ? 64 : 32; }

    // Bits of the start address inside one pattern of the swizzle but above one row of it: 0 without a base offset.
    u32 pattern_bits() const { return swizzle == SWIZZLE_NONE ? 0 : span() * 8 - 128; }
};

// Byte offset of element (m or n, k) from the start, before the swizzle: "Canonical layouts" of the PTX document.
u32 offset_of(const Descriptor& d, bool is_mn_major, u32 mn, u32 k) {
    if (d.swizzle == SWIZZLE_NONE) {
        return is_mn_major ? mn % 8 * 2 + mn / 8 * d.stride + k % 8 * 16 + k / 8 * d.leading
                           : mn % 8 * 16 + mn / 8 * d.stride + k % 8 * 2 + k / 8 * d.leading;
    }
    u32 span = d.span(), per_row = span / 2;
    return is_mn_major ? mn % per_row * 2 + mn / per_row * d.leading + k % 8 * span + k / 8 * d.stride
                       : mn % 8 * span + mn / 8 * d.stride + k * 2;
}

// Reads [count][DEPTH] numbers; the text of a broken rule, or empty.
std::string read_operand(Block& block, u64 bits, bool is_mn_major, u32 count, float* out) {
    Descriptor d(bits);
    if (d.base_offset) return "the base offset of a matrix descriptor is not modelled";
    if (d.start & d.pattern_bits() && reports_rules(block)) {
        return "a matrix descriptor starts at " + hex(d.start) + ", which is not on a boundary of its swizzle pattern";
    }
    // eight numbers along the major dimension share a chunk of 16 bytes
    u32 steps_mn = is_mn_major ? count / 8 : count, steps_k = is_mn_major ? DEPTH : DEPTH / 8;
    for (u32 i = 0; i < steps_mn; i++) {
        for (u32 j = 0; j < steps_k; j++) {
            u32 mn = is_mn_major ? i * 8 : i, k = is_mn_major ? j : j * 8;
            u32 address = swizzled(d.start + offset_of(d, is_mn_major, mn, k), d.swizzle);
            if (!is_shared(address, 16)) return "a matrix descriptor reaches outside shared memory";
            if (is_unpublished(block, address, 16) && reports_rules(block)) {
                return "a product reads shared memory that its writer has not published by async_fence";
            }
            u16 chunk[8];
            memcpy(chunk, &hopper_of(block).async_view[address], sizeof chunk);
            for (u32 e = 0; e < 8; e++) {
                out[(is_mn_major ? mn + e : mn) * DEPTH + (is_mn_major ? k : k + e)] =
                    bits_of<float>(u32(chunk[e]) << 16);
            }
        }
    }
    return "";
}

void execute(Block& block, WideProduct& product) {
    static thread_local float a[ROWS * DEPTH], b[256 * DEPTH], b_rows[DEPTH * 256];
    block.statistics->wide_products++;
    std::string error;
    if (product.a_is_in_registers) {
        for (int t = 0; t < WARPGROUP_SIZE; t++) {
            for (int r = 0; r < 4; r++) {
                a[row_of_a(t, r) * DEPTH + column_of_a(t, r, 0)] = low_of(product.registers[t][r]);
                a[row_of_a(t, r) * DEPTH + column_of_a(t, r, 1)] = high_of(product.registers[t][r]);
            }
        }
    } else {
        error = read_operand(block, product.a, product.a_is_m_major, ROWS, a);
    }
    if (error.empty()) error = read_operand(block, product.b, product.b_is_n_major, u32(product.n), b);
    if (!error.empty()) return note(block, error + ", line " + std::to_string(product.line));
    const int n = product.n;
    for (int column = 0; column < n; column++) {
        for (int k = 0; k < DEPTH; k++)
            b_rows[k * n + column] = b[column * DEPTH + k];
    }
    std::vector<float>& d = product.sum->x;
    if (!product.accumulates) std::fill(d.begin(), d.end(), 0.0f);
    for (int row = 0; row < ROWS; row++) {
        for (int k = 0; k < DEPTH; k++) {
            const float factor = a[row * DEPTH + k];
            for (int column = 0; column < n; column++)
                d[row * n + column] += factor * b_rows[k * n + column];
        }
    }
}

bool is_same(const WideProduct& x, const Product& y, int line) {
    return x.n == y.n && x.line == line && x.a_is_in_registers == y.a_is_in_registers && x.a == y.a && x.b == y.b &&
           x.a_is_m_major == y.a_is_m_major && x.b_is_n_major == y.b_is_n_major && x.accumulates == y.accumulates;
}

InFlight* find_in_flight(AsyncThread& thread, const float* registers) {
    auto is_it = [&](const InFlight& f) { return f.registers == registers; };
    auto found = std::find_if(thread.in_flight.begin(), thread.in_flight.end(), is_it);
    return found == thread.in_flight.end() ? nullptr : &*found;
}

// Takes the registers of a finished accumulator back to the thread.
void give_back(const InFlight& f, int t, bool reports, int line) {
    const int n = f.sum->n;
    for (int i = 0; i < n / 2; i++) {
        u32 now;
        memcpy(&now, f.registers + i, sizeof now);
        if (now != NOT_YET && reports) fail("an accumulator was written while its product was under way", line);
        f.registers[i] = f.sum->x[size_t(row_of_d(t, i) * n + column_of_d(t, i))];
    }
}

} // namespace

bool can_execute(const Warpgroup& group) {
    return !group.queue.empty() && group.queue.front().arrived == WARPGROUP_SIZE;
}

bool execute_products(Block& block, size_t g, int end) {
    Warpgroup& group = hopper_of(block).groups[g];
    bool any = false;
    while (group.executed < end && can_execute(group) && block.error.empty()) {
        execute(block, group.queue.front());
        group.queue.pop_front();
        group.executed++;
        any = true;
    }
    return any;
}

void product_fence() { async_self().has_fenced = true; }
void product_commit() { async_self().groups.push_back(async_self().issued); }

void product_issue(float* d, const u32* a, const Product& product, int line) {
    Thread& me = self();
    me.line = line;
    Block& block = *me.owner;
    AsyncThread& mine = async_self();
    const size_t g = me.number / WARPGROUP_SIZE;
    const int t = int(me.number % WARPGROUP_SIZE), n = product.n;
    Warpgroup& group = hopper_of(block).groups[g];
    if ((g + 1) * WARPGROUP_SIZE > block.number_of_threads)
        fail("wgmma in a warpgroup of fewer than 128 threads", line);
    if (!mine.has_fenced && reports_rules(block)) fail("wgmma after registers were touched, without wgmma_fence", line);
    InFlight* in_flight = find_in_flight(mine, d);
    const size_t position = size_t(mine.issued++ - group.executed);
    if (position == group.queue.size()) {
        WideProduct fresh{product, line, 0, in_flight != nullptr, in_flight ? in_flight->sum : nullptr, {}};
        if (!fresh.sum) fresh.sum = std::make_shared<Accumulator>(Accumulator{n, std::vector<float>(size_t(ROWS * n))});
        group.queue.push_back(std::move(fresh));
    }
    WideProduct& shared = group.queue[position];
    if (!is_same(shared, product, line)) {
        fail("wgmma: threads of a warpgroup disagree, another is on line " + std::to_string(shared.line), line);
    }
    if ((in_flight != nullptr) != shared.is_chained || (in_flight && in_flight->sum != shared.sum) ||
        shared.sum->n != n) {
        fail("wgmma: an accumulator is under way for a part of the warpgroup only, or with another shape", line);
    }
    if (!in_flight) {
        for (int i = 0; i < n / 2; i++) {
            shared.sum->x[size_t(row_of_d(t, i) * n + column_of_d(t, i))] = d[i];
            d[i] = bits_of<float>(NOT_YET);
        }
        mine.in_flight.push_back({d, shared.sum, 0});
        in_flight = &mine.in_flight.back();
    }
    in_flight->last = mine.issued;
    if (a) memcpy(shared.registers[t], a, sizeof shared.registers[t]);
    shared.arrived++;
    if (!block.options->products_are_late) execute_products(block, g, INT32_MAX);
    if (!block.error.empty()) {
        std::string error;
        std::swap(error, block.error);
        fail(error, line);
    }
}

void product_wait(int pending, int line) {
    Thread& me = self();
    Block& block = *me.owner;
    AsyncThread& mine = async_self();
    if (mine.groups.size() <= size_t(pending)) return;
    const int target = mine.groups[mine.groups.size() - 1 - size_t(pending)];
    Warpgroup& group = hopper_of(block).groups[me.number / WARPGROUP_SIZE];
    group.awaited = std::max(group.awaited, target);
    struct Condition {
        Warpgroup* group;
        int target;
    } condition{&group, target};
    auto is_done = [](void* of) {
        auto* condition = static_cast<Condition*>(of);
        return condition->group->executed >= condition->target;
    };
    wait_until(is_done, &condition, "wgmma_wait", line);
    mine.groups.erase(mine.groups.begin(), mine.groups.end() - pending);
    mine.has_fenced = false;
    for (size_t i = 0; i < mine.in_flight.size();) {
        if (mine.in_flight[i].last > target) {
            i++;
            continue;
        }
        give_back(mine.in_flight[i], int(me.number % WARPGROUP_SIZE), reports_rules(block), line);
        mine.in_flight.erase(mine.in_flight.begin() + i64(i));
    }
}

} // namespace emulator
