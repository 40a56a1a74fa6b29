//! Checks of every value of a recipe, so that what comes out can be run.

use std::collections::BTreeSet;

use findap_data::chat_template::day_seconds;
use findap_data::readers::FIELDS;
use findap_data::reward_model::EXERCISE_FIELDS;
use findap_data::spelling::nearest;
use findap_data::world::WorldConfig;
use findap_data::{Format, Kind};
use findap_model::Trainable;

use super::distillation::{DistillStage, Judge};
use super::error::{Origin, RecipeError, join};
use super::stage::{AlignStage, DISTILLED, Optimization, RIGHT_SOLUTIONS, Stage, TrainStage};
use super::{Compute, DeviceChoice, PREFERENCES_FILE, RIGHT_SOLUTIONS_FILE, Recipe, StateKind};

pub(super) fn check(recipe: &Recipe, origin: &Origin<'_>) -> Result<(), RecipeError> {
    origin.require(
        plain_name(&recipe.run.name),
        "run.name",
        "use letters, digits, '-', '_' and '.' only, not starting with '.'",
    )?;
    origin.require(recipe.run.keep_checkpoints >= 1, "run.keep_checkpoints", "keep at least 1 checkpoint")?;
    let has_day = recipe.run.date.as_deref().is_none_or(|date| day_seconds(date).is_some());
    origin.require(has_day, "run.date", "write a day since 1970 as \"2026-11-28\"")?;
    let model = &recipe.model;
    origin.require(
        model.base.is_some() != model.init.is_some(),
        "model",
        "give exactly one of `base` (a model folder) and `init` (a config to start from random weights)",
    )?;
    origin.require(model.init.is_none() || model.tokenizer.is_some(), "model.tokenizer", "it is needed with `init`")?;
    origin.require(
        model.base.is_none() || model.tokenizer.is_none(),
        "model.tokenizer",
        "leave it out: a `base` folder brings its own",
    )?;
    let is_in_bf16 = model.state == StateKind::Bf16;
    origin.require(
        !is_in_bf16 || model.compute == Compute::Bf16,
        "model.state",
        "\"bf16\" needs `compute = \"bf16\"` beside it; write both, or leave `state` at \"f32\"",
    )?;
    origin.require(
        !is_in_bf16 || recipe.run.device != DeviceChoice::Cpu,
        "model.state",
        "\"bf16\" needs a GPU; set `run.device` to \"cuda:0\", or leave `state` at \"f32\"",
    )?;
    if let Some(Err(error)) = recipe.world.as_ref().map(WorldConfig::check) {
        return Err(origin.invalid("world", error.to_string()));
    }
    check_data(recipe, origin)?;
    if recipe.stage.is_empty() {
        return Err(origin.missing("stage", "a run needs at least one [[stage]]"));
    }
    let distills = recipe.stage.iter().filter(|stage| stage.kind() == "distill").count();
    origin.require(distills <= 1, "stage", "a run has at most one stage of kind \"distill\"")?;
    // What a run folder has beside its stages.
    let mut names = BTreeSet::from([
        "base",
        "data",
        "eval",
        "begun.json",
        PREFERENCES_FILE,
        RIGHT_SOLUTIONS_FILE,
        "rehearsal",
        "verification",
        "provenance.json",
        "recipe.toml",
        "report.html",
        "resolved.toml",
        "run.lock",
    ]);
    for stage in &recipe.stage {
        let key = join("stage", stage.name());
        origin.require(
            plain_name(stage.name()),
            &join(&key, "name"),
            "use letters, digits, '-', '_' and '.' only, not starting with '.'",
        )?;
        origin.require(
            names.insert(stage.name()),
            &join(&key, "name"),
            "the name is taken, by another stage or by a file of the run folder such as base, data, eval or report.html",
        )?;
        match stage {
            Stage::Train(stage) => check_train(stage, &key, recipe, origin)?,
            Stage::Align(stage) => check_align(stage, &key, recipe, origin)?,
            Stage::Distill(stage) => check_distill(stage, &key, recipe, origin)?,
        }
    }
    if let Some(eval) = &recipe.eval {
        origin.require(eval.limit != Some(0), "eval.limit", "it must be above 0")?;
        if let Some(judge) = &eval.judge {
            origin.require(judge.max_tokens >= 1, "eval.judge.max_tokens", "allow at least 1 token")?;
        }
        origin.require(!eval.tasks.is_empty(), "eval.tasks", "name at least one task or @group")?;
        for name in eval.stages.iter().flatten() {
            let known = name == "base" || recipe.stage.iter().any(|stage| stage.name() == name && stage.makes_model());
            origin.require(known, "eval.stages", &format!("`{name}` is neither `base` nor a train or align stage"))?;
        }
    }
    Ok(())
}

fn check_data(recipe: &Recipe, origin: &Origin<'_>) -> Result<(), RecipeError> {
    let mut names = BTreeSet::new();
    for source in &recipe.data {
        let key = join("data", &source.name);
        origin.require(plain_name(&source.name), &join(&key, "name"), "use letters, digits, '-', '_' and '.' only")?;
        origin.require(names.insert(&source.name), &join(&key, "name"), "two sources have this name")?;
        origin.require(
            ![DISTILLED, RIGHT_SOLUTIONS].contains(&source.name.as_str()),
            &join(&key, "name"),
            "the name is reserved for what the run's own distillation makes",
        )?;
        check_columns(source.columns.keys().map(String::as_str), &FIELDS, &join(&key, "columns"), origin)?;
        let share = source.share.unwrap_or(1.0);
        origin.require(share > 0.0 && share <= 1.0, &join(&key, "share"), "a share is above 0 and at most 1")?;
        origin.require(
            !source.path.as_slice().is_empty(),
            &join(&key, "path"),
            "name a file, a folder, a pattern, or a list of them",
        )?;
        let in_world = source.path.as_slice().iter().any(|path| path.to_string_lossy().starts_with("world:"));
        origin.require(
            !in_world || recipe.world.is_some(),
            &join(&key, "path"),
            "the recipe has no [world] table to take it from",
        )?;
    }
    Ok(())
}

fn check_train(stage: &TrainStage, key: &str, recipe: &Recipe, origin: &Origin<'_>) -> Result<(), RecipeError> {
    check_names(&stage.text, &join(key, "text"), recipe, &[Kind::Text], origin)?;
    let own: Vec<String> = stage.chat.iter().filter(|name| *name != RIGHT_SOLUTIONS).cloned().collect();
    check_names(&own, &join(key, "chat"), recipe, &[Kind::Chat], origin)?;
    let twice = stage.chat.len() > own.len() + 1;
    origin.require(!twice, &join(key, "chat"), "it names \"right-solutions\" twice")?;
    if stage.uses_right_solutions() && recipe.distillation_before(&stage.name).is_none() {
        let problem = "\"right-solutions\" are what a distill stage before it writes, and there is none";
        return Err(origin.invalid(&join(key, "chat"), problem.to_owned()));
    }
    check_names(&stage.rows, &join(key, "rows"), recipe, &[Kind::Tokenized, Kind::Packed], origin)?;
    let trainable = [Kind::Text, Kind::Chat, Kind::Tokenized, Kind::Packed];
    check_names(&stage.dev, &join(key, "dev"), recipe, &trainable, origin)?;
    if stage.sources().next().is_none() {
        return Err(origin.missing(&join(key, "text"), "name at least one source in `text`, `chat` or `rows`"));
    }
    for (side, names) in [("text", &stage.text), ("chat", &stage.chat)] {
        let share = |name: &String| recipe.data.iter().find(|source| source.name == *name)?.share;
        let sum: f64 = names.iter().filter_map(share).sum();
        let problem = format!("the shares of its sources add up to {sum}, which is more than 1");
        origin.require(sum <= 1.0 + 1e-9, &join(key, side), &problem)?;
    }
    check_optimization(&stage.optimization, key, !stage.dev.is_empty(), origin)
}

fn check_align(stage: &AlignStage, key: &str, recipe: &Recipe, origin: &Origin<'_>) -> Result<(), RecipeError> {
    let own: Vec<String> = stage.pairs.iter().filter(|name| *name != DISTILLED).cloned().collect();
    check_names(&own, &join(key, "pairs"), recipe, &[Kind::Preference], origin)?;
    let twice = stage.pairs.len() > own.len() + 1;
    origin.require(!twice, &join(key, "pairs"), "it names \"preferences\" twice")?;
    check_names(&stage.dev, &join(key, "dev"), recipe, &[Kind::Preference], origin)?;
    if stage.uses_distilled() && recipe.distillation_before(&stage.name).is_none() {
        return Err(
            origin.missing(&join(key, "pairs"), "name a preference source, or put a distill stage before this one")
        );
    }
    origin.require(stage.beta.is_finite() && stage.beta > 0.0, &join(key, "beta"), "it must be above 0")?;
    origin.require(
        stage.nll_weight.is_finite() && stage.nll_weight >= 0.0,
        &join(key, "nll_weight"),
        "it must be at least 0",
    )?;
    let numbers = stage.loss.check(stage.label_smoothing, stage.simpo_gamma);
    numbers.map_err(|(name, problem)| origin.invalid(&join(key, name), problem.to_owned()))?;
    check_optimization(&stage.optimization, key, !stage.dev.is_empty(), origin)
}

fn check_distill(stage: &DistillStage, key: &str, recipe: &Recipe, origin: &Origin<'_>) -> Result<(), RecipeError> {
    let exercises = stage.exercises.as_slice();
    origin.require(
        !exercises.is_empty(),
        &join(key, "exercises"),
        "name a file, a folder, a pattern, or a list of them",
    )?;
    let in_world = exercises.iter().any(|path| path.to_string_lossy().starts_with("world:"));
    origin.require(
        !in_world || recipe.world.is_some(),
        &join(key, "exercises"),
        "the recipe has no [world] table to take it from",
    )?;
    let has_fields = !matches!(stage.exercise_format, Format::Txt | Format::Lines);
    origin.require(has_fields, &join(key, "exercise_format"), "exercises need named fields, which no text has")?;
    let columns = stage.exercise_columns.keys().map(String::as_str);
    check_columns(columns, &EXERCISE_FIELDS, &join(key, "exercise_columns"), origin)?;
    origin.require(
        stage.samples_per_exercise >= 1,
        &join(key, "samples_per_exercise"),
        "sample at least 1 solution",
    )?;
    origin.require(
        stage.temperature.is_finite() && stage.temperature > 0.0,
        &join(key, "temperature"),
        "it must be above 0",
    )?;
    origin.require(stage.top_p > 0.0 && stage.top_p <= 1.0, &join(key, "top_p"), "it must be above 0 and at most 1")?;
    origin.require(stage.max_new_tokens >= 1, &join(key, "max_new_tokens"), "allow at least 1 token")?;
    origin.require(
        !stage.kinds.is_empty(),
        &join(key, "kinds"),
        "name \"fap\", \"scp\", \"naive\" or several of them",
    )?;
    origin.require(stage.limit != Some(0), &join(key, "limit"), "it must be above 0")?;
    if let Judge::Remote(judge) = &stage.judge {
        origin.require(judge.max_tokens >= 1, &join(key, "judge.max_tokens"), "allow at least 1 token")?;
    }
    let uses_solutions = |stage: &Stage| matches!(stage, Stage::Train(stage) if stage.uses_right_solutions());
    let are_used = recipe.stage.iter().any(uses_solutions);
    origin.require(
        stage.right_solutions_per_exercise > 0 || !are_used,
        &join(key, "right_solutions_per_exercise"),
        "a train stage learns from \"right-solutions\"; allow at least 1",
    )?;
    let most = stage.pairs_per_exercise.max(stage.corrections_per_exercise);
    origin.require(most > 0, &join(key, "pairs_per_exercise"), "allow at least 1 pair of either kind")?;
    Ok(())
}

/// Refuses columns of fields that no reader asks for.
fn check_columns<'n>(
    fields: impl Iterator<Item = &'n str>,
    known: &[&str],
    key: &str,
    origin: &Origin<'_>,
) -> Result<(), RecipeError> {
    match fields.into_iter().find(|field| !known.contains(field)) {
        Some(field) => Err(origin.unknown(key, field, known)),
        None => Ok(()),
    }
}

fn check_names(
    names: &[String],
    key: &str,
    recipe: &Recipe,
    kinds: &[Kind],
    origin: &Origin<'_>,
) -> Result<(), RecipeError> {
    for (index, name) in names.iter().enumerate() {
        origin.require(!names[..index].contains(name), key, &format!("it names \"{name}\" twice"))?;
        let Some(source) = recipe.data.iter().find(|source| &source.name == name) else {
            let known: Vec<&str> = recipe.data.iter().map(|source| source.name.as_str()).collect();
            let hint = nearest(name, known.iter().copied())
                .map_or_else(|| format!("there are {}", known.join(", ")), |near| format!("did you mean \"{near}\"?"));
            return Err(origin.invalid(key, format!("no [[data]] is named \"{name}\"; {hint}")));
        };
        if !kinds.contains(&source.kind) {
            return Err(origin.invalid(
                key,
                format!("\"{name}\" is of kind {:?}, here belong {kinds:?}", source.kind).to_lowercase(),
            ));
        }
    }
    Ok(())
}

fn check_optimization(keys: &Optimization, key: &str, has_dev: bool, origin: &Origin<'_>) -> Result<(), RecipeError> {
    let named = |name: &str| join(key, name);
    if keys.length().is_none() {
        return Err(origin.invalid(key, "give exactly one of `epochs`, `tokens` and `steps`".to_owned()));
    }
    if keys.fill().is_none() {
        return Err(origin.invalid(key, "give exactly one of `batch_tokens` and `batch_rows`".to_owned()));
    }
    let above_zero = |value: Option<f64>| value.is_none_or(|value| value.is_finite() && value > 0.0);
    origin.require(above_zero(keys.epochs), &named("epochs"), "it must be above 0")?;
    origin.require(keys.tokens != Some(0), &named("tokens"), "it must be above 0")?;
    origin.require(keys.steps != Some(0), &named("steps"), "it must be above 0")?;
    let counts = [
        ("batch_tokens", keys.batch_tokens),
        ("batch_rows", keys.batch_rows),
        ("micro_batch_tokens", keys.micro_batch_tokens),
        ("micro_batch_rows", keys.micro_batch_rows),
    ];
    for (name, count) in counts {
        origin.require(count != Some(0), &named(name), "it must be above 0")?;
    }
    origin.require(
        keys.context_tokens.is_none_or(|n| n >= 4),
        &named("context_tokens"),
        "a row needs at least 4 tokens",
    )?;
    if let Some(tokens) = keys.batch_tokens {
        origin.require(
            keys.context_tokens.is_none_or(|n| n <= tokens),
            &named("batch_tokens"),
            "it must hold at least `context_tokens`",
        )?;
        origin.require(
            keys.micro_batch_rows.is_none(),
            &named("micro_batch_rows"),
            "use `micro_batch_tokens` beside `batch_tokens`",
        )?;
    }
    if let (Some(micro), Some(context)) = (keys.micro_batch_tokens, keys.context_tokens) {
        origin.require(micro >= context, &named("micro_batch_tokens"), "it must hold at least `context_tokens`")?;
    }
    if let (Some(micro), Some(batch)) = (keys.micro_batch_tokens, keys.batch_tokens) {
        origin.require(micro <= batch, &named("micro_batch_tokens"), "it cannot be above `batch_tokens`")?;
    }
    if let Some(rows) = keys.batch_rows {
        origin.require(
            keys.micro_batch_tokens.is_none(),
            &named("micro_batch_tokens"),
            "use `micro_batch_rows` beside `batch_rows`",
        )?;
        let divides = keys.micro_batch_rows.is_none_or(|micro| rows % micro == 0);
        origin.require(divides, &named("micro_batch_rows"), "it must divide `batch_rows`")?;
    }
    if let Some(lora) = &keys.lora {
        lora.check(&named("lora"), origin)?;
        let is_alone = keys.trainable == Trainable::All;
        origin.require(is_alone, &named("lora"), "an adapter is trained alone; leave `trainable` out, or `lora`")?;
    }
    origin.require(
        keys.learning_rate.is_finite() && keys.learning_rate >= 0.0,
        &named("learning_rate"),
        "it must be a number, at least 0",
    )?;
    origin.require(
        keys.warmup_ratio.is_none_or(|r| (0.0..=1.0).contains(&r)),
        &named("warmup_ratio"),
        "it lies between 0 and 1",
    )?;
    let one_warmup = keys.warmup_ratio.is_none() || keys.warmup_steps.is_none();
    origin.require(one_warmup, &named("warmup_steps"), "give one of `warmup_ratio` and `warmup_steps`")?;
    origin.require(
        keys.weight_decay.is_finite() && keys.weight_decay >= 0.0,
        &named("weight_decay"),
        "it must be at least 0",
    )?;
    let betas = keys.betas.iter().all(|beta| (0.0..1.0).contains(beta));
    origin.require(betas, &named("betas"), "both lie in 0 <= beta < 1")?;
    origin.require(above_zero(Some(keys.epsilon)), &named("epsilon"), "it must be above 0")?;
    origin.require(above_zero(Some(keys.clip_norm)), &named("clip_norm"), "it must be above 0")?;
    origin.require(keys.evaluate_every_steps != Some(0), &named("evaluate_every_steps"), "it must be above 0")?;
    origin.require(keys.save_every_steps != Some(0), &named("save_every_steps"), "it must be above 0")?;
    origin.require(keys.dev_tokens > 0, &named("dev_tokens"), "it must be above 0")?;
    origin.require(keys.early_stop_patience != Some(0), &named("early_stop_patience"), "it must be above 0")?;
    let stop_has_dev = keys.early_stop_patience.is_none() || has_dev;
    origin.require(stop_has_dev, &named("early_stop_patience"), "it needs a `dev` source to watch")?;
    let evaluate_has_dev = keys.evaluate_every_steps.is_none() || has_dev;
    origin.require(evaluate_has_dev, &named("evaluate_every_steps"), "it needs a `dev` source to measure")
}

fn plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
