// Rotary positions, in place, in the half-split layout; with c, s = cos, sin of the angles of the token's position:
// x[i] <- x[i] c[i] - x[i + e/2] s[i],   x[i + e/2] <- x[i + e/2] c[i] + x[i] s[i],   0 <= i < e/2
//
// Each thread rotates 16 bytes of the lower half of one head with those of the upper half; threads go through halves, heads
// and tokens in this order. No shared memory. The angles' tables are f32 and stay in the cache.
// Limit: memory. Bytes a number, bf16: 4.

template <typename T>
DEVICE void rotate(T* x, const float* cos, const float* sin, const u32* positions, u32 tokens, u32 heads, u32 head_dim,
                   float direction) {
    constexpr int N = PER_LOAD<T>;
    const u32 half = head_dim / 2, parts = half / N;
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (u64)tokens * heads * parts) return;
    const u32 part = at % parts;
    const u64 head = at / parts;
    const i64 table = (i64)positions[head / heads] * half + part * N;
    T* lower = x + head * head_dim + part * N;
    float a[N], b[N], c[N], s[N];
    load_floats(a, lower);
    load_floats(b, lower + half);
    load_floats(c, cos + table);
    load_floats(s, sin + table);
    UNROLL
    for (int j = 0; j < N; j++) {
        const float old = a[j], turn = direction * s[j];
        a[j] = old * c[j] - b[j] * turn;
        b[j] = b[j] * c[j] + old * turn;
    }
    store_floats(lower, a);
    store_floats(lower + half, b);
}

#define ROPE(suffix, T)                                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        rope_##suffix(T* x, const float* cos, const float* sin, const u32* positions, u32 tokens, u32 heads,           \
                      u32 head_dim, float direction) {                                                                 \
        rotate(x, cos, sin, positions, tokens, heads, head_dim, direction);                                            \
    }                                                                                                                  \
    KERNEL_ENTRY(rope_##suffix);

ROPE(f32, float)
ROPE(bf16, bf16)
