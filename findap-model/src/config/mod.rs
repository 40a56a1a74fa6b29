//! `config.json` of a model: reads both spellings, writes the older one, keeps unknown keys.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | [`Config`], and what follows from it |
//! | `read.rs` | a configuration from JSON, every value checked |
//! | `write.rs` | a configuration as JSON |

mod read;
mod write;

use serde_json::{Map, Value};

/// The architecture of a decoder: Llama's, with the options in which the other families differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family, which names the files' keys and defaults.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Numbers per head; even.
    pub head_dim: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence the model was made for, in tokens.
    pub max_positions: usize,
    /// Added to the mean square in the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies for longer contexts.
    pub rope_scaling: RopeScaling,
    /// Which linear layers add a bias.
    pub biases: Biases,
    /// Whether each head of queries and keys is normed before it is rotated.
    pub has_qk_norm: bool,
    /// How many tokens a query of each block sees, itself included; `None` for no limit.
    pub windows: Vec<Option<usize>>,
    /// Whether the head uses the embedding table.
    pub tie_word_embeddings: bool,
    /// Standard deviation of randomly drawn weights.
    pub initializer_range: f64,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// Every key of the file, for writing it back.
    raw: Map<String, Value>,
}

/// The families of models that differ from Llama in the options of [`Config`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, and other models whose `model_type` is `llama`.
    Llama,
    /// Mistral: attention may have a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: queries, keys and values have biases.
    Qwen2,
    /// Qwen 3, dense: each head's queries and keys are normed.
    Qwen3,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 4] = [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3];

    /// `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        }
    }

    /// The class of transformers that loads it.
    pub fn architecture(self) -> &'static str {
        match self {
            Family::Llama => "LlamaForCausalLM",
            Family::Mistral => "MistralForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// Which linear layers of a block add a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// The projections to queries, keys and values.
    pub qkv: bool,
    /// The projection of the result of attention.
    pub attention_out: bool,
    /// The three projections of the MLP.
    pub mlp: bool,
}

/// How rotary frequencies are changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// No change.
    None,
    /// All frequencies are divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Frequencies of long waves are divided by a factor, those of short waves kept, with a ramp between (Llama 3.1).
    Llama3 {
        /// The factor for long waves.
        factor: f64,
        /// Waves longer than `original_max_positions / low_frequency_factor` are long.
        low_frequency_factor: f64,
        /// Waves shorter than `original_max_positions / high_frequency_factor` are short.
        high_frequency_factor: f64,
        /// The context of the original training, in tokens.
        original_max_positions: f64,
    },
}

impl Config {
    /// Numbers in a token's queries.
    pub fn q_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Numbers in a token's keys, and in its values.
    pub fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// The rotary frequencies, one per pair of numbers of a head.
    ///
    /// They are computed in f32 as in transformers, for f64 models too, so that positions mean the same.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let plain = (0..self.head_dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / self.head_dim as f32;
            1.0 / f64::from(self.rope_theta as f32).powf(f64::from(exponent)) as f32
        });
        match self.rope_scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|x| x / factor as f32).collect(),
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_max_positions } => {
                let (factor, low, high) = (factor as f32, low_frequency_factor as f32, high_frequency_factor as f32);
                let context = original_max_positions as f32;
                let scale = |frequency: f32| {
                    // torch computes `number / tensor` as reciprocal times number; the last bit depends on it
                    let wavelength = frequency.recip() * (2.0 * std::f32::consts::PI);
                    if wavelength < context / high {
                        frequency
                    } else if wavelength > context / low {
                        frequency / factor
                    } else {
                        let smooth = (wavelength.recip() * context - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                plain.map(scale).collect()
            }
        }
    }

    /// The number format that the configuration names for the stored weights, such as `float32`, in either spelling.
    pub fn stored_dtype(&self) -> Option<&str> {
        ["dtype", "torch_dtype"].iter().find_map(|key| self.raw.get(*key)?.as_str())
    }
}
