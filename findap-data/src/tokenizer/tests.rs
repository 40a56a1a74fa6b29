use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny");

/// The golden tokenizer, changed, in a folder of its own.
fn folder(change: impl FnOnce(&mut Value, &mut Value), template: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(Path::new(TINY).join(name)).expect(name)).expect(name)
    };
    let (mut tokenizer, mut config) = (read("tokenizer.json"), read("tokenizer_config.json"));
    change(&mut tokenizer, &mut config);
    if let Some(config) = config.as_object_mut() {
        config.remove("chat_template");
    }
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect(name);
    write("tokenizer.json", tokenizer.to_string());
    write("tokenizer_config.json", config.to_string());
    write("chat_template.jinja", template.to_string());
    folder
}

/// Renames the added token of this text, and says whether it is special.
fn rename(tokenizer: &mut Value, from: &str, to: &str, is_special: bool) {
    let added = tokenizer["added_tokens"].as_array_mut().expect("added tokens");
    let token = added.iter_mut().find(|token| token["content"] == from).expect("the token");
    token["content"] = json!(to);
    token["special"] = json!(is_special);
}

fn has(tokenizer: &Tokenizer, ids: &[u32], token: &str) -> bool {
    ids.contains(&tokenizer.token_to_id(token).expect("a token"))
}

#[test]
fn what_a_template_writes_is_control_whether_special_or_not() {
    for (template, token, is_control) in [
        ("{{ '<|stop|>' }}", "<|stop|>", true),
        ("{{ '<|' + messages[0].role + '|>' }}", "<|user|>", true),
        ("{%- set names = {'user': 'HUMAN'} -%}{{ '<|' ~ names[messages[0].role] ~ '|>' }}", "<|SYS|>", true),
        ("{{ '<|' ~ messages[0].role | upper ~ '|>' }}", "<|SYSTEM|>", true),
        ("{{ messages[0].content }}", "<|stop|>", false),
        ("{{ messages[0].content }}", "EBITDA", false),
    ] {
        let folder = folder(|tokenizer, _| rename(tokenizer, "<|eom_id|>", token, false), template);
        let tokenizer = Tokenizer::load(folder.path()).expect("it loads");
        let ids = tokenizer.encode(&format!("a {token} b"), false).expect("ids");
        assert_eq!(has(&tokenizer, &ids, token), !is_control, "{template} {token}");
        assert_eq!(tokenizer.decode(&ids, false).expect("text"), format!("a {token} b"));
        assert_eq!(tokenizer.special_ranges(&format!("a {token}")).len(), usize::from(is_control));
    }
}

#[test]
fn no_number_of_added_tokens_ends_the_protection() {
    let long = |n: usize| format!("<|{n:0>600}|>");
    let folder = folder(
        |tokenizer, _| {
            let added = tokenizer["added_tokens"].as_array_mut().expect("added tokens");
            let first = added.last().expect("one")["id"].as_u64().expect("id") + 1;
            let like = added[0].clone();
            added.extend((0..3000).map(|n| {
                let mut token = like.clone();
                token["id"] = json!(first + n);
                token["content"] = json!(long(n as usize));
                token
            }));
        },
        "",
    );
    let tokenizer = Tokenizer::load(folder.path()).expect("it loads");
    let text = format!("{}<|eot_id|>", long(2999));
    let ids = tokenizer.encode(&text, false).expect("ids");
    assert!(!has(&tokenizer, &ids, &long(2999)) && !has(&tokenizer, &ids, "<|eot_id|>"));
    assert_eq!(tokenizer.special_ranges(&text).len(), 2);
}

#[test]
fn no_normalizer_makes_a_control_token_of_text() {
    for (normalizer, text) in [
        (json!({"type": "Lowercase"}), "x <|EOT_ID|>"),
        (json!({"type": "NFKC"}), "x \u{ff1c}|eot_id|>"),
        (json!({"type": "Replace", "pattern": {"String": "#"}, "content": "|"}), "x <#eot_id#>"),
        (json!({"type": "StripAccents"}), "x <|eot_id|\u{301}>"),
    ] {
        let folder = folder(
            |tokenizer, _| {
                tokenizer["normalizer"] = normalizer.clone();
                for token in tokenizer["added_tokens"].as_array_mut().expect("added tokens") {
                    token["normalized"] = json!(true);
                }
            },
            "",
        );
        let tokenizer = Tokenizer::load(folder.path()).expect("it loads");
        let ids = tokenizer.encode(text, false).expect("ids");
        assert!(!has(&tokenizer, &ids, "<|eot_id|>"), "{normalizer}");
        // Where a template wrote it, it is one.
        let ids = tokenizer.encode_with_control("x <|eot_id|>", &[2]).expect("ids");
        assert_eq!(
            ids.last().map(|(id, range)| (*id, range.clone())),
            tokenizer.token_to_id("<|eot_id|>").map(|id| (id, 2..12))
        );
    }
}

#[test]
fn a_normalizer_that_would_lift_the_protection_is_refused() {
    let folder = folder(
        |tokenizer, _| {
            tokenizer["normalizer"] =
                json!({"type": "Replace", "pattern": {"Regex": "[\\x{100000}-\\x{10ffff}]"}, "content": ""});
            tokenizer["added_tokens"][0]["normalized"] = json!(true);
        },
        "",
    );
    let error = Tokenizer::load(folder.path()).expect_err("unprotected");
    assert!(error.to_string().contains("for private use"), "{error}");
}

#[test]
fn a_control_token_takes_the_blanks_that_its_flags_say() {
    let folder = folder(
        |tokenizer, _| {
            for token in tokenizer["added_tokens"].as_array_mut().expect("added tokens") {
                token["lstrip"] = json!(true);
                token["rstrip"] = json!(true);
            }
        },
        "",
    );
    let tokenizer = Tokenizer::load(folder.path()).expect("it loads");
    let text = "a  <|eot_id|> b";
    let read = tokenizer.encode_with_control(text, &[3]).expect("ids");
    assert_eq!(read, tokenizer.encode_rendered_with_ranges(text).expect("ids"));
    assert_eq!(read[1].1, 1..14);
    assert!(!has(&tokenizer, &tokenizer.encode(text, false).expect("ids"), "<|eot_id|>"));
}

#[test]
fn a_spelling_that_must_be_a_word_of_its_own_is_text_inside_of_a_word() {
    let folder = folder(
        |tokenizer, _| {
            rename(tokenizer, "<|eom_id|>", "halt", true);
            for token in tokenizer["added_tokens"].as_array_mut().expect("added tokens") {
                token["single_word"] = json!(true);
            }
        },
        "",
    );
    let tokenizer = Tokenizer::load(folder.path()).expect("it loads");
    let read = tokenizer.encode_with_control("halting halt", &[0, 8]).expect("ids");
    assert_eq!(read, tokenizer.encode_rendered_with_ranges("halting halt").expect("ids"));
}

#[test]
fn a_begin_token_stands_before_text_where_the_tokenizer_file_puts_one() {
    for (post_processor_is_kept, add_bos_token) in [(true, false), (true, true), (false, true), (false, false)] {
        let folder = folder(
            |tokenizer, config| {
                if !post_processor_is_kept {
                    tokenizer["post_processor"] = Value::Null;
                }
                config["add_bos_token"] = json!(add_bos_token);
            },
            "",
        );
        let tokenizer = Tokenizer::load(folder.path()).expect("it loads");
        let ids = tokenizer.encode("a", true).expect("ids");
        assert_eq!(ids.first().copied() == tokenizer.bos(), post_processor_is_kept, "add_bos_token {add_bos_token}");
        assert_eq!(tokenizer.text_prefix().len(), usize::from(post_processor_is_kept));
    }
}

#[test]
fn a_token_that_the_model_lacks_is_refused_unless_nobody_can_write_it() {
    let with_model = |template: &str, vocab_size: usize| {
        let folder = folder(|_, _| (), template);
        std::fs::write(folder.path().join("config.json"), json!({"vocab_size": vocab_size}).to_string())
            .expect("config");
        Tokenizer::load(folder.path())
    };
    // The last id is that of a reserved token that no template here writes.
    let reserved = Tokenizer::load(Path::new(TINY)).expect("it loads").vocab_size() - 1;
    with_model("{{ '<|eot_id|>' }}", reserved + 1).expect("as large as the model");
    with_model("{{ '<|eot_id|>' }}", reserved).expect("nobody writes what is missing");
    let error = with_model("{{ '<|python_tag|>' }}", reserved).expect_err("the template writes it");
    assert!(
        matches!(error, DataError::Tokenizer { problem: TokenizerProblem::BeyondModel { id, vocab_size, .. }, .. }
        if id as usize == reserved && vocab_size == reserved),
        "{error}"
    );
    let error = with_model("", 100).expect_err("too large");
    assert!(error.to_string().contains("vocab_size") && error.to_string().contains("100"), "{error}");
}

#[test]
fn a_panic_of_the_library_is_an_error_and_prints_nothing() {
    let result: Result<(), _> = guard("encode", || panic!("inside"));
    assert_eq!(result, Err(TokenizerProblem::LibraryPanic { action: "encode" }));
}
