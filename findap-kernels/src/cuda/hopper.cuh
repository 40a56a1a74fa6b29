// Primitives of Hopper (sm_90a): barriers that count bytes, tensor copies, products of a warpgroup, bulk additions.
//
// Shared memory is named by 32-bit addresses here. Each name has a twin in emulator/hopper.hpp. Sources of the exact rules and
// spellings: the PTX ISA document, sections "mbarrier", "Asynchronous warpgroup level matrix instructions" and "Data movement
// and conversion instructions".
#pragma once

// ---- mbarrier: 8 bytes of shared memory that count arrivals and bytes ----
//
// A phase ends when `count` arrivals have been made and as many bytes have landed as were expected; the next begins at once.
// In a ring of S stages, tile t uses stage t % S in its phase t / S: who fills a stage waits for "empty" with parity
// (t / S + 1) % 2, which passes at once the first time; who reads it waits for "full" with parity (t / S) % 2.

DEVICE void mbarrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// After the initialisation and before the __syncthreads that tells the others of it.
DEVICE void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and expects that `bytes` land before the phase may end.
DEVICE void mbarrier_arrive_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
// Waits until the phase of this parity has ended.
DEVICE void mbarrier_wait(u32 barrier, u32 parity) {
    u32 has_ended;
    do {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(has_ended)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!has_ended);
}

// ---- Named barriers of some of the threads: 1..15; 0 is __syncthreads ----

DEVICE void barrier_sync(u32 barrier, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
DEVICE void barrier_arrive(u32 barrier, u32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// ---- Copies, global to shared, issued by one thread ----

// A parameter `const __grid_constant__ TensorMap map`; the host encodes it.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

// Copies the box whose first number has these coordinates, innermost first. What lies outside the tensor becomes 0 and counts
// as landed, too: expect the bytes of the whole box. `to` is a multiple of 128; of 1024 for boxes of swizzled 128-byte rows.
DEVICE void tensor_load_2d(u32 to, const TensorMap* map, u32 barrier, i32 c0, i32 c1) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
                 "%4}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier), "r"(c0), "r"(c1)
                 : "memory");
}
DEVICE void tensor_load_3d(u32 to, const TensorMap* map, u32 barrier, i32 c0, i32 c1, i32 c2) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
                 "%5}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2)
                 : "memory");
}
DEVICE void tensor_load_4d(u32 to, const TensorMap* map, u32 barrier, i32 c0, i32 c1, i32 c2, i32 c3) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
                 "%5, %6}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
                 : "memory");
}
// Copies `bytes` that follow one another. Everything is a multiple of 16.
DEVICE void bulk_load(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
                 : "memory");
}

// Makes this thread's plain stores to shared memory visible to products and bulk additions: each thread that stored calls it,
// then a barrier, then the reader.
DEVICE void async_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- Additions of shared memory to global memory, atomic by number, issued by one thread ----

// Everything is a multiple of 16 bytes. Subnormal sums become 0.
DEVICE void bulk_add_f32(float* to, u32 from, u32 bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                     __cvta_generic_to_global(to)),
                 "r"(from), "r"(bytes)
                 : "memory");
}
DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's newest groups are under way; with _read, until their sources may be reused.
template <int pending> DEVICE void bulk_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory");
}
template <int pending> DEVICE void bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}

// ---- Products of a warpgroup (wgmma): d[64][n] = A[64][16] B[16][n] + d ----
//
// With w the warp in its group, g = lane / 4 and q = lane % 4:
// d[i] is row 16 w + g + 8 (i / 2 % 2), column 8 (i / 4) + 2 q + i % 2
// A in registers: a[r] holds row 16 w + g + 8 (r % 2), columns 2 q + 8 (r / 2) and the next
// So d of one product, packed in pairs, is A of the next: a[k][r] = pack_bf16(d[8 k + 2 r], d[8 k + 2 r + 1]).
//
// Between the issue and the wait nobody touches d or a. Before the first product and after any touch: pin, wgmma_fence.

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending> DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// Keeps the compiler from moving reads and writes of registers across this point: before a fence and after a wait.
template <int count> DEVICE void pin(float (&d)[count]) {
    UNROLL
    for (int i = 0; i < count; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}
template <int count> DEVICE void pin(u32 (&a)[count][4]) {
    UNROLL
    for (int i = 0; i < count; i++)
        asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3])::"memory");
}

// How 16-byte chunks are placed in shared memory: the number of the descriptor's field.
constexpr u64 SWIZZLE_NONE = 0, SWIZZLE_128B = 1, SWIZZLE_64B = 2, SWIZZLE_32B = 3;

// Where an operand lies. For boxes [rows][64] of bf16 with 128-byte swizzle, as tensor copies leave them:
// K-major (rows are m or n): stride 1024, leading ignored; the next 16 of k are 32 bytes on, the next 64 are the next box.
// M- or N-major (rows are k): stride 1024, leading the bytes of a box; the next 16 of k are 2048 bytes on.
DEVICE u64 matrix_descriptor(u32 address, u32 leading_bytes, u32 stride_bytes, u64 swizzle = SWIZZLE_128B) {
    return (u64)((address & 0x3FFFF) >> 4) | (u64)((leading_bytes & 0x3FFFF) >> 4) << 16 |
           (u64)((stride_bytes & 0x3FFFF) >> 4) << 32 | swizzle << 62;
}

#define SIXTEEN(d, i)                                                                                                  \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),        \
        "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]),             \
        "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])
#define D_0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define D_16 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define D_32 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define D_48 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define D_64 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define D_80 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define D_96 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define D_112 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define D_OF_64 D_0 "," D_16
#define ACCUMULATORS_OF_64(d) SIXTEEN(d, 0), SIXTEEN(d, 16)
#define D_OF_96 D_0 "," D_16 "," D_32
#define ACCUMULATORS_OF_96(d) SIXTEEN(d, 0), SIXTEEN(d, 16), SIXTEEN(d, 32)
#define D_OF_128 D_0 "," D_16 "," D_32 "," D_48
#define ACCUMULATORS_OF_128(d) SIXTEEN(d, 0), SIXTEEN(d, 16), SIXTEEN(d, 32), SIXTEEN(d, 48)
#define D_OF_192 D_0 "," D_16 "," D_32 "," D_48 "," D_64 "," D_80
#define ACCUMULATORS_OF_192(d)                                                                                         \
    SIXTEEN(d, 0), SIXTEEN(d, 16), SIXTEEN(d, 32), SIXTEEN(d, 48), SIXTEEN(d, 64), SIXTEEN(d, 80)
#define D_OF_256 D_0 "," D_16 "," D_32 "," D_48 "," D_64 "," D_80 "," D_96 "," D_112
#define ACCUMULATORS_OF_256(d)                                                                                         \
    SIXTEEN(d, 0), SIXTEEN(d, 16), SIXTEEN(d, 32), SIXTEEN(d, 48), SIXTEEN(d, 64), SIXTEEN(d, 80), SIXTEEN(d, 96),     \
        SIXTEEN(d, 112)
#define PRODUCT(n) "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16"

template <int n> constexpr bool is_product_width = n == 64 || n == 96 || n == 128 || n == 192 || n == 256;

// Both operands in shared memory. Without `accumulates`, d is overwritten.
template <int n, int a_is_m_major, int b_is_n_major>
DEVICE void wgmma_ss(float (&d)[n / 2], u64 a, u64 b, bool accumulates) {
    static_assert(is_product_width<n>, "no such product");
    if constexpr (n == 64)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; " PRODUCT(64) " {" D_OF_64
                                                                           "}, %32, %33, p, 1, 1, %35, %36; }"
                     : ACCUMULATORS_OF_64(d)
                     : "l"(a), "l"(b), "r"((int)accumulates), "n"(a_is_m_major), "n"(b_is_n_major));
    if constexpr (n == 96)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %50, 0; " PRODUCT(96) " {" D_OF_96
                                                                           "}, %48, %49, p, 1, 1, %51, %52; }"
                     : ACCUMULATORS_OF_96(d)
                     : "l"(a), "l"(b), "r"((int)accumulates), "n"(a_is_m_major), "n"(b_is_n_major));
    if constexpr (n == 128)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0; " PRODUCT(128) " {" D_OF_128
                                                                            "}, %64, %65, p, 1, 1, %67, %68; }"
                     : ACCUMULATORS_OF_128(d)
                     : "l"(a), "l"(b), "r"((int)accumulates), "n"(a_is_m_major), "n"(b_is_n_major));
    if constexpr (n == 192)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %98, 0; " PRODUCT(192) " {" D_OF_192
                                                                            "}, %96, %97, p, 1, 1, %99, %100; }"
                     : ACCUMULATORS_OF_192(d)
                     : "l"(a), "l"(b), "r"((int)accumulates), "n"(a_is_m_major), "n"(b_is_n_major));
    if constexpr (n == 256)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %130, 0; " PRODUCT(256) " {" D_OF_256
                                                                             "}, %128, %129, p, 1, 1, %131, %132; }"
                     : ACCUMULATORS_OF_256(d)
                     : "l"(a), "l"(b), "r"((int)accumulates), "n"(a_is_m_major), "n"(b_is_n_major));
}

// A in registers, B in shared memory.
template <int n, int b_is_n_major> DEVICE void wgmma_rs(float (&d)[n / 2], const u32 (&a)[4], u64 b, bool accumulates) {
    static_assert(is_product_width<n>, "no such product");
    if constexpr (n == 64)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0; " PRODUCT(64) " {" D_OF_64
                                                                           "}, {%32,%33,%34,%35}, %36, p, 1, 1, %38; }"
                     : ACCUMULATORS_OF_64(d)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulates), "n"(b_is_n_major));
    if constexpr (n == 96)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %53, 0; " PRODUCT(96) " {" D_OF_96
                                                                           "}, {%48,%49,%50,%51}, %52, p, 1, 1, %54; }"
                     : ACCUMULATORS_OF_96(d)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulates), "n"(b_is_n_major));
    if constexpr (n == 128)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %69, 0; " PRODUCT(128) " {" D_OF_128
                                                                            "}, {%64,%65,%66,%67}, %68, p, 1, 1, %70; }"
                     : ACCUMULATORS_OF_128(d)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulates), "n"(b_is_n_major));
    if constexpr (n == 192)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %101, 0; " PRODUCT(
                         192) " {" D_OF_192 "}, {%96,%97,%98,%99}, %100, p, 1, 1, %102; }"
                     : ACCUMULATORS_OF_192(d)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulates), "n"(b_is_n_major));
    if constexpr (n == 256)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %133, 0; " PRODUCT(
                         256) " {" D_OF_256 "}, {%128,%129,%130,%131}, %132, p, 1, 1, %134; }"
                     : ACCUMULATORS_OF_256(d)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulates), "n"(b_is_n_major));
}

// ---- Registers of a warpgroup: 24 to 256, a multiple of 8; all its warps call it ----

template <int count> DEVICE void registers_raise() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count)); }
template <int count> DEVICE void registers_lower() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count)); }
