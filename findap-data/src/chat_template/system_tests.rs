//! System turns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ChatTemplate;
use crate::message::Message;
use crate::tokenizer::Tokenizer;

#[test]
fn a_system_turn_that_the_template_passes_over_is_refused() {
    let tiny = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
    let tokenizer = Tokenizer::load(&tiny).expect("tokenizer");
    let source = |of_system: &str| {
        format!(
            "{{% for m in messages %}}{{% if m.role == 'system' %}}{of_system}{{% else %}}{{{{ m.content }}}}<|eot_id|>{{% endif %}}{{% endfor %}}"
        )
    };
    let messages = [Message::system("  Be brief.\n"), Message::user("Be brief. Why?"), Message::assistant("So.")];
    for (of_system, is_printed) in [("{{ m.content | trim }}", true), ("", false)] {
        let template =
            ChatTemplate::compile(Path::new("test.jinja"), &source(of_system), BTreeMap::new()).expect("compiles");
        let learnt = template.encode_conversation(&tokenizer, &messages).map(|_| ());
        let prompt = template.render_prompt(&messages[..2]).map(|_| ());
        for outcome in [learnt, prompt] {
            let error = outcome.err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(error.contains("does not print the system turn"), !is_printed, "{error}");
        }
        assert!(
            template.render_prompt(&messages[1..2]).is_ok() && template.render_prompt(&[Message::system(" ")]).is_ok()
        );
    }
}
