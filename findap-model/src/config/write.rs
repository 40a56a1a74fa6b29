//! Writes a configuration as the JSON that transformers and vLLM read.

use serde_json::{Map, Value};

use super::{Config, RopeScaling};

impl Config {
    /// The keys of `config.json` in the older spelling, with every key that was read and is unknown here.
    pub fn to_json(&self, dtype: &str) -> Map<String, Value> {
        let mut raw = self.raw.clone();
        for replaced in ["rope_parameters", "dtype"] {
            raw.remove(replaced);
        }
        let mut set = |key: &str, value: Value| {
            raw.insert(key.to_owned(), value);
        };
        set("architectures", serde_json::json!([self.family.architecture()]));
        set("model_type", self.family.model_type().into());
        set("hidden_act", "silu".into());
        set("hidden_size", self.hidden_size.into());
        set("intermediate_size", self.intermediate_size.into());
        set("num_hidden_layers", self.num_layers.into());
        set("num_attention_heads", self.num_heads.into());
        set("num_key_value_heads", self.num_kv_heads.into());
        set("head_dim", self.head_dim.into());
        set("vocab_size", self.vocab_size.into());
        set("max_position_embeddings", self.max_positions.into());
        set("rms_norm_eps", self.rms_norm_eps.into());
        set("rope_theta", self.rope_theta.into());
        set("tie_word_embeddings", self.tie_word_embeddings.into());
        set("initializer_range", self.initializer_range.into());
        set("torch_dtype", dtype.into());
        set(
            "rope_scaling",
            match self.rope_scaling {
                RopeScaling::None => Value::Null,
                RopeScaling::Linear { factor } => serde_json::json!({"rope_type": "linear", "factor": factor}),
                RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_max_positions } => {
                    serde_json::json!({
                        "rope_type": "llama3",
                        "factor": factor,
                        "low_freq_factor": low_frequency_factor,
                        "high_freq_factor": high_frequency_factor,
                        "original_max_position_embeddings": original_max_positions as u64,
                    })
                }
            },
        );
        raw
    }
}
