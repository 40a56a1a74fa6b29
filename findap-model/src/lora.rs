//! Low-rank adapters (Hu et al. 2021, "LoRA", arXiv 2106.09685): which layers have one, and how large it is.
//!
//! A linear layer with an adapter computes y = x W^T + b + s (x A^T) B^T with A `[rank, in]`, B `[out, rank]` and a scale s. W and b are
//! frozen, A and B are trained. A begins at random and B at zero, so an adapter that was not trained changes nothing.

use findap_data::spelling::nearest;
use findap_tensor::{DeviceKind, Dtype};

use crate::error::ModelError;

/// An adapter's size, scale and layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lora {
    /// Rows of A and columns of B, at least 1.
    pub rank: usize,
    /// The scale is alpha / rank, or alpha / sqrt(rank) where `is_rank_stabilized`.
    pub alpha: f64,
    /// Which linear layers of every block have an adapter.
    pub targets: Targets,
    /// Whether the scale falls with the root of the rank only (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732).
    pub is_rank_stabilized: bool,
}

impl Lora {
    /// The largest rank: no matrix of a model has more.
    pub const MAX_RANK: usize = 1 << 16;

    /// The factor of (x A^T) B^T.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.is_rank_stabilized { rank.sqrt() } else { rank }
    }

    /// Refuses an adapter that a device of this kind could not multiply by, beside weights in `dtype`.
    ///
    /// # Errors
    /// [`ModelError::Adapter`]: in bf16 on a GPU, rows of matrices are multiples of 16 bytes.
    pub fn check_on(&self, kind: DeviceKind, dtype: Dtype) -> Result<(), ModelError> {
        if kind == DeviceKind::Cuda && dtype == Dtype::Bf16 && !self.rank.is_multiple_of(8) {
            let reason = format!("its rank must be a multiple of 8 in bf16 on a GPU, and is {}", self.rank);
            return Err(ModelError::Adapter { reason });
        }
        Ok(())
    }

    /// Refuses an adapter that would be none.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] for rank 0 or above [`Lora::MAX_RANK`], for an `alpha` that is no number above 0, and without targets.
    pub fn check(&self) -> Result<(), ModelError> {
        let refuse = |reason: String| Err(ModelError::Adapter { reason });
        match self {
            Lora { rank: 0, .. } => refuse("its rank must be at least 1".into()),
            Lora { rank, .. } if *rank > Lora::MAX_RANK => {
                refuse(format!("its rank must be at most {}, not {rank}", Lora::MAX_RANK))
            }
            Lora { alpha, .. } if !(alpha.is_finite() && *alpha > 0.0) => {
                refuse(format!("its alpha must be a number above 0, not {alpha}"))
            }
            Lora { targets, .. } if targets.names().next().is_none() => {
                refuse(format!("it needs at least one of {}", Target::NAMES.join(", ")))
            }
            _ => Ok(()),
        }
    }
}

/// A linear layer of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Target {
    /// The names in Hugging Face files, in the order of the variants.
    const NAMES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

    pub(crate) const ALL: [Target; 7] =
        [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];
}

/// A choice among the linear layers that every block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets([bool; 7]);

impl Targets {
    /// All seven: PEFT's `"all-linear"`.
    pub const ALL: Targets = Targets([true; 7]);

    /// The layers of these names: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] for another name, with the nearest; for one that stands twice; for none.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Targets, ModelError> {
        let refuse = |reason: String| Err(ModelError::Adapter { reason });
        let mut targets = Targets([false; 7]);
        for name in names {
            let Some(index) = Target::NAMES.iter().position(|known| *known == name) else {
                let hint = match nearest(name, Target::NAMES) {
                    Some(nearest) => format!("did you mean \"{nearest}\"?"),
                    None => format!("there are {}", Target::NAMES.join(", ")),
                };
                return refuse(format!("no linear layer of a block is named \"{name}\"; {hint}"));
            };
            if std::mem::replace(&mut targets.0[index], true) {
                return refuse(format!("\"{name}\" is named twice"));
            }
        }
        match targets.names().next() {
            None => refuse(format!("it needs at least one of {}", Target::NAMES.join(", "))),
            Some(_) => Ok(targets),
        }
    }

    /// The names of the chosen layers, in the order of a block.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        Target::NAMES.into_iter().zip(self.0).filter_map(|(name, is_chosen)| is_chosen.then_some(name))
    }

    pub(crate) fn contains(self, target: Target) -> bool {
        self.0[target as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_falls_with_the_rank_or_its_root() {
        let lora = |rank, alpha, is_rank_stabilized| Lora { rank, alpha, targets: Targets::ALL, is_rank_stabilized };
        for (lora, scale) in [
            (lora(8, 16.0, false), 2.0),
            (lora(4, 8.0, true), 4.0),
            (lora(64, 16.0, false), 0.25),
            (lora(64, 16.0, true), 2.0),
        ] {
            assert_eq!(lora.scale(), scale, "{lora:?}");
            lora.check().unwrap();
        }
        let refused = |lora: Lora| lora.check().unwrap_err().to_string();
        assert!(refused(lora(0, 16.0, false)).contains("rank must be at least 1"));
        assert!(refused(lora(usize::MAX, 16.0, false)).contains("rank must be at most 65536"));
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(refused(lora(8, alpha, false)).contains("alpha must be a number above 0"), "{alpha}");
        }
        for (kind, dtype, rank, is_possible) in [
            (DeviceKind::Cuda, Dtype::Bf16, 4, false),
            (DeviceKind::Cuda, Dtype::Bf16, 16, true),
            (DeviceKind::Cuda, Dtype::F32, 3, true),
            (DeviceKind::Cpu, Dtype::Bf16, 3, true),
        ] {
            assert_eq!(lora(rank, 8.0, false).check_on(kind, dtype).is_ok(), is_possible, "{kind:?} {dtype} {rank}");
        }
    }

    #[test]
    fn targets_are_known_names_once_each() {
        let of = |names: &[&str]| Targets::from_names(names.iter().copied());
        let some = of(&["v_proj", "q_proj"]).unwrap();
        assert_eq!(some.names().collect::<Vec<_>>(), ["q_proj", "v_proj"]);
        assert!(Target::ALL.iter().all(|target| Targets::ALL.contains(*target)));
        assert!(some.contains(Target::V) && !some.contains(Target::Down));
        for (names, reason) in [
            (&["q_prj"][..], "did you mean \"q_proj\"?"),
            (&["query_key_value"], "there are q_proj, k_proj"),
            (&["q_proj", "q_proj"], "twice"),
            (&[], "at least one of"),
        ] {
            let message = of(names).unwrap_err().to_string();
            assert!(message.contains(reason), "{names:?}: {message}");
        }
    }
}
