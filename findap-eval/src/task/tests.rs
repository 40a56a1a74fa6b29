use super::*;

const CHOICE: &str = r#"
schema = 1
name = "t"
version = 1
capability = "concept"
domain = "finance"
similarity = "similar"
license = "Apache-2.0"
source = "made up"
chance = 0.25
metrics = ["acc", "acc_norm"]
chat = false
prompt = "Q: {question}\nA:"

[dataset]
path = "world:eval/t.jsonl"

[multiple_choice]
choices_from = "choices"
gold = "answer"
"#;

const GENERATE: &str = r#"
[generate]
gold = "{answer}"
extract = [{ after = "Answer:" }, "last_number"]
max_new_tokens = 8
"#;

fn generate() -> String {
    let head = CHOICE.split("\n[multiple_choice]").next().expect("the head");
    format!("{head}{GENERATE}").replace(r#"["acc", "acc_norm"]"#, r#"["exact_match"]"#)
}

fn fails(text: &str) -> EvalError {
    Task::parse("t.toml", text).expect_err("must be refused")
}

#[test]
fn both_kinds_parse_with_their_defaults() {
    let task = Task::parse("t.toml", CHOICE).expect("parses");
    assert_eq!((task.title.as_str(), task.headline()), ("t", Metric::Acc));
    let Kind::MultipleChoice(choice) = &task.kind else { panic!("wrong kind") };
    assert_eq!((choice.answer_prefix.as_str(), choice.gold_is), (" ", GoldIs::Index));
    let task = Task::parse("t.toml", &generate()).expect("parses");
    assert!(matches!(&task.kind, Kind::Generate(generate) if generate.max_new_tokens == 8));
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_key() {
    for (from, to, line, nearest) in [
        ("similarity =", "similrity =", 7, "similarity"),
        ("choices_from =", "choice_from =", 19, "choices_from"),
        ("\"acc_norm\"", "\"acc_nrom\"", 11, "acc_norm"),
        ("\"concept\"", "\"concepts\"", 5, "concept"),
        ("path =", "pth =", 16, "path"),
    ] {
        match fails(&CHOICE.replace(from, to)) {
            EvalError::TaskSyntax { line: found, nearest: Some(name), .. } => {
                assert_eq!((found, name.as_str()), (line, nearest), "{to}");
            }
            other => panic!("{to}: {other}"),
        }
    }
    let error = fails(&generate().replace("last_number", "last_numbr"));
    assert!(error.to_string().ends_with("did you mean `last_number`?"), "{error}");
}

#[test]
fn impossible_tasks_are_refused_by_field() {
    let choice = |from: &str, to: &str| CHOICE.replace(from, to);
    let generate = |from: &str, to: &str| generate().replace(from, to);
    let cases = [
        (choice("schema = 1", "schema = 2"), "schema"),
        (generate("\"last_number\"", "{ regex = { pattern = \"(a)\", group = 2 } }"), "generate.extract"),
        (generate("\"last_number\"", "{ label = { labels = [\"\", \"a\"], how = \"strict\" } }"), "generate.extract"),
        (
            generate("extract =", "gold_extract = [{ regex = { pattern = \"a\", group = 1 } }]\nextract ="),
            "generate.gold_extract",
        ),
        (generate("extract =", "gold_extract = [{ number = { scale = true } }]\nextract ="), "generate.extract"),
        (choice("name = \"t\"", "name = \"a/b\""), "name"),
        (choice("[\"acc\", \"acc_norm\"]", "[]"), "metrics"),
        (choice("\"acc_norm\"", "\"rouge1\""), "metrics"),
        (choice("chance = 0.25", "chance = nan"), "chance"),
        (choice("chat = false", "chat = false\nsystem = \"s\""), "system"),
        (choice("chat = false", "chat = false\nfewshot_as_multiturn = true"), "fewshot_as_multiturn"),
        (choice("t.jsonl\"", "t.jsonl\"\nsubsets = [\"a\"]"), "dataset.path"),
        (choice("t.jsonl\"", "{subset}.jsonl\""), "dataset.path"),
        (choice("t.jsonl\"", "{subset}.jsonl\"\nsubsets = [\"../a\"]"), "dataset.subsets"),
        (choice("t.jsonl\"", "t.jsonl\"\ncolumns = [\"a\"]"), "dataset.columns"),
        (choice("choices_from = \"choices\"", ""), "multiple_choice.choices"),
        (choice("choices_from = \"choices\"", "choices = []"), "multiple_choice.choices"),
        (format!("{CHOICE}{GENERATE}"), "kind"),
        (generate("max_new_tokens = 8", "max_new_tokens = 0"), "generate.max_new_tokens"),
        (generate("max_new_tokens = 8", "max_new_tokens = 8\nstop = [\"\"]"), "generate.stop"),
        (generate("max_new_tokens = 8", "max_new_tokens = 8\ntolerance = 1.0"), "generate.tolerance"),
        (generate("gold = \"{answer}\"", ""), "generate.gold"),
        (generate("[\"exact_match\"]", "[\"checks\"]"), "metrics"),
        (choice("gold = \"answer\"", "gold = \"answer\"\ngold_is = \"label\""), "multiple_choice.labels"),
        (choice("gold = \"answer\"", "gold = \"answer\"\nlabels = [\"a\"]"), "multiple_choice.labels"),
        (choice("gold = \"answer\"", "gold = \"answer\"\nblank = \"\""), "multiple_choice.blank"),
        (choice("gold = \"answer\"", "gold = \"answer\"\nblank = \"_\""), "metrics"),
        (choice("t.jsonl\"", "t.jsonl\"\nalso_at = [\"world:{subset}.jsonl\"]"), "dataset.path"),
        (generate("max_new", "gold_from = \"answers\"\nmax_new"), "generate.gold_from"),
        (generate("gold = \"{answer}\"", "gold_from = \"a\"").replace("exact_match", "mcc"), "generate.gold_from"),
        (generate("[\"exact_match\"]", "[\"flare_acc\"]"), "generate.flare"),
        (generate("max_new", "flare = { labels = [\"a\"] }\nmax_new"), "generate.flare"),
        (generate("max_new", "labels_from = \"choices\"\nmax_new"), "generate.labels_from"),
        (generate("\"last_number\"", "{ label = { how = \"strict\" } }"), "generate.labels_from"),
        (generate("max_new", "rouge_stemming = true\nmax_new"), "generate.rouge_stemming"),
    ];
    for (text, want) in cases {
        match fails(&text) {
            EvalError::TaskInvalid { field, .. } => assert_eq!(field, want),
            other => panic!("{want}: {other}"),
        }
    }
}

#[test]
fn a_broken_template_or_pattern_is_a_syntax_error_with_its_line() {
    for text in [
        CHOICE.replace("{question}", "{question"),
        CHOICE.replace("t.jsonl\"", "t.jsonl\"\nlists.c = { from = \"o\", separator = \"(\" }"),
        generate().replace("\"last_number\"", "{ regex = { pattern = \"(\" } }"),
    ] {
        assert!(matches!(fails(&text), EvalError::TaskSyntax { line: 13 | 17.., .. }), "{}", fails(&text));
    }
}
