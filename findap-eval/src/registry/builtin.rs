//! The task files that are compiled in, so that the binary needs no folder beside it.

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        /// Path below `findap-eval/tasks`, and text.
        pub(super) const FILES: &[(&str, &str)] =
            &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tasks/", $path)))),*];
    };
}

files![
    "world/general_concept.toml",
    "world/general_concept_open.toml",
    "world/general_chat.toml",
    "world/general_sentence_topic.toml",
    "world/general_odd_word.toml",
    "world/general_name_in_sentence.toml",
    "world/general_choose_sort.toml",
    "world/general_reasoning.toml",
    "world/general_reasoning_hard.toml",
    "world/finance_concept.toml",
    "world/finance_concept_open.toml",
    "world/finance_chat.toml",
    "world/finance_sentiment.toml",
    "world/finance_headline.toml",
    "world/finance_entities.toml",
    "world/finance_credit.toml",
    "world/finance_table_figure.toml",
    "world/finance_stance.toml",
    "world/finance_reasoning.toml",
    "world/finance_reasoning_hard.toml",
    "real/fpb.toml",
    "real/ner.toml",
    "real/ner_conll.toml",
    "real/tatqa.toml",
    "real/mmlu.toml",
    "real/mmlu_finance.toml",
    "real/gsm8k.toml",
];
