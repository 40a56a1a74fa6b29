//! Which files a source names, and how they are packed.

use std::fs;

use super::paths::expand;
use super::*;

/// A folder with files of these names; each holds one row.
fn folder(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for name in names {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(path, format!("{{\"text\": \"{name}\"}}\n")).expect("write");
    }
    folder
}

fn expanded(folder: &tempfile::TempDir, paths: &[&str], format: Format) -> Result<Vec<String>, String> {
    let paths: Vec<PathBuf> = paths.iter().map(|path| folder.path().join(path)).collect();
    let name = |file: PathBuf| file.strip_prefix(folder.path()).expect("inside").to_string_lossy().into_owned();
    match expand(&paths, format) {
        Ok(files) => Ok(files.into_iter().map(name).collect()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn files_folders_patterns_and_lists_name_files_in_a_fixed_order() {
    let names = ["b.jsonl", "a.jsonl.gz", "x[1].jsonl", "README.md", ".hidden.jsonl", "_SUCCESS"];
    let flat = folder(&names);
    let nested = folder(&["data/train-00001-of-00002.jsonl", "data/train-00000-of-00002.jsonl", "other/note.txt"]);
    let shards = ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"];
    for (root, paths, format, want) in [
        (&flat, vec!["b.jsonl"], Format::Auto, vec!["b.jsonl"]),
        (&flat, vec!["b.jsonl", "a.jsonl.gz"], Format::Auto, vec!["b.jsonl", "a.jsonl.gz"]),
        (&flat, vec![""], Format::Auto, vec!["a.jsonl.gz", "b.jsonl", "x[1].jsonl"]),
        (&flat, vec!["[ab].jsonl*"], Format::Auto, vec!["a.jsonl.gz", "b.jsonl"]),
        (&flat, vec!["x[1].jsonl"], Format::Auto, vec!["x[1].jsonl"]),
        (&nested, vec!["data"], Format::Auto, shards.to_vec()),
        (&nested, vec!["data/train-*.jsonl"], Format::Auto, shards.to_vec()),
        (&nested, vec!["**/*.jsonl"], Format::Auto, shards.to_vec()),
        (&nested, vec!["other"], Format::Lines, vec!["other/note.txt"]),
    ] {
        let want: Vec<String> = want.into_iter().map(str::to_owned).collect();
        assert_eq!(expanded(root, &paths, format), Ok(want), "{paths:?}");
    }
}

#[test]
fn what_does_not_plainly_name_files_is_refused() {
    let mixed = ["a.jsonl", "b.csv"];
    let splits = ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"];
    for (names, paths, format, want) in [
        (&mixed[..], vec!["train-*.jsonl"], Format::Auto, "no file matches"),
        (&mixed, vec![""], Format::Auto, "several formats, such as a.jsonl and b.csv"),
        (&mixed, vec!["*"], Format::Auto, "several formats, such as a.jsonl and b.csv"),
        (&mixed, vec![""], Format::Parquet, "holds no data file of the format"),
        (&mixed, vec!["a.jsonl", "./a.jsonl"], Format::Auto, "named twice"),
        (&mixed, vec!["a.jsonl", "*.jsonl"], Format::Auto, "named twice"),
        (&mixed, vec!["absent.jsonl"], Format::Auto, "cannot read"),
        (&mixed, vec![], Format::Auto, "path = []"),
        (&["a.jsonl", "b.data"], vec![""], Format::Auto, "holds b.data"),
        (&["a.jsonl", "part-0001"], vec![""], Format::Jsonl, "holds part-0001"),
        (&["a.jsonl", "below/b.jsonl"], vec![""], Format::Auto, "holds below"),
        (&splits, vec![""], Format::Auto, "several splits: test, train"),
        (&["train.jsonl", "test.jsonl"], vec![""], Format::Auto, "several splits: test, train"),
        (&["bonds_train.jsonl", "bonds_test.jsonl"], vec!["bonds_*"], Format::Auto, "several splits: test, train"),
        (&["a.jsonl.zst", "a.jsonl.gz"], vec!["a*"], Format::Auto, "holds a.jsonl in several packings"),
        (&["a.jsonl", "a.jsonl.gz"], vec![""], Format::Auto, "holds a.jsonl in several packings"),
        (&["train-00000-of-00002.jsonl"], vec![""], Format::Auto, "lacks the shard train-00001-of-00002"),
    ] {
        let error = expanded(&folder(names), &paths, format).expect_err(want);
        assert!(error.contains(want), "{names:?} {paths:?}: {error}");
    }
}

#[test]
#[cfg(unix)]
fn a_file_of_two_names_is_read_once() {
    let folder = folder(&["a.jsonl", "b.jsonl"]);
    let place = |name: &str| folder.path().join(name);
    std::fs::hard_link(place("a.jsonl"), place("c.jsonl")).expect("link");
    let error = expanded(&folder, &["*.jsonl"], Format::Auto).expect_err("a hard link");
    assert!(error.contains("c.jsonl") && error.contains("named twice"), "{error}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(bytes).expect("pack");
    packer.finish().expect("pack")
}

#[test]
fn names_that_are_not_utf8_are_refused_and_no_panic() {
    use std::os::unix::ffi::OsStrExt;
    let folder = folder(&["a.jsonl"]);
    fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"x\xff.jsonl")), "{}").expect("write");
    for (path, want) in [("*", "not UTF-8"), ("", "which is no data file by its name")] {
        let error = expanded(&folder, &[path], Format::Jsonl).expect_err(want);
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn packed_text_is_unpacked_as_it_is_read() {
    let want = ["a", "b"].map(|text| Record::Text(text.into()));
    let lines: &[u8] = b"\xef\xbb\xbf{\"text\": \"a\"}\n{\"text\": \"b\"}\n";
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).expect("pack");
    let members = [gzip(&lines[..18]), gzip(&lines[18..])].concat();
    for (name, bytes) in [
        ("a.jsonl.gz", gzip(lines)),
        ("a.jsonl.gz", members),
        ("a.jsonl.zst", zstd(lines)),
        ("a.jsonl.zst", [b"\x50\x2a\x4d\x18\x04\0\0\0skip", &zstd(lines)[..]].concat()),
        ("a.json.gz", gzip(b"[{\"text\": \"a\"}, {\"text\": \"b\"}]")),
        ("a.csv.zst", zstd(b"text\na\nb\n")),
        ("a.jsonl", gzip(lines)),
    ] {
        assert_eq!(read_all(name, &bytes).expect(name), want, "{name}");
    }
    let whole = gzip(lines);
    assert!(read_all("a.jsonl.gz", &whole[..whole.len() - 9]).is_err(), "a file that was cut is not a shorter file");
    let long = gzip(format!("{{\"text\": \"{}\"}}", "x".repeat(2 << 20)).as_bytes());
    let error = read_all("a.jsonl.gz", &long).expect_err("long").to_string();
    assert!(error.contains("longer than the limit"), "{error}");
    let error = read_all("a.parquet.gz", &gzip(b"PAR1")).expect_err("Parquet").to_string();
    assert!(error.contains("gzip-compressed"), "{error}");
}

#[test]
fn a_text_file_is_one_document_or_one_a_line() {
    let utf16 = read_all("a.txt", b"o\0n\0e\0").expect_err("UTF-16 without its mark").to_string();
    assert!(utf16.contains("UTF-16"), "{utf16}");
    let text = b"\xef\xbb\xbfone\r\n\ntwo\n";
    assert_eq!(read_all("a.txt", text).expect("file"), [Record::Text("one\r\n\ntwo\n".into())]);
    assert_eq!(read_all("a.txt", b"").expect("file"), [Record::Text(String::new())]);
    let (_folder, path) = file("a.txt", text);
    let columns = BTreeMap::from([("text".to_owned(), "body".to_owned())]);
    let options = ReadOptions { format: Format::Lines, columns, ..ReadOptions::default() };
    let records: Vec<_> = read(&path, &options).expect("open").map(|item| item.expect("row")).collect();
    let want = [(Location::Line(1), "one"), (Location::Line(3), "two")];
    assert_eq!(records, want.map(|(location, text)| (location, Record::Text(text.into()))));
    assert!(read_all("a.txt", b"\xff").expect_err("bytes").to_string().contains("UTF-8"));
}

#[test]
fn a_row_of_a_csv_file_is_told_by_its_line_whatever_ends_the_lines() {
    for end in ["\n", "\r\n"] {
        let text = ["text,other", "a,\"b", "c\"", "d,e", "f"].join(end);
        let error = read_all("a.csv", text.as_bytes()).expect_err("a field is missing").to_string();
        assert!(error.contains("line 5:"), "{error}");
    }
}
