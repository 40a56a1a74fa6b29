//! The trained parameters of a model. The others have no gradient, no moments, and no activation that only they would need.

use std::sync::Arc;

use findap_tensor::{ArenaSpec, TensorId};

use crate::config::Config;
use crate::error::ModelError;
use crate::layout::Layout;
use crate::trainable::Trainable;

/// The trained parameters of a model, and where each has its gradient.
#[derive(Debug)]
pub struct Trained {
    /// The trained tensors in the order of the model's, or those of its adapter, for gradients and moments.
    pub(crate) spec: Arc<ArenaSpec>,
    /// The id in `spec` of each tensor of the model; `None` for a frozen one.
    pub(crate) ids: Vec<Option<TensorId>>,
    /// Count of blocks from the input on that hold nothing trained; 0 if the embedding is trained.
    frozen_blocks: usize,
}

impl Trained {
    /// The selected parameters of a model of this configuration.
    ///
    /// # Errors
    /// [`ModelError::Trainable`] for a selection that it cannot obey.
    pub fn of(config: &Config, trainable: &Trainable) -> Result<Trained, ModelError> {
        let layout = Layout::new(config);
        match trainable.lora() {
            Some(lora) => Trained::select(&layout.with_adapter(lora), trainable),
            None => Trained::select(&layout, trainable),
        }
    }

    /// Count of the numbers that are trained.
    pub fn num_parameters(&self) -> usize {
        self.spec.len()
    }

    /// Count of frozen blocks from the input on; 0 if the embedding is trained.
    pub fn frozen_blocks(&self) -> usize {
        self.frozen_blocks
    }

    /// Selects the parameters of a model of this layout, as [`Trained::of`] does.
    pub(crate) fn select(layout: &Layout, trainable: &Trainable) -> Result<Trained, ModelError> {
        let num_layers = layout.blocks.len();
        trainable.check(layout.spec.entries().iter().map(|entry| entry.name.as_str()), num_layers)?;
        let trained = Trained::new(layout, |name| trainable.is_trained(name, num_layers));
        Ok(match trainable {
            // An adapter of the first block has its gradient from all blocks above.
            Trainable::Adapter(_) => Trained { spec: Arc::clone(&layout.adapter), frozen_blocks: 0, ..trained },
            _ => trained,
        })
    }

    fn new(layout: &Layout, is_trained: impl Fn(&str) -> bool) -> Trained {
        let mut spec = ArenaSpec::new();
        let ids: Vec<Option<TensorId>> = layout
            .spec
            .entries()
            .iter()
            .map(|entry| {
                is_trained(&entry.name).then(|| match entry.is_vector {
                    true => spec.vector(entry.name.clone(), entry.columns),
                    false => spec.matrix(entry.name.clone(), entry.rows, entry.columns),
                })
            })
            .collect();
        let is_trained = |id: TensorId| ids[id.index()].is_some();
        let frozen_blocks = match is_trained(layout.embedding) {
            true => 0,
            false => {
                let first = layout.blocks.iter().position(|block| block.tensors().any(is_trained));
                first.unwrap_or(layout.blocks.len())
            }
        };
        Trained { spec: Arc::new(spec), ids, frozen_blocks }
    }

    /// Selects all parameters.
    pub(crate) fn all(layout: &Layout) -> Trained {
        Trained::new(layout, |_| true)
    }
}
