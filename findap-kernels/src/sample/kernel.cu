// The choice of the next token for each row of logits: the most probable one, or one drawn from the most probable ones.
//
// The order is by falling logit, ties by rising token. With weights e[j] = exp((x[j] - largest) / temperature), top-k keeps the
// first k, top-p the shortest prefix of those that has p of their weight, and the draw takes the token at which the running
// weight passes u times the kept weight. Each is a search for the shortest prefix whose weight (or count) passes a target: the
// logits become integers of the same order, and 8 bits at a time a histogram says in which bin the target falls. Weights are
// integers in units of 2^-40, so their sums are exact and no order of threads matters; tokens of less than 2^-40 of the most
// probable one are never drawn.
//
// The log-probability is that of the token, or of a given one.
//
// One block of 512 threads a row. Shared memory: 5.2 KiB static. Reads a row once for the largest logit, once for the
// normaliser, 4 times for each of at most three searches, and twice for the token.
// Limit: the latency of one multiprocessor; the row stays in the cache.

constexpr int BINS = 256, THREADS = 512;
constexpr float UNITS = 1099511627776.0f; // 2^40

struct Row {
    float largest, temperature;
    u32 vocab;
};

// A prefix of the order: all above `key`, and the first `ties` of those equal to it.
struct Prefix {
    u32 key, ties;
    u64 weight; // of the whole prefix
};

struct Histogram {
    u64 weight[BINS];
    u32 count[BINS];
    u32 bin;
    u64 above;
};

// Integers in the order of the numbers; no NaN among them. -0 and 0 are equal, as they are as logits.
DEVICE u32 key_of(float x) {
    const u32 bits = __float_as_uint(x == 0.0f ? 0.0f : x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DEVICE u64 weight_of(float x, const Row& row) { return (u64)(expf((x - row.largest) / row.temperature) * UNITS); }

template <typename T> DEVICE u64 weight_of_key(u32 key, const Row& row) {
    const u32 bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    return weight_of(__uint_as_float(bits), row);
}

// The shortest prefix with more than `target` weight, or more than `target` tokens.
template <typename T> DEVICE Prefix shortest_prefix(const T* x, const Row& row, u64 target, bool counts, Histogram& h) {
    u32 key = 0;
    u64 above = 0; // of what is surely in the prefix
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < BINS; i += THREADS) {
            h.weight[i] = 0;
            h.count[i] = 0;
        }
        __syncthreads();
        for (u32 j = threadIdx.x; j < row.vocab; j += THREADS) {
            const float logit = to_f32(x[j]);
            const u32 k = key_of(logit);
            if (shift < 24 && k >> (shift + 8) != key >> (shift + 8)) continue;
            atomicAdd(&h.weight[k >> shift & 255u], counts ? (u64)1 : weight_of(logit, row));
            atomicAdd(&h.count[k >> shift & 255u], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            // the last bin that has any token takes what rounding leaves over
            u32 bin = 0;
            u64 sum = above;
            bool is_found = false;
            for (int i = BINS - 1; i >= 0 && !is_found; i--) {
                if (h.count[i] == 0) continue;
                bin = i;
                h.above = sum;
                is_found = sum + h.weight[i] > target;
                sum += h.weight[i];
            }
            h.bin = bin;
        }
        __syncthreads();
        above = h.above;
        key |= h.bin << shift;
        __syncthreads();
    }
    // all that is left have one key and one weight
    const u64 each = counts ? 1 : weight_of_key<T>(key, row);
    const u32 tied = h.count[key & 255u];
    u64 ties = each == 0 || target < above ? 1 : (target - above) / each + 1;
    if (ties > tied) ties = tied;
    __syncthreads();
    return {key, (u32)ties, above + ties * each};
}

// The token that is number `number` (from 1) of those with this key. Each thread has one stretch of the row.
template <typename T> DEVICE u32 token_of(const T* x, u32 vocab, u32 key, u32 number, u32* counts, u32* token) {
    const u32 stretch = (vocab + THREADS - 1) / THREADS;
    const u32 begin = min(threadIdx.x * stretch, vocab), end = min(begin + stretch, vocab);
    if (threadIdx.x == 0) *token = 0; // stays so where there is no such token, which NaN alone brings about
    u32 mine = 0;
    for (u32 j = begin; j < end; j++)
        mine += key_of(to_f32(x[j])) == key;
    counts[threadIdx.x] = mine;
    __syncthreads();
    u32 before = 0;
    for (u32 i = 0; i < threadIdx.x; i++)
        before += counts[i];
    if (before < number && number <= before + mine) {
        for (u32 j = begin; j < end; j++) {
            if (key_of(to_f32(x[j])) == key && ++before == number) *token = j;
        }
    }
    __syncthreads();
    return *token;
}

template <typename T>
DEVICE void choose(u32* tokens, float* logp, const T* logits, const float* uniform, const u32* targets, u32 vocab,
                   u32 pitch, float temperature, u32 top_k, float top_p) {
    SHARED_ARRAY(Histogram, histogram, 1);
    SHARED_ARRAY(float, partial, 32);
    SHARED_ARRAY(u32, counts, THREADS);
    SHARED_ARRAY(u32, token, 1);
    Histogram& h = histogram[0];
    const T* x = logits + (i64)blockIdx.x * pitch;
    float largest = -INFINITY;
    for (u32 j = threadIdx.x; j < vocab; j += THREADS)
        largest = fmaxf(largest, to_f32(x[j]));
    largest = warp_max(largest);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = largest;
    __syncthreads();
    largest = warp_max(partial[threadIdx.x % (THREADS / 32)]);
    __syncthreads();
    float sum = 0.0f;
    for (u32 j = threadIdx.x; j < vocab; j += THREADS)
        sum += expf(to_f32(x[j]) - largest);
    const float lse = largest + logf(block_sum(sum, partial));
    Prefix prefix = {key_of(largest), 1, 0};
    if (temperature > 0.0f) {
        const Row row = {largest, temperature, vocab};
        const u32 k = top_k == 0 ? vocab : min(top_k, vocab);
        Prefix kept = shortest_prefix(x, row, k - 1, true, h);
        // its weight: a search by weight for what the count has found would need the target that it looks for
        u64 weight = 0;
        for (u32 j = threadIdx.x; j < vocab; j += THREADS) {
            const float logit = to_f32(x[j]);
            if (key_of(logit) > kept.key) weight += weight_of(logit, row);
        }
        weight = block_sum(weight, h.weight) + kept.ties * weight_of_key<T>(kept.key, row);
        if (top_p < 1.0f) {
            const u64 wanted = (u64)((double)weight * top_p);
            weight = shortest_prefix(x, row, wanted > 0 ? wanted - 1 : 0, false, h).weight;
        }
        u64 target = (u64)((double)weight * uniform[blockIdx.x]);
        if (target >= weight) target = weight - 1;
        prefix = shortest_prefix(x, row, target, false, h);
    }
    const u32 chosen = token_of(x, vocab, prefix.key, prefix.ties, counts, token);
    if (threadIdx.x == 0) {
        tokens[blockIdx.x] = chosen;
        logp[blockIdx.x] = to_f32(x[targets == nullptr ? chosen : targets[blockIdx.x]]) - lse;
    }
}

#define SAMPLE(suffix, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        sample_##suffix(u32* tokens, float* logp, const T* logits, const float* uniform, const u32* targets,           \
                        u32 vocab, u32 pitch, float temperature, u32 top_k, float top_p) {                             \
        choose(tokens, logp, logits, uniform, targets, vocab, pitch, temperature, top_k, top_p);                       \
    }                                                                                                                  \
    KERNEL_ENTRY(sample_##suffix);

SAMPLE(f32, float)
SAMPLE(bf16, bf16)
