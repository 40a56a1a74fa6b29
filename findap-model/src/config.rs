//! `config.json` of a Llama model: both spellings in, the older one out, unknown keys kept.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::files::{read_object, shortened};

/// The architecture of a Llama model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
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
    /// Whether the head uses the embedding table.
    pub tie_word_embeddings: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// Every key of the file, for writing it back.
    raw: Map<String, Value>,
}

/// How rotary frequencies are changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Long waves divided by a factor, short ones kept, a ramp between: Llama 3.1.
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

/// No width or vocabulary of a real model is larger.
const SIZE_LIMIT: u64 = 1 << 24;

/// No real model has more blocks or heads; each block is a dozen small allocations before any weight is read.
const COUNT_LIMIT: u64 = 1 << 12;

/// A configuration larger than this is not a configuration.
const FILE_LIMIT_BYTES: u64 = 16 << 20;

impl Config {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Json`], [`ModelError::Config`] naming the key.
    pub fn load(directory: &Path) -> Result<Config, ModelError> {
        Config::from_json(read_object(&directory.join("config.json"), FILE_LIMIT_BYTES)?)
    }

    /// Reads the keys of a configuration.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the key.
    pub fn from_json(raw: Map<String, Value>) -> Result<Config, ModelError> {
        let keys = Keys(&raw);
        for (key, only) in [("model_type", "llama"), ("hidden_act", "silu")] {
            match raw.get(key) {
                None | Some(Value::Null) => {}
                Some(value) if value == only => {}
                Some(value) => return Err(bad(key, format!("is {value}; only \"{only}\" is supported"))),
            }
        }
        for key in ["attention_bias", "mlp_bias"] {
            if keys.flag(key)? {
                return Err(bad(key, "is true; biases are not supported".into()));
            }
        }
        let hidden_size = keys.size("hidden_size")?;
        let num_heads = keys.count("num_attention_heads")?;
        let num_kv_heads = if keys.has("num_key_value_heads") { keys.count("num_key_value_heads")? } else { num_heads };
        if !num_heads.is_multiple_of(num_kv_heads) {
            return Err(bad(
                "num_key_value_heads",
                format!("is {num_kv_heads}, which does not divide `num_attention_heads` {num_heads}"),
            ));
        }
        let head_dim = match raw.get("head_dim") {
            None | Some(Value::Null) if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None | Some(Value::Null) => {
                let reason = format!(
                    "is {num_heads}, which does not divide `hidden_size` {hidden_size}; is `head_dim` missing?"
                );
                return Err(bad("num_attention_heads", reason));
            }
            Some(_) => keys.size("head_dim")?,
        };
        if !head_dim.is_multiple_of(2) {
            return Err(bad("head_dim", format!("is {head_dim}; rotary positions need an even number")));
        }
        let rope = keys.object("rope_parameters")?;
        let theta = rope.and_then(|r| r.get("rope_theta")).or_else(|| raw.get("rope_theta"));
        let rope_theta = positive("rope_theta", theta, Some(10_000.0))?;
        let scaling = match keys.object("rope_scaling")? {
            Some(scaling) if rope.is_none() => Some(scaling),
            _ => rope,
        };
        let vocab_size = keys.size("vocab_size")?;
        let config = Config {
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_layers: keys.count("num_hidden_layers")?,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size,
            max_positions: if keys.has("max_position_embeddings") {
                keys.size("max_position_embeddings")?
            } else {
                2048
            },
            rms_norm_eps: positive("rms_norm_eps", raw.get("rms_norm_eps"), Some(1e-6))?,
            rope_theta,
            rope_scaling: scaling.map_or(Ok(RopeScaling::None), rope_scaling)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            initializer_range: positive("initializer_range", raw.get("initializer_range"), Some(0.02))?,
            eos_token_ids: token_ids("eos_token_id", raw.get("eos_token_id"), vocab_size)?,
            raw: Map::new(),
        };
        token_ids("bos_token_id", raw.get("bos_token_id"), vocab_size)?;
        if config.num_parameters().is_none() {
            return Err(bad("num_hidden_layers", "and the sizes make more parameters than any machine holds".into()));
        }
        Ok(Config { raw, ..config })
    }

    /// The number of parameters, tied ones once; `None` if it is beyond 2^44.
    pub fn num_parameters(&self) -> Option<u64> {
        let (d, f) = (self.hidden_size as u128, self.intermediate_size as u128);
        let (q, kv) = ((self.num_heads * self.head_dim) as u128, (self.num_kv_heads * self.head_dim) as u128);
        let block = d * (2 * q + 2 * kv + 3 * f + 2);
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        let total = self.num_layers as u128 * block + tables * self.vocab_size as u128 * d + d;
        (total < 1 << 44).then_some(total as u64)
    }

    /// The keys to write: the older spelling, with every key that was read and is not understood here.
    pub fn to_json(&self, dtype: &str) -> Map<String, Value> {
        let mut raw = self.raw.clone();
        for replaced in ["rope_parameters", "dtype"] {
            raw.remove(replaced);
        }
        let mut set = |key: &str, value: Value| {
            raw.insert(key.to_owned(), value);
        };
        set("architectures", serde_json::json!(["LlamaForCausalLM"]));
        set("model_type", "llama".into());
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

    /// The rotary frequencies, one per pair of numbers of a head.
    ///
    /// Computed in f32 as transformers does, also for f64 models, so that positions mean the same.
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
                    // a number over a tensor is its reciprocal times the number in torch; the last bit depends on it
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
}

struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn has(&self, key: &str) -> bool {
        !matches!(self.0.get(key), None | Some(Value::Null))
    }

    fn size(&self, key: &'static str) -> Result<usize, ModelError> {
        self.number(key, SIZE_LIMIT)
    }

    fn count(&self, key: &'static str) -> Result<usize, ModelError> {
        self.number(key, COUNT_LIMIT)
    }

    fn number(&self, key: &'static str, limit: u64) -> Result<usize, ModelError> {
        let value = self.0.get(key).ok_or_else(|| bad(key, "is missing".into()))?;
        match value.as_u64() {
            Some(number) if (1..=limit).contains(&number) => Ok(number as usize),
            _ => Err(bad(key, format!("is {}; a whole number from 1 to {limit} is needed", shortened(value)))),
        }
    }

    fn flag(&self, key: &'static str) -> Result<bool, ModelError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(bad(key, format!("is {}; true or false is needed", shortened(value)))),
        }
    }

    fn object(&self, key: &'static str) -> Result<Option<&'a Map<String, Value>>, ModelError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(value) => Err(bad(key, format!("is {}; an object or null is needed", shortened(value)))),
        }
    }
}

fn bad(key: &'static str, reason: String) -> ModelError {
    ModelError::Config { key, reason }
}

fn positive(key: &'static str, value: Option<&Value>, default: Option<f64>) -> Result<f64, ModelError> {
    let value = match (value, default) {
        (None | Some(Value::Null), Some(default)) => return Ok(default),
        (None | Some(Value::Null), None) => return Err(bad(key, "is missing".into())),
        (Some(value), _) => value,
    };
    match value.as_f64() {
        Some(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(bad(key, format!("is {value}; a finite number above 0 is needed"))),
    }
}

fn rope_scaling(keys: &Map<String, Value>) -> Result<RopeScaling, ModelError> {
    let kind = keys.get("rope_type").or_else(|| keys.get("type"));
    if keys.get("partial_rotary_factor").and_then(Value::as_f64).is_some_and(|factor| factor != 1.0) {
        return Err(bad("partial_rotary_factor", "is not 1; heads are rotated as a whole".into()));
    }
    match kind.and_then(Value::as_str).unwrap_or_default() {
        "" if !keys.contains_key("factor") => Ok(RopeScaling::None),
        "" => Err(bad("rope_scaling.rope_type", "is missing, but there is a factor".into())),
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: positive("rope_scaling.factor", keys.get("factor"), None)? }),
        "llama3" => {
            let number = |key, name| positive(key, keys.get(name), None);
            let scaling = RopeScaling::Llama3 {
                factor: number("rope_scaling.factor", "factor")?,
                low_frequency_factor: number("rope_scaling.low_freq_factor", "low_freq_factor")?,
                high_frequency_factor: number("rope_scaling.high_freq_factor", "high_freq_factor")?,
                original_max_positions: number(
                    "rope_scaling.original_max_position_embeddings",
                    "original_max_position_embeddings",
                )?,
            };
            match scaling {
                RopeScaling::Llama3 { low_frequency_factor: low, high_frequency_factor: high, .. } if low >= high => {
                    Err(bad(
                        "rope_scaling.high_freq_factor",
                        format!("is {high}; it must be above low_freq_factor {low}"),
                    ))
                }
                scaling => Ok(scaling),
            }
        }
        other => Err(bad(
            "rope_scaling",
            format!("has type \"{}\"; default, linear and llama3 are supported", shortened(other)),
        )),
    }
}

/// One id, a list of ids, or none.
pub(crate) fn token_ids(key: &'static str, value: Option<&Value>, vocab_size: usize) -> Result<Vec<u32>, ModelError> {
    let one = |value: &Value| match value.as_u64() {
        Some(id) if (id as usize) < vocab_size => Ok(id as u32),
        _ => Err(bad(key, format!("is {}; ids below the vocabulary size {vocab_size} are needed", shortened(value)))),
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(one).collect(),
        Some(id) => Ok(vec![one(id)?]),
    }
}
