//! Bad input through the binary: the message says where and what, the exit code is 1, and nothing half-written stays.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tool::{Said, golden, run};

/// A recipe of one stage over one file.
struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new(kind: &str, file: &str, bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join(file), bytes).expect("the data are written");
        let side = if kind == "text" || kind == "chat" { kind } else { "rows" };
        let recipe = format!(
            "schema = 1\n[run]\nname = \"bad\"\nfolder = {:?}\n[model]\nbase = {:?}\n[[data]]\nname = \"data\"\npath = {:?}\n\
             kind = \"{kind}\"\n[[stage]]\nname = \"s\"\nkind = \"train\"\n{side} = [\"data\"]\nsteps = 1\nbatch_tokens = 64\n\
             context_tokens = 64\nlearning_rate = 1e-3\n",
            folder.path().join("run"),
            fs::canonicalize(golden("models/tiny")).expect("the golden model"),
            folder.path().join(file),
        );
        fs::write(folder.path().join("recipe.toml"), recipe).expect("the recipe is written");
        Self { folder }
    }

    fn run(&self) -> Said {
        run(["run".as_ref(), self.folder.path().join("recipe.toml").as_os_str()])
    }

    /// The files in the run folder's token stores and stage.
    fn leftovers(&self) -> Vec<PathBuf> {
        let list = |folder: &str| {
            fs::read_dir(self.folder.path().join("run").join(folder))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
        };
        list("data/tokens").chain(list("s")).collect()
    }
}

#[test]
fn rows_that_cannot_be_read_are_named_by_file_line_and_field() {
    let good = "{\"text\": \"Rates rose.\"}\n";
    let cases: [(&str, &str, Vec<u8>, &[&str]); 12] = [
        ("text", "a.jsonl", format!("{good}{good}{{\"text\": \"cut of").into_bytes(), &["a.jsonl", "line 3"]),
        ("text", "a.jsonl", format!("{good}{{\"body\": \"x\"}}\n").into_bytes(), &["a.jsonl", "line 2", "text"]),
        ("text", "a.jsonl", format!("{good}{{\"text\": 7}}\n").into_bytes(), &["a.jsonl", "line 2", "text"]),
        ("text", "a.jsonl", [good.as_bytes(), b"{\"text\": \"\xff\xfe\"}\n"].concat(), &["a.jsonl", "line 2", "UTF-8"]),
        ("text", "a.jsonl", b"[1, 2]\n".to_vec(), &["a.jsonl", "line 1"]),
        ("text", "a.jsonl", Vec::new(), &["data"]),
        ("text", "a.parquet", b"PAR1 and then nothing".to_vec(), &["a.parquet"]),
        (
            "chat",
            "a.jsonl",
            b"{\"messages\": [{\"role\": \"oracle\", \"content\": \"x\"}]}\n".to_vec(),
            &["line 1", "oracle"],
        ),
        ("chat", "a.jsonl", b"{\"messages\": []}\n".to_vec(), &["data"]),
        ("tokenized", "a.jsonl", b"{\"ids\": [1, 2], \"mask\": [1]}\n".to_vec(), &["line 1", "mask"]),
        ("tokenized", "a.jsonl", b"{\"ids\": [1, 4000000000], \"mask\": [1, 1]}\n".to_vec(), &["line 1", "4000000000"]),
        ("packed", "a.jsonl", b"{\"docs\": [{\"ids\": [1, -2], \"mask\": [1, 1]}]}\n".to_vec(), &["line 1", "ids"]),
    ];
    for (kind, file, bytes, words) in cases {
        let case = Case::new(kind, file, &bytes);
        case.run().refusal(words);
        assert_eq!(case.leftovers(), Vec::<PathBuf>::new(), "{file} {words:?}");
    }
    let missing = Case::new("text", "a.jsonl", b"");
    fs::remove_file(missing.folder.path().join("a.jsonl")).expect("it is removed");
    missing.run().refusal(&["a.jsonl"]);
}

/// A copy of the golden model with one file changed.
fn damaged(file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(golden("models/tiny")).expect("the golden model").flatten() {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
    }
    let path = folder.path().join(file);
    let bytes = change(fs::read(&path).expect("the file"));
    fs::write(&path, bytes).expect("the change");
    folder
}

#[test]
fn damaged_model_folders_are_refused_by_file() {
    let edit = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").replacen(from, to, 1).into_bytes()
    };
    let refused = |folder: &Path, words: &[&str]| {
        run(["generate".as_ref(), folder.as_os_str(), "--prompt".as_ref(), "a".as_ref()]).refusal(words);
    };
    let cut = damaged("model.safetensors", |mut bytes| {
        bytes.truncate(bytes.len() / 2);
        bytes
    });
    refused(cut.path(), &["model.safetensors"]);
    let header = damaged("model.safetensors", |mut bytes| {
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes
    });
    refused(header.path(), &["model.safetensors"]);
    refused(damaged("model.safetensors", |_| Vec::new()).path(), &["model.safetensors"]);
    refused(damaged("config.json", edit("\"hidden_size\"", "\"hidden_siz\"")).path(), &["config.json", "hidden_size"]);
    refused(damaged("config.json", |_| b"{".to_vec()).path(), &["config.json"]);
    refused(damaged("tokenizer.json", |bytes| bytes[..bytes.len() / 2].to_vec()).path(), &["tokenizer.json"]);
    let endless = damaged("chat_template.jinja", |_| b"{% for i in range(1000000000) %}{{ i }}{% endfor %}".to_vec());
    refused(endless.path(), &["template"]);
}
