//! What of a conversation is learnt where the template marks it; wanted values from transformers' `return_assistant_tokens_mask`.

use std::path::PathBuf;

use super::*;
use crate::error::DataError;
use crate::tokenizer::Tokenizer;

const OPEN: &str = "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>";

fn compile(turn: &str) -> ChatTemplate {
    let source = format!("{OPEN}{turn}{{% endfor %}}");
    ChatTemplate::compile(Path::new("test.jinja"), &source, BTreeMap::new()).expect(turn)
}

fn tokenizer() -> Tokenizer {
    let tiny = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
    Tokenizer::load(&tiny).expect("tokenizer")
}

fn conversation() -> [Message; 4] {
    [Message::user("Is a bond a loan?"), Message::assistant("Yes."), Message::user("b"), Message::assistant("No, ten.")]
}

/// The learnt tokens as text, and how many replies end without their end of turn.
fn learnt(turn: &str, is_target: impl Fn(usize) -> bool) -> Result<(String, usize), DataError> {
    let (tokenizer, template, messages) = (tokenizer(), compile(turn), conversation());
    let (row, num_unended) = template.encode_and_count_unended(&tokenizer, &messages, is_target)?;
    let rendered = template.render(&messages, false).expect("render");
    assert_eq!(row.ids, tokenizer.encode_rendered(&rendered).expect("ids"), "marks are no part of the text: {turn}");
    let ids: Vec<u32> = row.ids.iter().zip(&row.mask).filter(|(_, keep)| **keep).map(|(&id, _)| id).collect();
    Ok((tokenizer.decode(&ids, false).expect("decode"), num_unended))
}

#[test]
fn what_a_template_marks_is_learnt_and_nothing_else() {
    let of_reply = |reply: &str| {
        format!("{{% if m.role == 'assistant' %}}{reply}{{% else %}}{{{{ m.content }}}}<|eot_id|>{{% endif %}}")
    };
    for (turn, want, want_unended) in [
        ("{% generation %}Reply: {{ m.content }}{% endgeneration %}<|eot_id|>", "Reply: Yes.Reply: No, ten.", 2),
        ("{% generation %}{{ m.content }}<|eot_id|>{% endgeneration %}", "Yes.<|eot_id|>No, ten.<|eot_id|>", 0),
        (
            " {%- generation -%} {{ m.content }}<|eot_id|>\n{%- endgeneration -%} ",
            "Yes.<|eot_id|>No, ten.<|eot_id|>",
            0,
        ),
        (
            "{%- generation %}\n{{ m.content }}<|eot_id|>\n\n{% endgeneration -%}",
            "Yes.<|eot_id|>\n\nNo, ten.<|eot_id|>\n\n",
            0,
        ),
        (
            "{% generation %}{{ m.content }}{% endgeneration %}{% generation %}<|eot_id|>{% endgeneration %}",
            "Yes.<|eot_id|>No, ten.<|eot_id|>",
            0,
        ),
        ("{% generation %}{{ m.content[:2] }}{% endgeneration %}{{ m.content[2:] }}<|eot_id|>", "YesNo", 2),
        (
            "{% if loop.last %}{% generation %}{{ m.content }}<|eot_id|>{% endgeneration %}{% else %}{{ m.content }}<|eot_id|>{% endif %}",
            "No, ten.<|eot_id|>",
            0,
        ),
        (
            "{% generation %}{% generation %}{{ m.content }}{% endgeneration %}<|eot_id|>{% endgeneration %}",
            "Yes.<|eot_id|>No, ten.<|eot_id|>",
            0,
        ),
        ("{% generation %}{% endgeneration %}{{ m.content }}<|eot_id|>", "", 0),
    ] {
        let (text, num_unended) = learnt(&of_reply(turn), |_| true).expect(turn);
        assert_eq!((text.as_str(), num_unended), (want, want_unended), "{turn}");
    }
}

#[test]
fn what_is_marked_of_a_reply_that_is_not_learnt_bears_no_loss() {
    let marked = "{% if m.role == 'assistant' %}{% generation %}I: {% endgeneration %}{% generation %}{{ m.content }}\
{% endgeneration %}{% generation %}<|eot_id|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}";
    for (message, want) in [(1, "I: Yes.<|eot_id|>"), (3, "I: No, ten.<|eot_id|>")] {
        assert_eq!(learnt(marked, |learnt| learnt == message).expect(want).0, want);
    }
}

#[test]
fn spans_that_cannot_be_told_are_refused() {
    let looked_into =
        "{% set c %}{% generation %}{{ m.content }} {% endgeneration %}{% endset %}{{ c | trim }}<|eot_id|>";
    let of_users = "{% if m.role == 'user' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}-{{ m.content }}{% endif %}";
    let problem = |turn: &str, message: usize| match learnt(turn, |learnt| learnt == message) {
        Err(DataError::Template { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(looked_into, 1), TemplateProblem::SpansUnknown);
    assert!(matches!(problem(&of_users.replace("-", "no reply "), 3), TemplateProblem::SpanOfNoReply { .. }));
}
