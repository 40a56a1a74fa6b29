//! Reads a configuration from JSON and checks every value. A missing key has the default of the family's class in transformers.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Biases, Config, Family, RopeScaling};
use crate::adapter_folder::follow;
use crate::error::ModelError;
use crate::files::{read_object, shortened};
use crate::foreign;
use crate::layout::Layout;

/// Largest width or vocabulary that is accepted; no real model has a larger one.
const SIZE_LIMIT: u64 = 1 << 24;

/// Largest number of blocks or heads that is accepted; each block costs a dozen small allocations before any weight is read.
const COUNT_LIMIT: u64 = 1 << 12;

/// Largest number of parameters that is accepted; no machine holds more.
const MAX_PARAMETERS: usize = 1 << 44;

/// Largest `config.json` that is read.
const FILE_LIMIT_BYTES: u64 = 16 << 20;

impl Config {
    /// Reads `config.json` of a model directory; for an adapter's, that of its base.
    ///
    /// # Errors
    /// [`ModelError::NoModel`] for a path that is no model folder or an adapter without its base, [`ModelError::Io`], [`ModelError::Json`], [`ModelError::Config`]
    /// naming the key.
    pub fn load(directory: &Path) -> Result<Config, ModelError> {
        let directory = follow(directory)?.base;
        let path = directory.join("config.json");
        if !path.exists()
            && let Some(reason) = foreign::folder(&directory)
        {
            return Err(ModelError::NoModel { path: directory, reason });
        }
        Config::from_json(read_object(&path, FILE_LIMIT_BYTES)?)
    }

    /// Reads the keys of a configuration.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the key.
    pub fn from_json(raw: Map<String, Value>) -> Result<Config, ModelError> {
        let keys = Keys(&raw);
        let family = keys.family()?;
        keys.check_architecture()?;
        keys.refuse_unsupported()?;
        let hidden_size = keys.size("hidden_size")?;
        let num_heads = keys.count("num_attention_heads")?;
        let num_kv_heads = match (keys.has("num_key_value_heads"), family) {
            (true, _) => keys.count("num_key_value_heads")?,
            (false, Family::Llama) => num_heads,
            (false, Family::Mistral) => 8,
            (false, Family::Qwen2 | Family::Qwen3) => 32,
        };
        if !num_heads.is_multiple_of(num_kv_heads) {
            return Err(bad(
                "num_key_value_heads",
                format!("is {num_kv_heads}, which does not divide `num_attention_heads` {num_heads}"),
            ));
        }
        let head_dim = match raw.get("head_dim") {
            None if family == Family::Qwen3 => 128,
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
        let (rope_theta, rope_scaling) = keys.rope()?;
        let vocab_size = keys.size("vocab_size")?;
        let num_layers = keys.count("num_hidden_layers")?;
        let max_positions = match (keys.has("max_position_embeddings"), family) {
            (true, _) => keys.size("max_position_embeddings")?,
            (false, Family::Llama) => 2048,
            (false, Family::Mistral) => 131_072,
            (false, Family::Qwen2 | Family::Qwen3) => 32_768,
        };
        let attention_bias = keys.flag("attention_bias")?;
        let biases = match family {
            Family::Llama => Biases { qkv: attention_bias, attention_out: attention_bias, mlp: keys.flag("mlp_bias")? },
            Family::Mistral => Biases::default(),
            Family::Qwen2 => Biases { qkv: true, ..Biases::default() },
            Family::Qwen3 => Biases { qkv: attention_bias, attention_out: attention_bias, mlp: false },
        };
        let config = Config {
            family,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size,
            max_positions,
            rms_norm_eps: positive("rms_norm_eps", raw.get("rms_norm_eps"), Some(1e-6))?,
            rope_theta,
            rope_scaling,
            biases,
            has_qk_norm: family == Family::Qwen3,
            windows: keys.windows(family, num_layers)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            initializer_range: positive("initializer_range", raw.get("initializer_range"), Some(0.02))?,
            eos_token_ids: token_ids("eos_token_id", raw.get("eos_token_id"), vocab_size)?,
            raw: Map::new(),
        };
        token_ids("bos_token_id", raw.get("bos_token_id"), vocab_size)?;
        if Layout::new(&config).spec.len() > MAX_PARAMETERS {
            return Err(bad("num_hidden_layers", "and the sizes make more parameters than any machine holds".into()));
        }
        Ok(Config { raw, ..config })
    }
}

struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn has(&self, key: &str) -> bool {
        !matches!(self.0.get(key), None | Some(Value::Null))
    }

    /// The family, by `model_type`; Llama where it is missing.
    fn family(&self) -> Result<Family, ModelError> {
        match self.0.get("model_type") {
            None | Some(Value::Null) => Ok(Family::Llama),
            Some(value) => Family::ALL.into_iter().find(|family| value == family.model_type()).ok_or_else(|| {
                let known = Family::ALL.map(Family::model_type).join(", ");
                bad("model_type", format!("is {}; dense decoders of the types {known} are supported", shortened(value)))
            }),
        }
    }

    /// Refuses a model with another head, such as a classifier, which predicts no next token.
    fn check_architecture(&self) -> Result<(), ModelError> {
        let Some(classes) = self.0.get("architectures").and_then(Value::as_array).filter(|classes| !classes.is_empty())
        else {
            return Ok(());
        };
        let predicts_tokens =
            |class: &Value| class.as_str().is_some_and(|class| class.to_ascii_lowercase().ends_with("forcausallm"));
        if classes.iter().any(predicts_tokens) {
            return Ok(());
        }
        let names = shortened(Value::Array(classes.clone()));
        Err(bad("architectures", format!("is {names}; a model that predicts the next token (..ForCausalLM) is needed")))
    }

    /// Refuses, by name, every key that would change the arithmetic in a way that is not implemented here.
    fn refuse_unsupported(&self) -> Result<(), ModelError> {
        match self.0.get("hidden_act") {
            None | Some(Value::Null) => {}
            Some(value) if value == "silu" => {}
            Some(value) => {
                return Err(bad("hidden_act", format!("is {}; only \"silu\" is supported", shortened(value))));
            }
        }
        const UNSUPPORTED: [(&str, &str); 10] = [
            ("num_experts", "mixtures of experts are not supported"),
            ("num_local_experts", "mixtures of experts are not supported"),
            ("n_routed_experts", "mixtures of experts are not supported"),
            ("vision_config", "models of images are not supported"),
            ("audio_config", "models of sound are not supported"),
            ("text_config", "models of more than text are not supported"),
            ("attn_logit_softcapping", "capped attention scores are not supported"),
            ("final_logit_softcapping", "capped logits are not supported"),
            ("attention_sinks", "attention sinks are not supported"),
            ("quantization_config", "quantized weights are not supported; use the model's unquantized folder"),
        ];
        for (key, reason) in UNSUPPORTED {
            if self.has(key) {
                return Err(bad(key, format!("is set; {reason}")));
            }
        }
        let rope = [self.object("rope_parameters")?, self.object("rope_scaling")?];
        let factors = rope.into_iter().flatten().map(|rope| rope.get("partial_rotary_factor"));
        for factor in factors.chain([self.0.get("partial_rotary_factor")]).flatten() {
            if factor.as_f64() != Some(1.0) && !factor.is_null() {
                let reason = format!("is {}; heads are rotated whole or not at all", shortened(factor));
                return Err(bad("partial_rotary_factor", reason));
            }
        }
        Ok(())
    }

    /// How many tokens the queries of each block see. Source: the configuration classes of transformers.
    fn windows(&self, family: Family, num_layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
        let window = |default: usize| match self.0.get("sliding_window") {
            None => Ok(Some(default)),
            Some(Value::Null) => Ok(None),
            Some(_) => self.size("sliding_window").map(Some),
        };
        let is_qwen = matches!(family, Family::Qwen2 | Family::Qwen3);
        let window = match family {
            Family::Llama => None,
            Family::Mistral => window(4096)?,
            Family::Qwen2 | Family::Qwen3 if self.flag("use_sliding_window")? => window(4096)?,
            Family::Qwen2 | Family::Qwen3 => None,
        };
        let first_with_window = match (is_qwen, self.0.get("max_window_layers")) {
            (false, _) => 0,
            (true, None | Some(Value::Null)) => 28,
            (true, Some(value)) => value
                .as_u64()
                .ok_or_else(|| bad("max_window_layers", format!("is {}; a whole number is needed", shortened(value))))?
                as usize,
        };
        let implied: Vec<Option<usize>> = (0..num_layers).map(|l| window.filter(|_| l >= first_with_window)).collect();
        let Some(types) = self.0.get("layer_types").filter(|types| !types.is_null() && family != Family::Llama) else {
            return Ok(implied);
        };
        let unreadable = || {
            let known = "\"full_attention\" or \"sliding_attention\" for each of the";
            bad("layer_types", format!("is {}; {known} {num_layers} blocks is needed", shortened(types)))
        };
        let types = types.as_array().filter(|types| types.len() == num_layers).ok_or_else(unreadable)?;
        let listed: Vec<Option<usize>> = types
            .iter()
            .map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") => match window {
                    Some(window) => Ok(Some(window)),
                    None => Err(bad("layer_types", "has \"sliding_attention\", but there is no sliding window".into())),
                },
                _ => Err(unreadable()),
            })
            .collect::<Result<_, _>>()?;
        if family == Family::Mistral && listed != implied {
            return Err(bad(
                "layer_types",
                "differs from block to block, which this family's class does not read".into(),
            ));
        }
        Ok(listed)
    }

    /// Base and scaling of the rotary positions: from `rope_scaling` if it is there, else from `rope_parameters`, as in
    /// transformers 5. Refuses a file in which the two disagree.
    fn rope(&self) -> Result<(f64, RopeScaling), ModelError> {
        let read = |rope: Option<&Map<String, Value>>| {
            let theta = rope.and_then(|rope| rope.get("rope_theta")).or_else(|| self.0.get("rope_theta"));
            let scaling = rope.map_or(Ok(RopeScaling::None), rope_scaling)?;
            Ok((positive("rope_theta", theta, Some(10_000.0))?, scaling))
        };
        let [scaling, parameters] = [self.object("rope_scaling")?, self.object("rope_parameters")?];
        match (scaling.filter(|rope| !rope.is_empty()), parameters.filter(|rope| !rope.is_empty())) {
            (Some(scaling), Some(parameters)) => {
                let (by_scaling, by_parameters) = (read(Some(scaling))?, read(Some(parameters))?);
                if by_scaling != by_parameters {
                    let said = |(theta, scaling): (f64, RopeScaling)| format!("base {theta}, scaling {scaling:?}");
                    let reason = format!(
                        "means {}, but `rope_parameters` beside it {}; remove the one that is not meant",
                        said(by_scaling),
                        said(by_parameters)
                    );
                    return Err(bad("rope_scaling", reason));
                }
                Ok(by_scaling)
            }
            (Some(rope), None) | (None, Some(rope)) => read(Some(rope)),
            (None, None) => read(None),
        }
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
    if let Some(nested) = keys.iter().find_map(|(key, value)| value.is_object().then_some(key)) {
        let reason =
            format!("has `{}` for some of the blocks; one setting for all blocks is supported", shortened(nested));
        return Err(bad("rope_parameters", reason));
    }
    let kind = match kind {
        None | Some(Value::Null) => "",
        Some(Value::String(kind)) => kind,
        Some(other) => return Err(bad("rope_scaling.rope_type", format!("is {}; text is needed", shortened(other)))),
    };
    match kind {
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
