//! Recipe text to [`Recipe`]: tables into typed values, with errors that know the file and line.

use std::collections::BTreeMap;
use std::path::Path;

use findap_data::plain_words::plain_words;
use findap_data::world::WorldConfig;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::check::check;
use super::distillation::DistillStage;
use super::error::{Origin, RecipeError, join, kind_of};
use super::overrides::Override;
use super::stage::{AlignStage, Optimization, Stage, TrainStage};
use super::{EvalTable, ModelTable, Recipe, RunTable, SCHEMA};

/// Reads a recipe and applies `overrides`, one after the other.
///
/// # Errors
/// [`RecipeError`]: every value is checked here, so that what comes back can be run.
pub fn load(path: &Path, overrides: &[Override]) -> Result<Recipe, RecipeError> {
    let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.into(), source })?;
    parse(&text, path, overrides)
}

/// As [`load`], from text; `path` is used in errors only.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path, overrides: &[Override]) -> Result<Recipe, RecipeError> {
    let document = DeTable::parse(text).map_err(|error| RecipeError::Syntax {
        path: path.into(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        message: plain_words(error.message()),
    })?;
    let mut lines = BTreeMap::new();
    collect_lines(text, document.get_ref(), "", &mut lines);
    let mut table: Table = toml::from_str(text).map_err(|error| RecipeError::Syntax {
        path: path.into(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        message: plain_words(error.message()),
    })?;
    for change in overrides {
        change.apply(&mut table)?;
        lines.retain(|known, _| known != change.key());
    }
    let origin = Origin { path, lines };
    let recipe = Reader { origin: &origin }.recipe(table)?;
    check(&recipe, &origin)?;
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

/// Turns tables into typed values with errors that know the file and line.
struct Reader<'a> {
    origin: &'a Origin<'a>,
}

impl Reader<'_> {
    fn recipe(&self, mut table: Table) -> Result<Recipe, RecipeError> {
        const KNOWN: [&str; 7] = ["schema", "run", "model", "world", "data", "stage", "eval"];
        if let Some(key) = table.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(self.origin.unknown("", key, &KNOWN));
        }
        let schema = match table.remove("schema") {
            None => return Err(self.origin.missing("schema", "write `schema = 1` at the top of the file")),
            Some(Value::Integer(version)) if version == i64::from(SCHEMA) => SCHEMA,
            Some(other) => {
                return Err(self
                    .origin
                    .invalid("schema", format!("this program reads schema {SCHEMA}, the recipe says {other}")));
            }
        };
        let run: RunTable = self
            .section(&mut table, "run")?
            .ok_or_else(|| self.origin.missing("run", "add a [run] table with a name"))?;
        let model: ModelTable = self
            .section(&mut table, "model")?
            .ok_or_else(|| self.origin.missing("model", "add a [model] table with `base = \"folder\"`"))?;
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
            Some(other) => Err(self.origin.invalid(key, format!("must be a table, not {}", kind_of(&other)))),
        }
    }

    /// The members of an array of tables with their full keys.
    fn members(&self, root: &mut Table, key: &str) -> Result<Vec<(String, Table)>, RecipeError> {
        let items = match root.remove(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.origin.invalid(key, format!("write it as [[{key}]], one table per member"))),
        };
        let mut members = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let Value::Table(table) = item else {
                return Err(self.origin.invalid(key, format!("write it as [[{key}]], one table per member")));
            };
            let name = table.get("name").and_then(Value::as_str).map_or_else(|| index.to_string(), str::to_owned);
            members.push((join(key, &name), table));
        }
        Ok(members)
    }

    fn stage(&self, mut table: Table, key: &str) -> Result<Stage, RecipeError> {
        let kind_key = join(key, "kind");
        let kind = match table.remove("kind") {
            None => return Err(self.origin.missing(&kind_key, "write kind = \"train\", \"distill\" or \"align\"")),
            Some(Value::String(kind)) => kind,
            Some(other) => {
                return Err(self.origin.invalid(&kind_key, format!("must be text, not {}", kind_of(&other))));
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
            other => Err(self.origin.invalid(
                &kind_key,
                format!("unknown kind \"{other}\"; there are \"train\", \"distill\" and \"align\""),
            )),
        }
    }

    fn optimization(&self, shared: Table, key: &str) -> Result<Optimization, RecipeError> {
        if !shared.contains_key("learning_rate") {
            return Err(self
                .origin
                .missing(&join(key, "learning_rate"), "the peak learning rate of the stage, such as 1e-4"));
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
            return self.origin.unknown(
                full.strip_suffix(&format!(".{}", quoted[0])).unwrap_or(&full),
                quoted[0],
                &known,
            );
        }
        if message.starts_with("missing field") {
            return self.origin.missing(&join(&full, quoted.first().unwrap_or(&"")), "it has no default");
        }
        self.origin.invalid(&full, plain_words(message))
    }
}

/// Takes the keys of [`Optimization`] out of a stage's table.
fn shared_keys(table: &mut Table) -> Table {
    let taken = Optimization::KEYS.iter().filter_map(|name| Some(((*name).to_owned(), table.remove(*name)?)));
    taken.collect()
}
