// The bias of a linear layer: y[i] += b, and its gradient db += sum over i of dy[i]. Sums are in f32.
//
// Forward: each thread has 16 bytes of y, which may cross from one row to the next. Gradient, first kernel: block (x, p) has 256
// columns and the rows p, p + P, .. of P blocks, so that the threads of a warp read neighbours; each thread sums its column in
// order. Second kernel: a thread a column, over the P partial sums in order. Bits depend on the sizes alone. No shared memory.
// Limit: memory. Bytes a number: forward, twice its format's size; gradient, once.

template <typename T, typename W> DEVICE void add_bias(T* y, const W* bias, u32 columns, i64 n) {
    constexpr int N = PER_LOAD<T>;
    const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    float x[N];
    load_floats(x, y + i, n - i);
    u32 column = (u32)(i % columns);
    UNROLL
    for (int j = 0; j < N; j++) {
        x[j] += to_f32(bias[column]);
        if (++column == columns) column = 0;
    }
    store_floats(y + i, x, n - i);
}

template <typename T> DEVICE void sum_rows(float* partial, const T* dy, u32 rows, u32 columns) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    float sum = 0.0f;
    for (u32 row = blockIdx.y; row < rows; row += gridDim.y)
        sum += to_f32(dy[(i64)row * columns + column]);
    partial[(i64)blockIdx.y * columns + column] = sum;
}

#define BIAS_FORWARD(suffix, T, W)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) bias_fwd_##suffix(T* y, const W* bias, u32 columns, i64 n) {     \
        add_bias(y, bias, columns, n);                                                                                 \
    }                                                                                                                  \
    KERNEL_ENTRY(bias_fwd_##suffix);

BIAS_FORWARD(f32, float, float)
BIAS_FORWARD(f32_bf16, float, bf16) // activations, then the bias
BIAS_FORWARD(bf16, bf16, bf16)

#define BIAS_BACKWARD(suffix, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        bias_bwd_rows_##suffix(float* partial, const T* dy, u32 rows, u32 columns) {                                   \
        sum_rows(partial, dy, rows, columns);                                                                          \
    }                                                                                                                  \
    KERNEL_ENTRY(bias_bwd_rows_##suffix);                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        bias_bwd_sum_##suffix(T* dbias, const float* partial, u32 num_partials, u32 columns) {                         \
        add_partials(dbias, partial, num_partials, columns);                                                           \
    }                                                                                                                  \
    KERNEL_ENTRY(bias_bwd_sum_##suffix);

BIAS_BACKWARD(f32, float)
BIAS_BACKWARD(bf16, bf16)
