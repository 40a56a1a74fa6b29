// Root-mean-square normalisation, alone or after a residual addition, and its gradients.
//
// y[n, i] = x[n, i] rstd[n] w[i],   rstd[n] = 1 / sqrt(mean_i x[n, i]^2 + eps)
// g = dy w:   dx = rstd (g - x rstd^2 mean_i(g x)),   dw[i] += sum_n dy[n, i] x[n, i] rstd[n]
//
// Forward: one block a row; the row is read twice, the second time from the cache. Backward: block b has rows b, b + grid, ..;
// each thread owns columns and sums their dw in shared memory (4 bytes a column), so the sum has one order; a second kernel
// adds the blocks' sums, one thread a column.
// Limit: memory. Bytes a number, bf16: forward 4, with residual 8, backward 6 (8 where dx adds).

template <typename T, typename W>
DEVICE void normalise(T* out, T* sum, float* rstd, const T* x, const T* residual, const W* weight, u32 dim, float eps) {
    constexpr int N = PER_LOAD<T>;
    SHARED_ARRAY(float, partial, 32);
    const i64 row = (i64)blockIdx.x * dim;
    const T* source = residual ? sum : x; // what is normalised
    float squares = 0.0f;
    for (u32 i = threadIdx.x * N; i < dim; i += blockDim.x * N) {
        float a[N];
        load_floats(a, x + row + i);
        if (residual) {
            float b[N];
            load_floats(b, residual + row + i);
            UNROLL
            for (int j = 0; j < N; j++)
                a[j] += b[j];
            round_all<T>(a); // the backward pass sees the sum as it is stored
            store_floats(sum + row + i, a);
        }
        UNROLL
        for (int j = 0; j < N; j++)
            squares += a[j] * a[j];
    }
    squares = block_sum(squares, partial);
    const float scale = 1.0f / sqrtf(squares / (float)dim + eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
    for (u32 i = threadIdx.x * N; i < dim; i += blockDim.x * N) {
        float a[N], w[N];
        load_floats(a, source + row + i);
        load_floats(w, weight + i);
        UNROLL
        for (int j = 0; j < N; j++)
            a[j] = a[j] * scale * w[j];
        store_floats(out + row + i, a);
    }
}

template <typename T, typename W>
DEVICE void gradients(T* dx, float* dweight_partial, const T* dy, const T* x, const W* weight, const float* rstd,
                      u32 rows, u32 dim, bool adds) {
    constexpr int N = PER_LOAD<T>;
    SHARED_ARRAY(float, partial, 32);
    DYNAMIC_SHARED(memory);
    float* dweight = (float*)memory; // [dim]; each column has one thread
    for (u32 i = threadIdx.x * N; i < dim; i += blockDim.x * N) {
        UNROLL
        for (int j = 0; j < N; j++)
            dweight[i + j] = 0.0f;
    }
    for (u32 n = blockIdx.x; n < rows; n += gridDim.x) {
        const i64 row = (i64)n * dim;
        const float scale = rstd[n];
        float dot = 0.0f;
        for (u32 i = threadIdx.x * N; i < dim; i += blockDim.x * N) {
            float g[N], a[N], w[N];
            load_floats(g, dy + row + i);
            load_floats(a, x + row + i);
            load_floats(w, weight + i);
            UNROLL
            for (int j = 0; j < N; j++) {
                dot += g[j] * w[j] * a[j];
                dweight[i + j] += g[j] * a[j] * scale;
            }
        }
        const float mean = block_sum(dot, partial) * scale * scale / (float)dim;
        for (u32 i = threadIdx.x * N; i < dim; i += blockDim.x * N) {
            float g[N], a[N], w[N];
            load_floats(g, dy + row + i);
            load_floats(a, x + row + i);
            load_floats(w, weight + i);
            UNROLL
            for (int j = 0; j < N; j++)
                g[j] = scale * (g[j] * w[j] - a[j] * mean);
            if (adds) {
                load_floats(a, dx + row + i);
                UNROLL
                for (int j = 0; j < N; j++)
                    g[j] += a[j];
            }
            store_floats(dx + row + i, g);
        }
    }
    for (u32 i = threadIdx.x * N; i < dim; i += blockDim.x * N) {
        UNROLL
        for (int j = 0; j < N; j++)
            dweight_partial[(i64)blockIdx.x * dim + i + j] = dweight[i + j];
    }
}

#define RMS_NORM(suffix, T, W)                                                                                         \
    extern "C" __global__ void __launch_bounds__(512) rms_norm_fwd_##suffix(                                           \
        T* out, T* sum, float* rstd, const T* x, const T* residual, const W* weight, u32 dim, float eps) {             \
        normalise(out, sum, rstd, x, residual, weight, dim, eps);                                                      \
    }                                                                                                                  \
    KERNEL_ENTRY(rms_norm_fwd_##suffix);                                                                               \
    extern "C" __global__ void __launch_bounds__(512)                                                                  \
        rms_norm_bwd_##suffix(T* dx, float* dweight_partial, const T* dy, const T* x, const W* weight,                 \
                              const float* rstd, u32 rows, u32 dim, u32 adds) {                                        \
        gradients(dx, dweight_partial, dy, x, weight, rstd, rows, dim, adds != 0);                                     \
    }                                                                                                                  \
    KERNEL_ENTRY(rms_norm_bwd_##suffix);

RMS_NORM(f32, float, float)
RMS_NORM(f32_bf16, float, bf16) // activations, then weights
RMS_NORM(bf16, bf16, bf16)

#define RMS_NORM_WEIGHT(suffix, G)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        rms_norm_bwd_weight_##suffix(G* dweight, const float* partial, u32 num_partials, u32 dim) {                    \
        add_partials(dweight, partial, num_partials, dim);                                                             \
    }                                                                                                                  \
    KERNEL_ENTRY(rms_norm_bwd_weight_##suffix);

RMS_NORM_WEIGHT(f32, float)
RMS_NORM_WEIGHT(bf16, bf16)
