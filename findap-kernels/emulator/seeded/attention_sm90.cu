// The kernels of attention/kernel_sm90.cu with mistakes: `bug` is one of those named there, 0 none.

namespace {
thread_local int planted;
}
#define SEEDED_BUG(bug) (planted == (bug))
#define ATTENTION_WITHOUT_ENTRIES
#include "../../src/attention/kernel_sm90.cu"

#define MAP const __grid_constant__ TensorMap

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    seeded_attention_forward_sm90(MAP q_map, MAP k_map, MAP v_map, bf16* out, float* out_f32, float* lse,
                                  const uint4* tiles, int num_tiles, int num_heads, int num_kv_heads, float scale,
                                  int bug) {
    planted = bug;
    forward<64>(&q_map, &k_map, &v_map, out, out_f32, lse, tiles, num_tiles, num_heads, num_kv_heads, scale);
}
KERNEL_ENTRY(seeded_attention_forward_sm90);

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    seeded_attention_key_gradient_sm90(MAP q_map, MAP dout_map, MAP k_map, MAP v_map, MAP statistics_map, bf16* dk,
                                       bf16* dv, const uint4* tiles, int num_tiles, int num_heads, int num_kv_heads,
                                       float scale, int bug) {
    planted = bug;
    key_gradient<64>(&q_map, &dout_map, &k_map, &v_map, &statistics_map, dk, dv, tiles, num_tiles, num_heads,
                     num_kv_heads, scale);
}
KERNEL_ENTRY(seeded_attention_key_gradient_sm90);

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    seeded_attention_query_gradient_sm90(MAP q_map, MAP dout_map, MAP k_map, MAP v_map, bf16* dq,
                                         const float2* statistics, const uint4* tiles, int num_tiles, int num_heads,
                                         int num_kv_heads, int pitch, float scale, int bug) {
    planted = bug;
    query_gradient<64>(&q_map, &dout_map, &k_map, &v_map, dq, statistics, tiles, num_tiles, num_heads, num_kv_heads,
                       pitch, scale);
}
KERNEL_ENTRY(seeded_attention_query_gradient_sm90);
