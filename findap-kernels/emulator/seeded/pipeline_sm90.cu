// Hopper kernels that test the emulator; `bug` puts a mistake in, 0 is right. All numbers are small integers or halves of
// them, so a right result is exact.

constexpr int ROW = 128;         // bytes of a swizzled row: 64 bf16
constexpr int PATTERN = 8 * ROW; // bytes after which the swizzle repeats
constexpr int STAGES = 2, WARPGROUP = 128, CONSUMER_WARPS = 8;
constexpr int Q_BYTES = 128 * ROW, TILE_BYTES = 64 * ROW;

enum Bug {
    NONE,
    DESCRIPTOR_WITHOUT_SWIZZLE,
    FULL_PARITY,
    EMPTY_PARITY,
    NO_PRODUCT_WAIT,
    EXPECT_LESS,
    EXPECT_MORE,
    NO_EMPTY_WAIT,
    FIRST_RELEASED_EARLY,
    V_NOT_TRANSPOSED,
    V_STRIDES_SWAPPED,
    NO_PRODUCT_FENCE,
    SCALED_IN_FLIGHT,
    EMPTY_COUNT,
    NOT_ALIGNED,
    NO_SYNC_AFTER_INIT,
    NO_FULL_WAIT,
    NO_ASYNC_FENCE,
    NO_BULK_WAIT,
    BARRIER_COUNT,
    K_STEP,
    WAIT_TOO_WEAK,
    V_RELEASED_EARLY,
    V_PARITY_CONSTANT,
    WRONG_EXCHANGE,
    ONE_FENCES_FOR_ALL,
    NO_INIT_FENCE,
};

enum Barrier {
    Q_FULL = 0,
    K_FULL = 1,
    V_FULL = K_FULL + STAGES,
    K_EMPTY = V_FULL + STAGES,
    V_EMPTY = K_EMPTY + STAGES,
};

// o[128][64] <- o / 2 + (q k^T) v over tiles of 64 keys: a producer warp group loads, two consumers have 64 rows each. The
// product with v runs under the next product with k.
extern "C" __global__ void __launch_bounds__(384, 1)
    seeded_pipeline(const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
                    const __grid_constant__ TensorMap v, float* o, int tiles, int bug) {
    DYNAMIC_SHARED(memory);
    u32 base = shared_address(memory);
    if (bug != NOT_ALIGNED) base = (base + PATTERN - 1) / PATTERN * PATTERN;
    const int t = threadIdx.x, group = t / WARPGROUP, warp = t % WARPGROUP / 32, lane = t % 32;
    auto k_tile = [&](int stage) { return base + Q_BYTES + stage * TILE_BYTES; };
    auto v_tile = [&](int stage) { return base + Q_BYTES + (STAGES + stage) * TILE_BYTES; };
    auto barrier = [&](int which) { return base + Q_BYTES + 2 * STAGES * TILE_BYTES + 8 * which; };
    if (t == 0) {
        mbarrier_init(barrier(Q_FULL), 1);
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(barrier(K_FULL + stage), 1);
            mbarrier_init(barrier(V_FULL + stage), 1);
            mbarrier_init(barrier(K_EMPTY + stage), bug == EMPTY_COUNT ? 4 : CONSUMER_WARPS);
            mbarrier_init(barrier(V_EMPTY + stage), CONSUMER_WARPS);
        }
        if (bug != NO_INIT_FENCE) mbarrier_init_fence();
    }
    if (bug != NO_SYNC_AFTER_INIT) __syncthreads();
    if (group == 0) {
        registers_lower<40>();
        if (t != 0) return;
        auto load = [&](u32 to, const TensorMap* map, int full, int bytes, int row) {
            const int expected = bug == EXPECT_LESS ? bytes / 2 : bug == EXPECT_MORE ? bytes + 16 : bytes;
            mbarrier_arrive_expect(barrier(full), expected);
            tensor_load_2d(to, map, barrier(full), 0, row);
        };
        load(base, &q, Q_FULL, Q_BYTES, 0);
        for (int tile = 0; tile < tiles; tile++) {
            const int stage = tile % STAGES;
            const u32 parity = (tile / STAGES + (bug == EMPTY_PARITY ? 0 : 1)) % 2;
            if (bug != NO_EMPTY_WAIT) mbarrier_wait(barrier(K_EMPTY + stage), parity);
            load(k_tile(stage), &k, K_FULL + stage, TILE_BYTES, tile * 64);
            mbarrier_wait(barrier(V_EMPTY + stage), parity);
            load(v_tile(stage), &v, V_FULL + stage, TILE_BYTES, tile * 64);
        }
        return;
    }
    registers_raise<232>();
    const u32 q_rows = base + (group - 1) * 64 * ROW;
    float sum[32] = {}, scores[32] = {}, ready[32];
    u32 packed[4][4];
    auto product_with_k = [&](int tile) {
        const int stage = tile % STAGES;
        if (bug != NO_FULL_WAIT)
            mbarrier_wait(barrier(K_FULL + stage), (tile / STAGES + (bug == FULL_PARITY ? 1 : 0)) % 2);
        pin(scores);
        if (bug != NO_PRODUCT_FENCE) wgmma_fence();
        const u64 swizzle = bug == DESCRIPTOR_WITHOUT_SWIZZLE ? SWIZZLE_NONE : SWIZZLE_128B;
        UNROLL
        for (int step = 0; step < 4; step++) {
            const u32 in_row = step * (bug == K_STEP ? 16 : 32);
            wgmma_ss<64, 0, 0>(scores, matrix_descriptor(q_rows + in_row, 16, PATTERN, swizzle),
                               matrix_descriptor(k_tile(stage) + in_row, 16, PATTERN, swizzle), step > 0);
        }
        wgmma_commit();
    };
    auto product_with_v = [&](int tile) {
        const int stage = tile % STAGES;
        mbarrier_wait(barrier(V_FULL + stage), bug == V_PARITY_CONSTANT ? 0 : tile / STAGES % 2);
        pin(sum);
        pin(packed);
        wgmma_fence();
        UNROLL
        for (int step = 0; step < 4; step++) {
            const u32 at = v_tile(stage) + step * 2 * PATTERN;
            const u64 b = bug == V_STRIDES_SWAPPED ? matrix_descriptor(at, PATTERN, 512)
                                                   : matrix_descriptor(at, TILE_BYTES, PATTERN);
            if (bug == V_NOT_TRANSPOSED) {
                wgmma_rs<64, 0>(sum, packed[step], b, true);
            } else {
                wgmma_rs<64, 1>(sum, packed[step], b, true);
            }
        }
        wgmma_commit();
    };
    auto take_scores = [&] {
        for (int i = 0; i < 32; i++)
            ready[i] = scores[i];
    };
    auto pack = [&] {
        for (int step = 0; step < 4; step++) {
            for (int r = 0; r < 4; r++)
                packed[step][r] = pack_bf16(ready[8 * step + 2 * r], ready[8 * step + 2 * r + 1]);
        }
    };
    auto halve = [&] {
        for (int i = 0; i < 32; i++)
            sum[i] *= 0.5f;
    };
    auto release = [&](int which) {
        if (lane == 0) mbarrier_arrive(barrier(which));
    };
    mbarrier_wait(barrier(Q_FULL), 0);
    product_with_k(0);
    if (bug == FIRST_RELEASED_EARLY) release(K_EMPTY);
    if (bug != NO_PRODUCT_WAIT) wgmma_wait<0>();
    pin(scores);
    if (bug != FIRST_RELEASED_EARLY) release(K_EMPTY);
    take_scores();
    pack();
    for (int tile = 1; tile < tiles; tile++) {
        product_with_k(tile);
        product_with_v(tile - 1);
        if (bug == WAIT_TOO_WEAK) {
            wgmma_wait<2>();
        } else {
            wgmma_wait<1>();
        }
        pin(scores);
        release(K_EMPTY + tile % STAGES);
        take_scores();
        if (bug == SCALED_IN_FLIGHT) halve();
        if (bug == V_RELEASED_EARLY) release(V_EMPTY + (tile - 1) % STAGES);
        wgmma_wait<0>();
        pin(sum);
        if (bug != V_RELEASED_EARLY) release(V_EMPTY + (tile - 1) % STAGES);
        if (bug != SCALED_IN_FLIGHT) halve();
        pack();
    }
    product_with_v(tiles - 1);
    wgmma_wait<0>();
    pin(sum);
    for (int i = 0; i < 32; i++) {
        const int row = (group - 1) * 64 + warp * 16 + lane / 4 + 8 * (i / 2 % 2),
                  column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
        o[row * 64 + column] = sum[i];
    }
}
KERNEL_ENTRY(seeded_pipeline);

// d[64][64] += p^T x, 64 rows of each a block: p is stored by plain stores in the swizzled layout and read M-major, x comes by a
// tensor copy and is read N-major, the sum goes out by bulk additions of the halves of the rows.
extern "C" __global__ void __launch_bounds__(128)
    seeded_transposed(const float* p, const __grid_constant__ TensorMap x, float* d, int bug) {
    DYNAMIC_SHARED(memory);
    const u32 base = (shared_address(memory) + PATTERN - 1) / PATTERN * PATTERN;
    const u32 p_at = base, x_at = base + TILE_BYTES, d_at = x_at + TILE_BYTES, full = d_at + 64 * 64 * 4;
    const int t = threadIdx.x, warp = t / 32, lane = t % 32;
    if (t == 0) {
        mbarrier_init(full, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(full, TILE_BYTES);
        tensor_load_2d(x_at, &x, full, 0, blockIdx.x * 64);
    }
    for (int chunk = t % 2 * 4; chunk < t % 2 * 4 + 4; chunk++) {
        const int row = t / 2;
        const float* from = p + ((i64)blockIdx.x * 64 + row) * 64 + chunk * 8;
        const int place = chunk ^ (bug == WRONG_EXCHANGE ? row & 3 : row & 7);
        *shared_pointer<uint4>(p_at + row * ROW + place * 16) =
            make_uint4(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]), pack_bf16(from[4], from[5]),
                       pack_bf16(from[6], from[7]));
    }
    if (bug != NO_ASYNC_FENCE && bug != ONE_FENCES_FOR_ALL) async_fence();
    __syncthreads();
    if (bug == ONE_FENCES_FOR_ALL && t == 0) async_fence();
    mbarrier_wait(full, 0);
    float sum[32] = {};
    pin(sum);
    wgmma_fence();
    UNROLL
    for (int step = 0; step < 4; step++) {
        wgmma_ss<64, 1, 1>(sum, matrix_descriptor(p_at + step * 2 * PATTERN, TILE_BYTES, PATTERN),
                           matrix_descriptor(x_at + step * 2 * PATTERN, TILE_BYTES, PATTERN), step > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin(sum);
    float* out = shared_pointer<float>(d_at);
    for (int i = 0; i < 32; i++) {
        out[(warp * 16 + lane / 4 + 8 * (i / 2 % 2)) * 64 + 8 * (i / 4) + 2 * (lane % 4) + i % 2] = sum[i];
    }
    async_fence();
    const int half = t / 64; // each half of the warps has stored half of the rows
    barrier_sync(1 + half, bug == BARRIER_COUNT ? 128 : 64);
    if (t % 64 == 0) {
        bulk_add_f32(d + half * 32 * 64, d_at + half * 32 * 64 * 4, 32 * 64 * 4);
        bulk_commit();
        if (bug != NO_BULK_WAIT) bulk_wait<0>();
    }
}
KERNEL_ENTRY(seeded_transposed);

// Copies one box to `y` without undoing the swizzle, [rows][64] of 16-bit numbers: what a tensor copy leaves behind.
extern "C" __global__ void __launch_bounds__(32)
    seeded_box(const __grid_constant__ TensorMap x, u32* y, int rows, int c0, int c1) {
    DYNAMIC_SHARED(memory);
    const u32 base = (shared_address(memory) + PATTERN - 1) / PATTERN * PATTERN, full = base + rows * ROW;
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(full, rows * ROW);
        tensor_load_2d(base, &x, full, c0, c1);
    }
    __syncthreads();
    mbarrier_wait(full, 0);
    for (int i = threadIdx.x; i < rows * ROW / 4; i += 32)
        y[i] = shared_pointer<u32>(base)[i];
}
KERNEL_ENTRY(seeded_box);
