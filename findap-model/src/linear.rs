//! The linear layers: y = x W^T + b, and its gradients. Blocks multiply by weights only here.

use findap_tensor::ops::linear::Weight;
use findap_tensor::ops::{bias, linear};
use findap_tensor::{Arena, PackedArena, TensorError, TensorId, View, ViewMut, Write};

/// The parameters of a linear layer in the arena of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    pub(crate) weight: TensorId,
    /// `[out]`.
    pub(crate) bias: Option<TensorId>,
}

/// The parameters as a pass reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'a> {
    pub(crate) params: &'a Arena,
    /// Copies of the matrices, packed for matmuls on the CPU: in bf16, or where few rows share a weight.
    pub(crate) packed: Option<&'a PackedArena>,
}

impl<'a> Weights<'a> {
    /// A matrix in the form that matmuls read.
    pub(crate) fn matrix(self, id: TensorId) -> Weight<'a> {
        match self.packed {
            Some(packed) => Weight::Packed(packed.get(id)),
            None => Weight::Plain(self.params.get(id)),
        }
    }

    /// A tensor as it is stored.
    pub(crate) fn stored(self, id: TensorId) -> View<'a> {
        self.params.get(id)
    }
}

/// The gradients of the trained parameters, which a backward pass adds to.
#[derive(Debug)]
pub(crate) struct Gradients<'a> {
    pub(crate) arena: &'a mut Arena,
    /// The id of each parameter's gradient in the arena; a frozen one has none.
    pub(crate) ids: &'a [Option<TensorId>],
}

impl Gradients<'_> {
    /// The gradient of a parameter, unless it is frozen.
    pub(crate) fn get(&mut self, id: TensorId) -> Option<ViewMut<'_>> {
        self.ids[id.index()].map(|id| self.arena.get_mut(id))
    }
}

impl Linear {
    /// y `[n, out]` = x `[n, in]` W^T + b.
    pub(crate) fn forward(self, mut y: ViewMut<'_>, x: View<'_>, weights: Weights<'_>) -> Result<(), TensorError> {
        linear::forward(y.reborrow(), x, weights.matrix(self.weight))?;
        self.bias.map_or(Ok(()), |id| bias::forward(y, weights.stored(id)))
    }

    /// dx `[n, in]` (+)= dy `[n, out]` W; the gradients of W and b are added to where they are trained.
    pub(crate) fn backward(
        self,
        (dx, write): (ViewMut<'_>, Write),
        dy: View<'_>,
        x: View<'_>,
        weights: Weights<'_>,
        gradients: &mut Gradients<'_>,
    ) -> Result<(), TensorError> {
        linear::backward_input(dx, write, dy, weights.matrix(self.weight))?;
        if let Some(dweight) = gradients.get(self.weight) {
            match weights.packed {
                Some(_) => linear::backward_weight_in_bf16(dweight, dy, x)?,
                None => linear::backward_weight(dweight, dy, x)?,
            }
        }
        match self.bias.and_then(|id| gradients.get(id)) {
            Some(dbias) => bias::backward(dbias, dy),
            None => Ok(()),
        }
    }
}
