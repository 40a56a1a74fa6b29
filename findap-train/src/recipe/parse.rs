//! Recipe text to [`Recipe`]: overrides, unknown keys with the nearest known one, checks of every value.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use findap_data::Kind;
use findap_data::world::WorldConfig;
use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::{AlignStage, DistillStage, Optimization, TrainStage};
use super::{Compute, DeviceChoice, EvalTable, ModelTable, Recipe, RunTable, SCHEMA, Stage, StateKind};
use crate::sources::DISTILLED;

/// What is wrong with a recipe. Each variant names the file and the key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{path}: cannot read the recipe: {source}")]
    Read {
        /// The recipe.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("{path}:{line}: not valid TOML: {message}")]
    Syntax {
        /// The recipe.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The parser's words.
        message: String,
    },
    /// A key that no recipe has.
    #[error("{path}{}: unknown key `{key}`{}", at(.line), suggest(.nearest, .known))]
    UnknownKey {
        /// The recipe.
        path: PathBuf,
        /// Line, from 1; `None` for a key that came by `--set`.
        line: Option<usize>,
        /// The full key, array members by their name: `stage.group1.learning_rat`.
        key: String,
        /// The nearest known key of that table.
        nearest: Option<String>,
        /// All known keys of that table.
        known: Vec<String>,
    },
    /// A key that must be there is not.
    #[error("{path}{}: `{key}` is missing: {hint}", at(.line))]
    Missing {
        /// The recipe.
        path: PathBuf,
        /// Line of the table, from 1.
        line: Option<usize>,
        /// The full key.
        key: String,
        /// What to write.
        hint: String,
    },
    /// A value of the wrong type, out of range, or at odds with another.
    #[error("{path}{}: `{key}`: {problem}", at(.line))]
    Invalid {
        /// The recipe.
        path: PathBuf,
        /// Line, from 1; `None` for a key that came by `--set` or by default.
        line: Option<usize>,
        /// The full key.
        key: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// Rows longer than the model's positions.
    #[error(
        "stage `{stage}`: context_tokens = {context_tokens}, but the model has {max_positions} positions; set it to at most that many"
    )]
    Context {
        /// The stage.
        stage: String,
        /// What the recipe wants.
        context_tokens: usize,
        /// `max_position_embeddings` of the model.
        max_positions: usize,
    },
    /// A run folder whose name no recipe can hold.
    #[error("{}: the name of a run folder must be UTF-8", folder.display())]
    FolderName {
        /// The folder.
        folder: PathBuf,
    },
    /// An override that cannot be applied.
    #[error("--set {key}: {problem}")]
    Override {
        /// The key as given.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

fn at(line: &Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(":{line}"))
}

fn suggest(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => format!("; known keys here: {}", known.join(", ")),
    }
}

/// Reads a recipe and applies `overrides` (`("stage.group1.learning_rate", "1e-4")`; members of arrays by their `name` or index,
/// values as TOML or, failing that, as a bare string).
///
/// # Errors
/// [`RecipeError`]: every value is checked here, so that what comes back can be run.
pub fn load(path: &Path, overrides: &[(String, String)]) -> Result<Recipe, RecipeError> {
    let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.into(), source })?;
    parse(&text, path, overrides)
}

/// As [`load`], from text; `path` is used in errors only.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path, overrides: &[(String, String)]) -> Result<Recipe, RecipeError> {
    let document = DeTable::parse(text).map_err(|error| RecipeError::Syntax {
        path: path.into(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        message: error.message().to_owned(),
    })?;
    let mut lines = BTreeMap::new();
    collect_lines(text, document.get_ref(), "", &mut lines);
    let mut table: Table = toml::from_str(text).map_err(|error| RecipeError::Syntax {
        path: path.into(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        message: error.message().to_owned(),
    })?;
    for (key, value) in overrides {
        apply_override(&mut table, key, value)?;
        lines.retain(|known, _| known != key);
    }
    let reader = Reader { path, lines };
    let recipe = reader.recipe(table)?;
    reader.check(&recipe)?;
    Ok(recipe)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Full key -> line, members of arrays of tables by name.
fn collect_lines(text: &str, table: &DeTable<'_>, prefix: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let full = join(prefix, key.get_ref());
        lines.entry(full.clone()).or_insert_with(|| line_of(text, key.span().start));
        match value.get_ref() {
            DeValue::Table(inner) => collect_lines(text, inner, &full, lines),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        let name = match inner.get("name").map(|name| name.get_ref()) {
                            Some(DeValue::String(name)) => name.to_string(),
                            _ => index.to_string(),
                        };
                        let member = join(&full, &name);
                        lines.insert(member.clone(), line_of(text, item.span().start));
                        collect_lines(text, inner, &member, lines);
                    }
                }
            }
            _ => {}
        }
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

fn apply_override(root: &mut Table, key: &str, text: &str) -> Result<(), RecipeError> {
    let fail = |problem: String| RecipeError::Override { key: key.to_owned(), problem };
    let value = match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => table.remove("value").unwrap_or_else(|| Value::String(text.to_owned())),
        _ => Value::String(text.to_owned()),
    };
    let parts: Vec<&str> = key.split('.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(fail("the key must be of the form table.key or table.member.key".to_owned()));
    }
    let (last, folders) = parts.split_last().expect("invariant: split gives at least one part");
    let mut place = Place::Table(root);
    for part in folders {
        place = place.step(part).map_err(&fail)?;
    }
    match place {
        Place::Table(table) => {
            table.insert((*last).to_owned(), value);
            Ok(())
        }
        Place::Array(_) => Err(fail(format!("`{last}` would replace a whole member; name a key of it"))),
    }
}

/// A cursor into a document being overridden.
enum Place<'a> {
    Table(&'a mut Table),
    Array(&'a mut Vec<Value>),
}

impl<'a> Place<'a> {
    fn step(self, part: &str) -> Result<Self, String> {
        let next = match self {
            Self::Table(table) => table.entry(part).or_insert_with(|| Value::Table(Table::new())),
            Self::Array(items) => {
                let names: Vec<String> = items.iter().map(member_name).collect();
                let found = names
                    .iter()
                    .position(|name| name == part)
                    .or_else(|| part.parse().ok().filter(|i| *i < items.len()));
                let index =
                    found.ok_or_else(|| format!("there is no member `{part}`; there are {}", names.join(", ")))?;
                &mut items[index]
            }
        };
        match next {
            Value::Table(table) => Ok(Self::Table(table)),
            Value::Array(items) => Ok(Self::Array(items)),
            other => Err(format!("`{part}` is a {} and has no keys", other.type_str())),
        }
    }
}

fn member_name(value: &Value) -> String {
    value.get("name").and_then(Value::as_str).unwrap_or("?").to_owned()
}

/// Turns tables into typed values with errors that know the file and line.
struct Reader<'a> {
    path: &'a Path,
    lines: BTreeMap<String, usize>,
}

impl Reader<'_> {
    fn recipe(&self, mut table: Table) -> Result<Recipe, RecipeError> {
        const KNOWN: [&str; 7] = ["schema", "run", "model", "world", "data", "stage", "eval"];
        if let Some(key) = table.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(self.unknown("", key, &KNOWN));
        }
        let schema = match table.remove("schema") {
            None => return Err(self.missing("schema", "write `schema = 1` at the top of the file")),
            Some(Value::Integer(version)) if version == i64::from(SCHEMA) => SCHEMA,
            Some(other) => {
                return Err(
                    self.invalid("schema", format!("this program reads schema {SCHEMA}, the recipe says {other}"))
                );
            }
        };
        let run: RunTable =
            self.section(&mut table, "run")?.ok_or_else(|| self.missing("run", "add a [run] table with a name"))?;
        let model: ModelTable = self
            .section(&mut table, "model")?
            .ok_or_else(|| self.missing("model", "add a [model] table with `base = \"folder\"`"))?;
        let world: Option<WorldConfig> = self.section(&mut table, "world")?;
        let data = self
            .members(&mut table, "data")?
            .into_iter()
            .map(|(key, member)| self.typed(member, &key, &[]))
            .collect::<Result<_, _>>()?;
        let stage = self
            .members(&mut table, "stage")?
            .into_iter()
            .map(|(key, member)| self.stage(member, &key))
            .collect::<Result<_, _>>()?;
        let eval: Option<EvalTable> = self.section(&mut table, "eval")?;
        Ok(Recipe { schema, run, model, world, data, stage, eval })
    }

    fn section<T: DeserializeOwned>(&self, root: &mut Table, key: &str) -> Result<Option<T>, RecipeError> {
        match root.remove(key) {
            None => Ok(None),
            Some(Value::Table(table)) => self.typed(table, key, &[]).map(Some),
            Some(other) => Err(self.invalid(key, format!("expected a table, found a {}", other.type_str()))),
        }
    }

    /// The members of an array of tables with their full keys.
    fn members(&self, root: &mut Table, key: &str) -> Result<Vec<(String, Table)>, RecipeError> {
        let items = match root.remove(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.invalid(key, format!("write it as [[{key}]], one table per member"))),
        };
        let mut members = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let Value::Table(table) = item else {
                return Err(self.invalid(key, format!("write it as [[{key}]], one table per member")));
            };
            let name = table.get("name").and_then(Value::as_str).map_or_else(|| index.to_string(), str::to_owned);
            members.push((join(key, &name), table));
        }
        Ok(members)
    }

    fn stage(&self, mut table: Table, key: &str) -> Result<Stage, RecipeError> {
        let kind_key = join(key, "kind");
        let kind = match table.remove("kind") {
            None => return Err(self.missing(&kind_key, "write kind = \"train\", \"distill\" or \"align\"")),
            Some(Value::String(kind)) => kind,
            Some(other) => {
                return Err(self.invalid(&kind_key, format!("expected a string, found a {}", other.type_str())));
            }
        };
        match kind.as_str() {
            "train" => {
                let shared = shared_keys(&mut table);
                // The stage's own keys first: a misspelt shared key is left among them, and is better named than missed.
                let stage: TrainStage = self.typed(table, key, &Optimization::KEYS)?;
                let optimization = self.optimization(shared, key)?;
                Ok(Stage::Train(TrainStage { optimization, ..stage }))
            }
            "align" => {
                let shared = shared_keys(&mut table);
                // The stage's own keys first: a misspelt shared key is left among them, and is better named than missed.
                let stage: AlignStage = self.typed(table, key, &Optimization::KEYS)?;
                let optimization = self.optimization(shared, key)?;
                Ok(Stage::Align(AlignStage { optimization, ..stage }))
            }
            "distill" => {
                let stage: DistillStage = self.typed(table, key, &[])?;
                Ok(Stage::Distill(stage))
            }
            other => Err(self.invalid(
                &kind_key,
                format!("unknown kind \"{other}\"; there are \"train\", \"distill\" and \"align\""),
            )),
        }
    }

    fn optimization(&self, shared: Table, key: &str) -> Result<Optimization, RecipeError> {
        if !shared.contains_key("learning_rate") {
            return Err(self.missing(&join(key, "learning_rate"), "the peak learning rate of the stage, such as 1e-4"));
        }
        self.typed(shared, key, &[])
    }

    fn typed<T: DeserializeOwned>(&self, table: Table, key: &str, also_known: &[&str]) -> Result<T, RecipeError> {
        Value::Table(table).try_into().map_err(|error: toml::de::Error| self.translate(&error, key, also_known))
    }

    /// serde's words into ours. The key path below `key` stands in the error's last line, "in `a.b`".
    fn translate(&self, error: &toml::de::Error, key: &str, also_known: &[&str]) -> RecipeError {
        let message = error.message();
        let shown = error.to_string();
        let below =
            shown.lines().last().and_then(|line| line.strip_prefix("in `")).and_then(|line| line.strip_suffix('`'));
        let full = below.map_or_else(|| key.to_owned(), |below| join(key, below));
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if message.starts_with("unknown field") {
            let known: Vec<&str> = quoted[1..]
                .iter()
                .copied()
                .filter(|name| *name != "optimization")
                .chain(also_known.iter().copied())
                .collect();
            return self.unknown(full.strip_suffix(&format!(".{}", quoted[0])).unwrap_or(&full), quoted[0], &known);
        }
        if message.starts_with("missing field") {
            return self.missing(&join(&full, quoted.first().unwrap_or(&"")), "it has no default");
        }
        self.invalid(&full, message.trim().to_owned())
    }

    fn unknown(&self, table: &str, key: &str, known: &[&str]) -> RecipeError {
        let full = join(table, key);
        RecipeError::UnknownKey {
            path: self.path.into(),
            line: self.line(&full),
            nearest: nearest(key, known),
            known: known.iter().map(|name| (*name).to_owned()).collect(),
            key: full,
        }
    }

    fn missing(&self, key: &str, hint: &str) -> RecipeError {
        let table = key.rsplit_once('.').map_or("", |(table, _)| table);
        RecipeError::Missing {
            path: self.path.into(),
            line: self.line(table),
            key: key.to_owned(),
            hint: hint.to_owned(),
        }
    }

    fn invalid(&self, key: &str, problem: String) -> RecipeError {
        RecipeError::Invalid { path: self.path.into(), line: self.line(key), key: key.to_owned(), problem }
    }

    fn line(&self, key: &str) -> Option<usize> {
        self.lines.get(key).copied()
    }

    fn check(&self, recipe: &Recipe) -> Result<(), RecipeError> {
        self.require(
            plain_name(&recipe.run.name),
            "run.name",
            "use letters, digits, '-', '_' and '.' only, not starting with '.'",
        )?;
        self.require(recipe.run.keep_checkpoints >= 1, "run.keep_checkpoints", "keep at least 1 checkpoint")?;
        let model = &recipe.model;
        self.require(
            model.base.is_some() != model.init.is_some(),
            "model",
            "give exactly one of `base` (a model folder) and `init` (a config to start from random weights)",
        )?;
        self.require(model.init.is_none() || model.tokenizer.is_some(), "model.tokenizer", "it is needed with `init`")?;
        self.require(
            model.base.is_none() || model.tokenizer.is_none(),
            "model.tokenizer",
            "leave it out: a `base` folder brings its own",
        )?;
        let is_in_bf16 = model.state == StateKind::Bf16;
        self.require(
            !is_in_bf16 || model.compute == Compute::Bf16,
            "model.state",
            "\"bf16\" needs `compute = \"bf16\"` beside it; write both, or leave `state` at \"f32\"",
        )?;
        self.require(
            !is_in_bf16 || recipe.run.device != DeviceChoice::Cpu,
            "model.state",
            "\"bf16\" needs a GPU; set `run.device` to \"cuda:0\", or leave `state` at \"f32\"",
        )?;
        if let Some(Err(error)) = recipe.world.as_ref().map(WorldConfig::check) {
            return Err(self.invalid("world", error.to_string()));
        }
        self.check_data(recipe)?;
        if recipe.stage.is_empty() {
            return Err(self.missing("stage", "a run needs at least one [[stage]]"));
        }
        let distills = recipe.stage.iter().filter(|stage| stage.kind() == "distill").count();
        self.require(distills <= 1, "stage", "a run has at most one stage of kind \"distill\"")?;
        let mut names = BTreeSet::from(["base", "data", "eval"]);
        for stage in &recipe.stage {
            let key = join("stage", stage.name());
            self.require(
                plain_name(stage.name()),
                &join(&key, "name"),
                "use letters, digits, '-', '_' and '.' only, not starting with '.'",
            )?;
            self.require(
                names.insert(stage.name()),
                &join(&key, "name"),
                "the name is taken (base, data and eval are reserved)",
            )?;
            match stage {
                Stage::Train(stage) => self.check_train(stage, &key, recipe)?,
                Stage::Align(stage) => self.check_align(stage, &key, recipe)?,
                Stage::Distill(stage) => self.check_distill(stage, &key)?,
            }
        }
        if let Some(eval) = &recipe.eval {
            self.require(eval.limit != Some(0), "eval.limit", "it must be above 0")?;
            self.require(!eval.tasks.is_empty(), "eval.tasks", "name at least one task or @group")?;
            for name in eval.stages.iter().flatten() {
                let known =
                    name == "base" || recipe.stage.iter().any(|stage| stage.name() == name && stage.makes_model());
                self.require(known, "eval.stages", &format!("`{name}` is neither `base` nor a train or align stage"))?;
            }
        }
        Ok(())
    }

    fn check_data(&self, recipe: &Recipe) -> Result<(), RecipeError> {
        let mut names = BTreeSet::new();
        for source in &recipe.data {
            let key = join("data", &source.name);
            self.require(plain_name(&source.name), &join(&key, "name"), "use letters, digits, '-', '_' and '.' only")?;
            self.require(names.insert(&source.name), &join(&key, "name"), "two sources have this name")?;
            self.require(
                source.name != DISTILLED,
                &join(&key, "name"),
                "the name is reserved for the pairs of the run's own distillation",
            )?;
            let share = source.share.unwrap_or(1.0);
            self.require(share > 0.0 && share <= 1.0, &join(&key, "share"), "a share is above 0 and at most 1")?;
            let in_world = source.path.to_string_lossy().starts_with("world:");
            self.require(
                !in_world || recipe.world.is_some(),
                &join(&key, "path"),
                "the recipe has no [world] table to take it from",
            )?;
        }
        Ok(())
    }

    fn check_train(&self, stage: &TrainStage, key: &str, recipe: &Recipe) -> Result<(), RecipeError> {
        self.check_names(&stage.text, &join(key, "text"), recipe, &[Kind::Text])?;
        self.check_names(&stage.chat, &join(key, "chat"), recipe, &[Kind::Chat])?;
        self.check_names(&stage.rows, &join(key, "rows"), recipe, &[Kind::Tokenized, Kind::Packed])?;
        let trainable = [Kind::Text, Kind::Chat, Kind::Tokenized, Kind::Packed];
        self.check_names(&stage.dev, &join(key, "dev"), recipe, &trainable)?;
        if stage.sources().next().is_none() {
            return Err(self.missing(&join(key, "text"), "name at least one source in `text`, `chat` or `rows`"));
        }
        for (side, names) in [("text", &stage.text), ("chat", &stage.chat)] {
            let share = |name: &String| recipe.data.iter().find(|source| source.name == *name)?.share;
            let sum: f64 = names.iter().filter_map(share).sum();
            let problem = format!("the shares of its sources add up to {sum}, which is more than 1");
            self.require(sum <= 1.0 + 1e-9, &join(key, side), &problem)?;
        }
        self.check_optimization(&stage.optimization, key, !stage.dev.is_empty())
    }

    fn check_align(&self, stage: &AlignStage, key: &str, recipe: &Recipe) -> Result<(), RecipeError> {
        self.check_names(&stage.pairs, &join(key, "pairs"), recipe, &[Kind::Preference])?;
        self.check_names(&stage.dev, &join(key, "dev"), recipe, &[Kind::Preference])?;
        let distilled = recipe
            .stage
            .iter()
            .take_while(|other| other.name() != stage.name)
            .any(|other| matches!(other, Stage::Distill(_)));
        if stage.pairs.is_empty() && !distilled {
            return Err(
                self.missing(&join(key, "pairs"), "name a preference source, or put a distill stage before this one")
            );
        }
        self.require(stage.beta.is_finite() && stage.beta > 0.0, &join(key, "beta"), "it must be above 0")?;
        self.require(
            stage.nll_weight.is_finite() && stage.nll_weight >= 0.0,
            &join(key, "nll_weight"),
            "it must be at least 0",
        )?;
        self.check_optimization(&stage.optimization, key, !stage.dev.is_empty())
    }

    fn check_distill(&self, stage: &DistillStage, key: &str) -> Result<(), RecipeError> {
        self.require(
            stage.samples_per_exercise >= 1,
            &join(key, "samples_per_exercise"),
            "sample at least 1 solution",
        )?;
        self.require(
            stage.temperature.is_finite() && stage.temperature > 0.0,
            &join(key, "temperature"),
            "it must be above 0",
        )?;
        self.require(stage.top_p > 0.0 && stage.top_p <= 1.0, &join(key, "top_p"), "it must be above 0 and at most 1")?;
        self.require(stage.max_new_tokens >= 1, &join(key, "max_new_tokens"), "allow at least 1 token")?;
        self.require(!stage.kinds.is_empty(), &join(key, "kinds"), "name \"fap\", \"scp\" or both")?;
        self.require(stage.limit != Some(0), &join(key, "limit"), "it must be above 0")?;
        let most = stage.pairs_per_exercise.max(stage.corrections_per_exercise);
        self.require(most > 0, &join(key, "pairs_per_exercise"), "allow at least 1 pair of either kind")?;
        Ok(())
    }

    fn check_names(&self, names: &[String], key: &str, recipe: &Recipe, kinds: &[Kind]) -> Result<(), RecipeError> {
        for name in names {
            let Some(source) = recipe.data.iter().find(|source| &source.name == name) else {
                let known: Vec<&str> = recipe.data.iter().map(|source| source.name.as_str()).collect();
                let hint = nearest(name, &known).map_or_else(
                    || format!("there are {}", known.join(", ")),
                    |near| format!("did you mean \"{near}\"?"),
                );
                return Err(self.invalid(key, format!("no [[data]] is named \"{name}\"; {hint}")));
            };
            if !kinds.contains(&source.kind) {
                return Err(self.invalid(
                    key,
                    format!("\"{name}\" is of kind {:?}, here belong {kinds:?}", source.kind).to_lowercase(),
                ));
            }
        }
        Ok(())
    }

    fn check_optimization(&self, keys: &Optimization, key: &str, has_dev: bool) -> Result<(), RecipeError> {
        let named = |name: &str| join(key, name);
        if keys.length().is_none() {
            return Err(self.invalid(key, "give exactly one of `epochs`, `tokens` and `steps`".to_owned()));
        }
        if keys.fill().is_none() {
            return Err(self.invalid(key, "give exactly one of `batch_tokens` and `batch_rows`".to_owned()));
        }
        let above_zero = |value: Option<f64>| value.is_none_or(|value| value.is_finite() && value > 0.0);
        self.require(above_zero(keys.epochs), &named("epochs"), "it must be above 0")?;
        self.require(keys.tokens != Some(0), &named("tokens"), "it must be above 0")?;
        self.require(keys.steps != Some(0), &named("steps"), "it must be above 0")?;
        let counts = [
            ("batch_tokens", keys.batch_tokens),
            ("batch_rows", keys.batch_rows),
            ("micro_batch_tokens", keys.micro_batch_tokens),
            ("micro_batch_rows", keys.micro_batch_rows),
        ];
        for (name, count) in counts {
            self.require(count != Some(0), &named(name), "it must be above 0")?;
        }
        self.require(
            keys.context_tokens.is_none_or(|n| n >= 4),
            &named("context_tokens"),
            "a row needs at least 4 tokens",
        )?;
        if let Some(tokens) = keys.batch_tokens {
            self.require(
                keys.context_tokens.is_none_or(|n| n <= tokens),
                &named("batch_tokens"),
                "it must hold at least `context_tokens`",
            )?;
            self.require(
                keys.micro_batch_rows.is_none(),
                &named("micro_batch_rows"),
                "use `micro_batch_tokens` beside `batch_tokens`",
            )?;
        }
        if let (Some(micro), Some(context)) = (keys.micro_batch_tokens, keys.context_tokens) {
            self.require(micro >= context, &named("micro_batch_tokens"), "it must hold at least `context_tokens`")?;
        }
        if let (Some(micro), Some(batch)) = (keys.micro_batch_tokens, keys.batch_tokens) {
            self.require(micro <= batch, &named("micro_batch_tokens"), "it cannot be above `batch_tokens`")?;
        }
        if let Some(rows) = keys.batch_rows {
            self.require(
                keys.micro_batch_tokens.is_none(),
                &named("micro_batch_tokens"),
                "use `micro_batch_rows` beside `batch_rows`",
            )?;
            let divides = keys.micro_batch_rows.is_none_or(|micro| rows % micro == 0);
            self.require(divides, &named("micro_batch_rows"), "it must divide `batch_rows`")?;
        }
        self.require(
            keys.learning_rate.is_finite() && keys.learning_rate >= 0.0,
            &named("learning_rate"),
            "it must be a number, at least 0",
        )?;
        self.require(
            keys.warmup_ratio.is_none_or(|r| (0.0..=1.0).contains(&r)),
            &named("warmup_ratio"),
            "it lies between 0 and 1",
        )?;
        let one_warmup = keys.warmup_ratio.is_none() || keys.warmup_steps.is_none();
        self.require(one_warmup, &named("warmup_steps"), "give one of `warmup_ratio` and `warmup_steps`")?;
        self.require(
            keys.weight_decay.is_finite() && keys.weight_decay >= 0.0,
            &named("weight_decay"),
            "it must be at least 0",
        )?;
        let betas = keys.betas.iter().all(|beta| (0.0..1.0).contains(beta));
        self.require(betas, &named("betas"), "both lie in 0 <= beta < 1")?;
        self.require(above_zero(Some(keys.epsilon)), &named("epsilon"), "it must be above 0")?;
        self.require(above_zero(Some(keys.clip_norm)), &named("clip_norm"), "it must be above 0")?;
        self.require(keys.evaluate_every_steps != Some(0), &named("evaluate_every_steps"), "it must be above 0")?;
        self.require(keys.save_every_steps != Some(0), &named("save_every_steps"), "it must be above 0")?;
        self.require(keys.dev_tokens > 0, &named("dev_tokens"), "it must be above 0")?;
        self.require(keys.early_stop_patience != Some(0), &named("early_stop_patience"), "it must be above 0")?;
        let stop_has_dev = keys.early_stop_patience.is_none() || has_dev;
        self.require(stop_has_dev, &named("early_stop_patience"), "it needs a `dev` source to watch")?;
        let evaluate_has_dev = keys.evaluate_every_steps.is_none() || has_dev;
        self.require(evaluate_has_dev, &named("evaluate_every_steps"), "it needs a `dev` source to measure")
    }

    fn require(&self, holds: bool, key: &str, problem: &str) -> Result<(), RecipeError> {
        if holds { Ok(()) } else { Err(self.invalid(key, problem.to_owned())) }
    }
}

/// Takes the keys of [`Optimization`] out of a stage's table.
fn shared_keys(table: &mut Table) -> Table {
    let taken = Optimization::KEYS.iter().filter_map(|name| Some(((*name).to_owned(), table.remove(*name)?)));
    taken.collect()
}

fn plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn nearest(key: &str, known: &[&str]) -> Option<String> {
    let best = known.iter().max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)))?;
    (strsim::jaro_winkler(key, best) > 0.75).then(|| (*best).to_owned())
}
