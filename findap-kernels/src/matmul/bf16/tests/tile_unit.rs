//! A model of AMX: executes the text of the AMX kernel, line by line.
//!
//! It knows the instructions that the text uses and nothing of what the text is for, so a wrong address, stride, tile or jump gives
//! wrong sums here as it would on the processor.

use std::cell::Cell;
use std::collections::HashMap;

use super::*;

macro_rules! listed {
    ($($line:literal),* $(,)?) => { &[$($line),*] };
}
#[cfg(target_arch = "x86_64")]
static TEXT: &[&str] = amx::product!(listed);

pub(super) static KERNEL: Kernel = Kernel {
    rows: amx::ROWS,
    depth: amx::DEPTH,
    rate: 512.0,
    state: Some(State { configure: || set_configured(true), release: || set_configured(false) }),
    run,
};

thread_local! {
    static IS_CONFIGURED: Cell<bool> = const { Cell::new(false) };
}

fn set_configured(is_configured: bool) {
    assert!(IS_CONFIGURED.replace(is_configured) != is_configured, "tiles are configured and released in turn");
}

type Tile = [[u32; 16]; 16];

unsafe fn run(x: &Strip) {
    assert!(IS_CONFIGURED.get(), "the processor would refuse tiles that are not configured");
    for panel in 0..x.panels {
        // SAFETY: the panel and its part of c are inside by the promise of `Kernel::run`.
        let (b, c) = unsafe { (x.b.add(panel * x.b_stride), x.c.add(panel * COLUMNS)) };
        let registers = [
            ("{a}", x.a as usize),
            ("{b}", b as usize),
            ("{steps}", x.steps),
            ("{c}", c as usize),
            ("{d}", c as usize + 64 * x.c_stride),
            ("{stride}", 4 * x.c_stride),
            ("{add}", usize::from(x.accumulate)),
            ("{line}", 64),
            ("{pair}", 128),
        ];
        // Tiles hold what an earlier user left in them.
        let mut unit = TileUnit { registers: registers.into(), tiles: [[[0x4248_4248; 16]; 16]; 8], is_zero: false };
        unit.execute(TEXT);
    }
}

struct TileUnit {
    registers: HashMap<&'static str, usize>,
    tiles: [Tile; 8],
    is_zero: bool,
}

impl TileUnit {
    fn execute(&mut self, text: &[&str]) {
        let mut at = 0;
        while at < text.len() {
            let (name, operands) = text[at].split_once(' ').unwrap_or((text[at], ""));
            let operands: Vec<&str> = operands.split(", ").collect();
            at += 1;
            match (name, &operands[..]) {
                ("test", [x, y]) if x == y => self.is_zero = self.registers[x] == 0,
                ("add", [x, constant]) => *self.register(x) += constant.parse::<usize>().unwrap(),
                ("dec", [x]) => {
                    *self.register(x) -= 1;
                    self.is_zero = self.registers[x] == 0;
                }
                ("jmp", [label]) => at = target(text, at, label),
                ("jz", [label]) if self.is_zero => at = target(text, at, label),
                ("jnz", [label]) if !self.is_zero => at = target(text, at, label),
                ("jz" | "jnz", [_]) => {}
                ("tilezero", [tile]) => self.tiles[index(tile)] = [[0; 16]; 16],
                ("tileloadd", [tile, memory]) => {
                    let (base, stride) = self.address(memory);
                    for (i, line) in self.tiles[index(tile)].iter_mut().enumerate() {
                        // SAFETY: as for the kernel: the text addresses its operands only.
                        *line = unsafe { ((base + i * stride) as *const [u32; 16]).read_unaligned() };
                    }
                }
                ("tilestored", [memory, tile]) => {
                    let (base, stride) = self.address(memory);
                    for (i, line) in self.tiles[index(tile)].iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { ((base + i * stride) as *mut [u32; 16]).write_unaligned(*line) };
                    }
                }
                ("tdpbf16ps", [sums, a, b]) => {
                    let (a, b) = (self.tiles[index(a)], self.tiles[index(b)]);
                    add_products(&mut self.tiles[index(sums)], &a, &b);
                }
                ("prefetcht0", [_]) => {}
                (label, _) if label.ends_with(':') => {}
                _ => panic!("the model does not know \"{}\"", text[at - 1]),
            }
        }
    }

    fn register(&mut self, name: &str) -> &mut usize {
        self.registers.get_mut(name).unwrap()
    }

    /// Base with displacement, and the index register, which is the distance of two lines.
    fn address(&self, memory: &str) -> (usize, usize) {
        let parts: Vec<&str> = memory.trim_matches(['[', ']']).split(" + ").collect();
        let displacement = parts.get(2).map_or(0, |constant| constant.parse().unwrap());
        (self.registers[parts[0]] + displacement, self.registers[parts[1]])
    }
}

fn index(tile: &str) -> usize {
    tile.strip_prefix("tmm").unwrap().parse().unwrap()
}

/// The line of a label: `2b` is the nearest `2:` before `at`, `2f` behind it.
fn target(text: &[&str], at: usize, label: &str) -> usize {
    let name = format!("{}:", &label[..1]);
    let is_it = |i: &usize| text[*i] == name;
    if label.ends_with('b') { (0..at).rev().find(is_it) } else { (at..text.len()).find(is_it) }.unwrap()
}

/// Intel SDM, volume 2C, TDPBF16PS: numbers below the smallest normal one count as 0, before and after each operation.
fn add_products(sums: &mut Tile, a: &Tile, b: &Tile) {
    let flushed = |x: f32| if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
    let both = |pair: u32| [pair << 16, pair & 0xffff_0000].map(|bits| flushed(f32::from_bits(bits)));
    for (sums, a) in sums.iter_mut().zip(a) {
        let mut parts = [[0.0f32; 2]; 16];
        for (pair, b) in a.iter().zip(b) {
            let left = both(*pair);
            for (parts, pair) in parts.iter_mut().zip(b) {
                let right = both(*pair);
                for half in 0..2 {
                    parts[half] = flushed(left[half].mul_add(right[half], parts[half]));
                }
            }
        }
        for (sum, parts) in sums.iter_mut().zip(parts) {
            *sum = flushed(flushed(f32::from_bits(*sum)) + flushed(parts[0] + parts[1])).to_bits();
        }
    }
}
