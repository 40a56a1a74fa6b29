// Flash attention for mma.sync (sm_80 and later): causal, packed documents, grouped query heads, head dims 64 and 128.
//
// Maths (mod.rs has the rest). With c = scale log2(e) every exponential is one exp2 of one fused multiply-add:
//   forward    p = exp2(c s - c m), m the running row maximum;  out = (sum p v) / l;  lse = ln 2 (c m + log2 l)
//   statistics delta[i] = sum_x dout[i, x] out[i, x] in f32, kept beside lse log2(e) as pairs [head][token]
//   backward   p = exp2(c s - lse log2(e));  dp = dout v^T;  ds = p (dp - delta)
//              dv += p^T dout;  dk += scale ds^T q;  dq += scale ds k
// Products are bf16 x bf16 in f32 sums; p and ds are rounded to bf16 once, as operands of the second product.
//
// Blocks. The host lists tiles, longest first: one entry per tile of rows that exists, never one that crosses documents or
// lies past an end. Tiles of other documents are not visited, rows past an end are filled with zeros and not stored, so no
// number of one document can reach another. With a window, steps that no row of a block sees are not copied and those that no
// row of a warp sees are not multiplied, so that a document of n tokens costs about n (window + 128) instead of n^2 / 2.
//   forward       one block of 4 warps = 128 queries of one head; a warp holds 32 of them. Keys in tiles of 64.
//   statistics    one warp = 4 (head dim 64) or 2 (128) rows.
//   key gradient  one block of 8 warps = 128 keys of one key head; a warp holds 16 keys and all their dk and dv. Visits the
//                 query heads of its group and their queries in order, 64 at a time: the sum over the group stays in registers.
//   query gradient one block of 8 warps = 128 queries of one head; a warp holds 16. Keys in tiles of 64.
//   decode        one block of 4 warps = 512 keys of one sequence and key head for up to 16 query heads; a warp holds every
//                 fourth tile of 16 keys. A second kernel merges the parts of a sequence.
//
// Determinism. Every sum has one order, fixed by the document alone, so results are bit-equal from run to run and under any
// order of blocks or threads. The price: dq has a pass of its own that computes s and dp again, 7 products of tile size where
// an accumulation of dq by atomic adds needs 5, so 1.4 times the operations. In return no block waits for another, dq needs no
// f32 copy in memory, and scores go from one product to the next in registers.
//
// Shared memory. A tile is [rows][head dim] bf16 with the 16-byte chunks of row r permuted by chunk ^ (r % 8): 8 rows of one
// chunk column lie in 8 different bank groups, as ldmatrix reads them. Bytes for head dim 64 / 128:
//   forward 32 / 64 KiB (q, k, v)    key gradient 65 / 129 KiB (k, v, twice q, dout, statistics)
//   query gradient 64 / 128 KiB (q, dout, twice k, v)    decode 32 / 64 KiB (per warp twice k, v)
// Where a block has 99 KiB (8.6, 8.9, 12.0) the gradients for head dim 128 have one stage instead of two, 97 and 96 KiB: a step's
// copies are waited for instead of travelling under the step before. The sums are the same, to the bit.
//
// Limit. Tensor cores: a document of n tokens takes 2 n^2 head_dim operations per head forward and 7 n^2 head_dim backward, of
// which 5 n^2 head_dim are what a rate is usually given for. A 16 x 8 x 16 product takes 2 cycles of a multiprocessor (sm_80);
// for each, the forward pass reads 0.3 ldmatrix.x4 of 4 cycles and the backward pass 0.6, so that shared memory is as busy as
// the tensor cores there. Decode is limited by the bytes of the cache, which it reads once. Not measured yet.

#ifndef SEEDED_BUG
#define SEEDED_BUG(bug) false
#endif

namespace {

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;
constexpr int KEYS = 64;    // keys of one step of the forward pass and of the query gradient
constexpr int QUERIES = 64; // queries of one step of the key gradient

// Mistakes that seeded.cu plants, for tests of the tests.
enum { MASK_OFF_BY_ONE = 1, WEAK_WAIT, MISSING_BARRIER };

// One entry of the host's list: rows [first, first + tile) of the document [start, end).
struct Tile {
    int first, start, end;
};
DEVICE Tile read_tile(const uint4* tiles, int index) {
    uint4 entry = tiles[index];
    return {(int)entry.x, (int)entry.y, (int)entry.z};
}

// ---- what a query sees; a window of 2^31 - 1 hides nothing ----

// The first token that a query sees, in a document that begins at `start`.
DEVICE int first_seen(int start, int query, int window) { return max(start, query - window + 1); }

// Where the first step that a tile of queries visits begins. Steps are counted from the document's first key, so that a window
// that hides nothing changes no sum.
DEVICE int first_step(Tile tile, int window) {
    return tile.start + (first_seen(tile.start, tile.first, window) - tile.start) / KEYS * KEYS;
}

// Overwrites those numbers of a thread whose column is past their row. `ahead`: how far its first row is past its first column.
template <int M, int N> DEVICE void hide_after(float (&x)[M][N][4], int ahead, float value) {
    UNROLL
    for (int m = 0; m < M; m++) {
        UNROLL
        for (int n = 0; n < N; n++) {
            UNROLL
            for (int r = 0; r < 4; r++)
                if (n * 8 + (r & 1) > ahead + m * 16 + (r >> 1) * 8) x[m][n][r] = value;
        }
    }
}

// Overwrites those whose column is their row or before it.
template <int M, int N> DEVICE void hide_until(float (&x)[M][N][4], int ahead, float value) {
    UNROLL
    for (int m = 0; m < M; m++) {
        UNROLL
        for (int n = 0; n < N; n++) {
            UNROLL
            for (int r = 0; r < 4; r++)
                if (n * 8 + (r & 1) <= ahead + m * 16 + (r >> 1) * 8) x[m][n][r] = value;
        }
    }
}

// ---- tiles in shared memory ----

template <int HEAD_DIM> DEVICE int place(int row, int column) {
    return row * HEAD_DIM + ((((column >> 3) ^ (row & 7)) << 3) | (column & 7));
}

// The place `column` (a multiple of 16) further right in the same row: one xor, so that a thread keeps one index per tile.
DEVICE int to_the_right(int place, int column) { return (place ^ (column & 48)) + (column & 64); }

// Starts the copy of rows [first, first + ROWS) of one head; rows from `end` on become zeros. `end` is at least 1.
template <int HEAD_DIM, int ROWS, int THREADS>
DEVICE void load_rows(bf16* tile, const bf16* head, int stride, int first, int end, int thread) {
    constexpr int CHUNKS = HEAD_DIM / 8, PASS = THREADS / CHUNKS;
    static_assert(ROWS % PASS == 0 && PASS % 8 == 0, "every thread copies the same column of rows with the same r % 8");
    const int column = thread % CHUNKS * 8, row = first + thread / CHUNKS;
    tile += place<HEAD_DIM>(thread / CHUNKS, column);
    head += column;
    UNROLL
    for (int i = 0; i < ROWS; i += PASS)
        copy_async_16(tile + i * HEAD_DIM, head + (i64)min(row + i, end - 1) * stride, row + i < end);
}

// ---- products of tiles; sum[m][n] is the fragment of rows 16 m and columns 8 n ----

// sum += left right^T, both [rows][HEAD_DIM] in shared memory.
template <int HEAD_DIM, int M, int N>
DEVICE void multiply_by_rows(float (&sum)[M][N][4], const bf16* left, int left_row, const bf16* right, int lane) {
    const int left_place = place<HEAD_DIM>(left_row + (lane & 15), (lane >> 4) * 8);
    const int right_place = place<HEAD_DIM>((lane & 7) + (lane >> 4) * 8, ((lane >> 3) & 1) * 8);
    UNROLL
    for (int k = 0; k < HEAD_DIM; k += 16) {
        u32 a[M][4];
        UNROLL
        for (int m = 0; m < M; m++) ldmatrix_x4(a[m], left + to_the_right(left_place, k) + m * 16 * HEAD_DIM);
        UNROLL
        for (int n = 0; n < N; n += 2) {
            u32 b[4];
            ldmatrix_x4(b, right + to_the_right(right_place, k) + n * 8 * HEAD_DIM);
            const u32 low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
            UNROLL
            for (int m = 0; m < M; m++) {
                mma_m16n8k16(sum[m][n], a[m], low);
                mma_m16n8k16(sum[m][n + 1], a[m], high);
            }
        }
    }
}

// sum += left right, left in registers (K / 2 fragments of 8 columns), right [8 K rows][HEAD_DIM] in shared memory.
template <int HEAD_DIM, int M, int K> DEVICE void
multiply_by_columns(float (&sum)[M][HEAD_DIM / 8][4], const u32 (&left)[M][K / 2][4], const bf16* right, int lane) {
    const int right_place = place<HEAD_DIM>(lane & 15, (lane >> 4) * 8);
    UNROLL
    for (int k = 0; k < K / 2; k++) {
        UNROLL
        for (int n = 0; n < HEAD_DIM / 8; n += 2) {
            u32 b[4];
            ldmatrix_x4_trans(b, right + to_the_right(right_place, n * 8) + k * 16 * HEAD_DIM);
            const u32 low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
            UNROLL
            for (int m = 0; m < M; m++) {
                mma_m16n8k16(sum[m][n], left[m][k], low);
                mma_m16n8k16(sum[m][n + 1], left[m][k], high);
            }
        }
    }
}

// The sums of one product as the left operand of the next: the layouts agree, so no thread needs another's numbers.
template <int M, int N> DEVICE void round_to_operand(u32 (&operand)[M][N / 2][4], const float (&sum)[M][N][4]) {
    UNROLL
    for (int m = 0; m < M; m++) {
        UNROLL
        for (int k = 0; k < N / 2; k++) {
            UNROLL
            for (int r = 0; r < 4; r++) {
                const float* pair = &sum[m][2 * k + (r >> 1)][(r & 1) * 2];
                operand[m][k][r] = pack_bf16(pair[0], pair[1]);
            }
        }
    }
}

template <int M, int N> DEVICE void clear(float (&sum)[M][N][4]) {
    UNROLL
    for (int m = 0; m < M; m++) {
        UNROLL
        for (int n = 0; n < N; n++) {
            UNROLL
            for (int r = 0; r < 4; r++) sum[m][n][r] = 0.f;
        }
    }
}

// ---- rows out of the registers ----

// Stores half `h` of 16 rows (lane / 4, 8 further for h = 1), times `factor`. All lanes take part, only `inside` ones store.
template <int HEAD_DIM>
DEVICE void store_row(bf16* row, const float (&sum)[HEAD_DIM / 8][4], int h, float factor, bool inside, int lane) {
    UNROLL
    for (int n = 0; n < HEAD_DIM / 8; n += 4) {
        u32 word[4];
        UNROLL
        for (int i = 0; i < 4; i++) word[i] = pack_bf16(sum[n + i][2 * h] * factor, sum[n + i][2 * h + 1] * factor);
        uint4 chunk = transpose_quad(word, lane);
        if (inside) *(uint4*)(row + n * 8 + (lane & 3) * 8) = chunk;
    }
}

// ---- online softmax ----

// One step for the rows of M fragments: scores become probabilities relative to the new maximum, older sums shrink.
// A row that has seen nothing but masked scores keeps maximum -infinity and sum 0.
template <int HEAD_DIM, int M, int N> DEVICE void softmax_step(float (&score)[M][N][4],
                                                               float (&out)[M][HEAD_DIM / 8][4], float (&best)[M][2],
                                                               float (&total)[M][2], float factor) {
    UNROLL
    for (int m = 0; m < M; m++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            float largest = best[m][h];
            UNROLL
            for (int n = 0; n < N; n++) largest = fmaxf(largest, fmaxf(score[m][n][2 * h], score[m][n][2 * h + 1]));
            largest = quad_max(largest);
            const float base = largest == -INFINITY ? 0.f : largest * factor;
            const float shrink = exp2_approx(best[m][h] * factor - base);
            best[m][h] = largest;
            float sum = 0.f;
            UNROLL
            for (int n = 0; n < N; n++) {
                UNROLL
                for (int r = 2 * h; r < 2 * h + 2; r++) {
                    score[m][n][r] = exp2_approx(score[m][n][r] * factor - base);
                    sum += score[m][n][r];
                }
            }
            total[m][h] = total[m][h] * shrink + sum;
            UNROLL
            for (int n = 0; n < HEAD_DIM / 8; n++) {
                out[m][n][2 * h] *= shrink;
                out[m][n][2 * h + 1] *= shrink;
            }
        }
    }
}

// ---- forward ----

template <int HEAD_DIM> DEVICE void forward(bf16* out, float* out_f32, float* lse, const bf16* q, const bf16* k,
                                            const bf16* v, const uint4* tiles, int num_heads, int num_kv_heads,
                                            int window, float scale) {
    constexpr int M = 2, WARPS = 4, THREADS = 32 * WARPS, ROWS = WARPS * M * 16;
    DYNAMIC_SHARED(memory);
    bf16 *q_tile = (bf16*)memory, *k_tile = q_tile + ROWS * HEAD_DIM, *v_tile = k_tile + KEYS * HEAD_DIM;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int head = blockIdx.x, kv_head = head / (num_heads / num_kv_heads);
    const Tile tile = read_tile(tiles, blockIdx.y);
    const int q_stride = num_heads * HEAD_DIM, kv_stride = num_kv_heads * HEAD_DIM;
    const bf16 *k_head = k + (i64)kv_head * HEAD_DIM, *v_head = v + (i64)kv_head * HEAD_DIM;
    const int end = min(tile.first + ROWS, tile.end), warp_first = tile.first + warp * M * 16;

    load_rows<HEAD_DIM, ROWS, THREADS>(q_tile, q + (i64)head * HEAD_DIM, q_stride, tile.first, end, thread);
    const int step_first = first_step(tile, window);
    load_rows<HEAD_DIM, KEYS, THREADS>(k_tile, k_head, kv_stride, step_first, end, thread);
    copy_async_commit();

    float sum[M][HEAD_DIM / 8][4], best[M][2], total[M][2];
    clear(sum);
    UNROLL
    for (int m = 0; m < M; m++) {
        best[m][0] = best[m][1] = -INFINITY;
        total[m][0] = total[m][1] = 0.f;
    }
    const float factor = scale * LOG2_E;
    for (int key_first = step_first; key_first < end; key_first += KEYS) {
        // The next load goes where the product before last has been: v travels under q k^T, the next k under softmax and p v.
        const bool seen = key_first < warp_first + M * 16 && key_first + KEYS > warp_first - window + 1;
        float score[M][KEYS / 8][4];
        copy_async_wait<0>();
        __syncthreads();
        load_rows<HEAD_DIM, KEYS, THREADS>(v_tile, v_head, kv_stride, key_first, end, thread);
        copy_async_commit();
        if (seen) {
            clear(score);
            multiply_by_rows<HEAD_DIM>(score, q_tile, warp * M * 16, k_tile, lane);
            // how far this thread's first row is past its first key
            const int ahead = warp_first + (lane >> 2) - key_first - (lane & 3) * 2 + SEEDED_BUG(MASK_OFF_BY_ONE);
            if (key_first + KEYS > warp_first + 1) hide_after(score, ahead, -INFINITY);
            if (key_first < warp_first + M * 16 - window) hide_until(score, ahead - window, -INFINITY);
        }
        if (!SEEDED_BUG(WEAK_WAIT))
            copy_async_wait<0>();
        else
            copy_async_wait<1>();
        if (!SEEDED_BUG(MISSING_BARRIER)) __syncthreads();
        if (key_first + KEYS < end)
            load_rows<HEAD_DIM, KEYS, THREADS>(k_tile, k_head, kv_stride, key_first + KEYS, end, thread);
        copy_async_commit();
        if (seen) {
            softmax_step<HEAD_DIM>(score, sum, best, total, factor);
            u32 probability[M][KEYS / 16][4];
            round_to_operand<M, KEYS / 8>(probability, score);
            multiply_by_columns<HEAD_DIM, M, KEYS / 8>(sum, probability, v_tile, lane);
        }
    }
    copy_async_wait<0>();

    UNROLL
    for (int m = 0; m < M; m++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            const int row = warp_first + m * 16 + (lane >> 2) + h * 8;
            const bool inside = row < end;
            const float whole = quad_sum(total[m][h]);
            // A row without keys has output 0 and lse +infinity, which makes its probabilities 0 in the backward pass.
            const float inverse = whole > 0.f ? 1.f / whole : 0.f;
            const i64 place_of_row = (i64)row * num_heads + head;
            store_row<HEAD_DIM>(out + place_of_row * HEAD_DIM, sum[m], h, inverse, inside, lane);
            if (!inside) continue;
            if (out_f32) {
                UNROLL
                for (int n = 0; n < HEAD_DIM / 8; n++)
                    *(float2*)(out_f32 + place_of_row * HEAD_DIM + n * 8 +
                               (lane & 3) * 2) = {sum[m][n][2 * h] * inverse, sum[m][n][2 * h + 1] * inverse};
            }
            if ((lane & 3) == 0)
                lse[place_of_row] = whole > 0.f ? (best[m][h] * factor + log2f(whole)) * LN_2 : INFINITY;
        }
    }
}

// ---- statistics of the backward pass ----

DEVICE void read_8(float (&value)[8], const bf16* source) {
    const uint4 chunk = *(const uint4*)source;
    const u32 words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
    UNROLL
    for (int i = 0; i < 4; i++) {
        value[2 * i] = low_of(words[i]);
        value[2 * i + 1] = high_of(words[i]);
    }
}
DEVICE void read_8(float (&value)[8], const float* source) {
    UNROLL
    for (int i = 0; i < 8; i++) value[i] = source[i];
}

// statistics[head][token] = (lse log2(e), delta), for all tokens of all heads. `OUT` is float where the forward pass has
// kept its output in f32. With the rounded output, delta inherits the rounding of every number of a row, an error that has
// the same sign throughout a row where v has (arXiv:2510.04212), and every ds of the row is off by p times that error.
template <int HEAD_DIM, typename OUT> DEVICE void statistics(float2* statistics, const bf16* dout, const OUT* out,
                                                             const float* lse, int num_tokens, int num_heads,
                                                             int pitch) {
    constexpr int LANES = HEAD_DIM / 8;
    const i64 row = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    const int part = threadIdx.x % LANES;
    const bool inside = row < (i64)num_tokens * num_heads;
    float delta = 0.f;
    if (inside) {
        const uint4 gradient = *(const uint4*)(dout + row * HEAD_DIM + part * 8);
        const u32 words[4] = {gradient.x, gradient.y, gradient.z, gradient.w};
        float value[8];
        read_8(value, out + row * HEAD_DIM + part * 8);
        UNROLL
        for (int i = 0; i < 4; i++) delta += low_of(words[i]) * value[2 * i] + high_of(words[i]) * value[2 * i + 1];
    }
    UNROLL
    for (int step = LANES / 2; step > 0; step /= 2) delta += __shfl_xor_sync(0xffffffffu, delta, step);
    if (inside && part == 0) statistics[row % num_heads * pitch + row / num_heads] = {lse[row] * LOG2_E, delta};
}

// ---- key gradient ----

template <int HEAD_DIM, int STAGES = 2>
DEVICE void key_gradient(bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k, const bf16* v,
                         const float2* statistics, const uint4* tiles, int num_heads, int num_kv_heads, int pitch,
                         int window, float scale) {
    constexpr int WARPS = 8, THREADS = 32 * WARPS, ROWS = 16 * WARPS, Q_TILE = QUERIES * HEAD_DIM;
    DYNAMIC_SHARED(memory);
    bf16 *k_tile = (bf16*)memory, *v_tile = k_tile + ROWS * HEAD_DIM, *q_tiles = v_tile + ROWS * HEAD_DIM,
         *dout_tiles = q_tiles + STAGES * Q_TILE;
    float2* statistics_tiles = (float2*)(dout_tiles + STAGES * Q_TILE);
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int kv_head = blockIdx.x, group = num_heads / num_kv_heads;
    const Tile tile = read_tile(tiles, blockIdx.y);
    const int q_stride = num_heads * HEAD_DIM, kv_stride = num_kv_heads * HEAD_DIM;
    const int warp_first = tile.first + warp * 16;

    auto load_step = [&](int head, int first, int stage) {
        load_rows<HEAD_DIM, QUERIES, THREADS>(q_tiles + stage * Q_TILE, q + (i64)head * HEAD_DIM, q_stride, first,
                                              tile.end, thread);
        load_rows<HEAD_DIM, QUERIES, THREADS>(dout_tiles + stage * Q_TILE, dout + (i64)head * HEAD_DIM, q_stride, first,
                                              tile.end, thread);
        if (thread < QUERIES) {
            // +infinity makes every probability of a row past the end 0
            const bool inside = first + thread < tile.end;
            const float2 none = {INFINITY, 0.f};
            statistics_tiles[stage * QUERIES + thread] = inside ? statistics[(i64)head * pitch + first + thread] : none;
        }
    };

    load_rows<HEAD_DIM, ROWS, THREADS>(k_tile, k + (i64)kv_head * HEAD_DIM, kv_stride, tile.first, tile.end, thread);
    load_rows<HEAD_DIM, ROWS, THREADS>(v_tile, v + (i64)kv_head * HEAD_DIM, kv_stride, tile.first, tile.end, thread);
    load_step(kv_head * group, tile.first, 0);
    copy_async_commit();

    float dk_sum[1][HEAD_DIM / 8][4], dv_sum[1][HEAD_DIM / 8][4];
    clear(dk_sum);
    clear(dv_sum);
    const float factor = scale * LOG2_E;
    const int last_head = kv_head * group + group;
    int next_head = kv_head * group, next_first = tile.first;
    bool has_begun = false;
    for (int stage = 0; next_head < last_head; stage ^= STAGES - 1) {
        const int query_first = next_first;
        // with one stage, none still reads what the loads below fill
        if (STAGES == 1 && has_begun) {
            __syncthreads();
            load_step(next_head, next_first, 0);
            copy_async_commit();
        }
        has_begun = true;
        next_first += QUERIES;
        // later queries do not exist, or see none of the keys
        if (next_first >= tile.end || next_first - window >= tile.first + ROWS - 1) {
            next_first = tile.first;
            next_head++;
        }
        if (!SEEDED_BUG(WEAK_WAIT)) copy_async_wait<0>();
        else copy_async_wait<1>();
        // this step has come for all threads, and none still reads the stage that is filled next
        if (!SEEDED_BUG(MISSING_BARRIER)) __syncthreads();
        if (STAGES == 2) {
            if (next_head < last_head) load_step(next_head, next_first, stage ^ 1);
            copy_async_commit();
        }
        if (query_first + QUERIES <= warp_first || query_first - window >= warp_first + 15) continue;

        const bf16 *q_tile = q_tiles + stage * Q_TILE, *dout_tile = dout_tiles + stage * Q_TILE;
        const float4* pairs = (const float4*)(statistics_tiles + stage * QUERIES) + (lane & 3);
        float p[1][QUERIES / 8][4], ds[1][QUERIES / 8][4];
        u32 operand[1][QUERIES / 16][4];
        clear(p);
        multiply_by_rows<HEAD_DIM>(p, k_tile, warp * 16, q_tile, lane);
        // how far this thread's first key is past its first query; keys are the rows here
        const int ahead = warp_first + (lane >> 2) - query_first - (lane & 3) * 2 - SEEDED_BUG(MASK_OFF_BY_ONE);
        const bool edge = query_first < warp_first + 15;
        // one mask ahead of the exponentials and one among them: both in one place do not fit the registers for head dim 128
        if (query_first + QUERIES - 1 - window >= warp_first) hide_after(p, ahead + window - 1, -INFINITY);
        UNROLL
        for (int n = 0; n < QUERIES / 8; n++) {
            const float4 pair = pairs[n * 4]; // of two neighbouring queries
            UNROLL
            for (int r = 0; r < 4; r++) {
                p[0][n][r] = exp2_approx(p[0][n][r] * factor - (r & 1 ? pair.z : pair.x));
                if (edge && n * 8 + (r & 1) < ahead + (r >> 1) * 8) p[0][n][r] = 0.f;
            }
        }
        round_to_operand<1, QUERIES / 8>(operand, p);
        multiply_by_columns<HEAD_DIM, 1, QUERIES / 8>(dv_sum, operand, dout_tile, lane);
        clear(ds);
        multiply_by_rows<HEAD_DIM>(ds, v_tile, warp * 16, dout_tile, lane);
        UNROLL
        for (int n = 0; n < QUERIES / 8; n++) {
            const float4 pair = pairs[n * 4];
            UNROLL
            for (int r = 0; r < 4; r++) ds[0][n][r] = p[0][n][r] * (ds[0][n][r] - (r & 1 ? pair.w : pair.y));
        }
        round_to_operand<1, QUERIES / 8>(operand, ds);
        multiply_by_columns<HEAD_DIM, 1, QUERIES / 8>(dk_sum, operand, q_tile, lane);
    }
    copy_async_wait<0>();

    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = warp_first + (lane >> 2) + h * 8;
        const i64 at = ((i64)row * num_kv_heads + kv_head) * HEAD_DIM;
        store_row<HEAD_DIM>(dk + at, dk_sum[0], h, scale, row < tile.end, lane);
        store_row<HEAD_DIM>(dv + at, dv_sum[0], h, 1.f, row < tile.end, lane);
    }
}

// ---- query gradient ----

template <int HEAD_DIM, int STAGES = 2>
DEVICE void query_gradient(bf16* dq, const bf16* dout, const bf16* q, const bf16* k, const bf16* v,
                           const float2* statistics, const uint4* tiles, int num_heads, int num_kv_heads, int pitch,
                           int window, float scale) {
    constexpr int WARPS = 8, THREADS = 32 * WARPS, ROWS = 16 * WARPS, KV_TILE = KEYS * HEAD_DIM;
    DYNAMIC_SHARED(memory);
    bf16 *q_tile = (bf16*)memory, *dout_tile = q_tile + ROWS * HEAD_DIM, *k_tiles = dout_tile + ROWS * HEAD_DIM,
         *v_tiles = k_tiles + STAGES * KV_TILE;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int head = blockIdx.x, kv_head = head / (num_heads / num_kv_heads);
    const Tile tile = read_tile(tiles, blockIdx.y);
    const int q_stride = num_heads * HEAD_DIM, kv_stride = num_kv_heads * HEAD_DIM;
    const int end = min(tile.first + ROWS, tile.end), warp_first = tile.first + warp * 16;

    auto load_step = [&](int key_first, int stage) {
        load_rows<HEAD_DIM, KEYS, THREADS>(k_tiles + stage * KV_TILE, k + (i64)kv_head * HEAD_DIM, kv_stride, key_first,
                                           end, thread);
        load_rows<HEAD_DIM, KEYS, THREADS>(v_tiles + stage * KV_TILE, v + (i64)kv_head * HEAD_DIM, kv_stride, key_first,
                                           end, thread);
    };
    load_rows<HEAD_DIM, ROWS, THREADS>(q_tile, q + (i64)head * HEAD_DIM, q_stride, tile.first, end, thread);
    load_rows<HEAD_DIM, ROWS, THREADS>(dout_tile, dout + (i64)head * HEAD_DIM, q_stride, tile.first, end, thread);
    const int step_first = first_step(tile, window);
    load_step(step_first, 0);
    copy_async_commit();

    float2 of_row[2];
    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = warp_first + (lane >> 2) + h * 8;
        const float2 none = {INFINITY, 0.f};
        of_row[h] = row < end ? statistics[(i64)head * pitch + row] : none;
    }
    float dq_sum[1][HEAD_DIM / 8][4];
    clear(dq_sum);
    const float factor = scale * LOG2_E;
    int stage = 0;
    for (int key_first = step_first; key_first < end; key_first += KEYS, stage ^= STAGES - 1) {
        if (STAGES == 1 && key_first > step_first) { // as in the key gradient
            __syncthreads();
            load_step(key_first, 0);
            copy_async_commit();
        }
        if (!SEEDED_BUG(WEAK_WAIT)) copy_async_wait<0>();
        else copy_async_wait<1>();
        if (!SEEDED_BUG(MISSING_BARRIER)) __syncthreads(); // for both reasons of the key gradient
        if (STAGES == 2) {
            if (key_first + KEYS < end) load_step(key_first + KEYS, stage ^ 1);
            copy_async_commit();
        }
        if (key_first > warp_first + 15 || key_first + KEYS <= warp_first - window + 1) continue;

        float p[1][KEYS / 8][4], ds[1][KEYS / 8][4];
        clear(p);
        clear(ds);
        multiply_by_rows<HEAD_DIM>(p, q_tile, warp * 16, k_tiles + stage * KV_TILE, lane);
        multiply_by_rows<HEAD_DIM>(ds, dout_tile, warp * 16, v_tiles + stage * KV_TILE, lane);
        // how far this thread's first query is past its first key
        const int ahead = warp_first + (lane >> 2) - key_first - (lane & 3) * 2 + SEEDED_BUG(MASK_OFF_BY_ONE);
        UNROLL
        for (int n = 0; n < KEYS / 8; n++) {
            UNROLL
            for (int r = 0; r < 4; r++) {
                const float probability = exp2_approx(p[0][n][r] * factor - of_row[r >> 1].x);
                ds[0][n][r] = probability * (ds[0][n][r] - of_row[r >> 1].y);
            }
        }
        if (key_first + KEYS > warp_first + 1) hide_after(ds, ahead, 0.f);
        if (key_first < warp_first + 16 - window) hide_until(ds, ahead - window, 0.f);
        u32 operand[1][KEYS / 16][4];
        round_to_operand<1, KEYS / 8>(operand, ds);
        multiply_by_columns<HEAD_DIM, 1, KEYS / 8>(dq_sum, operand, k_tiles + stage * KV_TILE, lane);
    }
    copy_async_wait<0>();

    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = warp_first + (lane >> 2) + h * 8;
        store_row<HEAD_DIM>(dq + ((i64)row * num_heads + head) * HEAD_DIM, dq_sum[0], h, scale, row < end, lane);
    }
}

// ---- decode ----

constexpr int PART_KEYS = 512; // keys of one part; fixed, so that a sequence's bits do not depend on its batch
constexpr int WARP_KEYS = 16;  // keys of one step of one warp
constexpr int DECODE_WARPS = 4;

// One part of one sequence: out is relative to the part's own softmax, part_lse says how much the part weighs.
// parts[sequence][part][head][HEAD_DIM], part_lse[sequence][part][head]. A cache is [page][page_tokens][kv head][HEAD_DIM];
// token t of sequence s lies in page table[s][t / page_tokens]. Warps are independent until the end: no barrier in the loop.
template <int HEAD_DIM> DEVICE void decode_part(float* parts, float* part_lse, const bf16* q, const bf16* k_cache,
                                                const bf16* v_cache, const u32* table, const u32* seq_lens, int num_heads,
                                                int num_kv_heads, int page_tokens, int table_pages, int window,
                                                float scale) {
    constexpr int TILE = WARP_KEYS * HEAD_DIM, CHUNKS = HEAD_DIM / 8, STEP = DECODE_WARPS * WARP_KEYS;
    DYNAMIC_SHARED(memory);
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int group = num_heads / num_kv_heads, head_tiles = (group + 15) / 16;
    const int part = blockIdx.x, kv_head = blockIdx.y / head_tiles, head_first = blockIdx.y % head_tiles * 16,
              sequence = blockIdx.z;
    const int len = (int)seq_lens[sequence], first = part * PART_KEYS, end = min(first + PART_KEYS, len);
    const int hidden = first_seen(0, len - 1, window); // so many keys, the first ones
    if (first >= len || end <= hidden) return;
    bf16 *k_tiles = (bf16*)memory + warp * 4 * TILE, *v_tiles = k_tiles + 2 * TILE;

    auto load_step = [&](int key_first, int stage) {
        UNROLL
        for (int i = 0; i < WARP_KEYS * CHUNKS / 32; i++) {
            int row = (i * 32 + lane) / CHUNKS, column = (i * 32 + lane) % CHUNKS * 8,
                token = min(key_first + row, end - 1);
            i64 page = table[(i64)sequence * table_pages + token / page_tokens];
            i64 at = ((page * page_tokens + token % page_tokens) * num_kv_heads + kv_head) * HEAD_DIM + column;
            copy_async_16(k_tiles + stage * TILE + place<HEAD_DIM>(row, column), k_cache + at, key_first + row < end);
            copy_async_16(v_tiles + stage * TILE + place<HEAD_DIM>(row, column), v_cache + at, key_first + row < end);
        }
    };

    // The heads of the group are the rows of the product; rows past the group are zeros.
    u32 query[HEAD_DIM / 16][4];
    const bf16* q_rows = q + ((i64)sequence * num_heads + kv_head * group + head_first) * HEAD_DIM + (lane & 3) * 2;
    UNROLL
    for (int x = 0; x < HEAD_DIM / 16; x++) {
        UNROLL
        for (int r = 0; r < 4; r++) {
            int row = (lane >> 2) + (r & 1) * 8;
            query[x][r] =
                head_first + row < group ? *(const u32*)(q_rows + (i64)row * HEAD_DIM + x * 16 + (r >> 1) * 8) : 0u;
        }
    }

    float sum[1][HEAD_DIM / 8][4], best[1][2] = {{-INFINITY, -INFINITY}}, total[1][2] = {{0.f, 0.f}};
    clear(sum);
    const float factor = scale * LOG2_E;
    // steps of all warps that are hidden are left out
    const int warp_first = first + max(hidden - first, 0) / STEP * STEP + warp * WARP_KEYS;
    if (warp_first < end) load_step(warp_first, 0);
    copy_async_commit();
    int stage = 0;
    for (int key_first = warp_first; key_first < end; key_first += STEP, stage ^= 1) {
        if (key_first + STEP < end) load_step(key_first + STEP, stage ^ 1);
        copy_async_commit();
        copy_async_wait<1>();
        __syncwarp();
        float score[1][WARP_KEYS / 8][4];
        clear(score);
        UNROLL
        for (int x = 0; x < HEAD_DIM / 16; x++) {
            u32 b[4];
            ldmatrix_x4(b, k_tiles + stage * TILE +
                               place<HEAD_DIM>((lane & 7) + (lane >> 4) * 8, x * 16 + ((lane >> 3) & 1) * 8));
            const u32 low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
            mma_m16n8k16(score[0][0], query[x], low);
            mma_m16n8k16(score[0][1], query[x], high);
        }
        UNROLL
        for (int n = 0; n < WARP_KEYS / 8; n++) {
            UNROLL
            for (int r = 0; r < 4; r++)
                if (const int key = key_first + n * 8 + (lane & 3) * 2 + (r & 1); key >= end || key < hidden)
                    score[0][n][r] = -INFINITY;
        }
        softmax_step<HEAD_DIM>(score, sum, best, total, factor);
        u32 probability[1][1][4];
        round_to_operand<1, 2>(probability, score);
        multiply_by_columns<HEAD_DIM, 1, 2>(sum, probability, v_tiles + stage * TILE, lane);
        __syncwarp(); // the stage is filled again in the next step
    }
    copy_async_wait<0>();

    // Merge the warps in order. Their tiles of k and v are no longer needed: [warp][16 heads][HEAD_DIM] sums take their place.
    __syncthreads();
    float *sums = (float*)memory, *bests = sums + DECODE_WARPS * 16 * HEAD_DIM, *totals = bests + DECODE_WARPS * 16;
    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = warp * 16 + (lane >> 2) + h * 8;
        const float whole = quad_sum(total[0][h]);
        if ((lane & 3) == 0) {
            bests[row] = best[0][h] * factor;
            totals[row] = whole;
        }
        UNROLL
        for (int n = 0; n < HEAD_DIM / 8; n++)
            *(float2*)(sums + row * HEAD_DIM + n * 8 + (lane & 3) * 2) = {sum[0][n][2 * h], sum[0][n][2 * h + 1]};
    }
    __syncthreads();
    const int rows = min(16, group - head_first);
    const i64 out_row = ((i64)sequence * gridDim.x + part) * num_heads + kv_head * group + head_first;
    for (int i = thread; i < rows * HEAD_DIM; i += 32 * DECODE_WARPS) {
        const int row = i / HEAD_DIM, column = i % HEAD_DIM;
        float largest = -INFINITY, whole = 0.f, value = 0.f;
        for (int w = 0; w < DECODE_WARPS; w++) largest = fmaxf(largest, bests[w * 16 + row]);
        for (int w = 0; w < DECODE_WARPS; w++) {
            const float weight = totals[w * 16 + row] > 0.f ? exp2_approx(bests[w * 16 + row] - largest) : 0.f;
            whole += weight * totals[w * 16 + row];
            value += weight * sums[(w * 16 + row) * HEAD_DIM + column];
        }
        parts[(out_row + row) * HEAD_DIM + column] = value / whole;
        if (column == 0) part_lse[out_row + row] = largest + log2f(whole);
    }
}

// One block of HEAD_DIM / 2 threads = one head of one sequence.
template <int HEAD_DIM> DEVICE void decode_merge(bf16* out, const float* parts, const float* part_lse, const u32* seq_lens,
                                                 int num_heads, int max_parts, int window) {
    const int head = blockIdx.x, sequence = blockIdx.y, column = threadIdx.x * 2;
    const int len = (int)seq_lens[sequence], num_parts = (len + PART_KEYS - 1) / PART_KEYS;
    const int first_part = first_seen(0, len - 1, window) / PART_KEYS;
    const i64 first = (i64)sequence * max_parts * num_heads + head;
    float largest = -INFINITY, whole = 0.f;
    float2 value = {0.f, 0.f};
    for (int part = first_part; part < num_parts; part++)
        largest = fmaxf(largest, part_lse[first + (i64)part * num_heads]);
    for (int part = first_part; part < num_parts; part++) {
        const i64 at = first + (i64)part * num_heads;
        const float weight = exp2_approx(part_lse[at] - largest);
        const float2 x = *(const float2*)(parts + at * HEAD_DIM + column);
        whole += weight;
        value.x += weight * x.x;
        value.y += weight * x.y;
    }
    const float inverse = whole > 0.f ? 1.f / whole : 0.f;
    *(u32*)(out + ((i64)sequence * num_heads + head) * HEAD_DIM + column) =
        pack_bf16(value.x * inverse, value.y * inverse);
}

} // namespace

// ---- entries ----

#ifndef ATTENTION_WITHOUT_ENTRIES
#define ATTENTION_KERNELS(E)                                                                                           \
    extern "C" __global__ void __launch_bounds__(128, 2)                                                               \
        attention_forward_d##E(bf16* out, float* out_f32, float* lse, const bf16* q, const bf16* k, const bf16* v,     \
                               const uint4* tiles, int num_heads, int num_kv_heads, int window, float scale) {         \
        forward<E>(out, out_f32, lse, q, k, v, tiles, num_heads, num_kv_heads, window, scale);                         \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_forward_d##E);                                                                              \
    extern "C" __global__ void __launch_bounds__(128, 1)                                                               \
        attention_statistics_d##E(float2* statistics_, const bf16* dout, const bf16* out, const float* lse,            \
                                  int num_tokens, int num_heads, int pitch) {                                          \
        statistics<E>(statistics_, dout, out, lse, num_tokens, num_heads, pitch);                                      \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_statistics_d##E);                                                                           \
    extern "C" __global__ void __launch_bounds__(128, 1)                                                               \
        attention_statistics_f32_d##E(float2* statistics_, const bf16* dout, const float* out, const float* lse,       \
                                      int num_tokens, int num_heads, int pitch) {                                      \
        statistics<E>(statistics_, dout, out, lse, num_tokens, num_heads, pitch);                                      \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_statistics_f32_d##E);                                                                       \
    extern "C" __global__ void __launch_bounds__(256, 1) attention_key_gradient_d##E(                                  \
        bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k, const bf16* v, const float2* statistics,   \
        const uint4* tiles, int num_heads, int num_kv_heads, int pitch, int window, float scale) {                     \
        key_gradient<E>(dk, dv, dout, q, k, v, statistics, tiles, num_heads, num_kv_heads, pitch, window, scale);      \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_key_gradient_d##E);                                                                         \
    extern "C" __global__ void __launch_bounds__(256, 1) attention_query_gradient_d##E(                                \
        bf16* dq, const bf16* dout, const bf16* q, const bf16* k, const bf16* v, const float2* statistics,             \
        const uint4* tiles, int num_heads, int num_kv_heads, int pitch, int window, float scale) {                     \
        query_gradient<E>(dq, dout, q, k, v, statistics, tiles, num_heads, num_kv_heads, pitch, window, scale);        \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_query_gradient_d##E);                                                                       \
    extern "C" __global__ void __launch_bounds__(128, 1) attention_decode_part_d##E(                                   \
        float* parts, float* part_lse, const bf16* q, const bf16* k_cache, const bf16* v_cache, const u32* table,      \
        const u32* seq_lens, int num_heads, int num_kv_heads, int page_tokens, int table_pages, int window,            \
        float scale) {                                                                                                 \
        decode_part<E>(parts, part_lse, q, k_cache, v_cache, table, seq_lens, num_heads, num_kv_heads, page_tokens,    \
                       table_pages, window, scale);                                                                    \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_decode_part_d##E);                                                                          \
    extern "C" __global__ void __launch_bounds__(E / 2, 1) attention_decode_merge_d##E(                                \
        bf16* out, const float* parts, const float* part_lse, const u32* seq_lens, int num_heads, int max_parts,       \
        int window) {                                                                                                  \
        decode_merge<E>(out, parts, part_lse, seq_lens, num_heads, max_parts, window);                                 \
    }                                                                                                                  \
    KERNEL_ENTRY(attention_decode_merge_d##E);

ATTENTION_KERNELS(64)
ATTENTION_KERNELS(128)

extern "C" __global__ void __launch_bounds__(256, 1)
    attention_key_gradient_d128_one_stage(bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k,
                                          const bf16* v, const float2* statistics, const uint4* tiles, int num_heads,
                                          int num_kv_heads, int pitch, int window, float scale) {
    key_gradient<128, 1>(dk, dv, dout, q, k, v, statistics, tiles, num_heads, num_kv_heads, pitch, window, scale);
}
KERNEL_ENTRY(attention_key_gradient_d128_one_stage);
extern "C" __global__ void __launch_bounds__(256, 1)
    attention_query_gradient_d128_one_stage(bf16* dq, const bf16* dout, const bf16* q, const bf16* k, const bf16* v,
                                            const float2* statistics, const uint4* tiles, int num_heads,
                                            int num_kv_heads, int pitch, int window,
                                            float scale) {
    query_gradient<128, 1>(dq, dout, q, k, v, statistics, tiles, num_heads, num_kv_heads, pitch, window, scale);
}
KERNEL_ENTRY(attention_query_gradient_d128_one_stage);
#endif
