//! `lora` of a stage: the low-rank adapter that it trains.

use findap_model::{Lora, Targets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{Origin, RecipeError, join};

/// `lora` of a stage. y = x W^T becomes y = x W^T + s (x A^T) B^T with W frozen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraTable {
    /// Rank of every adapter: rows of A and columns of B, at least 1 and at most 65536. The defaults of rank, scale and layers follow Biderman et al. 2024
    /// ("LoRA Learns Less and Forgets Less", arXiv 2405.09673). Default 16.
    #[serde(default = "default_rank")]
    pub rank: usize,
    /// The scale s is alpha / rank; alpha > 0. Default: twice the rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// The linear layers of every block that have an adapter, by their names: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`,
    /// `up_proj`, `down_proj`.
    #[serde(default = "all_targets")]
    pub targets: Vec<String>,
    /// Scale by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023), for ranks of 64 and more. Default false.
    #[serde(default)]
    pub rslora: bool,
    /// Share of an adapter's inputs that are zeroed while training. Only 0 is supported. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropout: f64,
}

impl LoraTable {
    /// Refuses what cannot be trained; `key` is the table's.
    pub(super) fn check(&self, key: &str, origin: &Origin<'_>) -> Result<(), RecipeError> {
        let is_rank = (1..=Lora::MAX_RANK).contains(&self.rank);
        origin.require(
            is_rank,
            &join(key, "rank"),
            &format!("it must be at least 1 and at most {}", Lora::MAX_RANK),
        )?;
        let is_scale = self.alpha.is_none_or(|alpha| alpha.is_finite() && alpha > 0.0);
        origin.require(is_scale, &join(key, "alpha"), "it must be a number above 0")?;
        self.chosen().map_err(|problem| origin.invalid(&join(key, "targets"), problem))?;
        let without = self.dropout == 0.0;
        origin.require(without, &join(key, "dropout"), "dropout is not supported; leave it out")
    }

    fn chosen(&self) -> Result<Targets, String> {
        Targets::from_names(self.targets.iter().map(String::as_str)).map_err(|error| error.to_string())
    }
}

impl From<&LoraTable> for Lora {
    fn from(table: &LoraTable) -> Lora {
        let targets = table.chosen().expect("invariant: a checked recipe names layers that there are");
        let alpha = table.alpha.unwrap_or(2.0 * table.rank as f64);
        Lora { rank: table.rank, alpha, targets, is_rank_stabilized: table.rslora }
    }
}

impl Default for LoraTable {
    fn default() -> Self {
        toml::from_str("").expect("invariant: every key has a default")
    }
}

fn default_rank() -> usize {
    16
}
fn all_targets() -> Vec<String> {
    Targets::ALL.names().map(str::to_owned).collect()
}
fn is_zero(dropout: &f64) -> bool {
    *dropout == 0.0
}
