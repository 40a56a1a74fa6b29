//! Many named tensors in one allocation and one fixed order.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use findap_kernels::{Dtype, Slice, SliceMut};

use crate::device::Device;
use crate::error::TensorError;
use crate::tensor::{Tensor, View, ViewMut};

/// A tensor of an arena, by its place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorId(usize);

impl TensorId {
    /// The place in the order, from 0.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The names, shapes and offsets of an arena; shared by parameters, gradients and moments.
#[derive(Debug, PartialEq, Eq)]
pub struct ArenaSpec {
    entries: Vec<Entry>,
    len: usize,
}

/// One tensor of an [`ArenaSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Numbers per row.
    pub columns: usize,
    /// Whether it is a vector, which has no weight decay and, in files, a shape of one dimension.
    pub is_vector: bool,
    /// Index of its first number in the arena.
    pub start: usize,
}

impl Entry {
    /// The range of its numbers in the arena.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.rows * self.columns
    }
}

/// Tensors in one allocation.
#[derive(Clone, Debug)]
pub struct Arena {
    spec: Arc<ArenaSpec>,
    data: Tensor,
    state: u64,
}

/// Returns a state number that no arena has had.
fn new_state() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl ArenaSpec {
    /// Makes a spec without tensors.
    pub fn new() -> ArenaSpec {
        ArenaSpec { entries: Vec::new(), len: 0 }
    }

    /// Adds a matrix at the end.
    pub fn matrix(&mut self, name: impl Into<String>, rows: usize, columns: usize) -> TensorId {
        self.push(name.into(), rows, columns, false)
    }

    /// Adds a vector at the end.
    pub fn vector(&mut self, name: impl Into<String>, len: usize) -> TensorId {
        self.push(name.into(), 1, len, true)
    }

    fn push(&mut self, name: String, rows: usize, columns: usize, is_vector: bool) -> TensorId {
        self.entries.push(Entry { name, rows, columns, is_vector, start: self.len });
        // saturates, so that sizes from a hostile file ask for too much memory instead of wrapping around
        self.len = self.len.saturating_add(rows.saturating_mul(columns));
        TensorId(self.entries.len() - 1)
    }

    /// The tensors in their order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The tensor at this place.
    pub fn entry(&self, id: TensorId) -> &Entry {
        &self.entries[id.0]
    }

    /// Count of numbers in all tensors together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Default for ArenaSpec {
    fn default() -> Self {
        Self::new()
    }
}

impl Arena {
    /// Makes an arena of zeros in this process's memory.
    pub fn zeros(spec: Arc<ArenaSpec>, dtype: Dtype) -> Arena {
        let data = Tensor::zeros(dtype, 1, spec.len());
        Arena { spec, data, state: new_state() }
    }

    /// Makes an arena of zeros in the memory of `device`; the error names the `purpose`.
    ///
    /// # Errors
    /// As [`Tensor::zeros_on`].
    pub fn zeros_on(
        device: &Device,
        purpose: &'static str,
        spec: Arc<ArenaSpec>,
        dtype: Dtype,
    ) -> Result<Arena, TensorError> {
        let data = Tensor::zeros_on(device, purpose, dtype, 1, spec.len())?;
        Ok(Arena { spec, data, state: new_state() })
    }

    /// The names, shapes and offsets.
    pub fn spec(&self) -> &Arc<ArenaSpec> {
        &self.spec
    }

    /// The storage format of all tensors.
    pub fn dtype(&self) -> Dtype {
        self.data.dtype()
    }

    /// The device that has the tensors.
    pub fn device(&self) -> Device {
        self.data.device()
    }

    /// A counter that changes whenever the contents may have changed: arenas of one state have the same numbers.
    pub fn state(&self) -> u64 {
        self.state
    }

    /// All numbers in order, as one row of a tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.data
    }

    /// All numbers in order, to be written, as one row of a tensor.
    pub fn tensor_mut(&mut self) -> &mut Tensor {
        self.state = new_state();
        &mut self.data
    }

    /// All numbers in order, for an arena on the host.
    ///
    /// # Panics
    /// As [`Tensor::slice`].
    pub fn flat(&self) -> Slice<'_> {
        self.data.slice()
    }

    /// All numbers in order, to be written, for an arena on the host.
    ///
    /// # Panics
    /// As [`Tensor::slice_mut`].
    pub fn flat_mut(&mut self) -> SliceMut<'_> {
        self.state = new_state();
        self.data.slice_mut()
    }

    /// One tensor.
    pub fn get(&self, id: TensorId) -> View<'_> {
        let entry = &self.spec.entries[id.0];
        self.data.part(entry.start, entry.rows, entry.columns)
    }

    /// One tensor, to be written.
    pub fn get_mut(&mut self, id: TensorId) -> ViewMut<'_> {
        self.state = new_state();
        let entry = &self.spec.entries[id.0];
        self.data.part_mut(entry.start, entry.rows, entry.columns)
    }

    /// Copies the arena to the memory of `device`; the error names the `purpose`.
    ///
    /// # Errors
    /// As [`Arena::zeros_on`] and [`Tensor::read`].
    pub fn copy_to(&self, device: &Device, purpose: &'static str) -> Result<Arena, TensorError> {
        let host = self.data.to_host()?;
        let mut copy = Arena::zeros_on(device, purpose, Arc::clone(&self.spec), self.dtype())?;
        copy.data.write(0, host.slice())?;
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_lie_one_after_the_other() {
        let mut spec = ArenaSpec::new();
        let (a, b) = (spec.matrix("a", 2, 3), spec.vector("b", 4));
        let mut arena = Arena::zeros(Arc::new(spec), Dtype::F32);
        arena.get_mut(b).host().unwrap().copy_from_f64(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(arena.get(a).host().unwrap().to_f64_vec(), [0.0; 6]);
        assert_eq!(arena.flat().to_f64_vec()[6..], [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(arena.spec().find("b").map(Entry::range), Some(6..10));
        assert_eq!(arena.spec().len(), 10);
    }
}
