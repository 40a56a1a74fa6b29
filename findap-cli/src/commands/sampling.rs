//! The sampling flags that `generate` and `chat` share.

use findap_data::llm::Sampling;

/// How tokens are drawn.
#[derive(clap::Args)]
pub(crate) struct SamplingArguments {
    /// 0 takes the likeliest token each time
    #[arg(long, default_value_t = 0.0, value_parser = temperature)]
    pub(crate) temperature: f64,
    /// Draw from the K likeliest tokens only
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", value_parser = probability)]
    pub(crate) top_p: Option<f64>,
    /// Longest reply in tokens
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(crate) max_tokens: usize,
    /// Equal seeds give equal replies
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl SamplingArguments {
    pub(crate) fn to_sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            max_tokens: self.max_tokens,
            seed: Some(self.seed),
            ..Sampling::default()
        }
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("a temperature is a number from 0 up".to_owned()),
    }
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("a probability is a number above 0, at most 1".to_owned()),
    }
}
