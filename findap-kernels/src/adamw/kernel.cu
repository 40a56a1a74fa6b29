// AdamW over all tensors in one launch. With the gradient g already scaled and clipped:
//
// p <- p (1 - lr wd);  m <- m + (1 - b1)(g - m);  v <- b2 v + (1 - b2) g^2
// p <- p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//
// g = gradient * scale * min(1, max_norm / (norm + 1e-6)), where norm = scale * sqrt(*squares) is the norm over all tensors and
// lies on the device. If it or the loss is not finite nothing is updated and `skipped` becomes 1; while it is not 0, nothing is
// updated either.
//
// Block b has tile b of the table: at most TILE numbers of one tensor; each thread eight at a time. Where a master copy in f32
// exists, it is updated and the parameters are its rounding. What is stored in bf16 without one is rounded stochastically, so
// that steps smaller than half a unit are not lost; the random bits are a function of (place, step, seed). No shared memory.
// Limit: memory. Bytes a number: 14 all in bf16; 22 with bf16 parameters and gradients and f32 moments; 28 in f32; 8 more for a
// master copy.

struct Tile {
    u64 start, state_start; // of the parameters; of their gradients, moments and master copy
    u32 len;
    float weight_decay;
};

struct Rule {
    float lr, one_less_beta1, beta2, one_less_beta2, eps; // 1 - b by the host: f32 would lose digits of it
    float bias1, bias2_root;                              // 1 - b1^t, sqrt(1 - b2^t)
    float scale;                                          // of the gradient
    double max_norm;                                      // 0 does not clip
    u32 rounds_stochastically;
    u64 step, seed;
};

enum Stream { PARAMETER, FIRST_MOMENT, SECOND_MOMENT, STREAMS };

// 16-byte loads need a whole pack that begins on a multiple of 8 numbers.
template <typename T> DEVICE void load_eight(float (&y)[8], const T* at, i64 left, bool is_aligned) {
    if (is_aligned) return load_floats(y, at, left);
    UNROLL
    for (int i = 0; i < 8; i++)
        y[i] = i < left ? to_f32(at[i]) : 0.0f;
}
template <typename T> DEVICE void store_eight(T* at, const float (&y)[8], i64 left, bool is_aligned) {
    if (is_aligned) return store_floats(at, y, left);
    UNROLL
    for (int i = 0; i < 8; i++) {
        if (i < left) store(at + i, y[i]);
    }
}

DEVICE void round_for(float*, float (&)[8], u64, Stream, const Rule&) {}
DEVICE void round_for(bf16*, float (&x)[8], u64 place, Stream stream, const Rule& rule) {
    if (rule.rounds_stochastically) round_stochastically(x, place, rule.step * STREAMS + stream, rule.seed);
}

template <typename P, typename G, typename S>
DEVICE void update(P* params, float* master, const G* grads, S* first, S* second, const Tile* tiles,
                   const double* squares, const double* loss, u32* skipped, const Rule& rule) {
    float scale = rule.scale;
    if (squares) {
        const double norm = sqrt(*squares) * rule.scale;
        if (!(norm < 1e300) || (loss && !(fabs(*loss) < INFINITY))) { // NaN, too
            if (blockIdx.x == 0 && threadIdx.x == 0) *skipped = 1;
            return;
        }
        if (*skipped) return; // written by no block of this launch
        if (rule.max_norm > 0.0) scale *= (float)fmin(1.0, rule.max_norm / (norm + 1e-6));
    }
    const Tile tile = tiles[blockIdx.x];
    const float shrink = 1.0f - rule.lr * tile.weight_decay, rate = rule.lr / rule.bias1;
    const bool is_aligned = (tile.start | tile.state_start) % 8 == 0;
    for (u32 i = threadIdx.x * 8; i < tile.len; i += blockDim.x * 8) {
        const u64 place = tile.start + i, state = tile.state_start + i;
        const i64 left = tile.len - i;
        float p[8], g[8], m[8], v[8];
        if (master) {
            load_eight(p, master + state, left, is_aligned);
        } else {
            load_eight(p, params + place, left, is_aligned);
        }
        load_eight(g, grads + state, left, is_aligned);
        load_eight(m, first + state, left, is_aligned);
        load_eight(v, second + state, left, is_aligned);
        UNROLL
        for (int j = 0; j < 8; j++) {
            const float x = g[j] * scale;
            m[j] += (x - m[j]) * rule.one_less_beta1;
            v[j] = v[j] * rule.beta2 + x * x * rule.one_less_beta2;
            p[j] = p[j] * shrink - rate * (m[j] / (sqrtf(v[j]) / rule.bias2_root + rule.eps));
        }
        round_for(first, m, place, FIRST_MOMENT, rule);
        round_for(second, v, place, SECOND_MOMENT, rule);
        store_eight(first + state, m, left, is_aligned);
        store_eight(second + state, v, left, is_aligned);
        if (master) {
            store_eight(master + state, p, left, is_aligned);
        } else {
            round_for(params, p, place, PARAMETER, rule);
        }
        store_eight(params + place, p, left, is_aligned);
    }
}

#define ADAMW(suffix, P, G, S)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) adamw_##suffix(                                                  \
        P* params, float* master, const G* grads, S* first, S* second, const Tile* tiles, const double* squares,       \
        const double* loss, u32* skipped, float lr, float one_less_beta1, float beta2, float one_less_beta2,           \
        float eps, float bias1, float bias2_root, float scale, double max_norm, u32 rounds_stochastically, u64 step,   \
        u64 seed) {                                                                                                    \
        const Rule rule = {lr,         one_less_beta1, beta2,    one_less_beta2,        eps,  bias1,                   \
                           bias2_root, scale,          max_norm, rounds_stochastically, step, seed};                   \
        update(params, master, grads, first, second, tiles, squares, loss, skipped, rule);                             \
    }                                                                                                                  \
    KERNEL_ENTRY(adamw_##suffix);

// parameters, gradients, moments
ADAMW(f32_f32_f32, float, float, float)
ADAMW(bf16_bf16_bf16, bf16, bf16, bf16)
ADAMW(bf16_bf16_f32, bf16, bf16, float)
ADAMW(bf16_f32_bf16, bf16, float, bf16)
ADAMW(bf16_f32_f32, bf16, float, float)
