// The gated unit: out = gate s up with s = sigmoid(gate), and its gradients
// dup = dout gate s,   dgate = dout up s (1 + gate (1 - s)).
//
// Each thread has 16 bytes of every array. No shared memory. dgate may be gate, and dup may be up or dout.
// Limit: memory. Bytes a number, bf16: forward 6, backward 10.

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <typename T> DEVICE void gated(T* out, const T* gate, const T* up, i64 n) {
    constexpr int N = PER_LOAD<T>;
    const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    float g[N], u[N];
    load_floats(g, gate + i, n - i);
    load_floats(u, up + i, n - i);
    UNROLL
    for (int j = 0; j < N; j++)
        g[j] = g[j] / (1.0f + expf(-g[j])) * u[j];
    store_floats(out + i, g, n - i);
}

template <typename T> DEVICE void gradients(T* dgate, T* dup, const T* dout, const T* gate, const T* up, i64 n) {
    constexpr int N = PER_LOAD<T>;
    const i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (i >= n) return;
    float d[N], g[N], u[N];
    load_floats(d, dout + i, n - i);
    load_floats(g, gate + i, n - i);
    load_floats(u, up + i, n - i);
    UNROLL
    for (int j = 0; j < N; j++) {
        const float s = sigmoid(g[j]), a = g[j];
        g[j] = d[j] * u[j] * s * (1.0f + a * (1.0f - s));
        u[j] = d[j] * a * s;
    }
    store_floats(dgate + i, g, n - i);
    store_floats(dup + i, u, n - i);
}

#define SWIGLU(suffix, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) swiglu_fwd_##suffix(T* out, const T* gate, const T* up, i64 n) { \
        gated(out, gate, up, n);                                                                                       \
    }                                                                                                                  \
    KERNEL_ENTRY(swiglu_fwd_##suffix);                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        swiglu_bwd_##suffix(T* dgate, T* dup, const T* dout, const T* gate, const T* up, i64 n) {                      \
        gradients(dgate, dup, dout, gate, up, n);                                                                      \
    }                                                                                                                  \
    KERNEL_ENTRY(swiglu_bwd_##suffix);

SWIGLU(f32, float)
SWIGLU(bf16, bf16)
