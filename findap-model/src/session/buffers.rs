//! The tensors that a plan asks for.

use findap_tensor::{Device, Tensor, TensorError, View, ViewMut};

use super::plan::{Buffers, Plan, Row};

/// The tensors of one row of a plan.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) row: Row,
    slots: Vec<Tensor>,
}

impl Layers {
    /// The first `n` tokens of layer `l`.
    pub(crate) fn rows(&self, l: usize, n: usize) -> View<'_> {
        self.slots[self.row.slot(l)].rows(n)
    }

    /// The first `n` tokens of layer `l`, to be written.
    pub(crate) fn rows_mut(&mut self, l: usize, n: usize) -> ViewMut<'_> {
        self.slots[self.row.slot(l)].rows_mut(n)
    }

    /// The first `n` tokens of a buffer that all layers share.
    pub(crate) fn shared(&self, n: usize) -> View<'_> {
        self.slots[0].rows(n)
    }

    /// The first `n` tokens of a buffer that all layers share, to be written.
    pub(crate) fn shared_mut(&mut self, n: usize) -> ViewMut<'_> {
        self.slots[0].rows_mut(n)
    }

    /// The first `n` tokens of layer `l`, unless the session does without this buffer.
    pub(crate) fn rows_if_any(&self, l: usize, n: usize) -> Option<View<'_>> {
        (!self.slots.is_empty()).then(|| self.rows(l, n))
    }

    /// The first `n` tokens of layer `l`, to be written, unless the session does without this buffer.
    pub(crate) fn rows_mut_if_any(&mut self, l: usize, n: usize) -> Option<ViewMut<'_>> {
        (!self.slots.is_empty()).then(|| self.rows_mut(l, n))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.slots.iter().map(Tensor::bytes).sum()
    }
}

impl Buffers<Layers> {
    /// Allocates every row on `device`.
    pub(crate) fn new(device: &Device, plan: &Plan) -> Result<Buffers<Layers>, TensorError> {
        plan.rows.try_map(|row| {
            let tensor = |_| Tensor::zeros_on(device, row.purpose, row.dtype, plan.max_tokens, row.columns);
            Ok(Layers { row: *row, slots: (0..row.slots).map(tensor).collect::<Result<_, _>>()? })
        })
    }
}
