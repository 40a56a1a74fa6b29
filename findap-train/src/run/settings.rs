//! The part of a recipe that decides what a stage makes.

use std::path::Path;

use findap_data::world;
use serde_json::{Value, json};

use crate::error::TrainError;
use crate::folder::read_json;
use crate::identity::{Identity, flatten, require_same};
use crate::recipe::{Recipe, Stage, StateKind};

/// Refuses a recipe whose stages were begun with other keys. Nothing is written.
///
/// # Errors
/// [`TrainError::Changed`]; [`TrainError::Io`] where what they were begun with cannot be read.
pub fn refuse_changed(recipe: &Recipe) -> Result<(), TrainError> {
    for stage in &recipe.stage {
        let folder = recipe.folder().join(stage.name());
        if has_produced(&folder)
            && let Some(mut begun) = read_json::<Identity>(&folder.join("identity.json"))?
        {
            begun.retain(|key, _| !is_fingerprint(key));
            require_same(&folder, stage.name(), &begun, &at_the_beginning(settings(recipe, stage)))?;
        }
    }
    Ok(())
}

/// Whether a stage has made what its next run would continue or skip: a checkpoint, samples, a model. One that failed before, for
/// its data or its judge, has not begun, and may be repaired in the recipe.
pub(super) fn has_produced(folder: &Path) -> bool {
    let is_there = |name: &str| folder.join(name).exists();
    // A folder that cannot be listed fails where the stage writes to it.
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let has_samples = std::fs::metadata(folder.join("samples.jsonl")).is_ok_and(|file| file.len() > 0);
    let is_checkpoint = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("checkpoint-");
    is_there("done.json") || is_there("model") || has_samples || entries.any(is_checkpoint)
}

/// The part of an identity that must be unchanged for a stage to be resumed. How pairs are chosen may change: the samples are used
/// again.
pub(super) fn at_the_beginning(mut identity: Identity) -> Identity {
    const OF_PAIRS: [&str; 5] =
        [".kinds", ".scp_form", ".pairs_per_exercise", ".corrections_per_exercise", ".right_solutions_per_exercise"];
    identity.retain(|key, _| !OF_PAIRS.iter().any(|end| key.ends_with(end)));
    identity
}

fn is_fingerprint(key: &str) -> bool {
    key == "model" || key == "exercises" || key.starts_with("data.")
}

/// The part of a stage's identity that comes from the recipe.
pub(super) fn settings(recipe: &Recipe, stage: &Stage) -> Identity {
    /// Keys that do not make a stage another one: how often a checkpoint is saved, where the judge is. A judge's reply that did not fit
    /// is no label, and one that did would be the same with a larger limit. A model that has moved to another address is the same judge
    /// by its name: the labels that it gave stay in `samples.jsonl`, but no recorded reply of the old address is replayed for the new
    /// one, which is said where there are any. Another `judge.model` is another stage.
    const WITHOUT_EFFECT: [&str; 6] = [
        ".save_every_steps",
        ".judge.url",
        ".judge.key_env",
        ".judge.max_tokens",
        ".judge.max_tokens_field",
        ".judge.recorded",
    ];
    /// A stage that was begun before this key existed had its default, and can be resumed.
    const DEFAULT_SINCE: (&str, &str) = (".loss", "\"dpo\"");
    let mut identity = Identity::new();
    let table = serde_json::to_value(stage).expect("invariant: a stage is JSON");
    flatten(&format!("stage.{}", stage.name()), &table, &mut identity);
    identity.retain(|key, _| !WITHOUT_EFFECT.iter().any(|end| key.ends_with(end)));
    identity.retain(|key, value| !(key.ends_with(DEFAULT_SINCE.0) && value == DEFAULT_SINCE.1));
    let is_named = |name: &String| match stage {
        Stage::Train(stage) => stage.sources().any(|source| source == name),
        Stage::Align(stage) => stage.pairs.contains(name),
        Stage::Distill(_) => false,
    };
    for source in recipe.data.iter().filter(|source| source.share.is_some() && is_named(&source.name)) {
        identity.insert(format!("share.{}", source.name), format!("{:?}", source.share));
    }
    if let Some(world) = world_identity(recipe) {
        flatten("world", &world, &mut identity);
    }
    identity.insert("run.seed".to_owned(), recipe.run.seed.to_string());
    // texts have their date, if they tell one, in the fingerprint of the data
    let is_sampled = matches!(stage, Stage::Distill(_));
    identity.extend(recipe.run.date.iter().filter(|_| is_sampled).map(|date| ("run.date".to_owned(), date.clone())));
    identity.insert("model.compute".to_owned(), format!("{:?}", recipe.model.compute));
    identity.insert("model.save_dtype".to_owned(), format!("{:?}", recipe.model.save_dtype));
    if recipe.model.state != StateKind::default() {
        // a stage that was begun before this key existed can be resumed
        identity.insert("model.state".to_owned(), format!("{:?}", recipe.model.state));
    }
    identity
}

/// The settings that decide the closed world.
pub(super) fn world_identity(recipe: &Recipe) -> Option<Value> {
    recipe.world.as_ref().map(|config| json!({ "version": world::VERSION, "config": config }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = r#"schema = 1
[run]
name = "r"
[model]
base = "b"
[[data]]
name = "news"
path = "news.jsonl"
kind = "text"
[[stage]]
name = "group1"
kind = "train"
text = ["news"]
steps = 1
batch_tokens = 64
learning_rate = 1e-3
"#;

    /// A stage begun before this key existed can be resumed; another selection of parameters is another run.
    #[test]
    fn the_trained_parameters_are_part_of_what_a_stage_is_made_from() {
        let of = |set: &[(&str, &str)]| {
            let set: Vec<_> = set.iter().map(|(key, value)| crate::recipe::Override::set(key, value)).collect();
            let recipe = crate::recipe::parse(RECIPE, Path::new("r.toml"), &set).unwrap();
            settings(&recipe, &recipe.stage[0])
        };
        let all = of(&[]);
        assert!(all.keys().all(|key| !key.contains("trainable")));
        assert_eq!(of(&[("stage.group1.trainable", "all")]), all);
        let part = of(&[("stage.group1.trainable", "{ last_blocks = 2 }")]);
        assert_eq!(part.get("stage.group1.trainable.last_blocks").map(String::as_str), Some("2"));
        let error = require_same(Path::new("f"), "group1", &all, &part).unwrap_err().to_string();
        assert!(error.contains("trainable.last_blocks: was (none), now 2"), "{error}");
    }

    #[test]
    fn a_stage_begun_before_there_were_losses_is_one_of_dpo() {
        let align = RECIPE.replace("kind = \"text\"", "kind = \"preference\"");
        let align = align
            .replace("kind = \"train\"\ntext", "kind = \"align\"\npairs")
            .replace("batch_tokens = 64", "batch_rows = 2");
        let of = |set: &[(&str, &str)]| {
            let set: Vec<_> = set.iter().map(|(key, value)| crate::recipe::Override::set(key, value)).collect();
            let recipe = crate::recipe::parse(&align, Path::new("r.toml"), &set).unwrap();
            settings(&recipe, &recipe.stage[0])
        };
        let dpo = of(&[]);
        assert!(
            dpo.keys().all(|key| !key.contains("loss") && !key.contains("smoothing") && !key.contains("gamma")),
            "{dpo:?}"
        );
        assert_eq!(of(&[("stage.group1.loss", "sigmoid")]), dpo);
        let error = require_same(Path::new("f"), "group1", &dpo, &of(&[("stage.group1.loss", "ipo")])).unwrap_err();
        assert!(error.to_string().contains("stage.group1.loss: was (none), now \"ipo\""), "{error}");
    }
}
