//! Matrices of an arena, packed for products on the CPU.

use findap_kernels::matmul::{PackedFormat, PackedWeight};

use crate::arena::{Arena, ArenaSpec, TensorId};
use crate::error::TensorError;

/// Packed copies of some matrices of an arena. They are made again when the arena has changed, and so once per optimizer step.
#[derive(Debug)]
pub struct PackedArena {
    matrices: Vec<(TensorId, PackedWeight)>,
    /// The state of the arena that they were made from.
    state: Option<u64>,
}

impl PackedArena {
    /// Makes room for these matrices; without a backward pass, half as much.
    pub fn new(format: PackedFormat, spec: &ArenaSpec, ids: &[TensorId], needs_backward: bool) -> PackedArena {
        let room = |&id: &TensorId| {
            let entry = spec.entry(id);
            (id, PackedWeight::zeros(format, entry.rows, entry.columns, needs_backward))
        };
        PackedArena { matrices: ids.iter().map(room).collect(), state: None }
    }

    /// The bytes that [`PackedArena::bytes`] will report.
    pub fn bytes_of(format: PackedFormat, spec: &ArenaSpec, ids: &[TensorId], needs_backward: bool) -> usize {
        let bytes = |&id: &TensorId| {
            let entry = spec.entry(id);
            PackedWeight::bytes_of(format, entry.rows, entry.columns, needs_backward)
        };
        ids.iter().map(bytes).sum()
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.matrices.iter().map(|(_, matrix)| matrix.bytes()).sum()
    }

    /// Packs the matrices of `arena`, unless it has not changed since the last time.
    ///
    /// # Errors
    /// [`TensorError::Kernel`] for matrices of other sizes, or in f64; [`TensorError::OtherDevice`].
    pub fn update(&mut self, arena: &Arena) -> Result<(), TensorError> {
        if self.state == Some(arena.state()) {
            return Ok(());
        }
        self.state = None;
        for (id, matrix) in &mut self.matrices {
            matrix.pack(arena.get(*id).host()?)?;
        }
        self.state = Some(arena.state());
        Ok(())
    }

    /// One packed matrix.
    ///
    /// # Panics
    /// If `id` is not one of the matrices given to [`PackedArena::new`].
    pub fn get(&self, id: TensorId) -> &PackedWeight {
        let found = self.matrices.iter().find(|(with, _)| *with == id);
        &found.expect("invariant: the matrices that a model multiplies were named").1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ops::linear::{self, Weight};
    use crate::{Dtype, Tensor};

    #[test]
    fn matrices_are_packed_again_when_the_arena_has_changed_and_only_then() {
        [PackedFormat::F32, PackedFormat::Bf16].into_iter().for_each(check);
    }

    fn check(format: PackedFormat) {
        let mut spec = ArenaSpec::new();
        let (_, id) = (spec.matrix("other", 2, 2), spec.matrix("weight", 2, 3));
        let spec = Arc::new(spec);
        let mut packed = PackedArena::new(format, &spec, &[id], true);
        assert_eq!(packed.bytes(), PackedArena::bytes_of(format, &spec, &[id], true));
        let mut arena = Arena::zeros(spec, Dtype::F32);
        arena.get_mut(id).host().unwrap().copy_from_f64(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let mut x = Tensor::zeros(Dtype::F32, 1, 3);
        x.slice_mut().copy_from_f64(&[1.0, 10.0, 100.0]);
        let product = |packed: &PackedArena| {
            let mut y = Tensor::zeros(Dtype::F32, 1, 2);
            linear::forward(y.all_mut(), x.all(), Weight::Packed(packed.get(id))).unwrap();
            y.slice().to_f64_vec()
        };
        packed.update(&arena).unwrap();
        assert_eq!(product(&packed), [321.0, 654.0]);
        let copy = arena.clone();
        assert_eq!(copy.state(), arena.state());
        arena.flat_mut().copy_from_f64(&[1.0; 10]);
        packed.update(&arena).unwrap();
        assert_eq!(product(&packed), [111.0, 111.0]);
        let before = arena.state();
        packed.update(&arena).unwrap();
        assert_eq!((arena.state(), packed.state), (before, Some(before)));
        packed.update(&copy).unwrap();
        assert_eq!(product(&packed), [321.0, 654.0]);
    }
}
