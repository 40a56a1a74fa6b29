//! The losses that an `align` stage may have, and which of its keys each reads.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::objective::PairLoss;

/// What an `align` stage minimises for each pair, beside the likelihood term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlignLoss {
    /// Direct preference optimisation (TRL's `sigmoid`); with `label_smoothing` its conservative form.
    #[default]
    #[serde(alias = "sigmoid")]
    Dpo,
    /// DPO without the bias of pairs in the wrong order, whose share is `label_smoothing`.
    Robust,
    /// The hinge loss of SLiC on the margin of rewards.
    Hinge,
    /// Identity preference optimisation, on means over the tokens of an answer as in TRL; `beta` is its paper's tau.
    Ipo,
    /// Simple preference optimisation: means over the tokens of an answer, without a reference, and a margin of `simpo_gamma`.
    Simpo,
    /// Odds-ratio preference optimisation, without a reference; `beta` is its paper's lambda, and its likelihood term is that of
    /// `nll_weight`.
    Orpo,
}

impl AlignLoss {
    /// The margin of SimPO where the recipe has none, as in TRL.
    const DEFAULT_GAMMA: f64 = 0.5;

    /// The loss with its numbers, of which those that it does not read are passed over.
    pub(super) fn pair_loss(self, label_smoothing: Option<f64>, simpo_gamma: Option<f64>) -> PairLoss {
        let label_smoothing = label_smoothing.unwrap_or(0.0);
        match self {
            Self::Dpo => PairLoss::Dpo { label_smoothing },
            Self::Robust => PairLoss::Robust { label_smoothing },
            Self::Hinge => PairLoss::Hinge,
            Self::Ipo => PairLoss::Ipo,
            Self::Simpo => PairLoss::Simpo { gamma: simpo_gamma.unwrap_or(Self::DEFAULT_GAMMA), label_smoothing },
            Self::Orpo => PairLoss::Orpo,
        }
    }

    /// Refuses numbers that the loss does not read or cannot be given.
    ///
    /// # Errors
    /// The key, and what to do about it.
    pub(super) fn check(
        self,
        label_smoothing: Option<f64>,
        simpo_gamma: Option<f64>,
    ) -> Result<(), (&'static str, &'static str)> {
        let smoothing_problem = |value: f64| match self {
            Self::Hinge | Self::Ipo | Self::Orpo => {
                Some("this `loss` has none; leave it out, or take \"dpo\", \"robust\" or \"simpo\"")
            }
            Self::Robust if !(0.0..0.5).contains(&value) => {
                Some("with loss = \"robust\" it is at least 0 and below 0.5, where pairs would tell nothing")
            }
            Self::Dpo | Self::Simpo if !(0.0..=0.5).contains(&value) => Some(
                "it lies between 0 and 0.5; if more than half of the pairs are in the wrong order, exchange their answers",
            ),
            _ => None,
        };
        let gamma_problem = |value: f64| match self {
            Self::Simpo if value.is_finite() && value >= 0.0 => None,
            Self::Simpo => Some("it must be at least 0"),
            _ => Some("only loss = \"simpo\" has one; leave it out, or take that"),
        };
        let of_smoothing = label_smoothing.and_then(smoothing_problem).map(|problem| ("label_smoothing", problem));
        let of_gamma = simpo_gamma.and_then(gamma_problem).map(|problem| ("simpo_gamma", problem));
        of_smoothing.or(of_gamma).map_or(Ok(()), Err)
    }
}
