//! The task files that are compiled in, so that the binary needs no folder beside it.

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        /// Path below `findap-eval/tasks`, and text.
        pub(super) const FILES: &[(&str, &str)] =
            &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tasks/", $path)))),*];
    };
}

files![
    "real/fpb.toml",
    "real/ner.toml",
    "real/ner_conll.toml",
    "real/tatqa.toml",
    "real/mmlu.toml",
    "real/mmlu_finance.toml",
    "real/gsm8k.toml",
];
