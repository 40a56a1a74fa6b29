// What several kernels need, in terms of the prelude: loads of 16 bytes, sums over warps and blocks, the last sum of a
// gradient, random bits.
//
// No `asm` and no twin: the same text runs on a device and in the emulator.
#pragma once

constexpr u32 ALL_LANES = 0xffffffffu;
constexpr int WARP_THREADS = 32;

DEVICE i64 divide_up(i64 a, i64 b) { return (a + b - 1) / b; }

// ---- 16 bytes at a time ----

// How many numbers 16 bytes hold.
template <typename T> constexpr int PER_LOAD = 16 / sizeof(T);

DEVICE void store(float* at, float x) { *at = x; }
DEVICE void store(bf16* at, float x) { *at = to_bf16(x); }

// To what is left of the numbers when they have been stored as T.
template <typename T, int count> DEVICE void round_all(float (&x)[count]) {
    UNROLL
    for (int i = 0; i < count; i++) {
        T stored;
        store(&stored, x[i]);
        x[i] = to_f32(stored);
    }
}

// `count` numbers, converted to f32, in loads of 16 bytes (of 8 where there are no more). `at` is aligned to them.
template <int count, typename T> DEVICE void load_floats(float (&y)[count], const T* at) {
    constexpr int bytes = count * sizeof(T);
    static_assert(bytes % 8 == 0, "whole loads only");
    alignas(16) T x[count];
    if constexpr (bytes % 16 == 0) {
        UNROLL
        for (int i = 0; i < bytes / 16; i++)
            ((uint4*)x)[i] = ((const uint4*)at)[i];
    } else {
        UNROLL
        for (int i = 0; i < bytes / 8; i++)
            ((uint2*)x)[i] = ((const uint2*)at)[i];
    }
    UNROLL
    for (int i = 0; i < count; i++)
        y[i] = to_f32(x[i]);
}

// The opposite; each number is rounded once.
template <int count, typename T> DEVICE void store_floats(T* at, const float (&y)[count]) {
    constexpr int bytes = count * sizeof(T);
    static_assert(bytes % 8 == 0, "whole stores only");
    alignas(16) T x[count];
    UNROLL
    for (int i = 0; i < count; i++)
        store(&x[i], y[i]);
    if constexpr (bytes % 16 == 0) {
        UNROLL
        for (int i = 0; i < bytes / 16; i++)
            ((uint4*)at)[i] = ((const uint4*)x)[i];
    } else {
        UNROLL
        for (int i = 0; i < bytes / 8; i++)
            ((uint2*)at)[i] = ((const uint2*)x)[i];
    }
}

// The same for the last numbers of an array: those behind `left` are not touched and read as 0.
template <int count, typename T> DEVICE void load_floats(float (&y)[count], const T* at, i64 left) {
    if (left >= count) return load_floats(y, at);
    UNROLL
    for (int i = 0; i < count; i++)
        y[i] = i < left ? to_f32(at[i]) : 0.0f;
}
template <int count, typename T> DEVICE void store_floats(T* at, const float (&y)[count], i64 left) {
    if (left >= count) return store_floats(at, y);
    UNROLL
    for (int i = 0; i < count; i++) {
        if (i < left) store(at + i, y[i]);
    }
}

// ---- Sums, each in one fixed order ----

template <typename T> DEVICE T warp_sum(T x) {
    UNROLL
    for (int lanes = WARP_THREADS / 2; lanes > 0; lanes /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, lanes);
    return x;
}

DEVICE float warp_max(float x) {
    UNROLL
    for (int lanes = WARP_THREADS / 2; lanes > 0; lanes /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lanes));
    return x;
}

// The sum over the block, in every thread. All threads call it; the block is a multiple of 32 threads. `partial` is shared
// memory for 32 numbers that may be used again at once.
template <typename T> DEVICE T block_sum(T x, T* partial) {
    const int warp = threadIdx.x / WARP_THREADS, lane = threadIdx.x % WARP_THREADS;
    x = warp_sum(x);
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    x = lane < blockDim.x / WARP_THREADS ? partial[lane] : T(0);
    x = warp_sum(x);
    __syncthreads();
    return x;
}

// ---- Quads: the 4 neighbouring lanes that hold a row of a product of mma or wgmma ----

DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Transposes 4 words of each of 4 neighbouring lanes, so that a lane holds 8 neighbouring numbers of a row.
DEVICE uint4 transpose_quad(u32 (&word)[4], int lane) {
    UNROLL
    for (int step = 1; step <= 2; step *= 2) {
        const bool upper = lane & step;
        UNROLL
        for (int i = 0; i < 4; i++) {
            if (i & step) continue;
            u32 given = upper ? word[i] : word[i + step];
            u32 got = __shfl_xor_sync(0xffffffffu, given, step);
            if (upper)
                word[i] = got;
            else
                word[i + step] = got;
        }
    }
    return {word[0], word[1], word[2], word[3]};
}

// ---- Gradients of parameters ----

// gradient[i] += the sum of its `num_partials` partial sums `[num_partials, columns]`, in their order: in f32, rounded once where the
// gradient is bf16. A thread a column.
template <typename G> DEVICE void add_partials(G* gradient, const float* partials, u32 num_partials, u32 columns) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    float sum = 0.0f;
    for (u32 p = 0; p < num_partials; p++)
        sum += partials[(i64)p * columns + column];
    store(gradient + column, to_f32(gradient[column]) + sum);
}

// ---- Random bits: Philox 4x32 with ten rounds, a function of a counter and a key ----
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11.

DEVICE uint4 philox(u64 counter, u64 stream, u64 key) {
    uint4 c = make_uint4((u32)counter, (u32)(counter >> 32), (u32)stream, (u32)(stream >> 32));
    u32 low = (u32)key, high = (u32)(key >> 32);
    UNROLL
    for (int round = 0; round < 10; round++) {
        const u32 a = multiply_high(0xD2511F53u, c.x), b = 0xD2511F53u * c.x;
        const u32 d = multiply_high(0xCD9E8D57u, c.z), e = 0xCD9E8D57u * c.z;
        c = make_uint4(d ^ c.y ^ low, e, a ^ c.w ^ high, b);
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    return c;
}

// Eight numbers become bf16 numbers above or below them, each with the probability that makes the mean the number: 16 random
// bits decide for each. What is not finite stays.
DEVICE void round_stochastically(float (&x)[8], u64 counter, u64 stream, u64 key) {
    const uint4 random = philox(counter, stream, key);
    const u32 words[4] = {random.x, random.y, random.z, random.w};
    UNROLL
    for (int i = 0; i < 8; i++) {
        const u32 whole = __float_as_uint(x[i]), bits = words[i / 2] >> (i % 2 * 16) & 0xffffu;
        const bool is_finite = (whole & 0x7f800000u) != 0x7f800000u;
        x[i] = is_finite ? __uint_as_float((whole + bits) & 0xffff0000u) : x[i];
    }
}
