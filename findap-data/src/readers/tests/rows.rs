//! Fields of rows and turns that change what is learnt.

use super::*;
use crate::message::Role;

fn one(line: &str) -> Result<Record, DataError> {
    read_all("a.jsonl", line.as_bytes()).map(|mut records| records.remove(0))
}

fn learnt(line: &str) -> Vec<String> {
    match one(line).expect(line) {
        Record::Conversation(Conversation { messages, unlearnt, .. }) => {
            let is_learnt =
                |(index, turn): &(usize, Message)| turn.role == Role::Assistant && !unlearnt.contains(index);
            messages.into_iter().enumerate().filter(is_learnt).map(|(_, turn)| turn.content).collect()
        }
        other => panic!("{line}: {other:?}"),
    }
}

/// A conversation whose first answer has a further field.
fn with_turn_field(field: &str) -> String {
    format!(
        r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "b", {field}}},
           {{"role": "user", "content": "c"}}, {{"role": "assistant", "content": "d"}}]}}"#
    )
    .replace('\n', " ")
}

#[test]
fn answers_marked_as_not_learnt_are_not_learnt() {
    for (field, want) in [
        (r#""weight": 0"#, vec!["d"]),
        (r#""weight": 0.0"#, vec!["d"]),
        (r#""weight": 1"#, vec!["b", "d"]),
        (r#""weight": null"#, vec!["b", "d"]),
        (r#""train": false"#, vec!["d"]),
        (r#""training": false, "weight": 0"#, vec!["d"]),
        (r#""loss": false"#, vec!["d"]),
        (r#""masked": true"#, vec!["d"]),
        (r#""masked": false"#, vec!["b", "d"]),
        (r#""tool_calls": null, "function_call": {}, "thinking": "", "reasoning_content": null"#, vec!["b", "d"]),
        (r#""tool_calls": [], "id": "x1""#, vec!["b", "d"]),
    ] {
        assert_eq!(learnt(&with_turn_field(field)), want, "{field}");
    }
    let conversational = r#"{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": "d"}]}"#;
    assert_eq!(learnt(&conversational.replace('\n', " ")), ["d"], "answers inside a prompt are not the completion");
}

#[test]
fn what_would_change_the_learnt_tokens_is_refused_by_name() {
    for (field, want) in [
        (r#""weight": 0.5"#, "messages[1].weight"),
        (r#""weight": "0""#, "messages[1].weight"),
        (r#""weight": 1, "train": false"#, "messages[1].train"),
        (r#""tool_calls": [{"function": {"name": "f"}}]"#, "messages[1].tool_calls"),
        (r#""function_call": {"name": "f"}"#, "messages[1].function_call"),
        (r#""reasoning_content": "so""#, "messages[1].reasoning_content"),
        (r#""thinking": "so""#, "messages[1].thinking"),
        (r#""mask": 1"#, "messages[1].mask"),
        (r#""train_detail": [{"begin_offset": 0}]"#, "messages[1].train_detail"),
        (r#""step_loss_mask": [1, 0]"#, "messages[1].step_loss_mask"),
        (r#""loss_mask": [0]"#, "messages[1].loss_mask"),
        (r#""label": false"#, "messages[1].label"),
    ] {
        let error = one(&with_turn_field(field)).expect_err(field).to_string();
        assert!(error.contains(&format!("line 1: field '{want}' ")), "{field}: {error}");
    }
    let turns = r#""messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
    for (field, want) in [
        (r#""tools": [{"name": "f"}]"#, "'tools'"),
        (r#""tools": "[{}, 1]""#, "'tools'"),
        (r#""weight": 2"#, "'weight'"),
        (r#""train": false"#, "'train'"),
        (r#""images": ["a.png"]"#, "'images'"),
        (r#""mask": "User""#, "'mask'"),
        (r#""train": "false""#, "'train'"),
        (r#""weight": "0""#, "'weight'"),
        (r#""loss_mask": [0, 1]"#, "'loss_mask'"),
        (r#""label": false"#, "'label'"),
        (r#""label": "False""#, "'label'"),
        (r#""kto_tag": 0"#, "'kto_tag'"),
        (r#""kto_tag": -1"#, "'kto_tag'"),
        (r#""label": "Rejected""#, "'label'"),
        (r#""history": [["q", "a"]]"#, "'history'"),
        (r#""context": "the fund's report""#, "'context'"),
        (r#""masked": true"#, "'masked'"),
        (r#""trainable": false"#, "'trainable'"),
        (r#""weights": [0, 1]"#, "'weights'"),
        (r#""reasoning": "so""#, "'reasoning'"),
        (r#""documents": [{"title": "t"}]"#, "'documents'"),
    ] {
        let error = one(&format!("{{{turns}, {field}}}")).expect_err(field).to_string();
        assert!(error.contains(want), "{field}: {error}");
    }
    for harmless in [
        r#""tools": []"#,
        r#""tools": "[]""#,
        r#""tools": null"#,
        r#""weight": 1.0"#,
        r#""weight": "1""#,
        r#""train": "the training split""#,
        r#""label": 0"#,
        r#""label": "good""#,
        r#""label": true"#,
        r#""history": []"#,
        r#""id": 7"#,
    ] {
        assert!(one(&format!("{{{turns}, {harmless}}}")).is_ok(), "{harmless}");
    }
    for (line, want) in [
        (r#"{"prompt": "a", "completion": "b", "label": false}"#, "'label'"),
        (r#"{"prompt": "a", "completion": "b", "label": "0"}"#, "'label'"),
        (r#"{"prompt": "a", "completion": "b", "input": "c"}"#, "'input'"),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c", "history": [["q", "a"]]}"#, "'history'"),
        (r#"{"instruction": "a", "context": "c", "output": "b"}"#, "'context'"),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c", "input": "d"}"#, "'input'"),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c", "context": "d"}"#, "'context'"),
        (r#"{"instruction": "a", "chosen": "b", "rejected": "c", "context": "d"}"#, "'context'"),
        (r#"{"prompt": "a", "completion": "b", "context": "c"}"#, "'context'"),
        (r#"{"text": "a", "weight": "0"}"#, "'weight'"),
        (r#"{"text": "a", "train": false}"#, "'train'"),
        (r#"{"text": "a", "masked": true}"#, "'masked'"),
        (r#"{"text": "a", "weight": [1, 0]}"#, "'weight'"),
        (r#"{"ids": [1, 2], "mask": [0, 1], "weight": 0}"#, "'weight'"),
        (r#"{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3], "loss_scale": 0.5}"#, "'loss_scale'"),
        (
            r#"{"messages": [{"role": "assistant", "content": [{"type": "text", "text": "b", "weight": 0}]}]}"#,
            "messages[0].content[0].weight",
        ),
    ] {
        let error = one(line).expect_err(line).to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
    assert!(refused::names().all(|name| FIELDS.contains(&name)), "columns can be mapped to all that is asked for");
    let user = one(
        r#"{"messages": [{"role": "user", "content": "a", "train": true}, {"role": "assistant", "content": "b"}]}"#,
    );
    assert!(user.expect_err("user").to_string().contains("messages[0].train"));
}

#[test]
fn a_system_prompt_of_the_row_is_its_system_turn() {
    let turns = |first: &str| {
        format!(r#"[{first}{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "b"}}]"#)
    };
    let plain = vec![Message::user("a"), Message::assistant("b")];
    let with_system = [vec![Message::system("s")], plain.clone()].concat();
    let same = r#"{"role": "system", "content": "s"}, "#;
    for (line, want) in [
        (format!(r#"{{"system": "s", "messages": {}}}"#, turns("")), &with_system),
        (format!(r#"{{"system_prompt": "s", "messages": {}}}"#, turns("")), &with_system),
        (format!(r#"{{"system": "s", "conversations": {}}}"#, turns(same)), &with_system),
        (format!(r#"{{"system": "", "messages": {}}}"#, turns("")), &plain),
        (format!(r#"{{"system": null, "messages": {}}}"#, turns("")), &plain),
        (r#"{"system": "s", "prompt": "a", "completion": "b"}"#.to_owned(), &with_system),
    ] {
        assert_eq!(one(&line).expect(&line), Record::Conversation(want.clone().into()), "{line}");
    }
    let other = r#"{"role": "developer", "content": "t"}, "#;
    let error = one(&format!(r#"{{"system": "s", "messages": {}}}"#, turns(other))).expect_err("differs").to_string();
    assert!(error.contains("'system' differs"), "{error}");
    let Record::Preference { prompt, .. } =
        one(r#"{"system": "s", "prompt": "a", "chosen": "b", "rejected": "c"}"#).expect("pair")
    else {
        panic!("not a pair")
    };
    assert_eq!(prompt, Turns::Messages(vec![Message::system("s"), Message::user("a")]));
}

#[test]
fn roles_and_contents_are_read_in_their_public_spellings() {
    for (role, want) in [
        ("developer", Role::System),
        ("System", Role::System),
        ("Human", Role::User),
        ("model", Role::Assistant),
        ("bot", Role::Assistant),
        ("observation", Role::Tool),
    ] {
        assert_eq!(Role::parse(role), Some(want), "{role}");
    }
    for (content, want) in [
        (r#"[{"type": "text", "text": "b"}, {"type": "text", "text": "c", "image": null}]"#, "bc"),
        (r#"["b", {"text": "c"}]"#, "bc"),
        (r#"{"type": "output_text", "text": "bc"}"#, "bc"),
    ] {
        let line = format!(r#"{{"messages": [{{"role": "assistant", "content": {content}}}]}}"#);
        assert_eq!(learnt(&line), [want], "{content}");
    }
    let line = r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}"#;
    let error = one(line).expect_err("image").to_string();
    assert!(error.contains("messages[0].content[0]") && error.contains("image_url"), "{error}");
}

#[test]
fn rows_that_hold_nothing_are_empty_rows() {
    for line in [
        r#"{"text": null}"#,
        r#"{"messages": null}"#,
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": []}]}"#,
        r#"{"prompt": "a", "completion": null}"#,
        r#"{"prompt": null, "completion": "b"}"#,
        r#"{"instruction": "a", "output": null}"#,
        r#"{"prompt": "a", "chosen": null, "rejected": "b"}"#,
    ] {
        assert_eq!(one(line).expect(line), Record::Empty, "{line}");
    }
}

#[test]
fn a_prompt_that_the_answers_repeat_is_read_once() {
    let user = r#"{"role": "user", "content": "a"}"#;
    let system = r#"{"role": "system", "content": "s"}"#;
    let says = |text: &str| format!(r#"{{"role": "assistant", "content": "{text}"}}"#);
    let pair = |prompt: &str, before: &str| {
        format!(r#"{{{prompt} "chosen": [{before}{}], "rejected": [{before}{}]}}"#, says("b"), says("c"))
    };
    let short = vec![Message::user("a")];
    let long = vec![Message::system("s"), Message::user("a")];
    for (line, want) in [
        (pair(r#""prompt": "a","#, &format!("{user}, ")), &short),
        (pair(r#""prompt": "a","#, &format!("{system}, {user}, ")), &long),
        (pair(r#""prompt": "a","#, ""), &short),
        (pair(&format!(r#""prompt": [{user}],"#), &format!("{user}, ")), &short),
        (pair(&format!(r#""prompt": [{user}],"#), &format!("{system}, {user}, ")), &long),
        (pair(&format!(r#""prompt": [{system}, {user}],"#), &format!("{user}, ")), &long),
        (pair(&format!(r#""prompt": [{system}, {user}],"#), ""), &long),
        (pair("", &format!("{system}, {user}, ")), &long),
        (pair(r#""prompt": null,"#, &format!("{user}, ")), &short),
    ] {
        let want = Record::Preference {
            prompt: Turns::Messages(want.clone()),
            chosen: Turns::Messages(vec![Message::assistant("b")]),
            rejected: Turns::Messages(vec![Message::assistant("c")]),
            is_continued: false,
            is_transcript: false,
        };
        assert_eq!(one(&line).expect(&line), want, "{line}");
    }
    let texts = |prompt: &str, chosen: &str, rejected: &str| Record::Preference {
        prompt: Turns::Text(prompt.into()),
        chosen: Turns::Text(chosen.into()),
        rejected: Turns::Text(rejected.into()),
        is_continued: false,
        is_transcript: false,
    };
    for (line, want) in [
        (r#"{"prompt": "Q: a? A:", "chosen": "Q: a? A: b", "rejected": "Q: a? A: c"}"#, texts("Q: a? A:", " b", " c")),
        (r#"{"prompt": "Hi", "chosen": "Hi b", "rejected": "Hi c"}"#, texts("Hi", "Hi b", "Hi c")),
        (
            r#"{"prompt": "A loan", "chosen": "A loaned sum", "rejected": "A loaner"}"#,
            texts("A loan", "A loaned sum", "A loaner"),
        ),
        (r#"{"chosen": "The sky is blue", "rejected": "The sky is black"}"#, texts("The sky is", " blue", " black")),
        (r#"{"instruction": "a", "chosen": "b", "rejected": "c"}"#, {
            let prompt = Turns::Messages(vec![Message::user("a")]);
            let (chosen, rejected) = (Turns::Text("b".into()), Turns::Text("c".into()));
            Record::Preference { prompt, chosen, rejected, is_continued: false, is_transcript: false }
        }),
    ] {
        assert_eq!(one(line).expect(line), want, "{line}");
    }
}

#[test]
fn a_row_of_both_a_pair_and_a_conversation_is_what_the_kind_says() {
    let turns =
        |text: &str| format!(r#"[{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "{text}"}}]"#);
    let (better, worse) = (turns("b"), turns("c"));
    let line = format!(r#"{{"prompt": "a", "messages": {better}, "chosen": {better}, "rejected": {worse}}}"#);
    let (_folder, path) = file("a.jsonl", line.as_bytes());
    for (kind, want) in [(Kind::Chat, "conversation"), (Kind::Preference, "preference")] {
        let options = ReadOptions { kind: Some(kind), ..ReadOptions::default() };
        let (_, record) = read(&path, &options).expect("open").next().expect("one").expect("record");
        assert_eq!(record.name(), want);
    }
}

#[test]
fn pairs_whose_prompt_cannot_be_told_are_refused() {
    let says = |role: &str, text: &str| format!(r#"{{"role": "{role}", "content": "{text}"}}"#);
    let pair = |prompt: &str, first: &str, second: &str| {
        let (b, c) = (says("assistant", "b"), says("assistant", "c"));
        format!(r#"{{{prompt} "chosen": [{first}, {b}], "rejected": [{second}, {c}]}}"#)
    };
    let (a, x) = (says("user", "a"), says("user", "x"));
    for (line, want) in [
        (pair("", &a, &x), "'chosen' has a user turn"),
        (pair(r#""prompt": "z","#, &a, &a), "'chosen' has a user turn"),
        (r#"{"question": "a", "chosen": "b", "rejected": "c"}"#.to_owned(), "prompt = "),
        (r#"{"post": "a", "chosen": "The sky is blue.", "rejected": "The sky is red."}"#.to_owned(), "prompt = "),
        (r#"{"chosen": "The sky.", "rejected": "The sea."}"#.to_owned(), "prompt = "),
        (
            r#"{"prompt": "a", "chosen": "b", "rejected": [{"role": "assistant", "content": "c"}]}"#.to_owned(),
            "same form",
        ),
    ] {
        let error = one(&line).expect_err(&line).to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
}

#[test]
fn texts_written_as_turns_are_conversations() {
    let asked = "\\n\\nHuman: Is a gilt safe?\\n\\nAssistant: Quite.\\n\\nWhy?\\n\\nHuman: Why?\\n\\nAssistant:";
    let turns = [Message::user("Is a gilt safe?"), Message::assistant("Quite.\n\nWhy?"), Message::user("Why?")];
    let pair = |chosen: Turns, rejected: Turns| Record::Preference {
        prompt: Turns::Messages(turns.to_vec()),
        chosen,
        rejected,
        is_continued: false,
        is_transcript: true,
    };
    let reply = |text: &str| Turns::Messages(vec![Message::assistant(text)]);
    let text = |text: &str| Turns::Text(text.into());
    for (line, want) in [
        (
            format!(r#"{{"chosen": "{asked} The state pays.", "rejected": "{asked} No idea."}}"#),
            pair(reply("The state pays."), reply("No idea.")),
        ),
        (
            format!(r#"{{"prompt": "{asked}", "chosen": "{asked} The state.", "rejected": "{asked} No."}}"#),
            pair(reply("The state."), reply("No.")),
        ),
        (
            format!(r#"{{"prompt": "{asked}", "chosen": " The state.", "rejected": " No."}}"#),
            pair(text("The state."), text("No.")),
        ),
        (format!(r#"{{"prompt": "{asked}", "completion": " The state."}}"#), {
            let messages = [turns.to_vec(), vec![Message::assistant(" The state.")]].concat();
            Record::Conversation(Conversation { messages, unlearnt: vec![1], is_transcript: true })
        }),
        (r#"{"prompt": "Human: who?", "completion": "Me."}"#.to_owned(), {
            Record::PromptCompletion { prompt: "Human: who?".into(), completion: "Me.".into() }
        }),
    ] {
        assert_eq!(one(&line).expect(&line), want, "{line}");
    }
    for (line, want) in [
        (format!(r#"{{"chosen": "{asked} Yes.", "rejected": "No."}}"#), "same form"),
        (
            format!(r#"{{"chosen": "{asked} Yes.\n\nHuman: Oh.", "rejected": "{asked} No."}}"#),
            "'chosen' ends with a user turn",
        ),
        (format!(r#"{{"prompt": "{asked} Yes.", "chosen": "a", "rejected": "b"}}"#), "'prompt' is written as turns"),
    ] {
        let error = one(&line).expect_err(&line).to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
}

#[test]
fn a_mapped_column_that_no_row_has_is_named() {
    let (_folder, path) = file(
        "a.jsonl",
        br#"{"q": "a", "a": "b"}
{"q": "a", "a": "b", "c": "d"}"#,
    );
    let ask = |context: &str| {
        let columns = [("instruction", "q"), ("output", "a"), ("input", context)];
        let columns = columns.map(|(ours, theirs)| (ours.to_owned(), theirs.to_owned())).into();
        read(&path, &ReadOptions { columns, ..ReadOptions::default() }).expect("open").collect::<Result<Vec<_>, _>>()
    };
    assert_eq!(ask("c").expect("one of the rows has it").len(), 2);
    let error = ask("contxt").expect_err("none").to_string();
    assert!(["a.jsonl", "`contxt`", "`input`", "found: q, a"].iter().all(|word| error.contains(word)), "{error}");
}

#[test]
fn a_key_that_stands_twice_is_refused_by_name() {
    for line in [
        r#"{"text": "a", "text": "b"}"#,
        r#"{"messages": [{"role": "user", "text": "a", "text": "b"}]}"#,
        r#"{"x": {"y": {"text": 1, "text": 1}}, "text": "a"}"#,
        "{\"text\": \"a\", \"te\\u0078t\": \"b\"}",
    ] {
        let error = one(line).expect_err(line).to_string();
        assert!(error.contains("line 1") && error.contains("\"text\" stands twice"), "{error}");
    }
    let line = r#"{"text": "a", "of": [{"n": 1.5}, {"n": -1, "m": [18446744073709551615, null, true, 1e300]}]}"#;
    let (_folder, path) = file("a.jsonl", line.as_bytes());
    let (_, value) = read_values(&path, &ReadOptions::default()).expect("open").next().expect("one").expect("row");
    assert_eq!(value, serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
}

#[test]
fn answers_go_on_with_the_turn_before_them_where_the_row_says_so_and_it_can() {
    let asked = r#"{"role": "user", "content": "a"}"#;
    let begun = r#"{"role": "assistant", "content": "b\n"}"#;
    let says = |text: &str| format!(r#"{{"role": "assistant", "content": "{text}"}}"#);
    let row = |prompt: &str, chosen: &str, flag: &str| {
        format!(r#"{{"prompt": {prompt}, "chosen": {chosen}, "rejected": "d", "continue_final_message": {flag}}}"#)
    };
    let both = format!("[{asked}, {begun}]");
    for (flag, want) in
        [("true", true), ("1", true), (r#"" True ""#, true), ("false", false), ("0", false), ("null", false)]
    {
        let line = row(&both, "\"c\"", flag);
        let Record::Preference { is_continued, prompt, .. } = one(&line).expect(&line) else { panic!("{line}") };
        assert_eq!(
            (is_continued, prompt),
            (want, Turns::Messages(vec![Message::user("a"), Message::assistant("b\n")]))
        );
    }
    let turns = format!(
        r#"{{"chosen": [{asked}, {begun}, {}], "rejected": [{asked}, {begun}, {}], "continue_final_message": true}}"#,
        says("c"),
        says("d")
    );
    let Record::Preference { is_continued: true, prompt: Turns::Messages(prompt), .. } = one(&turns).expect(&turns)
    else {
        panic!("{turns}")
    };
    assert_eq!(prompt.len(), 2, "the turns that both begin with");
    let messages = format!(r#"{{"messages": {both}, "continue_final_message": true}}"#);
    let two = format!(
        r#"{{"prompt": {both}, "chosen": [{c}, {asked}, {c}], "rejected": [{c}, {asked}, {c}], "continue_final_message": true}}"#,
        c = says("c")
    );
    for (line, want) in [
        (row(&both, "\"c\"", "\"maybe\""), "is maybe, and must be true or false"),
        (row(&both, "\"c\"", "2"), "is 2, and must be true or false"),
        (row(&format!("[{asked}]"), "\"c\"", "true"), "the prompt ends with a user turn"),
        (row("\"a\"", "\"c\"", "true"), "the prompt is a text"),
        (
            r#"{"chosen": "a b c d", "rejected": "a b c e", "continue_final_message": true}"#.to_owned(),
            "the prompt is a text",
        ),
        (two, "chosen has 3 turns"),
        (messages, "only the answers of a pair"),
        (r#"{"text": "a", "continue_final_message": true}"#.to_owned(), "only the answers of a pair"),
        (
            r#"{"prompt": "a", "completion": "b", "continue_final_message": "true"}"#.to_owned(),
            "only the answers of a pair",
        ),
    ] {
        let error = one(&line).expect_err(&line).to_string();
        assert!(error.contains("continue_final_message") && error.contains(want), "{line}: {error}");
    }
}

/// A pair without a prompt of its own would answer an empty question.
#[test]
fn a_pair_whose_question_has_another_name_is_refused_with_what_to_do() {
    let answers = r#""chosen": "It is a loan in parts.", "rejected": "It is a loan in stones.""#;
    let turns =
        r#""chosen": [{"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]"#;
    for other in ["post", "context", "title", "query", "input", "ask"] {
        for answers in [answers, turns] {
            let line = format!(r#"{{"{other}": "What is a bond?", {answers}}}"#);
            let error = one(&line).expect_err(&line).to_string();
            assert!(error.contains("'prompt' is missing") && error.contains("columns = { prompt"), "{line}: {error}");
        }
    }
    let line = format!(r#"{{"prompt": "", "question": "Why?", {answers}}}"#);
    assert!(one(&line).expect_err(&line).to_string().contains("'prompt' is missing"));
    assert_eq!(one(&format!(r#"{{"prompt": " ", {answers}}}"#)).expect("no question"), Record::Empty);
    for line in [
        format!(r#"{{"messages": [{{"role": "user", "content": "What is a bond?"}}], {answers}}}"#),
        format!(r#"{{"prompt": "What is a bond?", "source": "our own three words", {answers}}}"#),
        format!(r#"{{"source": "own", {answers}}}"#),
        format!(r#"{{"instruction": "", "input": "What is a bond?", {answers}}}"#),
    ] {
        assert!(matches!(one(&line).expect(&line), Record::Preference { .. }), "{line}");
    }
}

#[test]
fn what_rows_are_taken_for_decides_what_is_said_of_those_that_do_not_fit() {
    let said = |kind: Kind, columns: &[(&str, &str)], line: &str| {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, line).expect("write");
        let columns = columns.iter().map(|(ours, theirs)| ((*ours).to_owned(), (*theirs).to_owned())).collect();
        let options = ReadOptions { kind: Some(kind), columns, ..ReadOptions::default() };
        let first = read(&path, &options).expect("opens").next().expect("a row");
        first.expect_err(line).to_string()
    };
    for (kind, columns, line, want) in [
        (Kind::Chat, &[][..], r#"{"q": "a", "a": "b"}"#, "columns = { prompt = \"...\", completion = \"...\" }"),
        (Kind::Preference, &[], r#"{"q": "a", "good": "b", "bad": "c"}"#, "chosen = \"...\", rejected = \"...\""),
        (Kind::Text, &[], r#"{"body": "a"}"#, "columns = { text = \"...\" }"),
        (
            Kind::Text,
            &[("text", "Nope")],
            r#"{"body": "a"}"#,
            "`Nope`, which `columns` names for `text`, is no column here; there are body",
        ),
        (Kind::Chat, &[("completion", "c")], r#"{"prompt": "a", "answer": "b"}"#, "`c`"),
        (Kind::Preference, &[], r#"{"prompt": "a", "completion": "b", "label": true}"#, "KTO"),
        (Kind::Preference, &[], r#"{"messages": [], "kto_tag": false}"#, "KTO"),
    ] {
        let error = said(kind, columns, line);
        assert!(error.contains(want), "{line}: {error}");
    }
}
