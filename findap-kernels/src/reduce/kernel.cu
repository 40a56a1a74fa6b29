// Sums over whole arenas, and the passes over them: the sum of squares, the count of numbers that are not finite, additions,
// multiplications by one factor, conversions.
//
// Each thread has 16 bytes at a time. The sum of squares: block b of `grid` has packs b, b + grid, ..; squares of one pack add in
// f32, packs and blocks in f64, each in one order, so the bits depend on the grid alone. A square above 3.4e38 is infinite and so
// is the sum; it then reads as not finite. Shared memory: 256 static bytes.
// Limit: memory. Bytes a number: squares and count, the format's size; add, twice that of the sum and once that of what is added;
// scale, twice the format's; cast, both formats' sizes.

template <typename T> DEVICE void squares(double* partial, const T* x, i64 n) {
    constexpr int N = PER_LOAD<T>;
    SHARED_ARRAY(double, sums, 32);
    double sum = 0.0;
    const i64 stride = (i64)gridDim.x * blockDim.x * N;
    for (i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N; i < n; i += stride) {
        float a[N], pack = 0.0f;
        load_floats(a, x + i, n - i);
        UNROLL
        for (int j = 0; j < N; j++)
            pack += a[j] * a[j];
        sum += pack;
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <typename T> DEVICE void count_bad(u32* count, const T* x, i64 n) {
    constexpr int N = PER_LOAD<T>;
    SHARED_ARRAY(u32, counts, 32);
    u32 bad = 0;
    const i64 stride = (i64)gridDim.x * blockDim.x * N;
    for (i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N; i < n; i += stride) {
        float a[N];
        load_floats(a, x + i, n - i);
        UNROLL
        for (int j = 0; j < N; j++)
            bad += (__float_as_uint(a[j]) & 0x7f800000u) == 0x7f800000u;
    }
    bad = block_sum(bad, counts);
    if (threadIdx.x == 0 && bad > 0) atomicAdd(count, bad); // integers: any order gives the same sum
}

template <typename T, typename X> DEVICE void add(T* out, const X* x, i64 n) {
    constexpr int N = PER_LOAD<T>;
    const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    float a[N], b[N];
    load_floats(a, out + i, n - i);
    load_floats(b, x + i, n - i);
    UNROLL
    for (int j = 0; j < N; j++)
        a[j] += b[j];
    store_floats(out + i, a, n - i);
}

template <typename T> DEVICE void scale(T* x, float factor, i64 n) {
    constexpr int N = PER_LOAD<T>;
    const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    float a[N];
    load_floats(a, x + i, n - i);
    UNROLL
    for (int j = 0; j < N; j++)
        a[j] *= factor;
    store_floats(x + i, a, n - i);
}

#define REDUCE(suffix, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) reduce_squares_##suffix(double* partial, const T* x, i64 n) {    \
        squares(partial, x, n);                                                                                        \
    }                                                                                                                  \
    KERNEL_ENTRY(reduce_squares_##suffix);                                                                             \
    extern "C" __global__ void __launch_bounds__(256) reduce_count_bad_##suffix(u32* count, const T* x, i64 n) {       \
        count_bad(count, x, n);                                                                                        \
    }                                                                                                                  \
    KERNEL_ENTRY(reduce_count_bad_##suffix);                                                                           \
    extern "C" __global__ void __launch_bounds__(256) reduce_add_##suffix(T* out, const T* x, i64 n) {                 \
        add(out, x, n);                                                                                                \
    }                                                                                                                  \
    KERNEL_ENTRY(reduce_add_##suffix);                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) reduce_scale_##suffix(T* x, float factor, i64 n) {               \
        scale(x, factor, n);                                                                                           \
    }                                                                                                                  \
    KERNEL_ENTRY(reduce_scale_##suffix);

REDUCE(f32, float)
REDUCE(bf16, bf16)

// Sums that were made in f32 enter bf16 numbers, rounded once.
extern "C" __global__ void __launch_bounds__(256) reduce_add_f32_to_bf16(bf16* out, const float* x, i64 n) {
    add(out, x, n);
}
KERNEL_ENTRY(reduce_add_f32_to_bf16);

// total = (total or 0) + the sum of the blocks' sums, by one block of 256 threads.
extern "C" __global__ void __launch_bounds__(256)
    reduce_squares_total(double* total, const double* partial, u32 num_partials, u32 adds) {
    SHARED_ARRAY(double, sums, 32);
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < num_partials; i += blockDim.x)
        sum += partial[i];
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) *total = adds ? *total + sum : sum;
}
KERNEL_ENTRY(reduce_squares_total);

// total += factor * the sum of n numbers, in f64 and one order, by one block of 256 threads.
extern "C" __global__ void __launch_bounds__(256) reduce_add_sum(double* total, const float* x, u32 n, double factor) {
    SHARED_ARRAY(double, sums, 32);
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x)
        sum += x[i];
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) *total += factor * sum;
}
KERNEL_ENTRY(reduce_add_sum);

// Rounds to nearest even.
extern "C" __global__ void __launch_bounds__(256) reduce_cast_f32_to_bf16(bf16* out, const float* x, i64 n) {
    const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= n) return;
    float a[8];
    load_floats(a, x + i, n - i);
    store_floats(out + i, a, n - i);
}
KERNEL_ENTRY(reduce_cast_f32_to_bf16);

// Rounds up or down by the bits that Philox gives for (place, stream, seed), so that the mean is kept.
extern "C" __global__ void __launch_bounds__(256)
    reduce_cast_f32_to_bf16_stochastic(bf16* out, const float* x, i64 n, u64 stream, u64 seed) {
    const i64 pack = (i64)blockIdx.x * blockDim.x + threadIdx.x, i = pack * 8;
    if (i >= n) return;
    float a[8];
    load_floats(a, x + i, n - i);
    round_stochastically(a, pack, stream, seed);
    store_floats(out + i, a, n - i);
}
KERNEL_ENTRY(reduce_cast_f32_to_bf16_stochastic);

extern "C" __global__ void __launch_bounds__(256) reduce_cast_bf16_to_f32(float* out, const bf16* x, i64 n) {
    const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= n) return;
    float a[8];
    load_floats(a, x + i, n - i);
    store_floats(out + i, a, n - i);
}
KERNEL_ENTRY(reduce_cast_bf16_to_f32);
