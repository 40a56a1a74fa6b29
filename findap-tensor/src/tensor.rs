//! Owned and borrowed matrices.

use findap_kernels::{Dtype, Slice, SliceMut};
use half::bf16;

/// Contiguous numbers in rows. Higher ranks are rows of flattened trailing dimensions: `[n, heads, head_dim]` is a tensor of
/// n rows and heads * head_dim columns.
#[derive(Clone, Debug)]
pub struct Tensor {
    rows: usize,
    columns: usize,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bf16(Vec<bf16>),
}

/// Some rows of a tensor, read-only.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Rows.
    pub rows: usize,
    /// Numbers per row.
    pub columns: usize,
    /// The numbers.
    pub data: Slice<'a>,
}

/// Some rows of a tensor, written.
#[derive(Debug)]
pub struct ViewMut<'a> {
    /// Rows.
    pub rows: usize,
    /// Numbers per row.
    pub columns: usize,
    /// The numbers.
    pub data: SliceMut<'a>,
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(dtype: Dtype, rows: usize, columns: usize) -> Tensor {
        let len = rows * columns;
        let data = match dtype {
            Dtype::F32 => Data::F32(vec![0.0; len]),
            Dtype::F64 => Data::F64(vec![0.0; len]),
            Dtype::Bf16 => Data::Bf16(vec![bf16::ZERO; len]),
        };
        Tensor { rows, columns, data }
    }

    /// The storage format.
    pub fn dtype(&self) -> Dtype {
        self.slice().dtype()
    }

    /// Rows.
    pub fn num_rows(&self) -> usize {
        self.rows
    }

    /// Numbers per row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.rows * self.columns * self.dtype().size_bytes()
    }

    /// All numbers.
    pub fn slice(&self) -> Slice<'_> {
        match &self.data {
            Data::F32(x) => Slice::F32(x),
            Data::F64(x) => Slice::F64(x),
            Data::Bf16(x) => Slice::Bf16(x),
        }
    }

    /// All numbers, to be written.
    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        match &mut self.data {
            Data::F32(x) => SliceMut::F32(x),
            Data::F64(x) => SliceMut::F64(x),
            Data::Bf16(x) => SliceMut::Bf16(x),
        }
    }

    /// The first `n` rows.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn rows(&self, n: usize) -> View<'_> {
        View { rows: n, columns: self.columns, data: self.slice().sub(0..n * self.columns) }
    }

    /// The first `n` rows, to be written.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn rows_mut(&mut self, n: usize) -> ViewMut<'_> {
        let columns = self.columns;
        ViewMut { rows: n, columns, data: self.slice_mut().sub(0..n * columns) }
    }
}

impl<'a> ViewMut<'a> {
    /// The same rows, read-only.
    pub fn as_view(&self) -> View<'_> {
        View { rows: self.rows, columns: self.columns, data: self.data.as_const() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_a_prefix_of_the_memory() {
        let mut t = Tensor::zeros(Dtype::F64, 3, 4);
        t.rows_mut(2).data.copy_from_f64(&[1.0; 8]);
        assert_eq!(t.slice().to_f64_vec(), [[1.0; 8].as_slice(), &[0.0; 4]].concat());
        assert_eq!((t.rows(1).data.len(), t.bytes(), t.num_rows(), t.columns()), (4, 96, 3, 4));
    }
}
