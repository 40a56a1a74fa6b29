// The loss on one chunk of logits, and their gradient in place:
//
// lse[t] = ln sum_j exp(x[t, j]),  logp[t] = x[t, target[t]] - lse[t],  x[t, j] <- w[t] ([j = target[t]] - exp(x[t, j] - lse[t]))
//
// Row i of the logits is of token t = tokens[i], or i where no list is given: rows without loss need no logits.
// One block a row. First reading: each thread keeps the largest logit so far and the sum of exponentials relative to it; the
// block joins them in one order. Second reading: the gradient, from the cache where the row fits. Rows may be longer than the
// vocabulary (`pitch`, a multiple of 8): what lies behind it is not read and gets the gradient 0. A row without loss (target
// 0xffffffff, or weight 0 going backward) is not read; its gradient is 0. Shared memory: 256 static bytes.
// Limit: memory. Bytes a logit, bf16: forward 2, both 4 (6 where the row leaves the cache).

constexpr u32 IGNORE = 0xffffffffu;

enum Pass : u32 {
    FORWARD = 1,  // lse and logp are written
    BACKWARD = 2, // logits become gradients; without FORWARD, lse is read
};

// The largest of some numbers and the sum of exp(number - largest).
struct Total {
    float largest, sum;
};

DEVICE Total join(Total a, Total b) {
    const float largest = fmaxf(a.largest, b.largest);
    if (largest == -INFINITY) return {largest, 0.0f};
    return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

DEVICE Total warp_join(Total x) {
    UNROLL
    for (int lanes = WARP_THREADS / 2; lanes > 0; lanes /= 2) {
        // the lower lane's part comes first in both lanes, so that they agree to the bit
        const Total other = {__shfl_xor_sync(ALL_LANES, x.largest, lanes), __shfl_xor_sync(ALL_LANES, x.sum, lanes)};
        x = threadIdx.x & lanes ? join(other, x) : join(x, other);
    }
    return x;
}

// All threads call it; every one gets the total of the block.
DEVICE Total block_join(Total x, Total* partial) {
    const int warp = threadIdx.x / WARP_THREADS, lane = threadIdx.x % WARP_THREADS;
    x = warp_join(x);
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    x = lane < blockDim.x / WARP_THREADS ? partial[lane] : Total{-INFINITY, 0.0f};
    x = warp_join(x);
    return x;
}

template <typename T> DEVICE Total row_total(const T* row, u32 vocab) {
    constexpr int N = PER_LOAD<T>;
    Total total = {-INFINITY, 0.0f};
    for (u32 j = threadIdx.x * N; j < vocab; j += blockDim.x * N) {
        float a[N];
        load_floats(a, row + j, vocab - j);
        float largest = total.largest;
        UNROLL
        for (int i = 0; i < N; i++)
            largest = fmaxf(largest, j + i < vocab ? a[i] : -INFINITY);
        if (largest == -INFINITY) continue;
        float sum = total.sum * expf(total.largest - largest);
        UNROLL
        for (int i = 0; i < N; i++)
            sum += j + i < vocab ? expf(a[i] - largest) : 0.0f;
        total = {largest, sum};
    }
    return total;
}

template <typename T>
DEVICE void softmax_gradient(T* logits, float* logp, float* lse, const u32* targets, const float* weights, const u32* tokens,
                   u32 vocab, u32 pitch, u32 pass) {
    constexpr int N = PER_LOAD<T>;
    SHARED_ARRAY(Total, partial, 32);
    const u32 t = tokens ? tokens[blockIdx.x] : blockIdx.x, target = targets[t];
    T* row = logits + (i64)blockIdx.x * pitch;
    const bool bears_loss = target != IGNORE && (pass & FORWARD || weights[t] != 0.0f);
    const float weight = bears_loss && pass & BACKWARD ? weights[t] : 0.0f;
    float at_target = 0.0f, total = 0.0f;
    if (bears_loss && pass & FORWARD) {
        at_target = to_f32(row[target]); // before the barrier in block_join, behind which its owner overwrites it
        const Total x = block_join(row_total(row, vocab), partial);
        total = x.largest + logf(x.sum);
    } else if (bears_loss) {
        total = lse[t];
    }
    if (threadIdx.x == 0 && pass & FORWARD) {
        lse[t] = total;
        logp[t] = bears_loss ? at_target - total : 0.0f;
    }
    if (!(pass & BACKWARD)) return;
    for (u32 j = threadIdx.x * N; j < pitch; j += blockDim.x * N) {
        float a[N] = {};
        if (weight != 0.0f && j < vocab) {
            load_floats(a, row + j, vocab - j);
            UNROLL
            for (int i = 0; i < N; i++) {
                // 1 - p of the target by expm1: no cancellation where p is near 1
                const float p = j + i == target ? expm1f(a[i] - total) : expf(a[i] - total);
                a[i] = j + i < vocab ? -weight * p : 0.0f;
            }
        }
        store_floats(row + j, a);
    }
}

#define CROSS_ENTROPY(suffix, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(512)                                                                  \
        cross_entropy_##suffix(T* logits, float* logp, float* lse, const u32* targets, const float* weights,           \
                               const u32* tokens, u32 vocab, u32 pitch, u32 pass) {                                    \
        softmax_gradient(logits, logp, lse, targets, weights, tokens, vocab, pitch, pass);                                       \
    }                                                                                                                  \
    KERNEL_ENTRY(cross_entropy_##suffix);

CROSS_ENTROPY(f32, float)
CROSS_ENTROPY(bf16, bf16)
