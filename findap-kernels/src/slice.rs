//! Flat memory of one dtype, read-only or written.

use std::ops::Range;

use half::bf16;

use crate::dtype::{Dtype, Element};

/// What a kernel does with the old contents of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Write {
    /// Replaces them; they are never read, so they may be anything, NaN included.
    #[default]
    Overwrite,
    /// Adds to them.
    Accumulate,
}

/// Contiguous numbers of one dtype, read-only.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// f32 numbers.
    F32(&'a [f32]),
    /// f64 numbers.
    F64(&'a [f64]),
    /// bf16 numbers.
    Bf16(&'a [bf16]),
}

impl<'a> Slice<'a> {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Slice::F32(s) => s.len(),
            Slice::F64(s) => s.len(),
            Slice::Bf16(s) => s.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The storage format.
    pub fn dtype(&self) -> Dtype {
        match self {
            Slice::F32(_) => Dtype::F32,
            Slice::F64(_) => Dtype::F64,
            Slice::Bf16(_) => Dtype::Bf16,
        }
    }

    /// The numbers of `range`.
    ///
    /// # Panics
    /// If `range` reaches past the end, as indexing does.
    #[allow(clippy::should_implement_trait, reason = "takes a range and subtracts nothing")]
    pub fn sub(self, range: Range<usize>) -> Slice<'a> {
        match self {
            Slice::F32(s) => Slice::F32(&s[range]),
            Slice::F64(s) => Slice::F64(&s[range]),
            Slice::Bf16(s) => Slice::Bf16(&s[range]),
        }
    }

    /// A copy of all numbers as f64, exact.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        match self {
            Slice::F32(s) => s.iter().map(|x| x.load()).collect(),
            Slice::F64(s) => s.to_vec(),
            Slice::Bf16(s) => s.iter().map(|x| x.load()).collect(),
        }
    }
}

/// Contiguous numbers of one dtype, written by a kernel.
#[derive(Debug)]
pub enum SliceMut<'a> {
    /// f32 numbers.
    F32(&'a mut [f32]),
    /// f64 numbers.
    F64(&'a mut [f64]),
    /// bf16 numbers.
    Bf16(&'a mut [bf16]),
}

impl<'a> SliceMut<'a> {
    /// How many numbers.
    pub fn len(&self) -> usize {
        self.as_const().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The storage format.
    pub fn dtype(&self) -> Dtype {
        self.as_const().dtype()
    }

    /// The numbers, if they are f32.
    pub fn into_f32(self) -> Option<&'a mut [f32]> {
        if let SliceMut::F32(s) = self { Some(s) } else { None }
    }

    /// The numbers, if they are f64.
    pub fn into_f64(self) -> Option<&'a mut [f64]> {
        if let SliceMut::F64(s) = self { Some(s) } else { None }
    }

    /// The same memory, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_> {
        match self {
            SliceMut::F32(s) => SliceMut::F32(s),
            SliceMut::F64(s) => SliceMut::F64(s),
            SliceMut::Bf16(s) => SliceMut::Bf16(s),
        }
    }

    /// The same memory, read-only.
    pub fn as_const(&self) -> Slice<'_> {
        match self {
            SliceMut::F32(s) => Slice::F32(s),
            SliceMut::F64(s) => Slice::F64(s),
            SliceMut::Bf16(s) => Slice::Bf16(s),
        }
    }

    /// The same memory, read-only for as long as it was borrowed.
    pub fn into_const(self) -> Slice<'a> {
        match self {
            SliceMut::F32(s) => Slice::F32(s),
            SliceMut::F64(s) => Slice::F64(s),
            SliceMut::Bf16(s) => Slice::Bf16(s),
        }
    }

    /// The numbers of `range`; `reborrow()` first to keep the whole.
    ///
    /// # Panics
    /// If `range` reaches past the end, as indexing does.
    #[allow(clippy::should_implement_trait, reason = "takes a range and subtracts nothing")]
    pub fn sub(self, range: Range<usize>) -> SliceMut<'a> {
        match self {
            SliceMut::F32(s) => SliceMut::F32(&mut s[range]),
            SliceMut::F64(s) => SliceMut::F64(&mut s[range]),
            SliceMut::Bf16(s) => SliceMut::Bf16(&mut s[range]),
        }
    }

    /// Replaces all numbers, rounding each once to the format.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy_from_f64(&mut self, values: &[f64]) {
        assert_eq!(self.len(), values.len(), "invariant: as many values as numbers");
        match self {
            SliceMut::F32(s) => s.iter_mut().zip(values).for_each(|(y, &x)| *y = x as f32),
            SliceMut::F64(s) => s.copy_from_slice(values),
            SliceMut::Bf16(s) => s.iter_mut().zip(values).for_each(|(y, &x)| *y = bf16::from_f64(x)),
        }
    }

    /// The first `mid` numbers and the rest.
    ///
    /// # Panics
    /// If `mid` is past the end.
    pub fn split_at(self, mid: usize) -> (SliceMut<'a>, SliceMut<'a>) {
        match self {
            SliceMut::F32(s) => {
                let (a, b) = s.split_at_mut(mid);
                (SliceMut::F32(a), SliceMut::F32(b))
            }
            SliceMut::F64(s) => {
                let (a, b) = s.split_at_mut(mid);
                (SliceMut::F64(a), SliceMut::F64(b))
            }
            SliceMut::Bf16(s) => {
                let (a, b) = s.split_at_mut(mid);
                (SliceMut::Bf16(a), SliceMut::Bf16(b))
            }
        }
    }
}

impl<'a> From<&'a [f32]> for Slice<'a> {
    fn from(s: &'a [f32]) -> Self {
        Slice::F32(s)
    }
}

impl<'a> From<&'a [f64]> for Slice<'a> {
    fn from(s: &'a [f64]) -> Self {
        Slice::F64(s)
    }
}

impl<'a> From<&'a [bf16]> for Slice<'a> {
    fn from(s: &'a [bf16]) -> Self {
        Slice::Bf16(s)
    }
}

impl<'a> From<&'a mut [f32]> for SliceMut<'a> {
    fn from(s: &'a mut [f32]) -> Self {
        SliceMut::F32(s)
    }
}

impl<'a> From<&'a mut [f64]> for SliceMut<'a> {
    fn from(s: &'a mut [f64]) -> Self {
        SliceMut::F64(s)
    }
}

impl<'a> From<&'a mut [bf16]> for SliceMut<'a> {
    fn from(s: &'a mut [bf16]) -> Self {
        SliceMut::Bf16(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_whole_and_keep_the_dtype() {
        let mut x: Vec<f32> = (0..7).map(|i| i as f32).collect();
        let mut s = SliceMut::from(&mut x[..]);
        assert_eq!((s.len(), s.dtype(), s.is_empty()), (7, Dtype::F32, false));
        assert_eq!(s.reborrow().sub(2..4).into_const().to_f64_vec(), [2.0, 3.0]);
        let (a, b) = s.split_at(3);
        assert_eq!((a.len(), b.len()), (3, 4));
        assert_eq!(b.as_const().sub(0..1).to_f64_vec(), [3.0]);
    }
}
