//! The kernel of Intel AMX: 32 x 32 sums in four tiles, two tiles of each factor.
//!
//! A tile is 16 lines of 64 bytes. `tdpbf16ps c, a, b` adds to each of the 16 x 16 sums of c the products of 16 pairs: those of the
//! pairs' first numbers and those of their second ones are summed apart, in order, then both together, then added (Intel SDM,
//! volume 2C, TDPBF16PS). The intrinsics are unstable; the instructions are not. The text below is also what the model in
//! `tests.rs` executes, line by line, so that its addresses are proved on machines without AMX.

use std::arch::asm;

use super::pack::LINE;
use super::{COLUMNS, Kernel, State, Strip};
use crate::matmul::cpu::{FIRST, prefetch};

pub(super) static KERNEL: Kernel =
    Kernel { rows: ROWS, depth: DEPTH, rate: 512.0, state: Some(State { configure, release }), run };

pub(super) const ROWS: usize = 32;
/// Longest run of k: a panel of a (32 KiB) stays in a 48 KiB L1 cache.
pub(super) const DEPTH: usize = 512;

/// Palette 1 with eight tiles of 16 lines of 64 bytes: Intel SDM, volume 2A, LDTILECFG.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

static CONFIG: TileConfig = {
    let mut config = TileConfig { palette: 1, start_row: 0, reserved: [0; 14], line_bytes: [0; 16], lines: [0; 16] };
    let mut tile = 0;
    while tile < 8 {
        config.line_bytes[tile] = 64;
        config.lines[tile] = 16;
        tile += 1;
    }
    config
};

/// Gives `$emit` the lines of the product of two panels.
///
/// Operands: `a`, `b`: the panels; `steps`; `c`, `d`: the first and the 17th row of c; `stride`: bytes between its rows; `add`: 0 to
/// replace c; `line`: 64, bytes between the lines of a; `pair`: 128, those between the pairs of b.
macro_rules! product {
    ($emit:ident) => {
        $emit! {
            "test {add}, {add}",
            "jz 3f",
            "tileloadd tmm0, [{c} + {stride}]",
            "tileloadd tmm1, [{c} + {stride} + 64]",
            "tileloadd tmm2, [{d} + {stride}]",
            "tileloadd tmm3, [{d} + {stride} + 64]",
            "jmp 2f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {line}]",
            "tileloadd tmm6, [{b} + {pair}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {pair} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {line} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // the next step of b, from the L2 cache
            "prefetcht0 [{b} + 2048]", "prefetcht0 [{b} + 2112]", "prefetcht0 [{b} + 2176]", "prefetcht0 [{b} + 2240]",
            "prefetcht0 [{b} + 2304]", "prefetcht0 [{b} + 2368]", "prefetcht0 [{b} + 2432]", "prefetcht0 [{b} + 2496]",
            "prefetcht0 [{b} + 2560]", "prefetcht0 [{b} + 2624]", "prefetcht0 [{b} + 2688]", "prefetcht0 [{b} + 2752]",
            "prefetcht0 [{b} + 2816]", "prefetcht0 [{b} + 2880]", "prefetcht0 [{b} + 2944]", "prefetcht0 [{b} + 3008]",
            "prefetcht0 [{b} + 3072]", "prefetcht0 [{b} + 3136]", "prefetcht0 [{b} + 3200]", "prefetcht0 [{b} + 3264]",
            "prefetcht0 [{b} + 3328]", "prefetcht0 [{b} + 3392]", "prefetcht0 [{b} + 3456]", "prefetcht0 [{b} + 3520]",
            "prefetcht0 [{b} + 3584]", "prefetcht0 [{b} + 3648]", "prefetcht0 [{b} + 3712]", "prefetcht0 [{b} + 3776]",
            "prefetcht0 [{b} + 3840]", "prefetcht0 [{b} + 3904]", "prefetcht0 [{b} + 3968]", "prefetcht0 [{b} + 4032]",
            "add {a}, 2048",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {stride}], tmm0",
            "tilestored [{c} + {stride} + 64], tmm1",
            "tilestored [{d} + {stride}], tmm2",
            "tilestored [{d} + {stride} + 64], tmm3",
        }
    };
}
#[cfg(test)]
pub(super) use product;

/// # Safety
/// The machine has AMX; the thread has no tiles in use.
unsafe fn configure() {
    // SAFETY: the configuration is one that palette 1 has. Tiles belong to the thread until they are released.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack)) };
}

/// # Safety
/// The machine has AMX.
unsafe fn release() {
    // SAFETY: gives the tiles back; nothing reads them any more.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// # Safety
/// As [`Kernel::run`].
unsafe fn run(x: &Strip) {
    for panel in 0..x.panels {
        // SAFETY: the panel, and its 32 rows and columns of c, are inside by the caller's promise.
        unsafe {
            let c = x.c.add(panel * COLUMNS);
            for row in 0..ROWS {
                prefetch::<FIRST, _>(c.wrapping_add(row * x.c_stride + COLUMNS));
                prefetch::<FIRST, _>(c.wrapping_add(row * x.c_stride + COLUMNS + LINE));
            }
            multiply(x, x.b.add(panel * x.b_stride).cast(), c);
        }
    }
}

/// # Safety
/// The tiles are configured; `b` is a panel and `c` its 32 rows and columns.
unsafe fn multiply(x: &Strip, b: *const u32, c: *mut f32) {
    macro_rules! execute {
        ($($line:literal),* $(,)?) => {
            // SAFETY: reads `steps` of both panels and reads and writes 32 x 32 numbers of c, all there by the caller's promise;
            // every register and tile that changes is named.
            unsafe {
                asm!(
                    $($line,)*
                    a = inout(reg) x.a => _,
                    b = inout(reg) b => _,
                    steps = inout(reg) x.steps => _,
                    c = in(reg) c,
                    d = in(reg) c.add(16 * x.c_stride),
                    stride = in(reg) 4 * x.c_stride,
                    add = in(reg) usize::from(x.accumulate),
                    line = in(reg) 64usize,
                    pair = in(reg) 128usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            }
        };
    }
    product!(execute);
}
