// The names of cuda/hopper.cuh for the emulator. Included at the end of prelude.hpp; the rules stand in hopper.cuh.
#pragma once

// What a kernel gets where a device gets an opaque object; filled from Rust by `EncodedMap` in mod.rs.
struct alignas(64) TensorMap {
    const unsigned char* address;
    u32 element_bytes, rank;
    u64 dims[5], strides[4]; // in bytes, of all dimensions but the innermost
    u32 box[5], swizzle;
};

constexpr u64 SWIZZLE_NONE = 0, SWIZZLE_128B = 1, SWIZZLE_64B = 2, SWIZZLE_32B = 3;

inline u64 matrix_descriptor(u32 address, u32 leading_bytes, u32 stride_bytes, u64 swizzle = SWIZZLE_128B) {
    return u64((address & 0x3FFFF) >> 4) | u64((leading_bytes & 0x3FFFF) >> 4) << 16 |
           u64((stride_bytes & 0x3FFFF) >> 4) << 32 | swizzle << 62;
}

namespace emulator {

// mbarrier.cpp
void mbarrier_init(u32 barrier, u32 count, int line);
void mbarrier_init_fence();
void mbarrier_arrive(u32 barrier, int line);
void mbarrier_arrive_expect(u32 barrier, u32 bytes, int line);
void mbarrier_wait(u32 barrier, u32 parity, int line);
void named_barrier(u32 barrier, u32 threads, bool waits, int line);

// tensor_copy.cpp
void tensor_load(u32 to, const TensorMap* map, u32 rank, u32 barrier, const i32* corner, int line);
void bulk_load(u32 to, const void* from, u32 bytes, u32 barrier, int line);
void async_fence();
void bulk_add(float* to, u32 from, u32 bytes, int line);
void bulk_commit();
void bulk_wait(int pending, int line);

// wide_product.cpp
struct Product {
    int n;
    bool a_is_m_major, b_is_n_major, a_is_in_registers, accumulates;
    u64 a, b;
};
void product_fence();
void product_issue(float* d, const u32* a, const Product& product, int line);
void product_commit();
void product_wait(int pending, int line);

} // namespace emulator

inline void mbarrier_init(u32 barrier, u32 count, LINE) { emulator::mbarrier_init(barrier, count, line); }
inline void mbarrier_init_fence() { emulator::mbarrier_init_fence(); }
inline void mbarrier_arrive(u32 barrier, LINE) { emulator::mbarrier_arrive(barrier, line); }
inline void mbarrier_arrive_expect(u32 barrier, u32 bytes, LINE) {
    emulator::mbarrier_arrive_expect(barrier, bytes, line);
}
inline void mbarrier_wait(u32 barrier, u32 parity, LINE) { emulator::mbarrier_wait(barrier, parity, line); }
inline void barrier_sync(u32 barrier, u32 threads, LINE) { emulator::named_barrier(barrier, threads, true, line); }
inline void barrier_arrive(u32 barrier, u32 threads, LINE) { emulator::named_barrier(barrier, threads, false, line); }

inline void tensor_load_2d(u32 to, const TensorMap* map, u32 barrier, i32 c0, i32 c1, LINE) {
    const i32 corner[5] = {c0, c1};
    emulator::tensor_load(to, map, 2, barrier, corner, line);
}
inline void tensor_load_3d(u32 to, const TensorMap* map, u32 barrier, i32 c0, i32 c1, i32 c2, LINE) {
    const i32 corner[5] = {c0, c1, c2};
    emulator::tensor_load(to, map, 3, barrier, corner, line);
}
inline void tensor_load_4d(u32 to, const TensorMap* map, u32 barrier, i32 c0, i32 c1, i32 c2, i32 c3, LINE) {
    const i32 corner[5] = {c0, c1, c2, c3};
    emulator::tensor_load(to, map, 4, barrier, corner, line);
}
inline void bulk_load(u32 to, const void* from, u32 bytes, u32 barrier, LINE) {
    emulator::bulk_load(to, from, bytes, barrier, line);
}
inline void async_fence() { emulator::async_fence(); }
inline void bulk_add_f32(float* to, u32 from, u32 bytes, LINE) { emulator::bulk_add(to, from, bytes, line); }
inline void bulk_commit() { emulator::bulk_commit(); }
template <int pending> inline void bulk_wait(LINE) { emulator::bulk_wait(pending, line); }
template <int pending> inline void bulk_wait_read(LINE) { emulator::bulk_wait(pending, line); }

inline void wgmma_fence() { emulator::product_fence(); }
inline void wgmma_commit() { emulator::product_commit(); }
template <int pending> inline void wgmma_wait(LINE) { emulator::product_wait(pending, line); }
// Here registers are memory, and every call that may change them is opaque.
template <int count> inline void pin(float (&)[count]) {}
template <int count> inline void pin(u32 (&)[count][4]) {}
template <int n, int a_is_m_major, int b_is_n_major>
inline void wgmma_ss(float (&d)[n / 2], u64 a, u64 b, bool accumulates, LINE) {
    emulator::product_issue(d, nullptr, {n, a_is_m_major != 0, b_is_n_major != 0, false, accumulates, a, b}, line);
}
template <int n, int b_is_n_major>
inline void wgmma_rs(float (&d)[n / 2], const u32 (&a)[4], u64 b, bool accumulates, LINE) {
    emulator::product_issue(d, a, {n, false, b_is_n_major != 0, true, accumulates, 0, b}, line);
}

template <int count> inline void registers_raise() {
    static_assert(count >= 24 && count <= 256 && count % 8 == 0, "no such number of registers");
}
template <int count> inline void registers_lower() { registers_raise<count>(); }
