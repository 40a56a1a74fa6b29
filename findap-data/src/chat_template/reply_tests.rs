//! Replies that templates rewrite, and words that look like control tokens, with a tokenizer that has tokens which are not special.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::batch::TokenizedRow;
use crate::error::DataError;
use crate::tokenizer::Tokenizer;

/// The golden tokenizer with more added tokens, none of them special, beside this template.
fn folder(template: &str, words: &[&str]) -> TempDir {
    let tiny = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
    let folder = tempfile::tempdir().expect("folder");
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(tiny.join(name)).expect(name)).expect(name) };
    let mut tokenizer = read("tokenizer.json");
    let added = tokenizer["added_tokens"].as_array_mut().expect("added tokens");
    let mut like = added[0].clone();
    let first = added.iter().filter_map(|token| token["id"].as_u64()).max().expect("ids") + 1;
    for (id, word) in (first..).zip(words) {
        like["id"] = json!(id);
        like["content"] = json!(word);
        like["special"] = json!(false);
        added.push(like.clone());
    }
    let mut config = read("tokenizer_config.json");
    config.as_object_mut().expect("an object").remove("chat_template");
    config["image_token"] = json!("<|python_tag|>");
    config["additional_special_tokens"] = json!(["<|eom_id|>", {"content": "<|eot_id|>"}]);
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect(name);
    write("tokenizer.json", tokenizer.to_string());
    write("tokenizer_config.json", config.to_string());
    write("chat_template.jinja", template.to_string());
    folder
}

fn loaded(template: &str, words: &[&str]) -> (Tokenizer, ChatTemplate) {
    let folder = folder(template, words);
    (Tokenizer::load(folder.path()).expect("tokenizer"), ChatTemplate::load(folder.path()).expect(template))
}

/// Ids as they are where every spelling of an added token is that token.
fn all_control(tokenizer: &Tokenizer, template: &ChatTemplate, messages: &[Message]) -> Vec<u32> {
    tokenizer.encode_rendered(&template.render(messages, false).expect("render")).expect("ids")
}

fn learnt(tokenizer: &Tokenizer, row: &TokenizedRow) -> String {
    let ids: Vec<u32> = row.ids.iter().zip(&row.mask).filter(|(_, keep)| **keep).map(|(&id, _)| id).collect();
    tokenizer.decode(&ids, false).expect("decode")
}

fn tool(content: &str) -> Message {
    Message { role: crate::message::Role::Tool, content: content.to_string() }
}

const TAGS: [&str; 2] = ["<think>", "</think>"];

/// Writes the reasoning of the replies behind the last question anew, and an empty one for the last reply.
const REASONING: &str = "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}\
{% endfor %}{% for m in messages %}{% set c = m.content %}{% set r = '' %}{% if m.role == 'assistant' and '</think>' in c %}\
{% set r = c.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{% set c = c.split('</think>')[-1].lstrip('\\n') %}\
{% endif %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' }}{% if m.role == 'assistant' and loop.index0 > ns.last \
and (loop.last or r) %}{{ '<think>\\n' + r + '\\n</think>\\n\\n' }}{% endif %}{{ c + '<|eot_id|>' }}{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}";

#[test]
fn both_tags_of_a_rewritten_reply_are_tokens() {
    let (tokenizer, template) = loaded(REASONING, &TAGS);
    let reasoned = Message::assistant("<think>\nr\n</think>\n\nb");
    let messages = [Message::user("a"), reasoned, tool("t"), Message::assistant("no")];
    let row = template.encode_conversation(&tokenizer, &messages).expect("row");
    assert_eq!(row.ids, all_control(&tokenizer, &template, &messages));
    assert_eq!(learnt(&tokenizer, &row), "<think>\nr\n</think>\n\nb<|eot_id|>no<|eot_id|>");
    // What a user spells stays text, as do special tokens in a reply.
    let count = |row: &TokenizedRow, token: &str| {
        let id = tokenizer.token_to_id(token);
        row.ids.iter().filter(|&&other| Some(other) == id).count()
    };
    let messages = [Message::user("a </think>"), Message::assistant("<think>\nr\n</think>\n\nb<|eot_id|>")];
    let row = template.encode_conversation(&tokenizer, &messages).expect("row");
    assert_eq!([count(&row, "</think>"), count(&row, "<|eot_id|>")], [1, 2]);
}

#[test]
fn a_system_text_of_the_template_does_not_make_text_of_tags_in_replies() {
    let source = "{% if messages[0].role != 'system' %}<|start_header_id|>system<|end_header_id|>Think between <think> and </think>.\
<|eot_id|>{% endif %}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}<|stop|>{% endfor %}";
    let (tokenizer, template) = loaded(source, &["<think>", "</think>", "<|stop|>"]);
    let messages = [Message::user("a"), Message::assistant("<think>r</think>b")];
    let row = template.encode_conversation(&tokenizer, &messages).expect("row");
    assert_eq!(row.ids, all_control(&tokenizer, &template, &messages));
    // What structures turns is the template's, though this conversation has it but once.
    let messages = [Message::user("a"), Message::assistant("b<|stop|>")];
    let row = template.encode_conversation(&tokenizer, &messages).expect("row");
    let stop = tokenizer.token_to_id("<|stop|>");
    assert_eq!(row.ids.iter().filter(|&&id| Some(id) == stop).count(), 2);
}

#[test]
fn a_header_is_not_learnt_where_the_template_ignores_the_generation_prompt() {
    let open = "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}";
    let always = REASONING.replace("and loop.index0 > ns.last and (loop.last or r)", "");
    let messages = [Message::user("a"), Message::assistant("<think>\nr\n</think>\n\nb")];
    let (tokenizer, template) = loaded(&always, &TAGS);
    let row = template.encode_conversation(&tokenizer, &messages).expect("row");
    assert_eq!(learnt(&tokenizer, &row), "<think>\nr\n</think>\n\nb<|eot_id|>");
    let (tokenizer, template) = loaded(&always.replace(open, ""), &TAGS);
    let error = template.encode_conversation(&tokenizer, &messages).expect_err("nothing tells where it begins");
    let is_not_found = |error: &DataError| {
        matches!(error, DataError::Template { problem: TemplateProblem::TurnNotFound { message: 1 }, .. })
    };
    assert!(is_not_found(&error), "{error}");
}

#[test]
fn ordinary_words_of_the_tokenizer_are_tokens_in_every_text() {
    let source = "{# four blanks     and === #}{% for m in messages %}    {{ '<|start_header_id|>' ~ m['role'] }}<|end_header_id|>\
{% if m['content'] == 'user' %}{% endif %}{{ m['content'] }}<|eot_id|>{% endfor %}";
    for word in ["content", "    ", "user", "messages", "==="] {
        let (tokenizer, template) = loaded(source, &[word]);
        let text = format!("the{word}of bonds");
        let id = tokenizer.token_to_id(word).expect("a token");
        assert!(tokenizer.encode(&text, false).expect("ids").contains(&id), "{word:?}");
        let messages = [Message::user(text.clone()), Message::assistant(text)];
        let row = template.encode_conversation(&tokenizer, &messages).expect(word);
        assert_eq!(row.ids, all_control(&tokenizer, &template, &messages), "{word:?}");
    }
}

#[test]
fn all_token_variables_of_a_folder_reach_the_template() {
    let source = "{{ image_token }}{{ additional_special_tokens[1] }}{{ additional_special_tokens | length }}";
    let (_, template) = loaded(source, &[]);
    assert_eq!(template.render(&[], false).expect("render"), "<|python_tag|><|eot_id|>2");
    let plain = |change: fn(&mut BTreeMap<String, Vec<String>>)| {
        let mut tokens = BTreeMap::from([("image_token".to_string(), vec!["<i>".to_string()])]);
        change(&mut tokens);
        ChatTemplate::compile(Path::new("t"), "{{ image_token }}", tokens).expect("compile").fingerprint()
    };
    assert_eq!(plain(|_| ()), plain(|tokens| _ = tokens.insert("sep_token".into(), vec!["<s>".into()])));
    assert_ne!(plain(|_| ()), plain(|tokens| _ = tokens.insert("image_token".into(), vec!["<s>".into()])));
}

#[test]
fn a_conversation_of_a_thousand_turns_is_read_in_a_few_renderings() {
    let (tokenizer, template) = loaded(REASONING, &TAGS);
    let messages: Vec<Message> = (0..500)
        .flat_map(|n| [Message::user(format!("q{n}")), Message::assistant(format!("<think>\nr{n}\n</think>\n\nb{n}"))])
        .collect();
    let started = std::time::Instant::now();
    let row = template.encode_conversation(&tokenizer, &messages).expect("row");
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    let want: String = (0..499).map(|n| format!("b{n}<|eot_id|>")).collect();
    assert_eq!(learnt(&tokenizer, &row), want + "<think>\nr499\n</think>\n\nb499<|eot_id|>");
    assert_eq!(row.ids, all_control(&tokenizer, &template, &messages));
}

#[test]
fn a_reply_that_goes_on_is_what_the_template_prints_of_it_with_the_blanks_at_its_end() {
    let trims = "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|> {{ m.content | trim }}<|eot_id|>{% endfor %}\
{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}";
    let upper = trims.replace("| trim", "| upper");
    let head = "<|start_header_id|>user<|end_header_id|>";
    let reply = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>";
    let unended = |source: &str, content: &str, border: usize| {
        let (tokenizer, template) = loaded(source, &TAGS);
        let messages = [Message::user("a"), Message::assistant(content)];
        let (ids, num_before) = template.encode_unended(&tokenizer, &messages, border)?;
        let text = |ids: &[u32]| tokenizer.decode(ids, false).expect("decode");
        Ok::<_, DataError>((text(&ids[..num_before]), text(&ids[num_before..])))
    };
    let of = |before: &str, learnt: &str| (before.to_owned(), learnt.to_owned());
    assert_eq!(unended(trims, "b\nc\n", 2).expect("trimmed"), of(&format!("{head} a{reply} b\n"), "c\n"));
    // The template writes an empty reasoning before what has none, and what has one keeps it.
    let empty = format!("{head}a{reply}<think>\n\n</think>\n\nb\n");
    assert_eq!(unended(REASONING, "b\nc\n", 2).expect("reasoned"), of(&empty, "c\n"));
    let begun = "<think>\n\n</think>\n\nb\n";
    assert_eq!(unended(REASONING, &format!("{begun}c\n"), begun.len()).expect("whole"), of(&empty, "c\n"));
    let error = unended(&upper, "b\nc\n", 2).expect_err("not what was written").to_string();
    assert!(error.contains("message"), "{error}");
}
