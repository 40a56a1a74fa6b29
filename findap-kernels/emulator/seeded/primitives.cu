// Small kernels that test the emulator: each has an argument `bug` that puts a mistake in. 0 is the right kernel.

constexpr int TILE = 64, PADDED = TILE + 8;

enum Bug {
    NONE,
    MISSING_BARRIER,
    MISSING_WARP_BARRIER,
    WEAK_COPY_WAIT,
    EARLY_OVERWRITE,
    STORE_PAST_THE_END,
    LOAD_PAST_THE_END,
    SHARED_PAST_THE_END,
    DIVERGENT_BARRIER,
    BARRIER_AFTER_EXIT,
    DIVERGENT_SHUFFLE,
    UNWRITTEN_SHARED,
    TWO_BLOCKS_WRITE,
    BLOCK_READS_BLOCK,
    WRONG_FRAGMENT,
    MISALIGNED_STORE,
    LOCAL_INDEX,
};

// y[i] = sum of x over the block of 128 that holds i, plus 1 for each lane below it.
extern "C" __global__ void __launch_bounds__(128) seeded_sum(const float* x, float* y, int bug) {
    SHARED_ARRAY(float, numbers, 128);
    SHARED_ARRAY(float, pairs, 64);
    const int t = threadIdx.x, i = blockIdx.x * 128 + t;
    if (bug != UNWRITTEN_SHARED || t != 5) numbers[t] = x[bug == LOAD_PAST_THE_END ? i + 1 : i];
    if (bug == SHARED_PAST_THE_END) *(&numbers[t] + 128) = 0.0f;
    if (bug == BARRIER_AFTER_EXIT && t == 127) return;
    if (bug == DIVERGENT_BARRIER && t < 64) {
        __syncthreads();
    } else if (bug != MISSING_BARRIER) {
        __syncthreads();
    }
    if (t < 64) pairs[t] = numbers[t] + numbers[127 - t];
    __syncthreads();
    float sum = 0.0f;
    for (int j = 0; j < 64; j++)
        sum += pairs[j];
    // each warp passes its sum on through its own slice of `numbers`
    numbers[t] = sum;
    if (bug != MISSING_WARP_BARRIER) __syncwarp();
    sum = numbers[t ^ 1];
    float below = 1.0f;
    if (bug == DIVERGENT_SHUFFLE && t % 2) {
        below = __shfl_up_sync(ALL_LANES, below, 1);
    } else {
        below = __shfl_sync(ALL_LANES, (float)(t % 32), t % 32);
    }
    if (bug == BLOCK_READS_BLOCK && blockIdx.x != 0) sum += y[0];
    float local[4] = {sum, below, 0.0f, 0.0f};
    const int last = bug == LOCAL_INDEX ? 4 + t % 2 : 1;
    y[bug == STORE_PAST_THE_END ? i + 1 : bug == TWO_BLOCKS_WRITE ? t : i] = local[0] + local[last];
    if (bug == MISALIGNED_STORE) store_floats(y + 1, local);
}
KERNEL_ENTRY(seeded_sum);

// d[64][64] = a[64][64 steps] b[64 steps][64], all row-major, a and b bf16: two stages of copies, four warps of 16 rows each.
extern "C" __global__ void __launch_bounds__(128)
    seeded_product(const bf16* a, const bf16* b, float* d, int steps, int bug) {
    DYNAMIC_SHARED(memory);
    bf16* tiles = (bf16*)memory; // [2 stages][a, b][TILE][PADDED]
    const int t = threadIdx.x, warp = t / 32, lane = t % 32;
    auto tile = [&](int stage, int which) { return tiles + (stage * 2 + which) * TILE * PADDED; };
    auto fetch = [&](int step) {
        const int stage = step % 2;
        for (int chunk = t; chunk < TILE * TILE / 8; chunk += 128) {
            const int row = chunk / 8, column = chunk % 8 * 8;
            copy_async_16(tile(stage, 0) + row * PADDED + column, a + row * (TILE * steps) + step * TILE + column);
            copy_async_16(tile(stage, 1) + row * PADDED + column, b + (step * TILE + row) * TILE + column);
        }
        copy_async_commit();
    };
    float sum[8][4] = {};
    fetch(0);
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) fetch(step + 1);
        if (bug == WEAK_COPY_WAIT || step + 1 < steps) {
            copy_async_wait<1>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
        for (int k = 0; k < TILE; k += 16) {
            u32 x[4], y[4];
            ldmatrix_x4(x, tile(step % 2, 0) + (warp * 16 + lane % 16) * PADDED + k + lane / 16 * 8);
            for (int n = 0; n < TILE; n += 16) {
                ldmatrix_x4_trans(y, tile(step % 2, 1) + (k + lane % 16) * PADDED + n + lane / 16 * 8);
                const u32 left[2] = {y[0], bug == WRONG_FRAGMENT ? y[2] : y[1]}, right[2] = {y[2], y[3]};
                mma_m16n8k16(sum[n / 8], x, left);
                mma_m16n8k16(sum[n / 8 + 1], x, right);
            }
        }
        if (bug != EARLY_OVERWRITE) __syncthreads();
    }
    for (int n = 0; n < 8; n++) {
        for (int i = 0; i < 4; i++)
            d[(warp * 16 + lane / 4 + i / 2 * 8) * TILE + n * 8 + lane % 4 * 2 + i % 2] = sum[n][i];
    }
}
KERNEL_ENTRY(seeded_product);
