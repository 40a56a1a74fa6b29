// What every kernel is written with: number formats, shared memory, warp-level matrix products and asynchronous copies.
//
// No header is included, so a kernel compiles wherever the compiler library is. Each name here has a twin of the same name in
// emulator/prelude.hpp, which runs it on the CPU; `asm` stands in this file and in hopper.cuh only.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

#define INFINITY __int_as_float(0x7f800000)
#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")

// ---- Shared memory ----

// Static: `SHARED_ARRAY(float, partial, 32);` declares an array of 32 numbers inside a kernel.
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
// Dynamic: `DYNAMIC_SHARED(memory);` declares `unsigned char* memory`, aligned to 128 bytes, of the size given at the launch.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
// Stands behind each entry point: the emulator finds kernels by it.
#define KERNEL_ENTRY(name)

// The 32-bit address that asynchronous and matrix instructions use for shared memory.
DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }
template <typename T> DEVICE T* shared_pointer(u32 address) { return (T*)__cvta_shared_to_generic(address); }

// ---- bf16: the upper half of an f32, rounded to nearest even ----

struct bf16 {
    u16 bits;
};

DEVICE float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
DEVICE float to_f32(float x) { return x; }

DEVICE bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two numbers in one register, as matrix instructions take them: `low` in the lower half.
DEVICE u32 pack_bf16(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
DEVICE float low_of(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high_of(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// ---- Functions of the special unit: relative error about 2^-22, subnormals flushed ----

DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float log2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- Warp-level matrix products. With g = lane / 4 and q = lane % 4: ----
//
// A[16][16]: a[r] holds row g + 8 (r % 2), columns 2q and 2q + 1, + 8 for r >= 2
// B[16][8]:  b[r] holds rows 2q + 8 r and the next, column g
// D[16][8]:  d[i] is row g + 8 (i / 2), column 2q + i % 2
//
// d += A B
DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of 16-bit numbers from shared memory: lane i gives the 16-byte row i % 8 of matrix i / 8. r[m] receives
// row lane / 4, columns 2 (lane % 4) and the next, of matrix m; with _trans, of its transpose.
DEVICE void ldmatrix_x4(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// ---- Asynchronous copies, global to shared, 16 bytes a thread ----

// Copies 16 bytes; writes zeros where `valid` is false and then does not read `from`. Both addresses are multiples of 16.
DEVICE void copy_async_16(void* to, const void* from, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
// Closes the group of copies that this thread has issued since the last one.
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's newest groups are under way. Other threads see the data after a barrier.
template <int pending> DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- Integers ----

DEVICE u32 multiply_high(u32 a, u32 b) { return __umulhi(a, b); }
