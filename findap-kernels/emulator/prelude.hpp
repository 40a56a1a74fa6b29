// The names of CUDA and of cuda/prelude.cuh for a C++ compiler: a kernel compiled behind this header runs on the CPU.
//
// Only declarations and one-line arithmetic stand here; what needs other threads is in scheduler.cpp, warp.cpp and memory.cpp.
// The build passes this file to every kernel with `-include`, so kernels themselves include nothing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef int32_t i32;
typedef long long i64;

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define DEVICE __device__ __forceinline__
#define UNROLL

struct dim3 {
    u32 x, y, z;
    constexpr dim3(u32 x = 1, u32 y = 1, u32 z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    u32 x, y;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct alignas(8) int2 {
    i32 x, y;
};
struct alignas(16) int4 {
    i32 x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

// The line of the caller, for reports: every operation that may fail takes it as its last, defaulted argument.
#define LINE int line = __builtin_LINE()

struct TensorMap; // hopper.hpp

namespace emulator {

// Where a thread stands in its launch.
struct Coordinates {
    dim3 thread, block, block_size, grid_size;
};
// The running thread. Fibers of a block share one thread of the operating system.
extern __thread Coordinates* here;

// What a parameter is to the side that launches: the numbers are those of `Kind` in mod.rs.
enum class Kind : u8 { pointer, integer_4, integer_8, float_4, float_8, tensor_map };

template <typename T> constexpr Kind kind_of() {
    using Plain = std::remove_const_t<T>;
    static_assert(std::is_pointer_v<T> || std::is_integral_v<T> || std::is_same_v<Plain, float> ||
                      std::is_same_v<Plain, double> || std::is_same_v<Plain, TensorMap>,
                  "no such parameter of a kernel");
    if constexpr (std::is_pointer_v<T>) return Kind::pointer;
    if constexpr (std::is_same_v<Plain, float>) return Kind::float_4;
    if constexpr (std::is_same_v<Plain, double>) return Kind::float_8;
    if constexpr (std::is_same_v<Plain, TensorMap>) return Kind::tensor_map;
    return sizeof(T) == 8 ? Kind::integer_8 : Kind::integer_4;
}

// Entry points, found by name. `call` unpacks the arguments as cuLaunchKernel gets them: pointers to each.
struct Entry {
    const char* name;
    void (*kernel)();
    void (*call)(void (*kernel)(), void** arguments);
    const Kind* kinds;
    size_t num_kinds;
    Entry* next;

    template <typename... Arguments>
    Entry(const char* name, void (*kernel)(Arguments...))
        : name(name), kernel(reinterpret_cast<void (*)()>(kernel)), call(unpack<Arguments...>),
          kinds(kinds_of<Arguments...>), num_kinds(sizeof...(Arguments)), next(nullptr) {
        enlist(this);
    }

  private:
    template <typename... Arguments> static constexpr Kind kinds_of[] = {kind_of<Arguments>()...};
    template <typename... Arguments> static void unpack(void (*kernel)(), void** arguments) {
        unpack_each<Arguments...>(kernel, arguments, std::index_sequence_for<Arguments...>());
    }
    template <typename... Arguments, size_t... i>
    static void unpack_each(void (*kernel)(), void** arguments, std::index_sequence<i...>) {
        reinterpret_cast<void (*)(Arguments...)>(kernel)(
            *static_cast<std::remove_const_t<Arguments>*>(arguments[i])...);
    }
    static void enlist(Entry* entry);
};

// memory.cpp
unsigned char* dynamic_shared();
void* static_shared(const void* site, size_t bytes);
u32 shared_address(const void* pointer);
unsigned char* shared_pointer(u32 address);
void copy_async(void* to, const void* from, bool valid, int line);
void copy_async_commit();
void copy_async_wait(int pending, int line);

// scheduler.cpp
void sync_threads(int line);
void sync_warp(u32 mask, int line);

// warp.cpp
enum class Shuffle { exclusive_or, down, up, index };
u32 shuffle(Shuffle kind, u32 mask, u32 value, int operand, int width, int line);
u32 ballot(u32 mask, bool predicate, int line);
void matrix_product(float* d, const u32* a, const u32* b, int line);
void load_matrices(u32* r, const void* row, bool transposed, int line);
u32 atomic_u32(void* at, u32 (*update)(u32 old, u32 operand), u32 operand, int line);
u64 atomic_add_u64(void* at, u64 operand, int line);
u32 atomic_swap_if(void* at, u32 expected, u32 desired, int line);

template <typename To, typename From> inline To bits_of(From x) {
    static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
    To y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}

template <typename T> inline T shuffle_any(Shuffle kind, u32 mask, T value, int operand, int width, int line) {
    if constexpr (sizeof(T) == 8) {
        u64 bits = bits_of<u64>(value);
        u64 low = shuffle(kind, mask, u32(bits), operand, width, line);
        u64 high = shuffle(kind, mask, u32(bits >> 32), operand, width, line);
        return bits_of<T>(low | high << 32);
    } else {
        return bits_of<T>(shuffle(kind, mask, bits_of<u32>(value), operand, width, line));
    }
}

} // namespace emulator

#define threadIdx (::emulator::here->thread)
#define blockIdx (::emulator::here->block)
#define blockDim (::emulator::here->block_size)
#define gridDim (::emulator::here->grid_size)

// ---- Shared memory ----

#define SHARED_ARRAY(type, name, count)                                                                                \
    static const char name##_site = 0;                                                                                 \
    auto& name = *static_cast<type(*)[count]>(::emulator::static_shared(&name##_site, sizeof(type[count])))
#define DYNAMIC_SHARED(name) unsigned char* name = ::emulator::dynamic_shared()
#define KERNEL_ENTRY(name) static const ::emulator::Entry name##_entry(#name, name)

inline u32 shared_address(const void* pointer) { return emulator::shared_address(pointer); }
template <typename T> inline T* shared_pointer(u32 address) {
    return reinterpret_cast<T*>(emulator::shared_pointer(address));
}

// ---- Barriers, shuffles, votes ----

inline void __syncthreads(LINE) { emulator::sync_threads(line); }
inline void __syncwarp(u32 mask = 0xffffffffu, LINE) { emulator::sync_warp(mask, line); }
template <typename T> inline T __shfl_xor_sync(u32 mask, T value, int lanes, int width = 32, LINE) {
    return emulator::shuffle_any(emulator::Shuffle::exclusive_or, mask, value, lanes, width, line);
}
template <typename T> inline T __shfl_down_sync(u32 mask, T value, u32 delta, int width = 32, LINE) {
    return emulator::shuffle_any(emulator::Shuffle::down, mask, value, int(delta), width, line);
}
template <typename T> inline T __shfl_up_sync(u32 mask, T value, u32 delta, int width = 32, LINE) {
    return emulator::shuffle_any(emulator::Shuffle::up, mask, value, int(delta), width, line);
}
template <typename T> inline T __shfl_sync(u32 mask, T value, int lane, int width = 32, LINE) {
    return emulator::shuffle_any(emulator::Shuffle::index, mask, value, lane, width, line);
}
inline u32 __ballot_sync(u32 mask, int predicate, LINE) { return emulator::ballot(mask, predicate != 0, line); }
inline int __any_sync(u32 mask, int predicate, LINE) { return emulator::ballot(mask, predicate != 0, line) != 0; }
inline int __all_sync(u32 mask, int predicate, LINE) { return emulator::ballot(mask, predicate == 0, line) == 0; }

// ---- Atomics: one step each, and no race with one another ----

inline u32 atomicAdd(u32* at, u32 x, LINE) {
    return emulator::atomic_u32(at, [](u32 a, u32 b) { return a + b; }, x, line);
}
inline i32 atomicAdd(i32* at, i32 x, LINE) { return i32(atomicAdd(reinterpret_cast<u32*>(at), u32(x), line)); }
inline u64 atomicAdd(u64* at, u64 x, LINE) { return emulator::atomic_add_u64(at, x, line); }
inline float atomicAdd(float* at, float x, LINE) {
    auto add = [](u32 a, u32 b) {
        return emulator::bits_of<u32>(emulator::bits_of<float>(a) + emulator::bits_of<float>(b));
    };
    return emulator::bits_of<float>(emulator::atomic_u32(at, add, emulator::bits_of<u32>(x), line));
}
inline u32 atomicMax(u32* at, u32 x, LINE) {
    return emulator::atomic_u32(at, [](u32 a, u32 b) { return a > b ? a : b; }, x, line);
}
inline u32 atomicMin(u32* at, u32 x, LINE) {
    return emulator::atomic_u32(at, [](u32 a, u32 b) { return a < b ? a : b; }, x, line);
}
inline u32 atomicOr(u32* at, u32 x, LINE) {
    return emulator::atomic_u32(at, [](u32 a, u32 b) { return a | b; }, x, line);
}
inline u32 atomicExch(u32* at, u32 x, LINE) {
    return emulator::atomic_u32(at, [](u32, u32 b) { return b; }, x, line);
}
inline u32 atomicCAS(u32* at, u32 expected, u32 desired, LINE) {
    return emulator::atomic_swap_if(at, expected, desired, line);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- Arithmetic ----

#ifndef INFINITY
#define INFINITY __builtin_inff()
#endif
using std::max;
using std::min;
inline float __uint_as_float(u32 x) { return emulator::bits_of<float>(x); }
inline u32 __float_as_uint(float x) { return emulator::bits_of<u32>(x); }
inline float __int_as_float(i32 x) { return emulator::bits_of<float>(x); }
inline i32 __float_as_int(float x) { return emulator::bits_of<i32>(x); }
inline int __popc(u32 x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(u32(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline u32 multiply_high(u32 a, u32 b) { return u32(u64(a) * b >> 32); }
inline u32 __umulhi(u32 a, u32 b) { return multiply_high(a, b); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float exp2_approx(float x) { return std::exp2(x); }
inline float log2_approx(float x) { return std::log2(x); }
template <typename T> inline T __ldg(const T* at) { return *at; }
template <typename T> inline T __ldcs(const T* at) { return *at; }
template <typename T> inline void __stcs(T* at, T x) { *at = x; }

// ---- bf16 ----

struct bf16 {
    u16 bits;
};
inline float to_f32(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
inline float to_f32(float x) { return x; }
inline bf16 to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline u32 pack_bf16(float low, float high) { return u32(to_bf16(low).bits) | u32(to_bf16(high).bits) << 16; }
inline float low_of(u32 pair) { return __uint_as_float(pair << 16); }
inline float high_of(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// ---- Warp-level matrix products and asynchronous copies: layouts and rules in cuda/prelude.cuh ----

inline void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], LINE) {
    emulator::matrix_product(d, a, b, line);
}
inline void ldmatrix_x4(u32 (&r)[4], const void* row, LINE) { emulator::load_matrices(r, row, false, line); }
inline void ldmatrix_x4_trans(u32 (&r)[4], const void* row, LINE) { emulator::load_matrices(r, row, true, line); }
inline void copy_async_16(void* to, const void* from, bool valid = true, LINE) {
    emulator::copy_async(to, from, valid, line);
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int pending> inline void copy_async_wait(LINE) { emulator::copy_async_wait(pending, line); }

#include "hopper.hpp"
