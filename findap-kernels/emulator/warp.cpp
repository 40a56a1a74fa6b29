// What the lanes of a warp compute together: shuffles, votes and matrix products; and atomics.

#include "machine.hpp"

namespace emulator {

// ---- Shuffles and votes ----

namespace {

// What a lane receives that reads a lane which takes no part: a quiet NaN that is easy to recognise.
constexpr u32 NOBODY = 0x7fc0dead;

struct ShuffleDeposit {
    Shuffle kind;
    u32 value;
    int operand, width;
    u32 result;
};

int source_lane(const ShuffleDeposit& deposit, int lane) {
    int first = lane / deposit.width * deposit.width, last = first + deposit.width - 1;
    int source = lane;
    switch (deposit.kind) {
    case Shuffle::exclusive_or:
        source = lane ^ deposit.operand;
        break;
    case Shuffle::down:
        source = lane + deposit.operand;
        break;
    case Shuffle::up:
        source = lane - deposit.operand;
        break;
    case Shuffle::index:
        return first + (deposit.operand & (deposit.width - 1));
    }
    return source < first || source > last ? lane : source;
}

void exchange(Block&, void* const* deposits, u32) {
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        auto* mine = static_cast<ShuffleDeposit*>(deposits[lane]);
        if (!mine) continue;
        auto* theirs = static_cast<ShuffleDeposit*>(deposits[source_lane(*mine, lane)]);
        mine->result = theirs ? theirs->value : NOBODY;
    }
}

struct Vote {
    bool predicate;
    u32 result;
};

void count_votes(Block&, void* const* deposits, u32) {
    u32 result = 0;
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        if (deposits[lane] && static_cast<Vote*>(deposits[lane])->predicate) result |= 1u << lane;
    }
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        if (deposits[lane]) static_cast<Vote*>(deposits[lane])->result = result;
    }
}

} // namespace

u32 shuffle(Shuffle kind, u32 mask, u32 value, int operand, int width, int line) {
    ShuffleDeposit deposit{kind, value, operand, width, NOBODY};
    meet("shuffle", int(kind), mask, line, &deposit, exchange);
    return deposit.result;
}

u32 ballot(u32 mask, bool predicate, int line) {
    Vote vote{predicate, 0};
    meet("vote", 0, mask, line, &vote, count_votes);
    return vote.result;
}

// ---- Matrix products ----

namespace {

struct ProductDeposit {
    float* d;
    const u32 *a, *b;
};

// The fragments of the PTX document, section "Matrix Fragments for mma.m16n8k16 with floating point type".
void multiply(Block& block, void* const* deposits, u32 lanes) {
    if (lanes != ALL_LANES) return note(block, "mma needs all 32 lanes");
    block.statistics->matrix_products++;
    alignas(64) float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        auto* mine = static_cast<ProductDeposit*>(deposits[lane]);
        int g = lane / 4, q = lane % 4 * 2;
        for (int r = 0; r < 4; r++) {
            int row = g + 8 * (r % 2), column = q + 8 * (r / 2);
            a[row][column] = low_of(mine->a[r]);
            a[row][column + 1] = high_of(mine->a[r]);
        }
        for (int r = 0; r < 2; r++) {
            b[q + 8 * r][g] = low_of(mine->b[r]);
            b[q + 8 * r + 1][g] = high_of(mine->b[r]);
        }
        for (int i = 0; i < 4; i++)
            d[g + 8 * (i / 2)][q + i % 2] = mine->d[i];
    }
    for (int row = 0; row < 16; row++) {
        for (int k = 0; k < 16; k++) {
            for (int column = 0; column < 8; column++)
                d[row][column] += a[row][k] * b[k][column];
        }
    }
    for (int lane = 0; lane < WARP_SIZE; lane++) {
        auto* mine = static_cast<ProductDeposit*>(deposits[lane]);
        for (int i = 0; i < 4; i++)
            mine->d[i] = d[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2];
    }
}

struct LoadDeposit {
    u32* r;
    const void* row;
    bool transposed;
};

void load(Block& block, void* const* deposits, u32 lanes) {
    if (lanes != ALL_LANES) return note(block, "ldmatrix needs all 32 lanes");
    block.statistics->matrix_loads++;
    for (int matrix = 0; matrix < 4; matrix++) {
        u16 rows[8][8];
        u32 rows_in_bank[8] = {}, most = 1; // eight groups of four banks: one 16-byte row each
        for (int i = 0; i < 8; i++) {
            const void* row = static_cast<LoadDeposit*>(deposits[matrix * 8 + i])->row;
            memcpy(rows[i], row, 16);
            most = std::max(most, ++rows_in_bank[shared_address(row) / 16 % 8]);
        }
        block.statistics->bank_conflicts += most - 1;
        for (int lane = 0; lane < WARP_SIZE; lane++) {
            auto* mine = static_cast<LoadDeposit*>(deposits[lane]);
            int i = lane / 4, j = lane % 4 * 2;
            mine->r[matrix] =
                mine->transposed ? rows[j][i] | u32(rows[j + 1][i]) << 16 : rows[i][j] | u32(rows[i][j + 1]) << 16;
        }
    }
}

} // namespace

void matrix_product(float* d, const u32* a, const u32* b, int line) {
    ProductDeposit deposit{d, a, b};
    meet("mma", 0, ALL_LANES, line, &deposit, multiply);
}

void load_matrices(u32* r, const void* row, bool transposed, int line) {
    if (shared_address(row) % 16) fail("ldmatrix: the address of a row is not a multiple of 16", line);
    if (static_cast<const unsigned char*>(row) < shared_begin() || !is_shared(shared_address(row), 16)) {
        fail("ldmatrix: a row lies outside shared memory", line);
    }
    check_access(row, 16, Access::read, line);
    LoadDeposit deposit{r, row, transposed};
    meet("ldmatrix", transposed, ALL_LANES, line, &deposit, load);
}

// ---- Atomics: fibers do not interleave inside a step ----

u32 atomic_u32(void* at, u32 (*update)(u32 old, u32 operand), u32 operand, int line) {
    check_access(at, sizeof(u32), Access::atomic, line);
    u32 old, updated;
    memcpy(&old, at, sizeof old);
    updated = update(old, operand);
    memcpy(at, &updated, sizeof updated);
    return old;
}

u64 atomic_add_u64(void* at, u64 operand, int line) {
    check_access(at, sizeof(u64), Access::atomic, line);
    u64 old, updated;
    memcpy(&old, at, sizeof old);
    updated = old + operand;
    memcpy(at, &updated, sizeof updated);
    return old;
}

u32 atomic_swap_if(void* at, u32 expected, u32 desired, int line) {
    check_access(at, sizeof(u32), Access::atomic, line);
    u32 old;
    memcpy(&old, at, sizeof old);
    if (old == expected) memcpy(at, &desired, sizeof desired);
    return old;
}

} // namespace emulator
