//! The files that a path, a folder or a pattern names, in a fixed order.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Format;
use crate::error::{DataError, FileProblem};
use crate::guard::guard;

/// The files of a source: each path in the order given, a folder's or pattern's files sorted by name.
///
/// # Errors
/// [`DataError::Io`] for what is not there; [`DataError::File`] for a pattern without a match, a folder of which it is not plain
/// which files are meant, and a file that is named twice; [`DataError::BadOption`] for no path at all.
pub fn expand(paths: &[PathBuf], format: Format) -> Result<Vec<PathBuf>, DataError> {
    if paths.is_empty() {
        let want = "a file, a folder, a pattern, or a list of them".to_owned();
        return Err(DataError::BadOption { option: "path", got: "[]".into(), want });
    }
    let mut files = Vec::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => files.extend(of_folder(path, format)?),
            Ok(metadata) if metadata.is_file() => files.push(path.clone()),
            Ok(_) => return Err(fail(path, FileProblem::NotAFile)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_pattern(path) => {
                files.extend(of_pattern(path, format)?);
            }
            Err(error) => return Err(DataError::io("read", path, error)),
        }
    }
    let mut seen = BTreeMap::new();
    for file in &files {
        let place = place(file).map_err(|error| DataError::io("read", file, error))?;
        if let Some(other) = seen.insert(place, file) {
            return Err(fail(file, FileProblem::SameFile { other: other.clone() }));
        }
    }
    Ok(files)
}

/// What tells a file from all others, under whichever of its names it was found: a link may be a name as good as the first.
#[cfg(unix)]
fn place(file: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(file).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn place(file: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(file)
}

/// The format that a file's name tells, beside `.gz` and `.zst`.
pub fn format_of_name(path: &Path) -> Option<Format> {
    let name = path.file_name().and_then(OsStr::to_str)?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    Some(match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" => Format::Jsonl,
        "json" => Format::Json,
        "csv" => Format::Csv,
        "parquet" => Format::Parquet,
        "txt" => Format::Txt,
        _ => return None,
    })
}

fn fail(path: &Path, problem: FileProblem) -> DataError {
    DataError::File { path: path.to_path_buf(), problem }
}

/// Whether a path is a pattern, where no file has it as its name.
pub fn is_pattern(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains(['*', '?', '[']))
}

fn of_pattern(path: &Path, format: Format) -> Result<Vec<PathBuf>, DataError> {
    let refuse = |why: String| fail(path, FileProblem::Pattern { why });
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::default() };
    let text = path.to_str().unwrap_or_default();
    let as_error = |error: glob::GlobError| {
        let path = error.path().to_path_buf();
        DataError::io("read", &path, error.into())
    };
    // The library panics on names that are not UTF-8.
    let found = guard(|| {
        let found = glob::glob_with(text, options).map_err(|error| refuse(error.msg.to_owned()))?;
        found.map(|file| file.map_err(as_error)).collect::<Result<Vec<PathBuf>, _>>()
    });
    let mut files = found.map_err(|_| refuse("a file there has a name that is not UTF-8".to_owned()))??;
    files.sort();
    if files.is_empty() {
        return Err(fail(path, FileProblem::NoMatch));
    }
    if let Some(other) = files.iter().find(|file| !file.is_file()) {
        return Err(refuse(format!("{} matches and is not a file", other.display())));
    }
    let why = mixture(&files).filter(|_| format == Format::Auto);
    if let Some(why) = why.or_else(|| packed_twins(&files)).or_else(|| several_splits(&files)) {
        return Err(refuse(why));
    }
    Ok(files)
}

fn of_folder(folder: &Path, format: Format) -> Result<Vec<PathBuf>, DataError> {
    let refuse = |why: String| fail(folder, FileProblem::Folder { why });
    let as_error = |error| DataError::io("read", folder, error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(as_error)? {
        let path = entry.map_err(as_error)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Marks and descriptions of data sets, such as .gitattributes, _SUCCESS and README.md.
        if name.starts_with(['.', '_']) || name.starts_with("README") || name.starts_with("LICENSE") {
            continue;
        }
        if !path.is_file() {
            return Err(refuse(format!("holds {name}, which is not a file")));
        }
        match (format_of_name(&path), format) {
            (Some(_), Format::Auto) => files.push(path),
            (None, _) => return Err(refuse(format!("holds {name}, which is no data file by its name"))),
            (Some(found), _) if is_of(found, format) => files.push(path),
            _ => {}
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(refuse("holds no data file of the format".to_owned()));
    }
    let why = mixture(&files).filter(|_| format == Format::Auto);
    if let Some(why) =
        why.or_else(|| packed_twins(&files)).or_else(|| several_splits(&files)).or_else(|| missing_shard(&files))
    {
        return Err(refuse(why));
    }
    Ok(files)
}

/// Whether a file named as `found` is one of those meant by `format`.
fn is_of(found: Format, format: Format) -> bool {
    match format {
        Format::Jsonl => matches!(found, Format::Jsonl | Format::Json),
        Format::Lines => found == Format::Txt,
        format => found == format,
    }
}

fn mixture(files: &[PathBuf]) -> Option<String> {
    let first = files.first()?;
    let other = files.iter().find(|file| format_of_name(file) != format_of_name(first))?;
    let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Some(format!("names files of several formats, such as {} and {}", name(first), name(other)))
}

/// What is wrong where a file stands beside itself in a packed form: its rows would be read twice.
fn packed_twins(files: &[PathBuf]) -> Option<String> {
    let unpacked = |file: &Path| match file.extension() {
        Some(ending) if ending == "gz" || ending == "zst" => file.with_extension(""),
        _ => file.to_path_buf(),
    };
    let mut seen = BTreeSet::new();
    let twin = files.iter().map(|file| unpacked(file)).find(|file| !seen.insert(file.clone()))?;
    Some(format!("holds {} in several packings", twin.file_name()?.to_string_lossy()))
}

/// The split that a file is by its name: `test.jsonl`, `test-1.csv`, `bonds_test.jsonl`.
fn split_of(name: &str) -> Option<&str> {
    const SPLITS: [&str; 7] = ["train", "test", "validation", "valid", "val", "dev", "eval"];
    name.split(|c: char| !c.is_ascii_alphabetic()).find(|word| SPLITS.contains(word))
}

/// What is wrong with files that are several splits by their names.
fn several_splits(files: &[PathBuf]) -> Option<String> {
    let names: BTreeSet<&str> = files.iter().filter_map(|file| split_of(file.file_name()?.to_str()?)).collect();
    let names: Vec<&str> = names.into_iter().collect();
    (names.len() > 1).then(|| format!("holds several splits: {}", names.join(", ")))
}

/// What is wrong with files named as the hub names shards, `train-00000-of-00002.parquet`: they are of several splits, or lack one.
pub fn missing_shard(files: &[PathBuf]) -> Option<String> {
    let mut splits: BTreeMap<(&str, u64), BTreeSet<u64>> = BTreeMap::new();
    for file in files {
        let stem = file.file_name()?.to_str()?.split('.').next()?;
        let shard = stem.rsplit_once("-of-").and_then(|(before, total)| {
            let (split, index) = before.rsplit_once('-')?;
            Some(((split, total.parse().ok()?), index.parse().ok()?))
        });
        if let Some((split, index)) = shard {
            splits.entry(split).or_default().insert(index);
        }
    }
    let names: BTreeSet<&str> = splits.keys().map(|(name, _)| *name).collect();
    if names.len() > 1 {
        let names: Vec<&str> = names.into_iter().collect();
        return Some(format!("holds several splits: {}", names.join(", ")));
    }
    let missing = |((name, total), found): (&(&str, u64), &BTreeSet<u64>)| {
        let index = (0..*total).find(|index| !found.contains(index))?;
        Some(format!("lacks the shard {name}-{index:05}-of-{total:05}"))
    };
    splits.iter().find_map(missing)
}
