use std::path::Path;

use findap_data::llm::MaxTokensField;
use findap_data::{Fill, Length};
use findap_model::Trainable;

use super::*;
use crate::objective::{Loss, NllMean, PairLoss};

const GOOD: &str = r#"schema = 1
[run]
name = "demo"
[model]
base = "assets/tiny"
[[data]]
name = "news"
path = "news.jsonl"
kind = "text"
[[data]]
name = "talk"
path = "talk.jsonl"
kind = "chat"
[[stage]]
name = "group1"
kind = "train"
text = ["news"]
chat = ["talk"]
epochs = 1
batch_tokens = 4096
context_tokens = 512
learning_rate = 1e-3
warmup_ratio = 0.1
[[stage]]
name = "distill"
kind = "distill"
exercises = "exercises.jsonl"
[[stage]]
name = "align"
kind = "align"
steps = 10
batch_rows = 8
learning_rate = 1e-4
"#;

fn read(text: &str, overrides: &[(&str, &str)]) -> Result<Recipe, RecipeError> {
    let overrides: Vec<_> = overrides.iter().map(|(key, value)| Override::set(key, value)).collect();
    parse(text, Path::new("r.toml"), &overrides)
}

#[test]
fn a_recipe_is_read_with_its_defaults() {
    let recipe = read(GOOD, &[]).unwrap();
    let Stage::Train(stage) = &recipe.stage[0] else { panic!("not a train stage") };
    assert_eq!(stage.optimization.length(), Some(Length::Epochs(1.0)));
    assert_eq!(stage.optimization.fill(), Some(Fill::Tokens(4096)));
    assert_eq!((stage.optimization.weight_decay, stage.optimization.betas), (0.1, [0.9, 0.95]));
    assert!(stage.downsample && stage.shuffle);
    let Stage::Align(align) = &recipe.stage[2] else { panic!("not an align stage") };
    assert_eq!((align.beta, align.nll_weight, align.nll_mean), (0.1, 1.0, NllMean::Pair));
}

#[test]
fn overrides_reach_into_arrays_by_name() {
    let set = [
        ("stage.group1.learning_rate", "5e-4"),
        ("run.name", "other"),
        ("stage.align.nll_mean", "token"),
        ("run.seed", "7"),
    ];
    let recipe = read(GOOD, &set).unwrap();
    let Stage::Train(stage) = &recipe.stage[0] else { panic!("not a train stage") };
    assert_eq!(stage.optimization.learning_rate, 5e-4);
    assert_eq!((recipe.run.name.as_str(), recipe.run.seed), ("other", 7));
    let Stage::Align(align) = &recipe.stage[2] else { panic!("not an align stage") };
    assert_eq!(align.nll_mean, NllMean::Token);
}

#[test]
fn what_is_unset_has_its_default_and_makes_room_for_another_key() {
    let unset = |key: &str| Override::Unset { key: key.to_owned() };
    let changed = |changes: &[Override]| parse(GOOD, Path::new("r.toml"), changes);
    let recipe = changed(&[unset("stage.group1.epochs"), Override::set("stage.group1.steps", "3")]).unwrap();
    let Stage::Train(stage) = &recipe.stage[0] else { panic!("not a train stage") };
    assert_eq!(stage.optimization.length(), Some(Length::Steps(3)));
    assert_eq!(changed(&[unset("stage.align")]).unwrap().stage.len(), 2, "a member is taken out whole");
    for (key, wanted) in [
        ("stage.group1.steps", "--unset stage.group1.steps: the recipe does not have `steps` there"),
        ("stage.group9.steps", "no member `group9`"),
        ("wrold", "does not have `wrold`"),
        ("run.name.x", "has no keys"),
        ("stage.group1.epochs", "exactly one of `epochs`"),
    ] {
        let message = changed(&[unset(key)]).expect_err(key).to_string();
        assert!(message.contains(wanted), "{key} gave {message}");
    }
}

/// The loss of the align stage of [`GOOD`] with these of its keys set.
fn align_loss(set: &[(&str, &str)]) -> Result<PairLoss, String> {
    let named: Vec<_> = set.iter().map(|(key, value)| (format!("stage.align.{key}"), *value)).collect();
    let set: Vec<_> = named.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let recipe = read(GOOD, &set).map_err(|error| error.to_string())?;
    match recipe.stage[2].trained() {
        Some((_, Loss::Preference(preference))) => Ok(preference.pair_loss),
        other => panic!("not a loss of pairs: {other:?}"),
    }
}

#[test]
fn a_loss_of_pairs_is_read_by_the_names_that_it_has_elsewhere() {
    let dpo = PairLoss::Dpo { label_smoothing: 0.0 };
    let cases = [
        (&[][..], dpo),
        (&[("loss", "dpo")], dpo),
        (&[("loss_type", "sigmoid")], dpo),
        (&[("label_smoothing", "0.5")], PairLoss::Dpo { label_smoothing: 0.5 }),
        (&[("loss", "robust"), ("label_smoothing", "0.1")], PairLoss::Robust { label_smoothing: 0.1 }),
        (&[("loss", "robust")], PairLoss::Robust { label_smoothing: 0.0 }),
        (&[("loss", "hinge")], PairLoss::Hinge),
        (&[("pref_loss", "ipo")], PairLoss::Ipo),
        (&[("loss", "simpo")], PairLoss::Simpo { gamma: 0.5, label_smoothing: 0.0 }),
        (
            &[("loss", "simpo"), ("simpo_gamma", "1.6"), ("label_smoothing", "0.1"), ("cpo_alpha", "0")],
            PairLoss::Simpo { gamma: 1.6, label_smoothing: 0.1 },
        ),
        (&[("loss", "orpo")], PairLoss::Orpo),
    ];
    for (set, want) in cases {
        assert_eq!(align_loss(set), Ok(want), "{set:?}");
    }
}

#[test]
fn what_a_loss_of_pairs_does_not_read_is_refused_by_name() {
    let cases: [(&[(&str, &str)], &str); 10] = [
        (&[("loss", "kto2")], "stage.align.loss"),
        (&[("loss", "DPO")], "stage.align.loss"),
        (&[("loss", "robust"), ("label_smoothing", "0.5")], "`stage.align.label_smoothing`: with loss = \"robust\""),
        (&[("label_smoothing", "0.6")], "`stage.align.label_smoothing`: it lies between 0 and 0.5"),
        (&[("label_smoothing", "-0.1")], "`stage.align.label_smoothing`: it lies between 0 and 0.5"),
        (&[("label_smoothing", "nan")], "stage.align.label_smoothing"),
        (&[("loss", "ipo"), ("label_smoothing", "0.1")], "`stage.align.label_smoothing`: this `loss` has none"),
        (&[("loss", "orpo"), ("label_smoothing", "0")], "`stage.align.label_smoothing`: this `loss` has none"),
        (&[("simpo_gamma", "0.5")], "`stage.align.simpo_gamma`: only loss = \"simpo\" has one"),
        (&[("loss", "simpo"), ("simpo_gamma", "-1")], "`stage.align.simpo_gamma`: it must be at least 0"),
    ];
    for (set, wanted) in cases {
        let message = align_loss(set).expect_err(wanted);
        assert!(message.contains(wanted), "{set:?} gave {message}");
    }
}

#[test]
fn a_state_in_bf16_is_for_gpus() {
    let recipe = read(GOOD, &[]).unwrap();
    assert_eq!((recipe.model.state, recipe.state_format()), (StateKind::F32, StateFormat::Full));
    let set = [("model.compute", "bf16"), ("model.state", "bf16"), ("run.seed", "7")];
    let recipe = read(GOOD, &set).unwrap();
    assert_eq!(recipe.state_format(), StateFormat::Bf16 { seed: 7 });
    assert_eq!(recipe.device_kind(), DeviceKind::Cuda);
}

#[test]
fn the_key_list_is_the_struct() {
    let mut keys = Optimization {
        epochs: Some(1.0),
        tokens: Some(1),
        steps: Some(1),
        batch_tokens: Some(1),
        batch_rows: Some(1),
        micro_batch_tokens: Some(1),
        micro_batch_rows: Some(1),
        context_tokens: Some(1),
        warmup_ratio: Some(0.0),
        warmup_steps: Some(1),
        evaluate_every_steps: Some(1),
        save_every_steps: Some(1),
        early_stop_patience: Some(1),
        trainable: Trainable::LastBlocks(1),
        lora: Some(LoraTable::default()),
        ..Optimization::default()
    };
    keys.learning_rate = 1.0;
    let table = toml::Table::try_from(&keys).unwrap();
    let mut written: Vec<&str> = table.keys().map(String::as_str).collect();
    let mut listed = Optimization::KEYS.to_vec();
    written.sort_unstable();
    listed.sort_unstable();
    assert_eq!(written, listed);
}

#[test]
fn a_resolved_recipe_can_be_written_and_read_again() {
    let recipe = read(GOOD, &[]).unwrap();
    let text = toml::to_string(&recipe).unwrap();
    assert_eq!(read(&text, &[]).unwrap(), recipe, "{text}");
}

/// Each case changes the good recipe and names what the message must say.
#[test]
fn errors_name_the_line_the_key_and_the_remedy() {
    let cases: [(&str, &str, &[&str]); 29] = [
        ("kind = \"distill\"", "kind = 3", &["`stage.distill.kind`", "must be text, not a number"]),
        ("epochs = 1\n", "epochs = [1]\n", &["`stage.group1.epochs`", "must be a number, not a list"]),
        ("learning_rate = 1e-3", "learning_rat = 1e-3", &["r.toml", "stage.group1", "learning_rate"]),
        (
            "warmup_ratio = 0.1",
            "warmup_ration = 0.1",
            &["r.toml:23", "`stage.group1.warmup_ration`", "did you mean `warmup_ratio`"],
        ),
        ("name = \"demo\"", "name = \"demo\"\nsed = 1", &["r.toml:4", "`run.sed`", "did you mean `seed`"]),
        ("[model]", "[modle]", &["r.toml:4", "`modle`", "did you mean `model`"]),
        ("kind = \"chat\"", "kind = \"chat\"\ncolums = {}", &["r.toml:14", "`data.talk.colums`", "`columns`"]),
        (
            "epochs = 1\n",
            "epochs = \"one\"\n",
            &["r.toml:19", "`stage.group1.epochs`", "must be a number, not the text \"one\""],
        ),
        ("epochs = 1\n", "epochs = -1\n", &["r.toml:19", "above 0"]),
        ("epochs = 1\n", "", &["`stage.group1`", "exactly one of `epochs`, `tokens` and `steps`"]),
        ("epochs = 1\n", "epochs = 1\nsteps = 2\n", &["exactly one of `epochs`, `tokens` and `steps`"]),
        ("epochs = 1\n", "epochs = nan\n", &["`stage.group1.epochs`", "above 0"]),
        ("batch_tokens = 4096", "batch_tokens = 100", &["r.toml:20", "at least `context_tokens`"]),
        ("learning_rate = 1e-3", "learning_rate = inf", &["`stage.group1.learning_rate`"]),
        (
            "text = [\"news\"]",
            "text = [\"newz\"]",
            &["r.toml:17", "no [[data]] is named \"newz\"", "did you mean \"news\""],
        ),
        ("text = [\"news\"]", "text = [\"talk\"]", &["r.toml:17", "chat"]),
        ("kind = \"distill\"", "kind = \"distil\"", &["r.toml:26", "unknown kind \"distil\"", "\"distill\""]),
        ("kind = \"distill\"", "kind = \"distill\"\njudge = \"gpt\"", &["r.toml:27", "\"world\""]),
        (
            "kind = \"distill\"",
            "kind = \"distill\"\njudge = { url = \"http://h/v1\", model = \"m\", temperature = \"low\" }",
            &["r.toml:27", "`stage.distill.judge", "at least 0, or \"default\""],
        ),
        (
            "kind = \"distill\"",
            "kind = \"distill\"\njudge = { url = \"http://h/v1\", model = \"m\", max_tokens_field = \"limit\" }",
            &["r.toml:27", "\"max_tokens\"", "\"max_completion_tokens\""],
        ),
        (
            "kind = \"distill\"",
            "kind = \"distill\"\njudge = { url = \"http://h/v1\", model = \"m\", max_tokens = 0 }",
            &["r.toml:27", "`stage.distill.judge.max_tokens`", "at least 1"],
        ),
        ("name = \"align\"", "name = \"group1\"", &["stage.group1.name", "taken"]),
        ("schema = 1", "schema = 2", &["r.toml:1", "schema 1"]),
        ("path = \"news.jsonl\"", "path = \"world:news.jsonl\"", &["r.toml:8", "no [world] table"]),
        (
            "base = \"assets/tiny\"",
            "base = \"assets/tiny\"\nstate = \"fp8\"",
            &["r.toml:6", "`model.state`", "\"bf16\""],
        ),
        (
            "base = \"assets/tiny\"",
            "base = \"assets/tiny\"\nstate = \"bf16\"",
            &["r.toml:6", "`model.state`", "`compute = \"bf16\"`"],
        ),
        (
            "[model]",
            "device = \"cpu\"\n[model]\ncompute = \"bf16\"\nstate = \"bf16\"",
            &["r.toml:7", "`model.state`", "`run.device`"],
        ),
        ("base = \"assets/tiny\"", "", &["`model`", "exactly one of `base`"]),
        ("[run]", "[run", &["r.toml:2", "not valid TOML"]),
    ];
    for (from, to, wanted) in cases {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        let message = read(&text, &[]).expect_err(to).to_string();
        for part in wanted {
            assert!(message.contains(part), "{to:?} gave {message:?}, which lacks {part:?}");
        }
    }
}

#[test]
fn a_judge_says_how_its_server_is_asked() {
    let judge = |keys: &str| {
        let value = format!("{{ url = \"http://h/v1\", model = \"m\"{keys} }}");
        let recipe = read(GOOD, &[("stage.distill.judge", &value)]).unwrap();
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(read(&text, &[]).unwrap(), recipe, "{text}");
        let judge = recipe.stage.iter().find_map(|stage| match stage {
            Stage::Distill(DistillStage { judge: Judge::Remote(judge), .. }) => Some(judge.clone()),
            _ => None,
        });
        let judge = judge.expect("a judge at a server");
        (judge.max_tokens, judge.max_tokens_field, judge.temperature)
    };
    use {JudgeTemperature::*, MaxTokensField::*};
    for (keys, wanted) in [
        ("", (1024, None, None)),
        (", temperature = 0", (1024, None, Some(Number(0.0)))),
        (", temperature = 0.5", (1024, None, Some(Number(0.5)))),
        (", temperature = \"default\", max_tokens = 9", (9, None, Some(Default))),
        (", max_tokens_field = \"max_completion_tokens\"", (1024, Some(MaxCompletionTokens), None)),
        (", max_tokens_field = \"max_tokens\"", (1024, Some(MaxTokens), None)),
    ] {
        assert_eq!(judge(keys), wanted, "{keys}");
    }
}

#[test]
fn the_path_of_a_source_is_one_or_several() {
    let paths = |written: &str| {
        let recipe = read(&GOOD.replacen("path = \"news.jsonl\"", written, 1), &[])?;
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(read(&text, &[]).unwrap(), recipe, "{text}");
        Ok::<_, RecipeError>((recipe.data[0].path.as_slice().to_vec(), recipe.data[0].max_bad_rows))
    };
    assert_eq!(paths("path = \"news-*.jsonl\"").unwrap(), (vec![PathBuf::from("news-*.jsonl")], 0));
    let several = paths("path = [\"a.jsonl\", \"b\"]\nmax_bad_rows = 3").unwrap();
    assert_eq!(several, (vec![PathBuf::from("a.jsonl"), PathBuf::from("b")], 3));
    for (written, wanted) in [
        ("path = 3", "a path, or a list of paths"),
        ("path = []", "`data.news.path`"),
        ("path = [\"a.jsonl\", \"world:b.jsonl\"]", "no [world] table"),
        ("path = \"a\"\nmax_bad_rows = -1", "max_bad_rows"),
    ] {
        let message = paths(written).expect_err(written).to_string();
        assert!(message.contains(wanted), "{written} gave {message}");
    }
}

#[test]
fn a_stage_says_which_parameters_it_trains() {
    let trainable = |value: &str| {
        let recipe = read(GOOD, &[("stage.group1.trainable", value)])?;
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(read(&text, &[]).unwrap(), recipe, "{text}");
        let Stage::Train(stage) = &recipe.stage[0] else { panic!("not a train stage") };
        Ok::<_, RecipeError>(stage.optimization.trainable.clone())
    };
    assert_eq!(trainable("all").unwrap(), Trainable::All);
    assert_eq!(trainable("{ last_blocks = 4 }").unwrap(), Trainable::LastBlocks(4));
    let names = vec!["*.self_attn.*".to_owned(), "lm_head.weight".to_owned()];
    let written = "{ names = [\"*.self_attn.*\", \"lm_head.weight\"] }";
    assert_eq!(trainable(written).unwrap(), Trainable::Names(names));
    for (value, wanted) in [
        ("some", "\"some\" is no selection of parameters"),
        ("{}", "exactly one of `last_blocks` and `names`"),
        ("{ last_blocks = 1, names = [\"*\"] }", "exactly one of `last_blocks` and `names`"),
        ("{ last_blocks = 0 }", "nothing would be trained"),
        ("{ names = [] }", "nothing would be trained"),
        ("{ last_blocks = -1 }", "must be a whole number from 0 up, not the number -1"),
    ] {
        let message = trainable(value).expect_err(value).to_string();
        assert!(message.contains("`stage.group1.trainable`") && message.contains(wanted), "{value} gave {message}");
        assert!(message.contains("write \"all\""), "{value} gave {message}");
    }
    let message = trainable("{ last_block = 1 }").unwrap_err().to_string();
    assert!(message.contains("`stage.group1.trainable.last_block`; did you mean `last_blocks`?"), "{message}");
}

#[test]
fn a_selection_that_the_model_cannot_obey_is_refused_when_the_model_is_known() {
    let config = serde_json::json!({
        "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    });
    let config = Config::from_json(config.as_object().unwrap().clone()).unwrap();
    let resolve = |value: &str| {
        let judge = ("stage.distill.judge", "{ url = \"http://h/v1\", model = \"m\" }");
        read(GOOD, &[("stage.align.trainable", value), judge]).unwrap().resolve(Some(Path::new("runs/r")), &config)
    };
    let worldless = read(GOOD, &[]).unwrap().resolve(Some(Path::new("runs/r")), &config).unwrap_err().to_string();
    assert!(worldless.contains("stage `distill`: judge = \"world\""), "{worldless}");
    resolve("{ last_blocks = 2 }").unwrap();
    resolve("{ names = [\"model.layers.1.*\"] }").unwrap();
    for (value, wanted) in
        [("{ last_blocks = 3 }", "the model has 2"), ("{ names = [\"*.attention.*\"] }", "matches no parameter")]
    {
        let message = resolve(value).expect_err(value).to_string();
        assert!(message.contains("stage `align`: `trainable`") && message.contains(wanted), "{value} gave {message}");
    }
}

#[test]
fn overrides_are_checked_like_the_file() {
    for (key, value, wanted) in [
        ("stage.group1.learning_rat", "1", "did you mean `learning_rate`"),
        ("stage.group3.learning_rate", "1", "no member `group3`"),
        ("run.name.x", "1", "has no keys"),
        ("run..x", "1", "of the form"),
        ("stage.group1", "1", "whole member"),
        ("stage.group1.epochs", "0", "above 0"),
        ("stage.group1.epochs", " ", "--unset stage.group1.epochs"),
    ] {
        let message = read(GOOD, &[(key, value)]).expect_err(key).to_string();
        assert!(message.contains(wanted), "{key} gave {message}");
    }
}

#[test]
fn exercises_and_pairs_are_named_as_other_data_are() {
    let distilled = |overrides: &[(&str, &str)]| match &read(GOOD, overrides).unwrap().stage[1] {
        Stage::Distill(stage) => serde_json::to_value(stage).unwrap(),
        other => panic!("{other:?}"),
    };
    // A stage that was begun before these keys existed has the same keys.
    let before = distilled(&[]);
    assert!(before["exercises"].is_string() && before.get("exercise_columns").is_none(), "{before}");
    let columns = "{ question = \"q\", answer = \"a\" }";
    let several = "[\"a.jsonl\", \"b/*.parquet\"]";
    let mapped = distilled(&[("stage.distill.exercise_columns", columns), ("stage.distill.exercises", several)]);
    assert_eq!(
        (mapped["exercise_columns"]["answer"].as_str(), mapped["exercises"][1].as_str()),
        (Some("a"), Some("b/*.parquet"))
    );
    let own = "[[data]]\nname = \"own\"\npath = \"own.jsonl\"\nkind = \"preference\"\n[[stage]]";
    let text = GOOD.replacen("[[stage]]", own, 1);
    let uses = |pairs: &str| match read(&text, &[("stage.align.pairs", pairs)]).map(|recipe| recipe.stage[2].clone()) {
        Ok(Stage::Align(stage)) => Ok(stage.uses_distilled()),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    };
    assert_eq!(uses("[\"own\"]"), Ok(false));
    assert_eq!(uses("[\"own\", \"preferences\"]"), Ok(true));
    for (pairs, want) in [
        ("[\"own\", \"own\"]", "\"own\" twice"),
        ("[\"preferences\", \"preferences\"]", "\"preferences\" twice"),
        ("[\"preference\"]", "no [[data]] is named \"preference\""),
    ] {
        assert!(uses(pairs).unwrap_err().contains(want), "{pairs}");
    }
    for (key, value, want) in [
        ("stage.distill.exercise_columns", "{ anwser = \"a\" }", "answer"),
        ("stage.distill.exercise_format", "\"txt\"", "named fields"),
        ("data.talk.columns", "{ sytem = \"a\" }", "system"),
        ("stage.distill.exercises", "[]", "name a file"),
    ] {
        let error = read(GOOD, &[(key, value)]).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn an_adapter_is_read_with_its_defaults_and_refused_where_it_cannot_be_trained() {
    let lora = |value: &str| read(GOOD, &[("stage.group1.lora", value)]).map(|recipe| recipe.stage[0].clone());
    let trained = |value: &str| {
        let stage = lora(value).unwrap_or_else(|error| panic!("{value}: {error}"));
        *stage.trained().unwrap().0.trained().lora().expect("an adapter")
    };
    let [all, some] = [trained("{}"), trained("{ rank = 64, alpha = 16, targets = [\"v_proj\"], rslora = true }")];
    assert_eq!((all.rank, all.alpha, all.targets.names().count(), all.is_rank_stabilized), (16, 32.0, 7, false));
    assert_eq!((some.rank, some.alpha, some.is_rank_stabilized), (64, 16.0, true));
    assert_eq!(some.targets.names().collect::<Vec<_>>(), ["v_proj"]);
    assert_eq!(trained("{ rank = 4 }").alpha, 8.0, "twice the rank");
    for (value, key, problem) in [
        ("{ rank = 0 }", "lora.rank", "at least 1"),
        ("{ rank = -1 }", "lora", "rank"),
        ("{ rank = 9223372036854775807 }", "lora.rank", "at most 65536"),
        ("{ alpha = 0 }", "lora.alpha", "above 0"),
        ("{ alpha = nan }", "lora.alpha", "above 0"),
        ("{ targets = [] }", "lora.targets", "at least one"),
        ("{ targets = [\"q_prj\"] }", "lora.targets", "did you mean \"q_proj\"?"),
        ("{ targets = [\"lm_head\"] }", "lora.targets", "there are q_proj"),
        ("{ targets = [\"q_proj\", \"q_proj\"] }", "lora.targets", "twice"),
        ("{ dropout = 0.05 }", "lora.dropout", "not supported"),
        ("{ ranks = 4 }", "lora.ranks", "did you mean `rank`?"),
        ("true", "lora", "table"),
    ] {
        let error = lora(value).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(problem), "{value}: {error}");
    }
    let both = [("stage.align.lora", "{}"), ("stage.align.trainable", "{ last_blocks = 1 }")];
    let error = read(GOOD, &both).unwrap_err().to_string();
    assert!(error.contains("an adapter is trained alone"), "{error}");
}

/// No recipe that is refused for it may have come as far as its first stage.
#[test]
fn a_rank_that_a_gpu_cannot_multiply_by_is_refused_with_the_recipe() {
    let config = Config::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-instruct"))).unwrap();
    let judge = ("stage.distill.judge", "{ url = \"http://h/v1\", model = \"m\" }");
    let resolve = |set: &[(&str, &str)]| read(GOOD, &[set, &[judge]].concat()).unwrap().resolve(None, &config);
    let lora = ("stage.group1.lora", "{ rank = 4 }");
    let gpu = [("model.compute", "bf16"), ("run.device", "cuda:0"), lora];
    let error = resolve(&gpu).unwrap_err().to_string();
    assert!(error.contains("`lora`") && error.contains("multiple of 8"), "{error}");
    resolve(&gpu[1..]).unwrap();
    resolve(&[gpu[0], ("run.device", "cpu"), lora]).unwrap();
}

#[test]
fn a_train_stage_learns_the_right_solutions_of_the_distillation_before_it() {
    let chat = |stage: &str, names: &str| {
        let own = "\n[[stage]]\nname = \"again\"\nkind = \"train\"\nchat = [\"talk\"]\nsteps = 1\nbatch_tokens = 64\nlearning_rate = 1e-3\n";
        let text = format!("{GOOD}{own}");
        read(&text, &[(&format!("stage.{stage}.chat"), names)])
    };
    let recipe = chat("again", "[\"talk\", \"right-solutions\"]").expect("right solutions beside other data");
    assert_eq!(recipe.trained_of_distillation(), [true, true]);
    assert_eq!(chat("again", "[\"talk\"]").expect("plain").trained_of_distillation(), [true, false]);
    for (stage, names, want) in [
        ("group1", "[\"right-solutions\"]", "a distill stage before it"),
        ("again", "[\"right-solutions\", \"right-solutions\"]", "twice"),
        ("again", "[\"right-solution\"]", "no [[data]] is named \"right-solution\""),
    ] {
        let error = chat(stage, names).expect_err(names).to_string();
        assert!(error.contains(want), "{error}");
    }
    let text = GOOD.replace("name = \"talk\"", "name = \"right-solutions\"");
    assert!(read(&text, &[]).expect_err("reserved").to_string().contains("reserved"));
}
