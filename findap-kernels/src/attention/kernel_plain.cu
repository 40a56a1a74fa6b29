// Causal attention over packed documents for f32, and for bf16 with head dims that the tensor-core kernels do not have. The maths is
// that of mod.rs.
//
// A warp has one row of one head: a query in the forward pass and in the query gradient, a key in the key gradient. It walks
// through the rows that its own sees, one after the other; lane i has the numbers i, i + 32, .. of the head, and products are
// summed over the warp. A block of 4 warps has a tile of 128 rows (`tiles`: first row, start, end, 0). Sums and exponentials are in
// f32, each in one order. No shared memory.
//
// Decode: a block of 8 warps has one head of one sequence, warp w its keys w, w + 8, ..; the warps' softmaxes are joined in their
// order. A cache is [page][page_tokens][kv head][head_dim]; token t of sequence s lies in page table[s][t / page_tokens]. Shared
// memory: 4.1 KiB static.
// Limit: the shuffles of the sums, far from that of any device: 2 n^2 heads of a document times 5 of them. For small models and
// for comparisons; training at size is for the other kernels.

constexpr int TILE_ROWS = 128, WARPS = 4, DECODE_WARPS = 8, PER_LANE = 4;
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

// The first token that a query sees, in a document that begins at `start`. A window of 2^31 - 1 hides nothing.
DEVICE int first_seen(int start, int query, int window) { return max(start, query - window + 1); }

// The numbers of a lane; 0 behind the head's end.
template <typename T> DEVICE void load_row(float (&x)[PER_LANE], const T* row, int head_dim, float scale = 1.0f) {
    UNROLL
    for (int i = 0; i < PER_LANE; i++) {
        const int d = threadIdx.x % WARP_THREADS + i * WARP_THREADS;
        x[i] = d < head_dim ? to_f32(row[d]) * scale : 0.0f;
    }
}

template <typename T> DEVICE void store_row(T* row, const float (&x)[PER_LANE], int head_dim) {
    UNROLL
    for (int i = 0; i < PER_LANE; i++) {
        const int d = threadIdx.x % WARP_THREADS + i * WARP_THREADS;
        if (d < head_dim) store(row + d, x[i]);
    }
}

// In every lane.
DEVICE float dot(const float (&x)[PER_LANE], const float (&y)[PER_LANE]) {
    float sum = 0.0f;
    UNROLL
    for (int i = 0; i < PER_LANE; i++)
        sum = fmaf(x[i], y[i], sum);
    return warp_sum(sum);
}

DEVICE void add_scaled(float (&sum)[PER_LANE], float factor, const float (&x)[PER_LANE]) {
    UNROLL
    for (int i = 0; i < PER_LANE; i++)
        sum[i] = fmaf(factor, x[i], sum[i]);
}

// Calls `visit(row, start, end)` for the rows of this warp: those of its tile, and where their document lies.
template <typename Visit> DEVICE void for_rows(const u32* tiles, Visit visit) {
    const u32* tile = tiles + 4 * blockIdx.y;
    const int first = tile[0], start = tile[1], end = tile[2];
    for (int row = first + threadIdx.x / WARP_THREADS; row < min(first + TILE_ROWS, end); row += WARPS)
        visit(row, start, end);
}

// What a query has seen so far, in exponents of 2: sum of 2^(score - largest) value, and of 2^(score - largest).
struct Seen {
    float sum[PER_LANE], largest, total;
};

DEVICE Seen nothing() { return {{0.0f, 0.0f, 0.0f, 0.0f}, -INFINITY, 0.0f}; }

template <typename T>
DEVICE void see(Seen& seen, const float (&query)[PER_LANE], const T* key, const T* value, int head_dim) {
    float x[PER_LANE];
    load_row(x, key, head_dim);
    const float score = dot(query, x), before = seen.largest;
    seen.largest = fmaxf(before, score);
    const float shrink = exp2_approx(before - seen.largest), p = exp2_approx(score - seen.largest);
    seen.total = seen.total * shrink + p;
    load_row(x, value, head_dim);
    UNROLL
    for (int i = 0; i < PER_LANE; i++)
        seen.sum[i] = fmaf(p, x[i], seen.sum[i] * shrink);
}

template <typename T>
DEVICE void forward(T* out, float* lse, const T* q, const T* k, const T* v, const u32* tiles, int num_heads,
                    int num_kv_heads, int head_dim, int window, float scale) {
    const int head = blockIdx.x, kv_head = head / (num_heads / num_kv_heads);
    for_rows(tiles, [&](int row, int start, int) {
        const i64 place = (i64)row * num_heads + head;
        float query[PER_LANE];
        load_row(query, q + place * head_dim, head_dim, scale * LOG2_E);
        Seen seen = nothing();
        for (int j = first_seen(start, row, window); j <= row; j++) {
            const i64 key = ((i64)j * num_kv_heads + kv_head) * head_dim;
            see(seen, query, k + key, v + key, head_dim);
        }
        UNROLL
        for (int i = 0; i < PER_LANE; i++)
            seen.sum[i] /= seen.total;
        store_row(out + place * head_dim, seen.sum, head_dim);
        if (threadIdx.x % WARP_THREADS == 0) lse[place] = (seen.largest + log2_approx(seen.total)) * LN_2;
    });
}

template <typename T>
DEVICE void decode(T* out, const T* q, const T* k_cache, const T* v_cache, const u32* table, const u32* seq_lens,
                   int num_heads, int num_kv_heads, int head_dim, int page_tokens, int table_pages, int window,
                   float scale) {
    SHARED_ARRAY(float, sums, DECODE_WARPS * PER_LANE * WARP_THREADS);
    SHARED_ARRAY(float, largests, DECODE_WARPS);
    SHARED_ARRAY(float, totals, DECODE_WARPS);
    const int head = blockIdx.x, sequence = blockIdx.y, kv_head = head / (num_heads / num_kv_heads);
    const int warp = threadIdx.x / WARP_THREADS, lane = threadIdx.x % WARP_THREADS, len = (int)seq_lens[sequence],
              first = first_seen(0, len - 1, window);
    const i64 place = ((i64)sequence * num_heads + head) * head_dim;
    float query[PER_LANE];
    load_row(query, q + place, head_dim, scale * LOG2_E);
    Seen seen = nothing();
    for (int j = first + warp; j < len; j += DECODE_WARPS) {
        const i64 page = table[(i64)sequence * table_pages + j / page_tokens];
        const i64 key = ((page * page_tokens + j % page_tokens) * num_kv_heads + kv_head) * head_dim;
        see(seen, query, k_cache + key, v_cache + key, head_dim);
    }
    UNROLL
    for (int i = 0; i < PER_LANE; i++)
        sums[(warp * PER_LANE + i) * WARP_THREADS + lane] = seen.sum[i];
    if (lane == 0) {
        largests[warp] = seen.largest;
        totals[warp] = seen.total;
    }
    __syncthreads();
    if (warp > 0) return;
    Seen all = nothing();
    for (int w = 0; w < min(DECODE_WARPS, len - first); w++)
        all.largest = fmaxf(all.largest, largests[w]);
    for (int w = 0; w < min(DECODE_WARPS, len - first); w++) {
        const float weight = exp2_approx(largests[w] - all.largest);
        all.total += weight * totals[w];
        UNROLL
        for (int i = 0; i < PER_LANE; i++)
            all.sum[i] += weight * sums[(w * PER_LANE + i) * WARP_THREADS + lane];
    }
    UNROLL
    for (int i = 0; i < PER_LANE; i++)
        all.sum[i] /= all.total;
    store_row(out + place, all.sum, head_dim);
}

// dq, and delta (`[n, heads]`) for the key gradient.
template <typename T>
DEVICE void query_gradient(T* dq, float* delta, const T* dout, const T* out, const float* lse, const T* q, const T* k,
                           const T* v, const u32* tiles, int num_heads, int num_kv_heads, int head_dim, int window,
                           float scale) {
    const int head = blockIdx.x, kv_head = head / (num_heads / num_kv_heads);
    for_rows(tiles, [&](int row, int start, int) {
        const i64 place = (i64)row * num_heads + head;
        float query[PER_LANE], dout_row[PER_LANE], sum[PER_LANE] = {}, x[PER_LANE], y[PER_LANE];
        load_row(query, q + place * head_dim, head_dim, scale);
        load_row(dout_row, dout + place * head_dim, head_dim);
        load_row(x, out + place * head_dim, head_dim);
        const float own_delta = dot(dout_row, x), own_lse = lse[place];
        if (threadIdx.x % WARP_THREADS == 0) delta[place] = own_delta;
        for (int j = first_seen(start, row, window); j <= row; j++) {
            const i64 key = ((i64)j * num_kv_heads + kv_head) * head_dim;
            load_row(x, k + key, head_dim);
            load_row(y, v + key, head_dim);
            const float p = exp2_approx((dot(query, x) - own_lse) * LOG2_E);
            add_scaled(sum, scale * p * (dot(dout_row, y) - own_delta), x);
        }
        store_row(dq + place * head_dim, sum, head_dim);
    });
}

template <typename T>
DEVICE void key_gradient(T* dk, T* dv, const T* dout, const float* delta, const float* lse, const T* q, const T* k,
                         const T* v, const u32* tiles, int num_heads, int num_kv_heads, int head_dim, int window,
                           float scale) {
    const int kv_head = blockIdx.x, group = num_heads / num_kv_heads;
    for_rows(tiles, [&](int row, int, int end) {
        const i64 own = ((i64)row * num_kv_heads + kv_head) * head_dim;
        float key[PER_LANE], value[PER_LANE], dkey[PER_LANE] = {}, dvalue[PER_LANE] = {}, x[PER_LANE], y[PER_LANE];
        load_row(key, k + own, head_dim, scale);
        load_row(value, v + own, head_dim);
        for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
            // a key is seen by the queries before it leaves the window
            for (int i = row; i < end && i - window < row; i++) {
                const i64 place = (i64)i * num_heads + head;
                load_row(x, q + place * head_dim, head_dim);
                load_row(y, dout + place * head_dim, head_dim);
                const float p = exp2_approx((dot(key, x) - lse[place]) * LOG2_E);
                add_scaled(dvalue, p, y);
                add_scaled(dkey, scale * p * (dot(value, y) - delta[place]), x);
            }
        }
        store_row(dk + own, dkey, head_dim);
        store_row(dv + own, dvalue, head_dim);
    });
}

#define PLAIN(suffix, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(128) attention_plain_forward_##suffix(                                \
        T* out, float* lse, const T* q, const T* k, const T* v, const u32* tiles, i32 num_heads, i32 num_kv_heads,     \
        i32 head_dim, i32 window, float scale) {                                                                       \
        forward(out, lse, q, k, v, tiles, num_heads, num_kv_heads, head_dim, window, scale);                           \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_plain_forward_##suffix);                                                                    \
    extern "C" __global__ void __launch_bounds__(256) attention_plain_decode_##suffix(                                 \
        T* out, const T* q, const T* k_cache, const T* v_cache, const u32* table, const u32* seq_lens, i32 num_heads,  \
        i32 num_kv_heads, i32 head_dim, i32 page_tokens, i32 table_pages, i32 window, float scale) {                   \
        decode(out, q, k_cache, v_cache, table, seq_lens, num_heads, num_kv_heads, head_dim, page_tokens, table_pages, \
               window, scale);                                                                                         \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_plain_decode_##suffix);                                                                     \
    extern "C" __global__ void __launch_bounds__(128) attention_plain_query_gradient_##suffix(                         \
        T* dq, float* delta, const T* dout, const T* out, const float* lse, const T* q, const T* k, const T* v,        \
        const u32* tiles, i32 num_heads, i32 num_kv_heads, i32 head_dim, i32 window, float scale) {                    \
        query_gradient(dq, delta, dout, out, lse, q, k, v, tiles, num_heads, num_kv_heads, head_dim, window, scale);   \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_plain_query_gradient_##suffix);                                                             \
    extern "C" __global__ void __launch_bounds__(128) attention_plain_key_gradient_##suffix(                           \
        T* dk, T* dv, const T* dout, const float* delta, const float* lse, const T* q, const T* k, const T* v,         \
        const u32* tiles, i32 num_heads, i32 num_kv_heads, i32 head_dim, i32 window, float scale) {                    \
        key_gradient(dk, dv, dout, delta, lse, q, k, v, tiles, num_heads, num_kv_heads, head_dim, window, scale);      \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_plain_key_gradient_##suffix);

PLAIN(f32, float)
PLAIN(bf16, bf16)
