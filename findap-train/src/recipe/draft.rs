//! A first recipe for a model and data, from what is known of them, with a comment beside every choice.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use findap_data::{Domain, Kind};
use toml::Value;

/// What a first recipe is written from.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// The run's name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The base model; `None` for a placeholder.
    pub model: Option<DraftModel>,
    /// Texts, conversations and preference pairs; where there are none, placeholders are written.
    pub sources: Vec<DraftSource>,
    /// The exercises of a distillation; `None` for no distillation.
    pub exercises: Option<PathBuf>,
    /// Our names to those of the exercises' file, where they differ.
    pub exercise_columns: BTreeMap<String, String>,
    /// What the sources are about; `None` for finance.
    pub domain: Option<Domain>,
    /// The judge of the distillation; `None` for a placeholder.
    pub judge: Option<DraftJudge>,
    /// Evaluation tasks and groups; where there are none, the table is written as a comment.
    pub tasks: Vec<String>,
    /// The roots of the tasks' data sets, such as `data`.
    pub task_roots: Vec<String>,
    /// Bytes of memory of the GPU that is to train; `None` for the CPU.
    pub gpu_memory_bytes: Option<u64>,
}

/// What is known of a base model.
#[derive(Debug, Clone)]
pub struct DraftModel {
    /// The model folder.
    pub folder: PathBuf,
    /// Count of parameters.
    pub num_parameters: usize,
    /// The format of its files, such as `bfloat16`.
    pub stored_dtype: Option<String>,
    /// Its longest context, in tokens.
    pub max_positions: usize,
}

/// What is known of a source.
#[derive(Debug, Clone)]
pub struct DraftSource {
    /// The name that stages use.
    pub name: String,
    /// A file, a folder or a pattern, as given.
    pub path: String,
    /// What its rows are.
    pub kind: Kind,
    /// Our names to the file's, where they differ.
    pub columns: BTreeMap<String, String>,
    /// Tokens of each row that was read.
    pub row_tokens: Vec<u64>,
    /// Whether these are all.
    pub is_whole: bool,
}

impl DraftSource {
    /// Rows that were read.
    pub fn num_rows(&self) -> u64 {
        self.row_tokens.len() as u64
    }

    /// Tokens of these rows.
    pub fn num_tokens(&self) -> u64 {
        self.row_tokens.iter().sum()
    }

    /// Tokens of the longest row.
    pub fn longest_tokens(&self) -> u64 {
        self.row_tokens.iter().copied().max().unwrap_or(0)
    }

    /// Rows that a context of so many tokens leaves out; texts are cut into pieces instead.
    pub fn num_too_long(&self, context_tokens: u64) -> usize {
        let is_too_long = |tokens: &&u64| self.kind != Kind::Text && **tokens > context_tokens;
        self.row_tokens.iter().filter(is_too_long).count()
    }
}

/// A judge behind an OpenAI-compatible server.
#[derive(Debug, Clone)]
pub struct DraftJudge {
    /// Its base URL, with `/v1`.
    pub url: String,
    /// Its model.
    pub model: String,
}

/// The learning rate of FinDAP for 8 billion parameters, and larger ones for smaller models.
const RATES: [(usize, f64); 5] =
    [(3e9 as usize, 5e-6), (1e9 as usize, 1e-5), (1e8 as usize, 5e-5), (1e7 as usize, 2e-4), (0, 1e-3)];

/// Tokens per optimizer step of FinDAP's training, and of its alignment.
const BATCH_TOKENS: u64 = 1 << 17;
const ALIGN_BATCH_TOKENS: u64 = 1 << 15;

impl DraftModel {
    /// The count of parameters for readers.
    pub fn size(&self) -> String {
        let count = self.num_parameters as f64;
        if count >= 1e9 { format!("{:.1} billion", count / 1e9) } else { format!("{:.1} million", count / 1e6) }
    }
}

impl Draft {
    /// The recipe as TOML.
    pub fn text(&self) -> String {
        let mut text = format!(
            "# A first recipe, written by `findap init`. Every key: `findap help recipe [KEY]`.\n\
             # Paths are relative to the folder in which findap is started.\n\
             schema = 1\n\n[run]\nname = {}\nseed = 1\n\
             device = \"auto\"                 # the first GPU that can be used, else the CPU\n",
            quoted(&self.name)
        );
        self.model(&mut text);
        let placeholders = self.placeholders();
        let sources = if self.sources.is_empty() && self.exercises.is_none() { &placeholders } else { &self.sources };
        for source in sources {
            self.source(source, &mut text);
        }
        self.train(sources, &mut text);
        self.distill(&mut text);
        self.align(sources, &mut text);
        self.eval(&mut text);
        text
    }

    fn placeholders(&self) -> Vec<DraftSource> {
        let source = |name: &str, path: &str, kind| DraftSource {
            name: name.to_owned(),
            path: path.to_owned(),
            kind,
            columns: BTreeMap::new(),
            row_tokens: Vec::new(),
            is_whole: false,
        };
        vec![source("texts", "data/texts-*.jsonl", Kind::Text), source("chats", "data/chats.jsonl", Kind::Chat)]
    }

    fn num_parameters(&self) -> usize {
        self.model.as_ref().map_or(1_000_000_000, |model| model.num_parameters)
    }

    fn model(&self, text: &mut String) {
        text.push_str("\n[model]\n");
        match &self.model {
            Some(model) => {
                let size = model.size();
                let dtype = model.stored_dtype.as_deref().unwrap_or("unknown format");
                let _ = writeln!(text, "# {size} parameters in {dtype}, contexts of up to {} tokens", model.max_positions);
                let _ = writeln!(text, "base = {}", quoted(&model.folder.display().to_string()));
            }
            None => text.push_str(
                "# EDIT: a Hugging Face folder of a Llama, Mistral, Qwen 2, 2.5 or 3 (dense) model\nbase = \"models/YOUR-MODEL\"\n",
            ),
        }
        let num_parameters = self.num_parameters() as u64;
        let recompute = if num_parameters >= 1_000_000_000 {
            "block"
        } else if num_parameters >= 100_000_000 {
            "mlp"
        } else {
            "none"
        };
        if let Some(bytes) = self.gpu_memory_bytes.filter(|_| num_parameters >= 100_000_000) {
            text.push_str("compute = \"bf16\"\n");
            // A tenth is left for activations and the driver.
            if 18 * num_parameters > bytes / 10 * 9 {
                text.push_str("state = \"bf16\"                  # 8 bytes a weight instead of 18, to fit into the GPU's memory\n");
            }
        }
        let _ = writeln!(text, "recompute = {:<20} # none | mlp | block: less memory for more time", quoted(recompute));
        text.push_str("save_dtype = \"bf16\"\n");
    }

    fn source(&self, source: &DraftSource, text: &mut String) {
        text.push_str("\n[[data]]\n");
        if source.row_tokens.is_empty() {
            let rows = match source.kind {
                Kind::Chat => "conversations: messages, conversations, alpaca, prompt and completion",
                _ => "one document in the column `text` of each row",
            };
            let _ = writeln!(text, "# EDIT: {rows}; JSONL, JSON, CSV, Parquet or text files");
        } else {
            let which = if source.is_whole { "" } else { " in the first rows" };
            let (rows, tokens, longest) = (source.num_rows(), source.num_tokens(), source.longest_tokens());
            let _ = writeln!(text, "# rows{which}: {rows}, tokens: {tokens}, tokens of the longest row: {longest}");
        }
        let _ = writeln!(text, "name = {}", quoted(&source.name));
        let _ = writeln!(text, "path = {}", quoted(&source.path));
        let _ = writeln!(text, "kind = {}", quoted(source.kind.name()));
        text.push_str(&columns_line("columns", &source.columns));
        let _ = writeln!(
            text,
            "domain = {:<22} # for reports: finance | general",
            quoted(self.domain.unwrap_or(Domain::Finance).name())
        );
    }

    /// The context of the stage that trains on sources of a kind, in tokens.
    pub fn context_of(&self, kind: Kind) -> u64 {
        let is_of_stage = |source: &&DraftSource| (source.kind == Kind::Preference) == (kind == Kind::Preference);
        self.context_tokens(&self.sources.iter().filter(is_of_stage).collect::<Vec<_>>())
    }

    /// The longest row that is kept whole: that of these sources, as a power of two, within what the model can take.
    fn context_tokens(&self, sources: &[&DraftSource]) -> u64 {
        const MOST: u64 = 8192;
        let most = self.model.as_ref().map_or(MOST, |model| (model.max_positions as u64).min(MOST));
        // Texts are cut into pieces, which loses nothing; conversations and pairs that are longer would be left out.
        let wanted = |source: &&DraftSource| match source.kind {
            Kind::Text => source.longest_tokens().min(2048),
            _ => source.longest_tokens(),
        };
        let longest = sources.iter().map(wanted).max().unwrap_or(0);
        let context = if longest == 0 { 2048 } else { longest.next_power_of_two().max(128) };
        context.min(most)
    }

    fn learning_rate(&self) -> f64 {
        let is_reached = |least: &usize| self.num_parameters() >= *least;
        RATES.iter().find(|(least, _)| is_reached(least)).map_or(1e-5, |(_, rate)| *rate)
    }

    /// Tokens per optimizer step: FinDAP's, and fewer where the data would give too few steps.
    fn batch_tokens(&self, sources: &[&DraftSource], most: u64, context_tokens: u64) -> u64 {
        const LEAST_STEPS: u64 = 64;
        let num_tokens: u64 = sources.iter().map(|source| source.num_tokens()).sum();
        let is_known = num_tokens > 0 && sources.iter().all(|source| source.is_whole);
        let wanted = if is_known { (num_tokens / LEAST_STEPS).max(1).next_power_of_two() } else { most };
        wanted.clamp(context_tokens, most.max(context_tokens))
    }

    fn train(&self, sources: &[DraftSource], text: &mut String) {
        let of = |kind| sources.iter().filter(move |source| source.kind == kind);
        let (texts, chats): (Vec<_>, Vec<_>) = (of(Kind::Text).collect(), of(Kind::Chat).collect());
        let all = [&texts[..], &chats[..]].concat();
        if all.is_empty() {
            return;
        }
        text.push_str(
            "\n# Joint training: texts and conversations in one loss.\n[[stage]]\nname = \"group1\"\nkind = \"train\"\n",
        );
        for (key, sources) in [("text", &texts), ("chat", &chats)] {
            if !sources.is_empty() {
                let _ = writeln!(text, "{key} = {}", names(sources));
            }
        }
        if !texts.is_empty() && !chats.is_empty() {
            text.push_str("downsample = true               # cuts the texts at random to as many rows as there are conversations\n");
        }
        let context = self.context_tokens(&all);
        let learning_rate = self.learning_rate();
        let source = if learning_rate == RATES[0].1 {
            "FinDAP's"
        } else {
            "FinDAP's for 8B parameters is 5e-6; smaller models take more"
        };
        let _ = writeln!(
            text,
            "epochs = 1.0\ncontext_tokens = {context:<15} # longer conversations are left out, longer texts are cut into pieces\n\
             batch_tokens = {:<17} # tokens per optimizer step; FinDAP takes {BATCH_TOKENS}\n\
             learning_rate = {learning_rate:<16e} # {source}\n\
             schedule = \"linear\"\nwarmup_ratio = 0.1",
            self.batch_tokens(&all, BATCH_TOKENS, context)
        );
    }

    fn distill(&self, text: &mut String) {
        let Some(exercises) = &self.exercises else { return };
        let _ = writeln!(
            text,
            "\n# The model solves exercises; a judge makes preference pairs of right and wrong solutions and steps.\n\
             [[stage]]\nname = \"distill\"\nkind = \"distill\"\nexercises = {}\nsamples_per_exercise = 4\nmax_new_tokens = 512",
            quoted(&exercises.display().to_string())
        );
        text.push_str(&columns_line("exercise_columns", &self.exercise_columns));
        let placeholder = DraftJudge { url: "http://localhost:8000/v1".to_owned(), model: "YOUR-JUDGE".to_owned() };
        let judge = self.judge.as_ref().unwrap_or(&placeholder);
        if self.judge.is_none() {
            text.push_str("# EDIT: an OpenAI-compatible server\n");
        }
        text.push_str("# add key_env = \"NAME\" where the server wants the key that is in this environment variable\n");
        let _ = writeln!(text, "judge = {{ url = {}, model = {} }}", quoted(&judge.url), quoted(&judge.model));
    }

    fn align(&self, sources: &[DraftSource], text: &mut String) {
        let pairs: Vec<&DraftSource> = sources.iter().filter(|source| source.kind == Kind::Preference).collect();
        if !pairs.is_empty() {
            text.push_str("\n# DPO with a likelihood term on the pairs given.\n");
            self.align_stage("align-given", &format!("pairs = {}\n", names(&pairs)), &pairs, text);
        }
        if self.exercises.is_some() {
            text.push_str("\n# DPO with a likelihood term on the pairs of the distillation.\n");
            self.align_stage("align", "", &[], text);
        }
    }

    fn align_stage(&self, name: &str, pairs: &str, sources: &[&DraftSource], text: &mut String) {
        let context = self.context_tokens(sources);
        let _ = writeln!(
            text,
            "[[stage]]\nname = \"{name}\"\nkind = \"align\"\n{pairs}epochs = 1.0\ncontext_tokens = {context}\n\
             batch_tokens = {:<17} # FinDAP takes {ALIGN_BATCH_TOKENS}\n\
             learning_rate = {:<16e} # a tenth of the training's, as FinDAP's\n\
             warmup_ratio = 0.1\nbeta = 0.1\nnll_weight = 1.0",
            self.batch_tokens(sources, ALIGN_BATCH_TOKENS, context),
            self.learning_rate() / 10.0
        );
    }

    fn eval(&self, text: &mut String) {
        if self.tasks.is_empty() {
            text.push_str(
                "\n# What is measured, before the first stage and after each; `findap tasks` lists tasks.\n\
                 # [eval]\n# tasks = [\"fpb\", \"mmlu_finance\", \"gsm8k\"]\n# data = { data = \"data/eval\" }\n",
            );
            return;
        }
        let tasks: Vec<String> = self.tasks.iter().map(|task| quoted(task)).collect();
        let _ = writeln!(
            text,
            "\n# Measured before the first stage and after each.\n[eval]\ntasks = [{}]",
            tasks.join(", ")
        );
        if !self.task_roots.is_empty() {
            let roots: Vec<String> = self.task_roots.iter().map(|root| format!("{root} = \"data/eval\"")).collect();
            let _ = writeln!(text, "data = {{ {} }}  # where the data sets of the tasks lie", roots.join(", "));
        }
    }
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// The line of a key that maps columns; none where nothing is mapped.
fn columns_line(key: &str, columns: &BTreeMap<String, String>) -> String {
    let columns: Vec<String> = columns.iter().map(|(ours, theirs)| format!("{ours} = {}", quoted(theirs))).collect();
    if columns.is_empty() { String::new() } else { format!("{key} = {{ {} }}\n", columns.join(", ")) }
}

fn names(sources: &[&DraftSource]) -> String {
    let names: Vec<String> = sources.iter().map(|source| quoted(&source.name)).collect();
    format!("[{}]", names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recipe::{Compute, Recipe, Stage, StateKind, parse};

    fn source(name: &str, kind: Kind, row_tokens: Vec<u64>) -> DraftSource {
        let columns = BTreeMap::from([("text".to_owned(), "the \"body\"".to_owned())]);
        let path = format!("data/{name}.jsonl");
        DraftSource { name: name.to_owned(), path, kind, columns, row_tokens, is_whole: true }
    }

    fn model(num_parameters: usize) -> Option<DraftModel> {
        let folder = PathBuf::from("models/a model");
        Some(DraftModel { folder, num_parameters, stored_dtype: Some("bfloat16".to_owned()), max_positions: 4096 })
    }

    fn written(draft: &Draft) -> Recipe {
        let text = draft.text();
        parse(&text, Path::new("draft.toml"), &[]).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn whatever_is_known_the_draft_is_a_recipe() {
        let kinds = [Kind::Text, Kind::Chat, Kind::Preference];
        for present in 0..1 << 6 {
            let has = |bit: u32| present >> bit & 1 == 1;
            let of = |(bit, kind): (u32, Kind)| has(bit).then(|| source(kind.name(), kind, vec![700; 10]));
            let draft = Draft {
                name: "first".to_owned(),
                model: if has(3) { model(8_000_000_000) } else { None },
                sources: (0..3).zip(kinds).filter_map(of).collect(),
                exercises: has(4).then(|| PathBuf::from("data/exercises.jsonl")),
                exercise_columns: BTreeMap::from([("question".to_owned(), "q".to_owned())]),
                tasks: if has(5) { vec!["@finance".to_owned()] } else { Vec::new() },
                task_roots: vec!["data".to_owned()],
                ..Draft::default()
            };
            let recipe = written(&draft);
            assert_eq!(recipe.eval.is_some(), has(5));
            assert_eq!(recipe.stage.iter().any(|stage| stage.kind() == "distill"), has(4));
        }
    }

    #[test]
    fn size_and_memory_decide_rate_and_format() {
        for (num_parameters, rate, state, gpu) in [
            (8_000_000_000, 5e-6, StateKind::Bf16, Some(80 << 30)),
            (1_200_000_000, 1e-5, StateKind::F32, Some(80 << 30)),
            (1_200_000_000, 1e-5, StateKind::F32, None),
            (400_000, 1e-3, StateKind::F32, Some(80 << 30)),
        ] {
            let draft = Draft {
                name: "sized".to_owned(),
                model: model(num_parameters),
                sources: vec![source("chats", Kind::Chat, [vec![900], vec![512; 2046], vec![124]].concat())],
                gpu_memory_bytes: gpu,
                ..Draft::default()
            };
            let recipe = written(&draft);
            let Stage::Train(stage) = &recipe.stage[0] else { panic!("a train stage") };
            assert_eq!(stage.optimization.learning_rate, rate);
            assert_eq!(stage.optimization.context_tokens, Some(1024));
            assert_eq!(stage.optimization.batch_tokens, Some(1 << 14), "2^20 tokens in 64 steps");
            assert_eq!(recipe.model.state, state);
            let is_bf16 = gpu.is_some() && num_parameters > 100_000_000;
            assert_eq!(recipe.model.compute == Compute::Bf16, is_bf16);
        }
    }
}
