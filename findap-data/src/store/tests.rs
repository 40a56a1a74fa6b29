use super::*;
use crate::chat_template::ChatTemplate;
use crate::encode::Outcome;
use crate::message::Message;
use crate::readers::{Conversation, Record, Turns};
use crate::tokenizer::Tokenizer;

fn tools() -> (Tokenizer, ChatTemplate) {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
    (Tokenizer::load(folder).expect("tokenizer"), ChatTemplate::load(folder).expect("template"))
}

fn source(path: &Path, kind: Kind) -> Source {
    Source {
        name: "set".into(),
        paths: vec![path.to_path_buf()],
        kind,
        format: Format::Auto,
        columns: BTreeMap::new(),
        domain: Domain::Finance,
        capability: Capability::Concept,
        max_bad_rows: 0,
        share: None,
    }
}

#[test]
fn texts_come_back_in_pieces_with_begin_and_end() {
    let (tokenizer, template) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.jsonl");
    let long = "Rates rose. ".repeat(40);
    fs::write(&path, format!("{{\"text\": \"{long}\"}}\n{{\"text\": \"\"}}\n{{\"text\": \"A bond.\"}}\n"))
        .expect("write");
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 32 };
    let place = folder.path().join("store");
    let store = TokenStore::build(&place, &source(&path, Kind::Text), &encoder).expect("build");
    let ids = tokenizer.encode(&long, false).expect("ids");
    let mut rebuilt = Vec::new();
    for document in 0..store.num_documents() - 1 {
        let row = store.document(document);
        assert!(row.len() <= 32);
        assert_eq!((row.ids.first().copied(), row.ids.last().copied()), (tokenizer.bos(), tokenizer.eos()));
        assert!(!row.mask[0] && row.mask[1..].iter().all(|&target| target));
        assert_eq!(store.num_loss_tokens(document), row.len() - 1);
        rebuilt.extend_from_slice(&row.ids[1..row.len() - 1]);
    }
    assert_eq!(rebuilt, ids);
    assert_eq!(store.report().dropped_empty, 1);
    assert_eq!(store.report().tokens as usize, store.num_tokens());
    assert!(!store.was_reused());
    assert!(TokenStore::build(&place, &source(&path, Kind::Text), &encoder).expect("again").was_reused());
    let wider = RecordEncoder { context_tokens: 64, ..encoder };
    assert!(!TokenStore::build(&place, &source(&path, Kind::Text), &wider).expect("rebuilt").was_reused());
}

#[test]
fn long_conversations_are_dropped_and_sets_without_loss_are_refused() {
    let (tokenizer, template) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.jsonl");
    let long = "word ".repeat(100);
    let turn = |role: &str, text: &str| format!("{{\"role\": \"{role}\", \"content\": \"{text}\"}}");
    let lines = [
        format!("{{\"messages\": [{}, {}]}}", turn("user", "a"), turn("assistant", "b")),
        format!("{{\"messages\": [{}, {}]}}", turn("user", "a"), turn("assistant", &long)),
        format!("{{\"messages\": [{}]}}", turn("user", "a")),
    ];
    fs::write(&path, lines.join("\n")).expect("write");
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 64 };
    let store = TokenStore::build(&folder.path().join("s"), &source(&path, Kind::Chat), &encoder).expect("build");
    assert_eq!((store.num_documents(), store.report().dropped_too_long, store.report().dropped_empty), (1, 1, 1));
    fs::write(&path, &lines[2]).expect("write");
    let place = folder.path().join("none");
    let error = TokenStore::build(&place, &source(&path, Kind::Chat), &encoder).expect_err("no loss");
    assert!(matches!(error, DataError::NoLossTokens { rows: 1, .. }), "{error}");
    assert!(!place.exists());
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2, "nothing half-written stays");
    let error = TokenStore::build(&place, &source(&path, Kind::Text), &RecordEncoder { context_tokens: 1, ..encoder });
    assert!(matches!(error, Err(DataError::BadOption { option: "context_tokens", .. })));
}

#[test]
fn packed_rows_are_kept_as_given() {
    let (tokenizer, _) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.jsonl");
    fs::write(&path, "{\"docs\": [{\"ids\": [1, 2], \"mask\": [0, 1]}, {\"ids\": [3, 4, 5], \"mask\": [1, 0, 1]}]}\n{\"docs\": [{\"ids\": [6, 7], \"mask\": [0, 1]}]}\n").expect("write");
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: None, context_tokens: 8 };
    let store = TokenStore::build(&folder.path().join("s"), &source(&path, Kind::Packed), &encoder).expect("build");
    assert_eq!((0..store.num_rows()).map(|row| store.row(row)).collect::<Vec<_>>(), [0..2, 2..3]);
    assert_eq!((store.row_tokens(0), store.row_loss_tokens(0)), (5, 2));
    assert_eq!(store.document(1), TokenizedRow { ids: vec![3, 4, 5], mask: vec![true, false, true] });
    fs::write(&path, "{\"docs\": [{\"ids\": [999999, 2], \"mask\": [0, 1]}]}\n").expect("write");
    let error = TokenStore::build(&folder.path().join("t"), &source(&path, Kind::Packed), &encoder).expect_err("id");
    assert!(error.to_string().contains("line 1: token id 999999"), "{error}");
}

#[test]
fn pairs_become_rows_of_two_documents_with_loss_on_answers() {
    let (tokenizer, template) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("p.jsonl");
    let line = |n: usize| {
        format!(
            "{{\"prompt\": \"What is {n} + {n}?\", \"chosen\": \"It is {}.\", \"rejected\": \"I do not know {n}.\"}}",
            2 * n
        )
    };
    fs::write(&path, (0..9).map(line).collect::<Vec<_>>().join("\n")).expect("write");
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 128 };
    let store = TokenStore::build(&folder.path().join("s"), &source(&path, Kind::Preference), &encoder).expect("build");
    assert_eq!((store.num_rows(), store.num_documents()), (9, 18));
    let answer = |document: usize| {
        let row = store.document(document);
        let ids: Vec<u32> = row.ids.iter().zip(&row.mask).filter(|(_, mask)| **mask).map(|(id, _)| *id).collect();
        tokenizer.decode(&ids, false).expect("decode")
    };
    assert_eq!((answer(6), answer(7)), ("It is 6.<|eot_id|>".to_owned(), "I do not know 3.<|eot_id|>".to_owned()));
    let prompt = store.document(6);
    let prompt: Vec<u32> = prompt.ids.iter().zip(&prompt.mask).filter(|(_, m)| !**m).map(|(id, _)| *id).collect();
    assert!(tokenizer.decode(&prompt, false).expect("decode").ends_with("assistant<|end_header_id|>\n\n"));
}

#[test]
fn of_answers_of_several_turns_only_what_the_assistant_says_bears_loss() {
    let (tokenizer, template) = tools();
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 256 };
    let turns = |first: &str| {
        let turns = [Message::assistant(first), Message::user("Sure?"), Message::assistant("Yes.")];
        Turns::Messages(turns.to_vec())
    };
    let pair = |chosen, rejected| {
        let prompt = Turns::Text("Name a bond.".into());
        let record = Record::Preference { prompt, chosen, rejected, is_continued: false, is_transcript: false };
        let documents = encoder.preference(&record).expect("ids").documents();
        documents.map(|row| {
            let ids: Vec<u32> = row.ids.iter().zip(&row.mask).filter(|(_, mask)| **mask).map(|(id, _)| *id).collect();
            tokenizer.decode(&ids, false).expect("decode")
        })
    };
    assert_eq!(
        pair(turns("A gilt."), turns("A share.")),
        ["A gilt.<|eot_id|>Yes.<|eot_id|>", "A share.<|eot_id|>Yes.<|eot_id|>"]
    );
    assert_eq!(pair(Turns::Text("A gilt.".into()), turns("No."))[0], "A gilt.<|eot_id|>");
}

/// What is learnt of a pair, and what is not, as text; the ids of both documents.
fn parts(encoder: &RecordEncoder<'_>, record: &Record) -> [(String, String, Vec<u32>); 2] {
    encoder.preference(record).expect("ids").documents().map(|row| {
        let of = |wanted: bool| {
            let ids = row.ids.iter().zip(&row.mask).filter(|(_, mask)| **mask == wanted).map(|(id, _)| *id);
            encoder.tokenizer.decode(&ids.collect::<Vec<u32>>(), false).expect("decode")
        };
        (of(false), of(true), row.ids.clone())
    })
}

fn going_on(begun: &str, chosen: &str, rejected: &str) -> Record {
    let prompt = Turns::Messages(vec![Message::user("What is left?"), Message::assistant(begun)]);
    let (chosen, rejected) = (Turns::Text(chosen.into()), Turns::Text(rejected.into()));
    Record::Preference { prompt, chosen, rejected, is_continued: true, is_transcript: false }
}

#[test]
fn answers_that_go_on_with_a_turn_are_the_tokens_of_one_text_without_an_end_of_turn() {
    let (tokenizer, template) = tools();
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 256 };
    let opening = template.render(&[Message::user("What is left?")], true).expect("render");
    for (begun, chosen, rejected) in [
        ("coupons: 6*9=54\n", "total: 54+100=154\n", "total: 54+100=155\n"),
        ("", "coupons: 6*9=54\n", "coupons: 6*9=56\n"),
        ("coupons: 6*9=54\n\n", "total: 154\n\n", "total: 155\n\n"),
    ] {
        let [better, worse] = parts(&encoder, &going_on(begun, chosen, rejected));
        for ((before, learnt, ids), step) in [(better, chosen), (worse, rejected)] {
            let text = format!("{opening}{begun}{step}");
            assert_eq!(ids, tokenizer.encode_rendered(&text).expect("ids"), "{step:?}");
            assert_eq!((before, learnt.as_str()), (format!("{opening}{begun}"), step));
        }
    }
}

/// The words `54` and `540` may be other tokens: then both answers begin where the tokens first differ, and none is learnt in part.
#[test]
fn a_token_across_the_border_is_learnt_whole_in_both_answers() {
    let (tokenizer, template) = tools();
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 256 };
    let opening = template.render(&[Message::user("What is left?")], true).expect("render");
    let mut num_moved = 0;
    for (begun, chosen, rejected) in
        [("The pay", "ments rise", "er is late"), ("a sha", "re", "pe"), ("6*9=5", "4", "6")]
    {
        let [better, worse] = parts(&encoder, &going_on(begun, chosen, rejected));
        assert_eq!(better.0, worse.0, "both have one prompt");
        num_moved += usize::from(better.0.len() < opening.len() + begun.len());
        for ((before, learnt, ids), answer) in [(better, chosen), (worse, rejected)] {
            let text = format!("{opening}{begun}{answer}");
            assert_eq!(format!("{before}{learnt}"), text);
            assert_eq!(ids, tokenizer.encode_rendered(&text).expect("ids"));
            assert!(format!("{opening}{begun}").starts_with(&before), "{before}");
        }
    }
    assert!(num_moved > 0, "no border of these lies within a token");
}

#[test]
fn prompts_that_end_with_an_assistant_turn_are_counted_and_said_unless_the_answers_go_on_with_it() {
    let (tokenizer, template) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("p.jsonl");
    let row = |flag: bool| {
        let turns = [Message::user("a"), Message::assistant("b\n")];
        serde_json::json!({"prompt": turns, "chosen": "c", "rejected": "d", "continue_final_message": flag}).to_string()
    };
    fs::write(&path, format!("{}\n{}\n", row(true), row(false))).expect("write");
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 128 };
    let store = TokenStore::build(&folder.path().join("s"), &source(&path, Kind::Preference), &encoder).expect("build");
    assert_eq!((store.num_rows(), store.report().uncontinued_prompts), (2, 1));
    assert!(store.report().notes().join("; ").contains("1 pairs have a prompt that ends with an assistant turn"));
    let text = |document: usize| tokenizer.decode(store.ids(document), false).expect("decode");
    assert!(text(0).ends_with("\n\nb\nc"), "{}", text(0));
    assert!(
        text(2).ends_with("b<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nc<|eot_id|>"),
        "{}",
        text(2)
    );
}

#[test]
fn replies_without_an_end_are_counted_and_said() {
    let (tokenizer, _) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.jsonl");
    let line = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
    fs::write(&path, format!("{line}\n{line}\n")).expect("write");
    for (end, want) in [("", 4), ("<|eot_id|>", 0), (" (over)\n<|eot_id|>", 0)] {
        let source_text = format!("{{% for m in messages %}}{{{{ m.role }}}}: {{{{ m.content }}}}{end}{{% endfor %}}");
        let template = ChatTemplate::compile(Path::new("t"), &source_text, Default::default()).expect("compile");
        let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 64 };
        let place = folder.path().join(format!("s{}", end.len()));
        let store = TokenStore::build(&place, &source(&path, Kind::Chat), &encoder).expect("build");
        assert_eq!(store.report().unended_replies, want, "{end}");
        let said = store.report().notes().join("; ");
        assert_eq!(said.contains("4 replies have no end-of-turn token"), want > 0, "{said}");
    }
}

#[test]
fn texts_read_as_turns_are_counted_and_said() {
    let (tokenizer, template) = tools();
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 64 };
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.jsonl");
    let asked = "\\n\\nHuman: Why?\\n\\nAssistant:";
    let written = format!(r#"{{"chosen": "{asked} So.", "rejected": "{asked} No."}}"#);
    let plain = r#"{"prompt": "Why?", "chosen": "So.", "rejected": "No."}"#;
    fs::write(&path, format!("{written}\n{plain}\n{written}\n")).expect("write");
    let store = TokenStore::build(&folder.path().join("s"), &source(&path, Kind::Preference), &encoder).expect("build");
    assert_eq!((store.num_rows(), store.report().transcripts), (3, 2));
    assert!(store.report().notes()[0].starts_with("2 transcripts read as turns"), "{:?}", store.report().notes());
}

#[test]
fn a_conversation_beyond_the_context_is_told_before_its_replies_are_looked_for() {
    let (tokenizer, template) = tools();
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 256 };
    let turns: Vec<Message> = (0..5000).flat_map(|_| [Message::user("a"), Message::assistant("b")]).collect();
    let ids = template.encode_conversation(&tokenizer, &turns).expect("ids").ids;
    let outcome = encoder.documents(&Record::Conversation(turns.into()), Kind::Chat).expect("outcome");
    assert_eq!(outcome, Outcome::TooLong { num_tokens: ids.len(), longest: ids.len() });
}

#[test]
fn pairs_that_are_equal_or_say_nothing_are_left_out_and_counted() {
    let (tokenizer, template) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("p.jsonl");
    let pair = |chosen: &str, rejected: &str| {
        format!("{{\"prompt\": \"Name a bond.\", \"chosen\": {chosen}, \"rejected\": {rejected}}}")
    };
    let lines = [
        pair("\"A gilt.\"", "\"A bund.\""),
        pair("\"A gilt.\"", "\"A gilt.\""),
        // The template strips what stands around a turn, so that these are the same tokens.
        pair("\"A gilt.\"", "\" A gilt.  \""),
        pair("\"  \"", "\"A gilt.\""),
        pair("null", "\"A gilt.\""),
    ];
    fs::write(&path, lines.join("\n")).expect("write");
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 128 };
    let store = TokenStore::build(&folder.path().join("s"), &source(&path, Kind::Preference), &encoder).expect("build");
    let report = store.report();
    assert_eq!((store.num_rows(), report.dropped_equal, report.dropped_empty), (1, 2, 2));
}

#[test]
fn bad_rows_are_skipped_as_far_as_allowed_and_each_is_said() {
    let (tokenizer, _) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.jsonl");
    let good = "{\"text\": \"A bond is a loan.\"}\n";
    let bad = "{\"text\": 3}\nnonsense\n";
    fs::write(&path, format!("{good}{}{good}", bad.repeat(6))).expect("write");
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: None, context_tokens: 16 };
    let build = |max_bad_rows| {
        let source = Source { max_bad_rows, ..source(&path, Kind::Text) };
        TokenStore::build(&folder.path().join("s"), &source, &encoder)
    };
    let error = build(0).expect_err("none allowed").to_string();
    assert!(error.contains("a.jsonl: line 2: field 'text' is a number"), "{error}");
    let error = build(11).expect_err("one too many").to_string();
    assert!(error.contains("more than max_bad_rows = 11") && error.contains("line 13"), "{error}");
    let store = build(12).expect("all allowed");
    let said = store.report().notes();
    assert_eq!((store.num_documents(), store.report().bad_rows, said.len()), (2, 12, 11));
    assert!(said[9].contains("line 11: ") && said[10] == "and 2 more rows that cannot be read", "{said:?}");
    assert!(build(12).expect("again").was_reused());
    build(11).expect_err("a finished store does not hide that rows are bad");
}

#[test]
fn rows_too_long_are_said_with_the_context_that_would_keep_them() {
    let (tokenizer, _) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.jsonl");
    let row = |tokens: usize| format!("{{\"ids\": {:?}, \"mask\": {:?}}}", vec![5; tokens], vec![1; tokens]);
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: None, context_tokens: 8 };
    let build = |lengths: &[usize]| {
        fs::write(&path, lengths.iter().map(|tokens| row(*tokens) + "\n").collect::<String>()).expect("write");
        TokenStore::build(&folder.path().join("s"), &source(&path, Kind::Tokenized), &encoder)
    };
    let lengths: Vec<usize> = std::iter::repeat_n(8, 92).chain(11..=18).collect();
    let store = build(&lengths).expect("build");
    let wider = |percent, tokens| WiderContext { percent, tokens };
    assert_eq!(store.report().wider_contexts, [wider(95, 13), wider(99, 17), wider(100, 18)]);
    let error = build(&[20, 30]).expect_err("nothing fits").to_string();
    assert!(error.contains("context of 8 tokens") && error.contains("context_tokens to keep all: 30"), "{error}");
    assert!(!error.contains("carries loss"), "{error}");
}

#[test]
fn a_store_holds_all_files_of_its_source_in_order_and_is_theirs_only() {
    let (tokenizer, _) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("{{\"text\": \"{text}\"}}\n")).expect("write");
        path
    };
    let (first, second) = (file("b.jsonl", "Rates rose."), file("a.jsonl", "Rates fell."));
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: None, context_tokens: 16 };
    let build = |paths: &[&PathBuf]| {
        let paths = paths.iter().map(|path| path.to_path_buf()).collect();
        let source = Source { paths, ..source(&first, Kind::Text) };
        TokenStore::build(&folder.path().join("s"), &source, &encoder).expect("build")
    };
    let store = build(&[&first, &second]);
    let text = |store: &TokenStore, row: usize| tokenizer.decode(store.ids(row), true).expect("decode");
    assert_eq!((text(&store, 0), text(&store, 1)), ("Rates rose.".to_owned(), "Rates fell.".to_owned()));
    let fingerprint = store.fingerprint().to_owned();
    assert!(build(&[&first, &second]).was_reused());
    assert_ne!(build(&[&second, &first]).fingerprint(), fingerprint);
    assert_ne!(build(&[&first]).fingerprint(), fingerprint);
}

#[test]
fn only_the_answers_to_be_learnt_bear_loss() {
    let (tokenizer, template) = tools();
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: Some(&template), context_tokens: 256 };
    let turns = |count: usize| {
        let turn = |n: usize| [Message::user(format!("q{n}")), Message::assistant(format!("answer {n}"))];
        (0..count).flat_map(turn).collect::<Vec<_>>()
    };
    let learnt = |unlearnt: &[usize]| {
        let record = Record::Conversation(Conversation {
            messages: turns(4),
            unlearnt: unlearnt.to_vec(),
            is_transcript: false,
        });
        match encoder.documents(&record, Kind::Chat).expect("encode") {
            Outcome::Conversation { document: row, .. } => {
                let ids = row.ids.iter().zip(&row.mask).filter(|(_, mask)| **mask).map(|(id, _)| *id);
                tokenizer.decode(&ids.collect::<Vec<u32>>(), true).expect("decode")
            }
            other => format!("{other:?}"),
        }
    };
    for (unlearnt, want) in [
        (&[][..], "answer 0answer 1answer 2answer 3"),
        (&[1], "answer 1answer 2answer 3"),
        (&[7], "answer 0answer 1answer 2"),
        (&[3, 5], "answer 0answer 3"),
        (&[1, 5], "answer 1answer 3"),
        (&[1, 3, 5, 7], "Empty"),
    ] {
        assert_eq!(learnt(unlearnt), want, "{unlearnt:?}");
    }
}

#[test]
fn a_damaged_store_is_refused_and_rebuilt() {
    let (tokenizer, _) = tools();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("a.jsonl");
    fs::write(&path, "{\"text\": \"A bond is a loan.\"}\n").expect("write");
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: None, context_tokens: 16 };
    let place = folder.path().join("s");
    drop(TokenStore::build(&place, &source(&path, Kind::Text), &encoder).expect("build"));
    let file = place.join("tokens.bin");
    let good = fs::read(&file).expect("read");
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&file, bytes).expect("write");
        match TokenStore::open(&place) {
            Err(DataError::Store { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(damaged(&|bytes| bytes.clear()), StoreProblem::BadMagic);
    assert_eq!(damaged(&|bytes| bytes[0] ^= 1), StoreProblem::BadMagic);
    assert_eq!(damaged(&|bytes| bytes[8] = 9), StoreProblem::BadVersion { got: 9, want: 1 });
    assert!(matches!(damaged(&|bytes| bytes.truncate(130)), StoreProblem::BadSize { .. }));
    assert!(matches!(damaged(&|bytes| bytes[24..32].fill(0xff)), StoreProblem::BadSize { .. }));
    assert_eq!(damaged(&|bytes| bytes[140] ^= 1), StoreProblem::BadChecksum);
    let ends = Layout::new(1, TokenStore { ..reopen(&place, &file, &good) }.num_tokens, 0).document_ends;
    assert_eq!(
        damaged(&|bytes| {
            bytes[ends] ^= 1;
            let checksum = Sha256::digest(&bytes[HEADER_BYTES..]);
            bytes[40..72].copy_from_slice(&checksum);
        }),
        StoreProblem::BadTable { table: "table of documents" }
    );
    let rebuilt = TokenStore::build(&place, &source(&path, Kind::Text), &encoder).expect("rebuilt");
    assert!(!rebuilt.was_reused());
    assert_eq!(fs::read(&file).expect("read"), good, "building is deterministic");
}

fn reopen(place: &Path, file: &Path, good: &[u8]) -> TokenStore {
    fs::write(file, good).expect("write");
    TokenStore::open(place).expect("open")
}
