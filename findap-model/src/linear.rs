//! The linear layers: y = x W^T + b, with an adapter + s (x A^T) B^T, and their gradients. Blocks multiply by weights only here.

use findap_tensor::ops::linear::Weight;
use findap_tensor::ops::{bias, linear, reduce};
use findap_tensor::{Arena, PackedArena, TensorError, TensorId, View, ViewMut, Write};

/// The parameters of a linear layer in the arena of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    pub(crate) weight: TensorId,
    /// `[out]`.
    pub(crate) bias: Option<TensorId>,
    /// The pair of an adapter, where the layer has one.
    pub(crate) low_rank: Option<LowRank>,
}

/// The two matrices by which an adapter changes a layer, in the arena of the adapter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowRank {
    /// A `[rank, in]`.
    pub(crate) a: TensorId,
    /// B `[out, rank]`.
    pub(crate) b: TensorId,
}

/// The parameters of an adapter as a pass reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdapterWeights<'a> {
    pub(crate) params: &'a Arena,
    pub(crate) scale: f64,
}

/// The parameters as a pass reads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'a> {
    pub(crate) params: &'a Arena,
    /// Copies of the matrices, packed for matmuls on the CPU: in bf16, or where few rows share a weight.
    pub(crate) packed: Option<&'a PackedArena>,
    /// The adapter, unless there is none or it is switched off.
    pub(crate) adapter: Option<AdapterWeights<'a>>,
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

    /// The gradient of a parameter of the adapter. Where there is an adapter, its parameters are those trained, all of them.
    fn of_adapter(&mut self, id: TensorId) -> ViewMut<'_> {
        self.arena.get_mut(id)
    }
}

impl Linear {
    /// y `[n, out]` = x `[n, in]` W^T + b, and with an adapter + u B^T, where u `[n, rank]` = s x A^T is kept in `low` for the backward
    /// pass.
    pub(crate) fn forward(
        self,
        mut y: ViewMut<'_>,
        x: View<'_>,
        weights: Weights<'_>,
        low: Option<ViewMut<'_>>,
    ) -> Result<(), TensorError> {
        linear::forward(y.reborrow(), x, weights.matrix(self.weight))?;
        if let Some(id) = self.bias {
            bias::forward(y.reborrow(), weights.stored(id))?;
        }
        let (Some(adapter), Some(LowRank { a, b }), Some(mut u)) = (weights.adapter, self.low_rank, low) else {
            return Ok(());
        };
        linear::forward(u.reborrow(), x, adapter.params.get(a))?;
        reduce::scale(u.reborrow(), adapter.scale)?;
        linear::forward_add(y, u.as_view(), adapter.params.get(b))
    }

    /// dx `[n, in]` (+)= dy `[n, out]` W; the gradients of W and b are added to where they are trained. With an adapter, `low` has u and
    /// memory of its size; dx then grows by du A with du = s dy B, dA by du^T x, and dB by dy^T u.
    pub(crate) fn backward(
        self,
        (mut dx, write): (ViewMut<'_>, Write),
        dy: View<'_>,
        x: View<'_>,
        weights: Weights<'_>,
        gradients: &mut Gradients<'_>,
        low: Option<(View<'_>, ViewMut<'_>)>,
    ) -> Result<(), TensorError> {
        linear::backward_input(dx.reborrow(), write, dy, weights.matrix(self.weight))?;
        if let Some(dweight) = gradients.get(self.weight) {
            match weights.packed {
                Some(_) => linear::backward_weight_in_bf16(dweight, dy, x)?,
                None => linear::backward_weight(dweight, dy, x)?,
            }
        }
        if let Some(dbias) = self.bias.and_then(|id| gradients.get(id)) {
            bias::backward(dbias, dy)?;
        }
        let (Some(adapter), Some(LowRank { a, b }), Some((u, mut du))) = (weights.adapter, self.low_rank, low) else {
            return Ok(());
        };
        linear::backward_weight(gradients.of_adapter(b), dy, u)?;
        linear::backward_input(du.reborrow(), Write::Overwrite, dy, adapter.params.get(b))?;
        reduce::scale(du.reborrow(), adapter.scale)?;
        linear::backward_weight(gradients.of_adapter(a), du.as_view(), x)?;
        linear::backward_input(dx, Write::Accumulate, du.as_view(), adapter.params.get(a))
    }
}
