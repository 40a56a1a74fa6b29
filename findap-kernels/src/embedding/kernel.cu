// Rows of a table by token, and the sum of their gradients: out[t] = table[ids[t]],  dtable[ids[t]] += dout[t]; and rows put in
// their rows: out[indices[t]] = x[t].
//
// Forward and scatter: block (t, part) copies 256 loads of row t. Backward: positions come sorted by token and, within one, by place; block
// (u, part) has 256 loads of the row of distinct token u and adds its positions in their order, so no two blocks write one
// number and the sum has one order: in f32, and rounded once where the table of gradients is bf16. No shared memory.
// Limit: memory. Bytes a number: rows put twice the format's size; forward both formats' sizes; backward the size of dout, and
// twice that of dtable for a number of a touched row.

template <typename T, typename W> DEVICE void gather(T* out, const W* table, const u32* ids, u32 dim) {
    constexpr int N = PER_LOAD<T>;
    const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (i >= dim) return;
    float a[N];
    load_floats(a, table + (i64)ids[blockIdx.x] * dim + i);
    store_floats(out + (i64)blockIdx.x * dim + i, a);
}

// No two indices are equal.
template <typename T> DEVICE void scatter(T* out, const T* x, const u32* indices, u32 dim) {
    constexpr int N = PER_LOAD<T>;
    const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (i >= dim) return;
    float a[N];
    load_floats(a, x + (i64)blockIdx.x * dim + i);
    store_floats(out + (i64)indices[blockIdx.x] * dim + i, a);
}

template <typename T, typename G>
DEVICE void add_rows(G* dtable, const T* dout, const u32* tokens, const u32* starts, const u32* positions,
                     u32 dim) {
    constexpr int N = PER_LOAD<T>;
    const u32 i = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (i >= dim) return;
    G* row = dtable + (i64)tokens[blockIdx.x] * dim + i;
    float sum[N], a[N];
    load_floats(sum, row);
    for (u32 k = starts[blockIdx.x]; k < starts[blockIdx.x + 1]; k++) {
        load_floats(a, dout + (i64)positions[k] * dim + i);
        UNROLL
        for (int j = 0; j < N; j++)
            sum[j] += a[j];
    }
    store_floats(row, sum);
}

#define EMBEDDING_FORWARD(suffix, T, W)                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        embedding_fwd_##suffix(T* out, const W* table, const u32* ids, u32 dim) {                                      \
        gather(out, table, ids, dim);                                                                                  \
    }                                                                                                                  \
    KERNEL_ENTRY(embedding_fwd_##suffix);

EMBEDDING_FORWARD(f32, float, float)
EMBEDDING_FORWARD(f32_bf16, float, bf16) // activations, then table
EMBEDDING_FORWARD(bf16, bf16, bf16)

#define EMBEDDING_SCATTER(suffix, T)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        embedding_scatter_##suffix(T* out, const T* x, const u32* indices, u32 dim) {                                   \
        scatter(out, x, indices, dim);                                                                                  \
    }                                                                                                                  \
    KERNEL_ENTRY(embedding_scatter_##suffix);

EMBEDDING_SCATTER(f32, float)
EMBEDDING_SCATTER(bf16, bf16)

#define EMBEDDING_BACKWARD(suffix, T, G)                                                                               \
    extern "C" __global__ void __launch_bounds__(256) embedding_bwd_##suffix(                                          \
        G* dtable, const T* dout, const u32* tokens, const u32* starts, const u32* positions, u32 dim) {               \
        add_rows(dtable, dout, tokens, starts, positions, dim);                                                        \
    }                                                                                                                  \
    KERNEL_ENTRY(embedding_bwd_##suffix);

EMBEDDING_BACKWARD(f32, float, float)
EMBEDDING_BACKWARD(bf16, bf16, float)
EMBEDDING_BACKWARD(bf16_to_bf16, bf16, bf16) // gradients of activations, then those of the table
