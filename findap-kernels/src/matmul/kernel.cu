// Matrix products c (+)= op(a) op(b), row-major with a pitch for each matrix: what runs where cuBLASLt is missing.
//
// bf16: a block of 4 warps has a tile of c, 64 x 64, each warp a quarter of it. Strips of 32 along k go through shared memory in
// two stages: while one is multiplied (mma.m16n8k16, sums in f32), cp.async brings the next. Rows of a strip are padded by 16 bytes,
// so that the eight rows of an ldmatrix lie on different banks. What lies outside of a matrix counts as 0. A strip is stored as
// its matrix is, and transposed by ldmatrix where needed. Shared memory: 20 KiB, static.
// Limit: the loads from shared memory, about half of the tensor cores' rate on sm_80.
//
// f32: a block of 256 threads has a tile of 64 x 64, each thread 4 x 4 of it; strips of 16 along k. Products and sums are fused
// multiply-adds in f32, in the order of k. Shared memory: 8.5 KiB, static. Limit: the multiply-adds.

constexpr int TILE = 64;

// ---- bf16 ----

constexpr int STRIP = 32, PADDING = 8, WARPS = 4;
// Numbers of the larger of the two ways to store a strip.
constexpr int STRIP_LEN = TILE * (STRIP + PADDING);

// rows x columns numbers from (row, column) on of a matrix with so many rows and columns; zeros outside.
template <int rows, int columns>
DEVICE void fetch(bf16* strip, const bf16* x, i64 pitch, int row, int column, int num_rows, int num_columns) {
    constexpr int CHUNKS = columns / 8;
    UNROLL
    for (int i = threadIdx.x; i < rows * CHUNKS; i += WARPS * WARP_THREADS) {
        const int r = i / CHUNKS, c = i % CHUNKS * 8;
        bf16* to = strip + r * (columns + PADDING) + c;
        const bf16* from = x + (row + r) * pitch + column + c;
        const int left = row + r < num_rows ? num_columns - column - c : 0;
        if (left >= 8 || left <= 0) {
            copy_async_16(to, left > 0 ? from : x, left > 0);
        } else {
            for (int j = 0; j < 8; j++)
                to[j] = j < left ? from[j] : bf16{0};
        }
    }
}

// The matrix whose lines are multiplied, as it is stored: lines x k, or k x lines where it is `strided`.
template <bool strided>
DEVICE void fetch_strip(bf16* strip, const bf16* x, i64 pitch, int line, int p, int num_lines, int k) {
    if constexpr (strided)
        fetch<STRIP, TILE>(strip, x, pitch, p, line, k, num_lines);
    else
        fetch<TILE, STRIP>(strip, x, pitch, line, p, num_lines, k);
}

// Four 8 x 8 matrices, (lines, k): those of matrix i begin at line + lines[i] and p + ks[i] for this lane's i.
template <bool strided> DEVICE void load_fragment(u32 (&r)[4], const bf16* strip, int line, int p) {
    const int row = threadIdx.x % 8;
    if constexpr (strided)
        ldmatrix_x4_trans(r, strip + (p + row) * (TILE + PADDING) + line);
    else
        ldmatrix_x4(r, strip + (line + row) * (STRIP + PADDING) + p);
}

template <bool transpose_a, bool transpose_b, typename Out>
DEVICE void product_bf16(Out* c, const bf16* a, const bf16* b, int m, int n, int k, i64 pitch_c, i64 pitch_a, i64 pitch_b,
                         u32 adds) {
    SHARED_ARRAY(bf16, strips, 4 * STRIP_LEN);
    const int lane = threadIdx.x % WARP_THREADS, warp = threadIdx.x / WARP_THREADS;
    const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
    const int steps = (int)divide_up(k, STRIP);
    const auto bring = [&](int step) {
        bf16* stage = strips + step % 2 * (2 * STRIP_LEN);
        fetch_strip<transpose_a>(stage, a, pitch_a, first_row, step * STRIP, m, k);
        fetch_strip<!transpose_b>(stage + STRIP_LEN, b, pitch_b, first_column, step * STRIP, n, k);
    };
    float sums[2][4][4] = {};
    if (steps > 0) bring(0);
    copy_async_commit();
    for (int step = 0; step < steps; step++) {
        if (step + 1 < steps) bring(step + 1);
        copy_async_commit();
        copy_async_wait<1>();
        __syncthreads();
        const bf16* strip_a = strips + step % 2 * (2 * STRIP_LEN);
        const bf16* strip_b = strip_a + STRIP_LEN;
        UNROLL
        for (int p = 0; p < STRIP; p += 16) {
            u32 fragments_a[2][4], fragments_b[2][4];
            UNROLL
            for (int i = 0; i < 2; i++) {
                // matrices: (rows 0, k 0), (rows 8, k 0), (rows 0, k 8), (rows 8, k 8)
                load_fragment<transpose_a>(fragments_a[i], strip_a, warp_row + 16 * i + lane / 8 % 2 * 8, p + lane / 16 * 8);
                // (columns 0, k 0), (columns 0, k 8), (columns 8, k 0), (columns 8, k 8)
                load_fragment<!transpose_b>(fragments_b[i], strip_b, warp_column + 16 * i + lane / 16 * 8,
                                            p + lane / 8 % 2 * 8);
            }
            UNROLL
            for (int i = 0; i < 2; i++) {
                UNROLL
                for (int j = 0; j < 4; j++) {
                    const u32 pair[2] = {fragments_b[j / 2][j % 2 * 2], fragments_b[j / 2][j % 2 * 2 + 1]};
                    mma_m16n8k16(sums[i][j], fragments_a[i], pair);
                }
            }
        }
        __syncthreads();
    }
    UNROLL
    for (int i = 0; i < 2; i++) {
        UNROLL
        for (int j = 0; j < 4; j++) {
            UNROLL
            for (int at = 0; at < 4; at++) {
                const int row = first_row + warp_row + 16 * i + lane / 4 + at / 2 * 8;
                const int column = first_column + warp_column + 8 * j + lane % 4 * 2 + at % 2;
                if (row >= m || column >= n) continue;
                Out* to = c + row * pitch_c + column;
                store(to, adds ? to_f32(*to) + sums[i][j][at] : sums[i][j][at]);
            }
        }
    }
}

// ---- f32 ----

constexpr int SHORT_STRIP = 16, LINE_PITCH = TILE + 4, THREADS_F32 = 256;

// strip[p][line]; the matrix is stored lines x k, or k x lines where it is `strided`.
template <bool strided>
DEVICE void fetch_f32(float* strip, const float* x, i64 pitch, int line, int p, int num_lines, int k) {
    UNROLL
    for (int i = threadIdx.x; i < TILE * SHORT_STRIP; i += THREADS_F32) {
        const int l = strided ? i % TILE : i / SHORT_STRIP, q = strided ? i / TILE : i % SHORT_STRIP;
        const bool is_inside = line + l < num_lines && p + q < k;
        strip[q * LINE_PITCH + l] = is_inside ? x[strided ? (p + q) * pitch + line + l : (line + l) * pitch + p + q] : 0.0f;
    }
}

template <bool transpose_a, bool transpose_b>
DEVICE void product_f32(float* c, const float* a, const float* b, int m, int n, int k, i64 pitch_c, i64 pitch_a, i64 pitch_b,
                        u32 adds) {
    SHARED_ARRAY(float, strip_a, SHORT_STRIP * LINE_PITCH);
    SHARED_ARRAY(float, strip_b, SHORT_STRIP * LINE_PITCH);
    const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    float sums[4][4] = {};
    for (int p = 0; p < k; p += SHORT_STRIP) {
        fetch_f32<transpose_a>(strip_a, a, pitch_a, first_row, p, m, k);
        fetch_f32<!transpose_b>(strip_b, b, pitch_b, first_column, p, n, k);
        __syncthreads();
        UNROLL
        for (int q = 0; q < SHORT_STRIP; q++) {
            float x[4], y[4];
            load_floats(x, strip_a + q * LINE_PITCH + row);
            load_floats(y, strip_b + q * LINE_PITCH + column);
            UNROLL
            for (int i = 0; i < 4; i++) {
                UNROLL
                for (int j = 0; j < 4; j++)
                    sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
            }
        }
        __syncthreads();
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        UNROLL
        for (int j = 0; j < 4; j++) {
            if (first_row + row + i >= m || first_column + column + j >= n) continue;
            float* to = c + (first_row + row + i) * pitch_c + first_column + column + j;
            *to = adds ? *to + sums[i][j] : sums[i][j];
        }
    }
}

// ---- Entries: n and t say which operand is transposed, a first ----

#define PRODUCT(suffix, threads, Out, In, call)                                                                        \
    extern "C" __global__ void __launch_bounds__(threads)                                                              \
        matmul_##suffix(Out* c, const In* a, const In* b, i32 m, i32 n, i32 k, i64 pitch_c, i64 pitch_a, i64 pitch_b,  \
                        u32 adds) {                                                                                    \
        call(c, a, b, m, n, k, pitch_c, pitch_a, pitch_b, adds);                                                       \
    }                                                                                                                  \
    KERNEL_ENTRY(matmul_##suffix);

#define PRODUCTS(letters, transpose_a, transpose_b)                                                                    \
    PRODUCT(letters##_f32, 256, float, float, (product_f32<transpose_a, transpose_b>))                                 \
    PRODUCT(letters##_bf16, 128, bf16, bf16, (product_bf16<transpose_a, transpose_b, bf16>))                           \
    PRODUCT(letters##_bf16_to_f32, 128, float, bf16, (product_bf16<transpose_a, transpose_b, float>))

PRODUCTS(nn, false, false)
PRODUCTS(nt, false, true)
PRODUCTS(tn, true, false)
PRODUCTS(tt, true, true)
