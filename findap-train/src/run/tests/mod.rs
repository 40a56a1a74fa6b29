//! Whole runs.

mod adapter;
#[cfg(feature = "emulator")]
mod device;

use std::path::Path;

use findap_model::Decoder;

use super::*;

/// The model and the data of a small run; before it stands `[run]`, behind it the stages.
const SHARED: &str = r#"
[model]
base = "GOLDEN/models/tiny"
save_dtype = "f32"
[[data]]
name = "news"
path = "FOLDER/news.jsonl"
kind = "text"
[[data]]
name = "pairs"
path = "FOLDER/pairs.jsonl"
kind = "preference"
"#;

/// A folder with these data.
fn data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, line: Value| fs::write(folder.path().join(name), format!("{line}\n")).unwrap();
    write("news.jsonl", json!({"text": "A bond pays a coupon. A share pays none."}));
    write("pairs.jsonl", json!({"prompt_ids": [2037, 5, 6], "chosen_ids": [7, 8, 9], "rejected_ids": [10, 11]}));
    folder
}

/// The text of a recipe on such a folder.
fn recipe_text(run: &str, stages: &str, folder: &Path) -> String {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden");
    format!("{run}{SHARED}{stages}").replace("GOLDEN", golden).replace("FOLDER", folder.to_str().unwrap())
}
