//! The weight of a linear layer: y = x W^T, dx = dy W, dW += dy^T x.

use super::{Factor, Packed, PackedFormat};
use crate::error::KernelError;
use crate::slice::Slice;

/// A weight `[out, in]`, as its products read it.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// As it is stored.
    Plain(Slice<'a>),
    /// Packed; the gradient is a product in the same format.
    Packed(&'a PackedWeight),
}

impl<'a, S: Into<Slice<'a>>> From<S> for Weight<'a> {
    fn from(weight: S) -> Self {
        Weight::Plain(weight.into())
    }
}

impl<'a> Weight<'a> {
    /// How many numbers.
    #[allow(clippy::len_without_is_empty, reason = "a weight is compared with its sizes only")]
    pub fn len(self) -> usize {
        match self {
            Weight::Plain(weight) => weight.len(),
            Weight::Packed(weight) => weight.rows * weight.columns,
        }
    }

    /// The right factor of x W^T, which is transposed.
    pub fn of_forward(self) -> Factor<'a> {
        match self {
            Weight::Plain(weight) => Factor::Plain(weight),
            Weight::Packed(weight) => Factor::Packed(&weight.forward),
        }
    }

    /// The right factor of dy W.
    ///
    /// # Errors
    /// [`KernelError::BadArgument`] if it was packed for the forward pass only.
    pub fn of_backward(self) -> Result<Factor<'a>, KernelError> {
        match self {
            Weight::Plain(weight) => Ok(Factor::Plain(weight)),
            Weight::Packed(weight) => weight.backward.as_ref().map(Factor::Packed).ok_or(KernelError::BadArgument {
                op: "matmul::gemm",
                arg: "weight",
                got: 1.0,
                want: "packed in both ways for a backward pass",
            }),
        }
    }

    /// x as the right factor of dy^T x.
    pub fn of_gradient<'x>(self, x: Slice<'x>) -> Factor<'x> {
        match self {
            Weight::Packed(PackedWeight { format: PackedFormat::Bf16, .. }) => Factor::Rounded(x),
            Weight::Plain(_) | Weight::Packed(_) => Factor::Plain(x),
        }
    }
}

/// A weight packed once for its products.
#[derive(Debug)]
pub struct PackedWeight {
    format: PackedFormat,
    rows: usize,
    columns: usize,
    forward: Packed,
    backward: Option<Packed>,
}

impl PackedWeight {
    /// Room for `[rows, columns]` numbers, all 0.
    pub fn zeros(format: PackedFormat, rows: usize, columns: usize, needs_backward: bool) -> PackedWeight {
        let backward = needs_backward.then(|| Packed::zeros(format, rows, columns));
        PackedWeight { format, rows, columns, forward: Packed::zeros(format, columns, rows), backward }
    }

    /// Rows: numbers out.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: numbers in.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.forward.bytes() + self.backward.as_ref().map_or(0, Packed::bytes)
    }

    /// Bytes that [`PackedWeight::bytes`] will say.
    pub fn bytes_of(format: PackedFormat, rows: usize, columns: usize, needs_backward: bool) -> usize {
        let backward = if needs_backward { Packed::bytes_of(format, rows, columns) } else { 0 };
        Packed::bytes_of(format, columns, rows) + backward
    }

    /// Takes the numbers of a weight, in f32 or bf16.
    ///
    /// # Errors
    /// As [`Packed::pack`].
    pub fn pack(&mut self, weight: Slice<'_>) -> Result<(), KernelError> {
        self.forward.pack(weight, true)?;
        self.backward.as_mut().map_or(Ok(()), |backward| backward.pack(weight, false))
    }
}
