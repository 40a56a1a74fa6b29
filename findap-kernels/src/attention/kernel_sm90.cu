// Flash attention for Hopper (sm_90a): TMA loads, wgmma products, warp-specialised; forward, key gradient, query gradient.
//
// Maths, tiles, statistics and determinism are those of kernel.cu: the same list of tiles of 128 rows, longest first, and one
// order of every sum. What differs is who does what, and that there are no windows here: a layer with one runs kernel.cu, as the
// launches of cuda.rs choose.
//
// Block: 3 warpgroups. Warpgroup 0 gives up its registers; one of its threads asks TMA for tiles. Warpgroups 1 and 2 own 64 of
// the 128 rows each, keep their sums in registers and run wgmma. There are as many blocks as multiprocessors; a block takes
// items (tile, head) in rounds, so the loads of the next item run under the end of the last one.
//   forward        rows = queries; q resident, keys in tiles of 128.
//                  s = q k^T from shared memory, out += p v with p in registers
//   key gradient   rows = keys; k and v resident, queries in tiles of 64, all query heads of the group one after the other.
//                  s^T = k q^T, dp^T = v dout^T from shared memory, dv += p^T dout, dk += ds^T q with p^T, ds^T in registers
//   query gradient rows = queries; q and dout resident, keys in tiles of 128.
//                  s = q k^T, dp = dout v^T from shared memory, dq += ds k with ds in registers
// In the forward pass the product p v of one tile runs under the softmax of the next, and the two warpgroups take turns in
// issuing products, so that one computes exponentials while the other keeps the tensor cores busy (Shah et al. 2024,
// arXiv:2407.08608, sections 3.1 and 3.2). The backward passes leave the order of the two warpgroups free.
//
// Documents. A TMA box may reach past the end of a document, into the rows of the next. Scores with such rows are masked; where
// such rows are the summed dimension of a product with p or ds, 0 times their numbers might still be NaN, so the consumers
// overwrite them with zeros: only where a document does not end on a tile border, and there once for each row of tiles.
//
// Shared memory: tiles of [rows][head dim] as head dim / 64 boxes of [rows][64] with TMA's 128-byte swizzle (16-byte chunk ^
// row % 8), each box on a multiple of 1024 bytes. As an operand along the head dim a box is K-major; as a right operand along
// its rows it is N-major. Bytes for head dim 64 / 128, with barriers:
//   forward 82 / 162 KiB (q, 2 stages of k, v)    query gradient 98 / 194 KiB (q, dout, 2 stages of k, v)
//   key gradient 83 / 163 KiB (k, v, 3 stages of q, dout, statistics)
//
// Limit. Tensor cores: the operations of kernel.cu at 989 TFLOP/s, of which the backward pass can show 5/7. A product of 64 x
// 128 x 16 takes 64 cycles and reads 6 KiB of shared memory (48 cycles), 4 KiB (32) with the left side in registers; one of
// 64 x 64 x 16, half of those of the key gradient, takes 32 cycles and reads 4 KiB. Exponentials take 1024 cycles for a tile of
// 128 x 128, whose products take 2048 forward. Not measured yet.

#ifndef SEEDED_BUG
#define SEEDED_BUG(bug) false
#endif

namespace {

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;
constexpr int WARPGROUP = 128;
constexpr int CONSUMERS = 2 * WARPGROUP;
constexpr int THREADS = WARPGROUP + CONSUMERS;
constexpr int CONSUMER_WARPS = CONSUMERS / 32;
constexpr int ROWS = 128;            // of one item; 64 for each consumer
constexpr int ROW_BYTES = 128;       // one row of a box
constexpr int PATTERN = 1024;        // bytes after which the swizzle repeats
constexpr int HALF = 64 * ROW_BYTES; // from the rows of one consumer to those of the other
constexpr int BARRIER_BYTES = 256;
constexpr int REGISTERS_PRODUCER = 24, REGISTERS_CONSUMER = 240;
enum NamedBarrier { TURN = 1, CLEARED = 3 }; // TURN + consumer

// Mistakes that seeded_sm90.cu plants, for tests of the tests.
enum {
    MASK_OFF_BY_ONE = 1,
    WEAK_WAIT,
    MISSING_BARRIER,
    NO_ZERO_ROWS,
    RELEASED_EARLY,
    WRONG_PARITY,
    NO_PROXY_FENCE,
    WRONG_STRIDE
};

// One entry of the host's list: rows [first, first + ROWS) of the document [start, end).
struct Tile {
    int first, start, end;
};
DEVICE Tile read_tile(const uint4* tiles, int index) {
    uint4 entry = tiles[index];
    return {(int)entry.x, (int)entry.y, (int)entry.z};
}

// The item that this block takes in a round: back and forth, so that no block gets the longest of every round.
DEVICE int item_of(int round) {
    const int blocks = gridDim.x, block = blockIdx.x;
    return round * blocks + (round % 2 ? blocks - 1 - block : block);
}

// ---- tiles in shared memory ----

template <int HEAD_DIM, int TILE_ROWS> struct Box {
    static constexpr int BYTES = TILE_ROWS * ROW_BYTES, COUNT = HEAD_DIM / 64, TILE = BYTES * COUNT;
};

// Asks for rows [row, row + TILE_ROWS) of one head. The map's dimensions are head dim, head, token.
template <int HEAD_DIM, int TILE_ROWS>
DEVICE void load_tile(u32 tile, const TensorMap* map, u32 barrier, int row, int head) {
    using B = Box<HEAD_DIM, TILE_ROWS>;
    for (int box = 0; box < B::COUNT; box++) tensor_load_3d(tile + box * B::BYTES, map, barrier, box * 64, head, row);
}

// Both consumers write zeros over rows [first, TILE_ROWS). The fence makes the zeros visible to wgmma.
template <int HEAD_DIM, int TILE_ROWS> DEVICE void clear_rows(u32 tile, int first, int thread) {
    using B = Box<HEAD_DIM, TILE_ROWS>;
    const int chunks = (TILE_ROWS - first) * (ROW_BYTES / 16);
    for (int box = 0; box < B::COUNT; box++)
        for (int i = thread; i < chunks; i += CONSUMERS)
            *shared_pointer<uint4>(tile + box * B::BYTES + first * ROW_BYTES + i * 16) = {0, 0, 0, 0};
    if (!SEEDED_BUG(NO_PROXY_FENCE)) async_fence();
}

// A place in a ring of stages. A consumer waits for `parity`, the producer for the other one, which is that of the use before.
template <int STAGES> struct Ring {
    int stage = 0;
    u32 parity = 0;
    DEVICE void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// ---- products; sum[4 n + r] is column 8 n + 2 (lane % 4) + r % 2 of row lane / 4 + 8 (r / 2) of the warp's 16 ----

// Starts sum = left right^T: left 64 rows of a tile with LEFT_ROWS, right all N rows of a tile. K-major, so the next 16 of the
// head dim are 32 bytes on within a row, and the next 64 one box on.
template <int HEAD_DIM, int LEFT_ROWS, int N> DEVICE void start_rows_product(float (&sum)[N / 2], u32 left, u32 right) {
    UNROLL
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        const u32 within = k % 4 * 32;
        wgmma_ss<N, 0, 0>(sum, matrix_descriptor(left + k / 4 * Box<HEAD_DIM, LEFT_ROWS>::BYTES + within, 16, PATTERN),
                          matrix_descriptor(right + k / 4 * Box<HEAD_DIM, N>::BYTES + within, 16, PATTERN), k > 0);
    }
    wgmma_commit();
}

// Starts sum += left right: left 64 x 16 K in registers, right 16 K rows of a tile. N-major: the next 64 columns are one box
// on, the next 8 rows one pattern.
template <int HEAD_DIM, int K>
DEVICE void start_columns_product(float (&sum)[HEAD_DIM / 2], const u32 (&left)[K][4], u32 right) {
    const u32 box = Box<HEAD_DIM, 16 * K>::BYTES;
    UNROLL
    for (int k = 0; k < K; k++)
        wgmma_rs<HEAD_DIM, 1>(sum, left[k],
                              SEEDED_BUG(WRONG_STRIDE) ? matrix_descriptor(right + k * 2 * PATTERN, PATTERN, box)
                                                       : matrix_descriptor(right + k * 2 * PATTERN, box, PATTERN),
                              1);
    wgmma_commit();
}

// The sums of one product as the left operand of the next: the layouts agree, so no thread needs another's numbers.
template <int K> DEVICE void round_to_operand(u32 (&operand)[K][4], const float (&sum)[8 * K]) {
    UNROLL
    for (int k = 0; k < K; k++) {
        UNROLL
        for (int r = 0; r < 4; r++) operand[k][r] = pack_bf16(sum[8 * k + 2 * r], sum[8 * k + 2 * r + 1]);
    }
}

template <int N> DEVICE void clear(float (&sum)[N]) {
    UNROLL
    for (int i = 0; i < N; i++) sum[i] = 0.f;
}

// ---- rows out of the registers ----

// Stores half `h` of 16 rows (lane / 4, 8 further for h = 1), times `factor`. All lanes take part, only `inside` ones store.
template <int HEAD_DIM>
DEVICE void store_row(bf16* row, const float (&sum)[HEAD_DIM / 2], int h, float factor, bool inside, int lane) {
    UNROLL
    for (int n = 0; n < HEAD_DIM / 8; n += 4) {
        u32 word[4];
        UNROLL
        for (int i = 0; i < 4; i++)
            word[i] = pack_bf16(sum[4 * (n + i) + 2 * h] * factor, sum[4 * (n + i) + 2 * h + 1] * factor);
        uint4 chunk = transpose_quad(word, lane);
        if (inside) *(uint4*)(row + n * 8 + (lane & 3) * 8) = chunk;
    }
}

// Where a thread of a consumer stands.
struct Place {
    int consumer, thread, warp, lane; // thread of both consumers, warp of its own
    DEVICE int row() const { return consumer * 64 + warp * 16 + (lane >> 2); } // and 8 further down
};
DEVICE Place place_of_thread() {
    const int thread = threadIdx.x - WARPGROUP;
    return {thread / WARPGROUP, thread, thread % WARPGROUP / 32, thread % 32};
}

// Said by one lane of each consumer warp: the stage may be filled again.
DEVICE void release(u32 barrier, int lane) {
    if (lane == 0) mbarrier_arrive(barrier);
}

// ---- forward ----

template <int HEAD_DIM> struct ForwardMemory {
    static constexpr int KEYS = 128, STAGES = 2, TILE = Box<HEAD_DIM, ROWS>::TILE;
    static constexpr int Q = 0, K = TILE, V = K + STAGES * TILE, BARRIERS = V + STAGES * TILE,
                         BYTES = BARRIERS + BARRIER_BYTES + PATTERN;
    // numbers of barriers
    static constexpr int Q_FULL = 0, Q_EMPTY = 1, K_FULL = 2, V_FULL = K_FULL + STAGES, K_EMPTY = V_FULL + STAGES,
                         V_EMPTY = K_EMPTY + STAGES;
};

template <int HEAD_DIM> DEVICE void forward(const TensorMap* q_map, const TensorMap* k_map, const TensorMap* v_map,
                                            bf16* out, float* out_f32, float* lse, const uint4* tiles, int num_tiles,
                                            int num_heads, int num_kv_heads, float scale) {
    using M = ForwardMemory<HEAD_DIM>;
    constexpr int KEYS = M::KEYS;
    static_assert(KEYS == ROWS, "only the last tile of keys meets the diagonal");
    DYNAMIC_SHARED(memory);
    const u32 base = (shared_address(memory) + PATTERN - 1) / PATTERN * PATTERN;
    auto barrier = [&](int number) { return base + M::BARRIERS + 8 * number; };
    const int num_items = num_tiles * num_heads, group = num_heads / num_kv_heads;
    if (threadIdx.x == 0) {
        mbarrier_init(barrier(M::Q_FULL), 1);
        mbarrier_init(barrier(M::Q_EMPTY), CONSUMER_WARPS);
        for (int stage = 0; stage < M::STAGES; stage++) {
            mbarrier_init(barrier(M::K_FULL + stage), 1);
            mbarrier_init(barrier(M::V_FULL + stage), 1);
            mbarrier_init(barrier(M::K_EMPTY + stage), CONSUMER_WARPS);
            mbarrier_init(barrier(M::V_EMPTY + stage), CONSUMER_WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();

    if (threadIdx.x < WARPGROUP) {
        registers_lower<REGISTERS_PRODUCER>();
        if (threadIdx.x > 0) return;
        Ring<M::STAGES> ring;
        u32 q_parity = 0;
        for (int round = 0, item = item_of(0); item < num_items; item = item_of(++round), q_parity ^= 1) {
            const Tile tile = read_tile(tiles, item / num_heads);
            const int head = item % num_heads, kv_head = head / group;
            mbarrier_wait(barrier(M::Q_EMPTY), q_parity ^ 1);
            mbarrier_arrive_expect(barrier(M::Q_FULL), M::TILE);
            load_tile<HEAD_DIM, ROWS>(base + M::Q, q_map, barrier(M::Q_FULL), tile.first, head);
            for (int key_first = tile.start; key_first <= tile.first; key_first += KEYS, ring.advance()) {
                const int stage = ring.stage;
                mbarrier_wait(barrier(M::K_EMPTY + stage), ring.parity ^ 1);
                mbarrier_arrive_expect(barrier(M::K_FULL + stage), M::TILE);
                load_tile<HEAD_DIM, KEYS>(base + M::K + stage * M::TILE, k_map, barrier(M::K_FULL + stage), key_first,
                                          kv_head);
                mbarrier_wait(barrier(M::V_EMPTY + stage), ring.parity ^ 1);
                mbarrier_arrive_expect(barrier(M::V_FULL + stage), M::TILE);
                load_tile<HEAD_DIM, KEYS>(base + M::V + stage * M::TILE, v_map, barrier(M::V_FULL + stage), key_first,
                                          kv_head);
            }
        }
        return;
    }

    registers_raise<REGISTERS_CONSUMER>();
    const Place place = place_of_thread();
    const int lane = place.lane;
    const float factor = scale * LOG2_E;
    auto take_turn = [&] { barrier_sync(TURN + place.consumer, CONSUMERS); };
    auto give_turn = [&] { barrier_arrive(TURN + (place.consumer ^ 1), CONSUMERS); };
    if (place.consumer == 1) give_turn();
    Ring<M::STAGES> k_ring, v_ring;
    u32 q_parity = 0;
    float sum[HEAD_DIM / 2], score[KEYS / 2], best[2], total[2], shrink[2];
    u32 probability[KEYS / 16][4];

    // Scores become probabilities relative to the new maximum; sums of older ones are to shrink.
    auto softmax = [&](bool is_diagonal) {
        if (is_diagonal) {
            // how far this thread's first row is past its first key
            const int ahead = place.row() - (lane & 3) * 2 + SEEDED_BUG(MASK_OFF_BY_ONE);
            UNROLL
            for (int i = 0; i < KEYS / 2; i++)
                if ((i >> 2) * 8 + (i & 1) > ahead + ((i >> 1) & 1) * 8) score[i] = -INFINITY;
        }
        UNROLL
        for (int h = 0; h < 2; h++) {
            float largest = best[h];
            UNROLL
            for (int i = 2 * h; i < KEYS / 2; i += 4) largest = fmaxf(largest, fmaxf(score[i], score[i + 1]));
            largest = quad_max(largest);
            const float subtracted = largest == -INFINITY ? 0.f : largest * factor;
            shrink[h] = exp2_approx(best[h] * factor - subtracted);
            best[h] = largest;
            float row_sum = 0.f;
            UNROLL
            for (int i = 2 * h; i < KEYS / 2; i += 4) {
                score[i] = exp2_approx(score[i] * factor - subtracted);
                score[i + 1] = exp2_approx(score[i + 1] * factor - subtracted);
                row_sum += score[i] + score[i + 1];
            }
            total[h] = total[h] * shrink[h] + row_sum;
        }
    };
    auto start_scores = [&] {
        mbarrier_wait(barrier(M::K_FULL + k_ring.stage), SEEDED_BUG(WRONG_PARITY) ? k_ring.parity ^ 1 : k_ring.parity);
        pin(score);
        wgmma_fence();
        start_rows_product<HEAD_DIM, ROWS, KEYS>(score, base + M::Q + place.consumer * HALF,
                                                 base + M::K + k_ring.stage * M::TILE);
    };
    auto start_output = [&] {
        mbarrier_wait(barrier(M::V_FULL + v_ring.stage), v_ring.parity);
        pin(sum);
        pin(probability);
        wgmma_fence();
        start_columns_product<HEAD_DIM, KEYS / 16>(sum, probability, base + M::V + v_ring.stage * M::TILE);
    };

    for (int round = 0, item = item_of(0); item < num_items; item = item_of(++round), q_parity ^= 1) {
        const Tile tile = read_tile(tiles, item / num_heads);
        const int head = item % num_heads, steps = (tile.first - tile.start) / KEYS + 1;
        clear(sum);
        best[0] = best[1] = -INFINITY;
        total[0] = total[1] = 0.f;

        mbarrier_wait(barrier(M::Q_FULL), q_parity);
        take_turn();
        start_scores();
        give_turn();
        wgmma_wait<0>();
        pin(score);
        release(barrier(M::K_EMPTY + k_ring.stage), lane);
        k_ring.advance();
        softmax(steps == 1);
        round_to_operand(probability, score);
        for (int step = 1; step < steps; step++) {
            take_turn();
            start_scores();
            start_output();
            give_turn();
            if (SEEDED_BUG(RELEASED_EARLY)) release(barrier(M::V_EMPTY + v_ring.stage), lane);
            if (!SEEDED_BUG(WEAK_WAIT))
                wgmma_wait<1>(); // the scores are there, the output of the step before is under way
            else
                wgmma_wait<2>();
            pin(score);
            release(barrier(M::K_EMPTY + k_ring.stage), lane);
            k_ring.advance();
            softmax(step == steps - 1);
            wgmma_wait<0>();
            pin(sum);
            if (!SEEDED_BUG(RELEASED_EARLY)) release(barrier(M::V_EMPTY + v_ring.stage), lane);
            v_ring.advance();
            UNROLL
            for (int i = 0; i < HEAD_DIM / 2; i++) sum[i] *= shrink[(i >> 1) & 1];
            round_to_operand(probability, score);
        }
        release(barrier(M::Q_EMPTY), lane);
        const int keys_left = tile.end - tile.first;
        if (keys_left < KEYS && !SEEDED_BUG(NO_ZERO_ROWS)) {
            mbarrier_wait(barrier(M::V_FULL + v_ring.stage), v_ring.parity);
            clear_rows<HEAD_DIM, KEYS>(base + M::V + v_ring.stage * M::TILE, keys_left, place.thread);
            if (!SEEDED_BUG(MISSING_BARRIER)) barrier_sync(CLEARED, CONSUMERS);
        }
        take_turn();
        start_output();
        give_turn();
        wgmma_wait<0>();
        pin(sum);
        release(barrier(M::V_EMPTY + v_ring.stage), lane);
        v_ring.advance();

        UNROLL
        for (int h = 0; h < 2; h++) {
            const int row = tile.first + place.row() + h * 8;
            const bool inside = row < tile.end;
            const float whole = quad_sum(total[h]);
            // A row without keys has output 0 and lse +infinity, which makes its probabilities 0 in the backward pass.
            const float inverse = whole > 0.f ? 1.f / whole : 0.f;
            const i64 place_of_row = (i64)row * num_heads + head;
            store_row<HEAD_DIM>(out + place_of_row * HEAD_DIM, sum, h, inverse, inside, lane);
            if (!inside) continue;
            if (out_f32) {
                UNROLL
                for (int n = 0; n < HEAD_DIM / 8; n++)
                    *(float2*)(out_f32 + place_of_row * HEAD_DIM + n * 8 +
                               (lane & 3) * 2) = {sum[4 * n + 2 * h] * inverse, sum[4 * n + 2 * h + 1] * inverse};
            }
            if ((lane & 3) == 0) lse[place_of_row] = whole > 0.f ? (best[h] * factor + log2f(whole)) * LN_2 : INFINITY;
        }
    }
    if (place.consumer == 0) take_turn(); // the turn that consumer 1 gave last
}

// ---- key gradient ----

template <int HEAD_DIM> struct KeyGradientMemory {
    static constexpr int QUERIES = 64, STAGES = 3, KV_TILE = Box<HEAD_DIM, ROWS>::TILE,
                         Q_TILE = Box<HEAD_DIM, QUERIES>::TILE;
    static constexpr int STATISTICS_TILE = QUERIES * 8; // pairs of f32
    static constexpr int K = 0, V = KV_TILE, Q = V + KV_TILE, DOUT = Q + STAGES * Q_TILE,
                         STATISTICS = DOUT + STAGES * Q_TILE, BARRIERS = STATISTICS + STAGES * STATISTICS_TILE,
                         BYTES = BARRIERS + BARRIER_BYTES + PATTERN;
    static constexpr int KV_FULL = 0, KV_EMPTY = 1, Q_FULL = 2, Q_EMPTY = Q_FULL + STAGES;
};

template <int HEAD_DIM>
DEVICE void key_gradient(const TensorMap* q_map, const TensorMap* dout_map, const TensorMap* k_map,
                         const TensorMap* v_map, const TensorMap* statistics_map, bf16* dk, bf16* dv,
                         const uint4* tiles, int num_tiles, int num_heads, int num_kv_heads, float scale) {
    using M = KeyGradientMemory<HEAD_DIM>;
    constexpr int QUERIES = M::QUERIES;
    DYNAMIC_SHARED(memory);
    const u32 base = (shared_address(memory) + PATTERN - 1) / PATTERN * PATTERN;
    auto barrier = [&](int number) { return base + M::BARRIERS + 8 * number; };
    const int num_items = num_tiles * num_kv_heads, group = num_heads / num_kv_heads;
    if (threadIdx.x == 0) {
        mbarrier_init(barrier(M::KV_FULL), 1);
        mbarrier_init(barrier(M::KV_EMPTY), CONSUMER_WARPS);
        for (int stage = 0; stage < M::STAGES; stage++) {
            mbarrier_init(barrier(M::Q_FULL + stage), 1);
            mbarrier_init(barrier(M::Q_EMPTY + stage), CONSUMER_WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();

    if (threadIdx.x < WARPGROUP) {
        registers_lower<REGISTERS_PRODUCER>();
        if (threadIdx.x > 0) return;
        Ring<M::STAGES> ring;
        u32 kv_parity = 0;
        for (int round = 0, item = item_of(0); item < num_items; item = item_of(++round), kv_parity ^= 1) {
            const Tile tile = read_tile(tiles, item / num_kv_heads);
            const int kv_head = item % num_kv_heads;
            mbarrier_wait(barrier(M::KV_EMPTY), kv_parity ^ 1);
            mbarrier_arrive_expect(barrier(M::KV_FULL), 2 * M::KV_TILE);
            load_tile<HEAD_DIM, ROWS>(base + M::K, k_map, barrier(M::KV_FULL), tile.first, kv_head);
            load_tile<HEAD_DIM, ROWS>(base + M::V, v_map, barrier(M::KV_FULL), tile.first, kv_head);
            for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
                for (int query_first = tile.first; query_first < tile.end; query_first += QUERIES, ring.advance()) {
                    const int stage = ring.stage;
                    const u32 full = barrier(M::Q_FULL + stage);
                    mbarrier_wait(barrier(M::Q_EMPTY + stage), ring.parity ^ 1);
                    mbarrier_arrive_expect(full, 2 * M::Q_TILE + M::STATISTICS_TILE);
                    load_tile<HEAD_DIM, QUERIES>(base + M::Q + stage * M::Q_TILE, q_map, full, query_first, head);
                    tensor_load_2d(base + M::STATISTICS + stage * M::STATISTICS_TILE, statistics_map, full,
                                   2 * query_first, head);
                    load_tile<HEAD_DIM, QUERIES>(base + M::DOUT + stage * M::Q_TILE, dout_map, full, query_first, head);
                }
        }
        return;
    }

    registers_raise<REGISTERS_CONSUMER>();
    const Place place = place_of_thread();
    const int lane = place.lane;
    const float factor = scale * LOG2_E;
    Ring<M::STAGES> ring;
    u32 kv_parity = 0;
    float dk_sum[HEAD_DIM / 2], dv_sum[HEAD_DIM / 2];
    u32 p_operand[QUERIES / 16][4], ds_operand[QUERIES / 16][4];

    for (int round = 0, item = item_of(0); item < num_items; item = item_of(++round), kv_parity ^= 1) {
        const Tile tile = read_tile(tiles, item / num_kv_heads);
        const int kv_head = item % num_kv_heads, consumer_first = tile.first + place.consumer * 64;
        const u32 k_rows = base + M::K + place.consumer * HALF, v_rows = base + M::V + place.consumer * HALF;
        clear(dk_sum);
        clear(dv_sum);
        mbarrier_wait(barrier(M::KV_FULL), kv_parity);
        int unreleased = -1; // the stage whose products may still be running
        for (int head = 0; head < group; head++)
            for (int query_first = tile.first; query_first < tile.end; query_first += QUERIES, ring.advance()) {
                const u32 q_tile = base + M::Q + ring.stage * M::Q_TILE,
                          dout_tile = base + M::DOUT + ring.stage * M::Q_TILE;
                const int queries_left = tile.end - query_first;
                mbarrier_wait(barrier(M::Q_FULL + ring.stage), ring.parity);
                if (queries_left < QUERIES && !SEEDED_BUG(NO_ZERO_ROWS)) {
                    clear_rows<HEAD_DIM, QUERIES>(q_tile, queries_left, place.thread);
                    clear_rows<HEAD_DIM, QUERIES>(dout_tile, queries_left, place.thread);
                    if (!SEEDED_BUG(MISSING_BARRIER)) barrier_sync(CLEARED, CONSUMERS);
                }
                if (query_first + QUERIES <= consumer_first) { // all before all keys of this consumer
                    release(barrier(M::Q_EMPTY + ring.stage), lane);
                    continue;
                }
                // Registers that nothing else wants yet: dp starts when the operands of the step before are no longer read.
                float p[QUERIES / 2], ds[QUERIES / 2];
                pin(p);
                wgmma_fence();
                start_rows_product<HEAD_DIM, ROWS, QUERIES>(p, k_rows, q_tile);
                wgmma_wait<1>();
                pin(dk_sum);
                pin(dv_sum);
                if (unreleased >= 0) release(barrier(M::Q_EMPTY + unreleased), lane);
                unreleased = ring.stage;
                pin(ds);
                wgmma_fence();
                start_rows_product<HEAD_DIM, ROWS, QUERIES>(ds, v_rows, dout_tile);
                if (!SEEDED_BUG(WEAK_WAIT))
                    wgmma_wait<1>(); // the scores
                else
                    wgmma_wait<2>();
                pin(p);

                const float4* pairs =
                    shared_pointer<const float4>(base + M::STATISTICS + ring.stage * M::STATISTICS_TILE) + (lane & 3);
                const bool edge = query_first < consumer_first + 63 || queries_left < QUERIES;
                // this thread's first key relative to its first query
                const int ahead = tile.first + place.row() - query_first - (lane & 3) * 2 + SEEDED_BUG(MASK_OFF_BY_ONE);
                const int left = queries_left - (lane & 3) * 2;
                auto is_masked = [&](int i) {
                    const int query = (i >> 2) * 8 + (i & 1);
                    return query < ahead + ((i >> 1) & 1) * 8 || query >= left;
                };
                UNROLL
                for (int n = 0; n < QUERIES / 8; n++) {
                    const float4 pair = pairs[n * 4]; // of two neighbouring queries
                    UNROLL
                    for (int i = 4 * n; i < 4 * n + 4; i++)
                        p[i] = exp2_approx(p[i] * factor - (i & 1 ? pair.z : pair.x));
                }
                if (edge) {
                    UNROLL
                    for (int i = 0; i < QUERIES / 2; i++)
                        if (is_masked(i)) p[i] = 0.f;
                }
                wgmma_wait<0>(); // dp
                pin(ds);
                UNROLL
                for (int n = 0; n < QUERIES / 8; n++) {
                    const float4 pair = pairs[n * 4];
                    UNROLL
                    for (int i = 4 * n; i < 4 * n + 4; i++) ds[i] = p[i] * (ds[i] - (i & 1 ? pair.w : pair.y));
                }
                if (edge) {
                    UNROLL
                    for (int i = 0; i < QUERIES / 2; i++)
                        if (is_masked(i)) ds[i] = 0.f; // the statistics of another document may be anything
                }
                round_to_operand(p_operand, p);
                round_to_operand(ds_operand, ds);
                pin(p_operand);
                pin(ds_operand);
                pin(dv_sum);
                pin(dk_sum);
                wgmma_fence();
                start_columns_product<HEAD_DIM, QUERIES / 16>(dv_sum, p_operand, dout_tile);
                start_columns_product<HEAD_DIM, QUERIES / 16>(dk_sum, ds_operand, q_tile);
                if (SEEDED_BUG(RELEASED_EARLY)) {
                    release(barrier(M::Q_EMPTY + ring.stage), lane);
                    unreleased = -1;
                }
            }
        wgmma_wait<0>();
        pin(dk_sum);
        pin(dv_sum);
        if (unreleased >= 0) release(barrier(M::Q_EMPTY + unreleased), lane);
        release(barrier(M::KV_EMPTY), lane);

        UNROLL
        for (int h = 0; h < 2; h++) {
            const int row = tile.first + place.row() + h * 8;
            const i64 at = ((i64)row * num_kv_heads + kv_head) * HEAD_DIM;
            store_row<HEAD_DIM>(dk + at, dk_sum, h, scale, row < tile.end, lane);
            store_row<HEAD_DIM>(dv + at, dv_sum, h, 1.f, row < tile.end, lane);
        }
    }
}

// ---- query gradient ----

template <int HEAD_DIM> struct QueryGradientMemory {
    static constexpr int KEYS = 128, STAGES = 2, TILE = Box<HEAD_DIM, ROWS>::TILE;
    static constexpr int Q = 0, DOUT = TILE, K = 2 * TILE, V = K + STAGES * TILE, BARRIERS = V + STAGES * TILE,
                         BYTES = BARRIERS + BARRIER_BYTES + PATTERN;
    static constexpr int Q_FULL = 0, Q_EMPTY = 1, K_FULL = 2, K_EMPTY = K_FULL + STAGES;
};

template <int HEAD_DIM> DEVICE void query_gradient(const TensorMap* q_map, const TensorMap* dout_map,
                                                   const TensorMap* k_map, const TensorMap* v_map, bf16* dq,
                                                   const float2* statistics, const uint4* tiles, int num_tiles,
                                                   int num_heads, int num_kv_heads, int pitch, float scale) {
    using M = QueryGradientMemory<HEAD_DIM>;
    constexpr int KEYS = M::KEYS;
    static_assert(KEYS == ROWS, "only the last tile of keys meets the diagonal");
    DYNAMIC_SHARED(memory);
    const u32 base = (shared_address(memory) + PATTERN - 1) / PATTERN * PATTERN;
    auto barrier = [&](int number) { return base + M::BARRIERS + 8 * number; };
    const int num_items = num_tiles * num_heads, group = num_heads / num_kv_heads;
    if (threadIdx.x == 0) {
        mbarrier_init(barrier(M::Q_FULL), 1);
        mbarrier_init(barrier(M::Q_EMPTY), CONSUMER_WARPS);
        for (int stage = 0; stage < M::STAGES; stage++) {
            mbarrier_init(barrier(M::K_FULL + stage), 1);
            mbarrier_init(barrier(M::K_EMPTY + stage), CONSUMER_WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();

    if (threadIdx.x < WARPGROUP) {
        registers_lower<REGISTERS_PRODUCER>();
        if (threadIdx.x > 0) return;
        Ring<M::STAGES> ring;
        u32 q_parity = 0;
        for (int round = 0, item = item_of(0); item < num_items; item = item_of(++round), q_parity ^= 1) {
            const Tile tile = read_tile(tiles, item / num_heads);
            const int head = item % num_heads, kv_head = head / group;
            mbarrier_wait(barrier(M::Q_EMPTY), q_parity ^ 1);
            mbarrier_arrive_expect(barrier(M::Q_FULL), 2 * M::TILE);
            load_tile<HEAD_DIM, ROWS>(base + M::Q, q_map, barrier(M::Q_FULL), tile.first, head);
            load_tile<HEAD_DIM, ROWS>(base + M::DOUT, dout_map, barrier(M::Q_FULL), tile.first, head);
            for (int key_first = tile.start; key_first <= tile.first; key_first += KEYS, ring.advance()) {
                const int stage = ring.stage;
                mbarrier_wait(barrier(M::K_EMPTY + stage), ring.parity ^ 1);
                mbarrier_arrive_expect(barrier(M::K_FULL + stage), 2 * M::TILE);
                load_tile<HEAD_DIM, KEYS>(base + M::K + stage * M::TILE, k_map, barrier(M::K_FULL + stage), key_first,
                                          kv_head);
                load_tile<HEAD_DIM, KEYS>(base + M::V + stage * M::TILE, v_map, barrier(M::K_FULL + stage), key_first,
                                          kv_head);
            }
        }
        return;
    }

    registers_raise<REGISTERS_CONSUMER>();
    const Place place = place_of_thread();
    const int lane = place.lane;
    const float factor = scale * LOG2_E;
    Ring<M::STAGES> ring;
    u32 q_parity = 0;
    float dq_sum[HEAD_DIM / 2];
    u32 ds_operand[KEYS / 16][4];

    for (int round = 0, item = item_of(0); item < num_items; item = item_of(++round), q_parity ^= 1) {
        const Tile tile = read_tile(tiles, item / num_heads);
        const int head = item % num_heads;
        float2 of_row[2];
        UNROLL
        for (int h = 0; h < 2; h++) {
            const int row = tile.first + place.row() + h * 8;
            const float2 none = {INFINITY, 0.f};
            of_row[h] = row < tile.end ? statistics[(i64)head * pitch + row] : none;
        }
        clear(dq_sum);
        mbarrier_wait(barrier(M::Q_FULL), q_parity);
        int unreleased = -1; // the stage whose product may still be running
        for (int key_first = tile.start; key_first <= tile.first; key_first += KEYS, ring.advance()) {
            const u32 k_tile = base + M::K + ring.stage * M::TILE, v_tile = base + M::V + ring.stage * M::TILE;
            const int keys_left = tile.end - key_first;
            mbarrier_wait(barrier(M::K_FULL + ring.stage), ring.parity);
            if (keys_left < KEYS && !SEEDED_BUG(NO_ZERO_ROWS)) {
                clear_rows<HEAD_DIM, KEYS>(k_tile, keys_left, place.thread);
                if (!SEEDED_BUG(MISSING_BARRIER)) barrier_sync(CLEARED, CONSUMERS);
            }
            // As in the key gradient, dp starts when the operand of the step before is no longer read.
            float p[KEYS / 2], ds[KEYS / 2];
            pin(p);
            wgmma_fence();
            start_rows_product<HEAD_DIM, ROWS, KEYS>(p, base + M::Q + place.consumer * HALF, k_tile);
            wgmma_wait<1>();
            pin(dq_sum);
            if (unreleased >= 0) release(barrier(M::K_EMPTY + unreleased), lane);
            unreleased = ring.stage;
            pin(ds);
            wgmma_fence();
            start_rows_product<HEAD_DIM, ROWS, KEYS>(ds, base + M::DOUT + place.consumer * HALF, v_tile);
            if (!SEEDED_BUG(WEAK_WAIT))
                wgmma_wait<1>(); // the scores
            else
                wgmma_wait<2>();
            pin(p);
            UNROLL
            for (int i = 0; i < KEYS / 2; i++) p[i] = exp2_approx(p[i] * factor - of_row[(i >> 1) & 1].x);
            wgmma_wait<0>(); // dp
            pin(ds);
            UNROLL
            for (int i = 0; i < KEYS / 2; i++) ds[i] = p[i] * (ds[i] - of_row[(i >> 1) & 1].y);
            if (key_first == tile.first) {
                const int ahead = place.row() - (lane & 3) * 2 + SEEDED_BUG(MASK_OFF_BY_ONE);
                UNROLL
                for (int i = 0; i < KEYS / 2; i++)
                    if ((i >> 2) * 8 + (i & 1) > ahead + ((i >> 1) & 1) * 8) ds[i] = 0.f;
            }
            round_to_operand(ds_operand, ds);
            pin(ds_operand);
            pin(dq_sum);
            wgmma_fence();
            start_columns_product<HEAD_DIM, KEYS / 16>(dq_sum, ds_operand, k_tile);
            if (SEEDED_BUG(RELEASED_EARLY)) {
                release(barrier(M::K_EMPTY + ring.stage), lane);
                unreleased = -1;
            }
        }
        wgmma_wait<0>();
        pin(dq_sum);
        if (unreleased >= 0) release(barrier(M::K_EMPTY + unreleased), lane);
        release(barrier(M::Q_EMPTY), lane);
        UNROLL
        for (int h = 0; h < 2; h++) {
            const int row = tile.first + place.row() + h * 8;
            store_row<HEAD_DIM>(dq + ((i64)row * num_heads + head) * HEAD_DIM, dq_sum, h, scale, row < tile.end, lane);
        }
    }
}

} // namespace

// ---- entries ----

#ifndef ATTENTION_WITHOUT_ENTRIES
#define MAP const __grid_constant__ TensorMap
#define ATTENTION_KERNELS(E)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        attention_forward_sm90_d##E(MAP q_map, MAP k_map, MAP v_map, bf16* out, float* out_f32, float* lse,            \
                                    const uint4* tiles, int num_tiles, int num_heads, int num_kv_heads, float scale) { \
        forward<E>(&q_map, &k_map, &v_map, out, out_f32, lse, tiles, num_tiles, num_heads, num_kv_heads, scale);       \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_forward_sm90_d##E);                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_key_gradient_sm90_d##E(                         \
        MAP q_map, MAP dout_map, MAP k_map, MAP v_map, MAP statistics_map, bf16* dk, bf16* dv, const uint4* tiles,     \
        int num_tiles, int num_heads, int num_kv_heads, float scale) {                                                 \
        key_gradient<E>(&q_map, &dout_map, &k_map, &v_map, &statistics_map, dk, dv, tiles, num_tiles, num_heads,       \
                        num_kv_heads, scale);                                                                          \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_key_gradient_sm90_d##E);                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_query_gradient_sm90_d##E(                       \
        MAP q_map, MAP dout_map, MAP k_map, MAP v_map, bf16* dq, const float2* statistics, const uint4* tiles,         \
        int num_tiles, int num_heads, int num_kv_heads, int pitch, float scale) {                                      \
        query_gradient<E>(&q_map, &dout_map, &k_map, &v_map, dq, statistics, tiles, num_tiles, num_heads,              \
                          num_kv_heads, pitch, scale);                                                                 \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_query_gradient_sm90_d##E);

ATTENTION_KERNELS(64)
ATTENTION_KERNELS(128)
#endif
