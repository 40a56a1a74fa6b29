//! The right factor of many products, packed once.

use super::{bf16, cpu};
use crate::check;
use crate::error::KernelError;
use crate::isa::Isa;
use crate::slice::Slice;

/// The arithmetic that a packed factor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackedFormat {
    /// f32, to the bits of the product with the stored factor.
    F32,
    /// Both factors rounded to bf16, sums in f32.
    Bf16,
}

/// The right factor of products, packed once for many of them.
#[derive(Debug)]
pub struct Packed {
    k: usize,
    n: usize,
    pub(super) panels: Panels,
}

/// The numbers in the order of the tiles.
#[derive(Debug)]
pub(super) enum Panels {
    F32(cpu::Panels),
    Bf16(Vec<bf16::Line>),
}

impl Packed {
    /// Room for `[k, n]` numbers, all 0.
    pub fn zeros(format: PackedFormat, k: usize, n: usize) -> Packed {
        let panels = match format {
            PackedFormat::F32 => Panels::F32(cpu::Panels::zeros(Isa::current(), k, n)),
            PackedFormat::Bf16 => Panels::Bf16(vec![bf16::Line::ZERO; bf16::num_lines(k, n)]),
        };
        Packed { k, n, panels }
    }

    /// Bytes that [`Packed::bytes`] will say.
    pub fn bytes_of(format: PackedFormat, k: usize, n: usize) -> usize {
        match format {
            PackedFormat::F32 => cpu::Panels::len_of(Isa::current(), k, n) * size_of::<f32>(),
            PackedFormat::Bf16 => bf16::num_lines(k, n) * size_of::<bf16::Line>(),
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(panels) => size_of_val(&panels.numbers[..]),
            Panels::Bf16(lines) => size_of_val(&lines[..]),
        }
    }

    /// Refuses other sizes.
    pub(super) fn check(&self, op: &'static str, k: usize, n: usize) -> Result<(), KernelError> {
        check::length(op, "b", self.k * self.n, k * n)?;
        check::length(op, "b", self.k, k)
    }

    /// Takes the numbers of `b`, in f32 or bf16: stored `[k, n]`, or `[n, k]` with `is_transposed`.
    ///
    /// # Errors
    /// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`].
    pub fn pack(&mut self, b: Slice<'_>, is_transposed: bool) -> Result<(), KernelError> {
        const OP: &str = "matmul::pack";
        let Packed { k, n, panels } = self;
        check::length(OP, "b", b.len(), *k * *n)?;
        match (panels, b) {
            (_, Slice::F64(_)) => return Err(check::unsupported(OP, [("b", b.dtype())])),
            (Panels::F32(panels), Slice::F32(b)) => panels.pack(b, is_transposed, [*k, *n]),
            (Panels::F32(panels), Slice::Bf16(b)) => panels.pack(b, is_transposed, [*k, *n]),
            (Panels::Bf16(lines), b) => bf16::pack(lines, b, is_transposed, [*k, *n]),
        }
        Ok(())
    }
}
