//! Code that the timed programs share: command-line keys, a model of random weights, its tokens, the peak memory.

use std::collections::BTreeMap;
use std::error::Error;

use findap_model::{Config, Device, Dtype};
use findap_train::recipe::DeviceChoice;
use serde_json::{Map, Value, json};

/// Keys of the model's shape, with their defaults.
const SHAPE: [(&str, usize); 7] =
    [("hidden", 256), ("layers", 8), ("heads", 4), ("kv_heads", 2), ("ffn", 704), ("vocab", 32000), ("tied", 1)];

/// The arguments of the program, `KEY=VALUE`.
pub(crate) struct Keys {
    numbers: BTreeMap<&'static str, usize>,
    words: BTreeMap<&'static str, String>,
}

impl Keys {
    /// Reads the keys of the model's shape, and these with their defaults.
    pub(crate) fn read(
        numbers: &[(&'static str, usize)],
        words: &[(&'static str, &str)],
    ) -> Result<Keys, Box<dyn Error>> {
        let mut keys = Keys {
            numbers: SHAPE.iter().chain(numbers).copied().collect(),
            words: words.iter().map(|(key, word)| (*key, (*word).to_owned())).collect(),
        };
        for argument in std::env::args().skip(1) {
            let (key, value) = argument.split_once('=').ok_or("write KEY=VALUE")?;
            match keys.words.get_mut(key) {
                Some(word) => value.clone_into(word),
                None => *keys.numbers.get_mut(key).ok_or_else(|| format!("unknown key {key}"))? = value.parse()?,
            }
        }
        Ok(keys)
    }

    /// The value of a key as a number.
    pub(crate) fn number(&self, key: &str) -> usize {
        self.numbers[key]
    }

    /// The value of a key as a word.
    pub(crate) fn word(&self, key: &str) -> &str {
        &self.words[key]
    }

    /// The choice that the word of a key stands for.
    pub(crate) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<T, Box<dyn Error>> {
        let word = self.word(key);
        let found = choices.iter().find(|(name, _)| *name == word);
        found.map(|(_, choice)| *choice).ok_or_else(|| format!("{key}={word} is not known").into())
    }

    /// Opens the device of the key `device`, and returns it with the format of the key `compute`.
    pub(crate) fn device(&self) -> Result<(Device, Dtype), Box<dyn Error>> {
        let dtype = self.choice("compute", &[("f32", Dtype::F32), ("bf16", Dtype::Bf16)])?;
        Ok((DeviceChoice::try_from(self.word("device").to_owned())?.open(dtype)?.0, dtype))
    }

    /// The model's configuration.
    pub(crate) fn config(&self) -> Result<Config, Box<dyn Error>> {
        let config: Map<String, Value> = [
            ("model_type", json!("llama")),
            ("architectures", json!(["LlamaForCausalLM"])),
            ("vocab_size", json!(self.number("vocab"))),
            ("hidden_size", json!(self.number("hidden"))),
            ("num_hidden_layers", json!(self.number("layers"))),
            ("num_attention_heads", json!(self.number("heads"))),
            ("num_key_value_heads", json!(self.number("kv_heads"))),
            ("intermediate_size", json!(self.number("ffn"))),
            ("max_position_embeddings", json!(8192)),
            ("rms_norm_eps", json!(1e-6)),
            ("rope_theta", json!(5e5)),
            ("tie_word_embeddings", json!(self.number("tied") != 0)),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        Ok(Config::from_json(config)?)
    }

    /// A source of tokens spread over the vocabulary, by a linear congruence that the peers' scripts compute, too.
    pub(crate) fn tokens(&self) -> impl FnMut(usize) -> Vec<u32> {
        let (vocab, mut state) = (self.number("vocab") as u64, 1u64);
        move |count| {
            let next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 33) % vocab) as u32
            };
            std::iter::repeat_with(next).take(count).collect()
        }
    }
}

/// Adds the main thread to the pool, so that operations need no hand-over to another thread.
pub(crate) fn use_threads() -> Result<(), Box<dyn Error>> {
    Ok(rayon::ThreadPoolBuilder::new().use_current_thread().build_global()?)
}

/// The largest resident size of this process so far, in MiB; `None` where the system does not say.
pub(crate) fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}
