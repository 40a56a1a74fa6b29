// Kernels of attention/kernel.cu with mistakes: `bug` is one of those named there, 0 none.

namespace {
thread_local int planted;
}
#define SEEDED_BUG(bug) (planted == (bug))
#define ATTENTION_WITHOUT_ENTRIES
#include "../../src/attention/kernel.cu"

extern "C" __global__ void __launch_bounds__(128)
    seeded_attention_forward(bf16* out, float* out_f32, float* lse, const bf16* q, const bf16* k, const bf16* v,
                             const uint4* tiles, int num_heads, int num_kv_heads, int window, float scale, int bug) {
    planted = bug;
    forward<64>(out, out_f32, lse, q, k, v, tiles, num_heads, num_kv_heads, window, scale);
}
KERNEL_ENTRY(seeded_attention_forward);

extern "C" __global__ void __launch_bounds__(256)
    seeded_attention_key_gradient(bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k, const bf16* v,
                                  const float2* statistics, const uint4* tiles, int num_heads, int num_kv_heads,
                                  int pitch, int window, float scale, int bug) {
    planted = bug;
    key_gradient<64>(dk, dv, dout, q, k, v, statistics, tiles, num_heads, num_kv_heads, pitch, window, scale);
}
KERNEL_ENTRY(seeded_attention_key_gradient);

extern "C" __global__ void __launch_bounds__(256)
    seeded_attention_query_gradient(bf16* dq, const bf16* dout, const bf16* q, const bf16* k, const bf16* v,
                                    const float2* statistics, const uint4* tiles, int num_heads, int num_kv_heads,
                                    int pitch, int window, float scale, int bug) {
    planted = bug;
    query_gradient<64>(dq, dout, q, k, v, statistics, tiles, num_heads, num_kv_heads, pitch, window, scale);
}
KERNEL_ENTRY(seeded_attention_query_gradient);
