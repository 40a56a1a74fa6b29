//! Checkpoints: complete and verified, or invisible.
//!
//! `checkpoint-N/` holds the state after step `N`: `state.json`, one little-endian array file per arena (`params.bin`,
//! `first_moment.bin`, `second_moment.bin`) and `manifest.json` with the format version and each file's size and SHA-256.
//! It is written into a temporary sibling; every file is synced, the manifest last, then one rename makes it visible and the parent
//! folder is synced. Older ones are removed only after that. Reading takes the newest that verifies and says what is wrong with the
//! others. `best-N/` has the same form and holds only the weights with the lowest dev loss.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use findap_data::LoaderState;
use findap_data::files::{file_sha256, hex, sha256};
use findap_data::plain_words::plain_words;
use findap_tensor::{Slice, SliceMut};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The version of the format written here, and the only one read.
pub const FORMAT: u32 = 1;

const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
/// Largest manifest or state that is read.
const JSON_LIMIT_BYTES: u64 = 16 << 20;
/// Elements converted at a time.
const CHUNK: usize = 1 << 16;

/// Everything besides the arrays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// The loader's position.
    pub loader: LoaderState,
    /// Length of `metrics.jsonl`, in bytes.
    pub metrics_bytes: u64,
    /// Step and dev loss of the best weights so far.
    pub best: Option<(u64, f64)>,
    /// Dev losses measured since the best one.
    pub evaluations_since_best: u32,
    /// What the run was begun with, key by key: settings and fingerprints.
    pub identity: BTreeMap<String, String>,
}

/// What is wrong with a checkpoint.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file system refused. Checkpoints committed before are intact.
    #[error("{}: cannot {action}: {source}{}", path.display(), full_disk_hint(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file of the checkpoint is not what its manifest says.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A checkpoint was written by another version of the program.
    #[error(
        "{}: it has format {found}, this program reads format {FORMAT}; continue with the version that wrote it, or take \
         the stage back with `findap reset`",
        path.display()
    )]
    Format {
        /// The checkpoint.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

fn full_disk_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room and start the same run again, it resumes from the last checkpoint"
        }
        _ => "",
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    files: Vec<FileEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FileEntry {
    name: String,
    bytes: u64,
    sha256: String,
}

/// Called before each operation on a file with its name; tests make it fail.
pub(crate) type Failpoint<'a> = &'a mut dyn FnMut(&'static str) -> io::Result<()>;

/// Writes `<folder>/<prefix>-<state.step>` with the given arrays, then removes what is not among the newest `keep` of that prefix up
/// to this step. Those of later steps belong to a future that is being done again.
///
/// # Errors
/// [`CheckpointError::Io`]; what was committed before stays.
pub fn save(
    folder: &Path,
    prefix: &str,
    state: &State,
    arrays: &[(&str, Slice<'_>)],
    keep: usize,
) -> Result<(), CheckpointError> {
    save_with(folder, prefix, state, arrays, keep, &mut |_| Ok(()))
}

pub(crate) fn save_with(
    folder: &Path,
    prefix: &str,
    state: &State,
    arrays: &[(&str, Slice<'_>)],
    keep: usize,
    failpoint: Failpoint<'_>,
) -> Result<(), CheckpointError> {
    let target = folder.join(format!("{prefix}-{}", state.step));
    let temporary = folder.join(format!("{prefix}-{}.tmp", state.step));
    let io = |action: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |source| CheckpointError::Io { action, path, source }
    };
    remove_unfinished(folder, prefix);
    failpoint("make folder")
        .and_then(|()| fs::create_dir_all(&temporary))
        .map_err(io("make the folder", &temporary))?;
    let mut files = Vec::new();
    for (name, array) in arrays {
        let path = temporary.join(format!("{name}.bin"));
        files.push(write_array(&path, *array, failpoint).map_err(io("write", &path))?);
    }
    let text = serde_json::to_vec_pretty(state).expect("invariant: a state is plain data");
    files.push(write_bytes(&temporary.join(STATE), &text, failpoint).map_err(io("write", &temporary.join(STATE)))?);
    let manifest =
        serde_json::to_vec_pretty(&Manifest { format: FORMAT, files }).expect("invariant: a manifest is plain data");
    write_bytes(&temporary.join(MANIFEST), &manifest, failpoint).map_err(io("write", &temporary.join(MANIFEST)))?;
    failpoint("sync folder").and_then(|()| sync_folder(&temporary)).map_err(io("sync", &temporary))?;
    if target.exists() {
        // A folder of this name can only be a checkpoint that did not verify, or one of a step that is being done again.
        failpoint("remove stale").and_then(|()| fs::remove_dir_all(&target)).map_err(io("remove", &target))?;
    }
    failpoint("rename").and_then(|()| fs::rename(&temporary, &target)).map_err(io("rename to", &target))?;
    failpoint("sync parent").and_then(|()| sync_folder(folder)).map_err(io("sync", folder))?;
    let (past, future): (Vec<_>, Vec<_>) = list(folder, prefix).into_iter().partition(|(step, _)| *step <= state.step);
    for (_, old) in past.into_iter().skip(keep.max(1)).chain(future) {
        failpoint("prune").and_then(|()| fs::remove_dir_all(&old)).map_err(io("remove", &old))?;
    }
    Ok(())
}

/// Removes what a kill left half written of the checkpoints of `prefix` in `folder`.
pub(crate) fn remove_unfinished(folder: &Path, prefix: &str) {
    for path in unfinished(folder, prefix) {
        // A leftover that cannot be removed only costs space.
        let _ = fs::remove_dir_all(path);
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn write_bytes(path: &Path, bytes: &[u8], failpoint: Failpoint<'_>) -> io::Result<FileEntry> {
    failpoint("create")?;
    let mut file = File::create(path)?;
    failpoint("write")?;
    file.write_all(bytes)?;
    failpoint("sync")?;
    file.sync_all()?;
    Ok(FileEntry { name: file_name(path), bytes: bytes.len() as u64, sha256: sha256(bytes) })
}

fn write_array(path: &Path, array: Slice<'_>, failpoint: Failpoint<'_>) -> io::Result<FileEntry> {
    failpoint("create")?;
    let mut file = BufWriter::new(File::create(path)?);
    failpoint("write")?;
    let mut hash = Sha256::new();
    let mut bytes = Vec::new();
    let mut total = 0;
    for start in (0..array.len()).step_by(CHUNK) {
        bytes.clear();
        match array.sub(start..(start + CHUNK).min(array.len())) {
            Slice::F32(x) => x.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
            Slice::F64(x) => x.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
            Slice::Bf16(x) => x.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
        }
        hash.update(&bytes);
        file.write_all(&bytes)?;
        total += bytes.len() as u64;
    }
    failpoint("sync")?;
    file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(FileEntry { name: file_name(path), bytes: total, sha256: hex(&hash.finalize()) })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The checkpoints of `prefix` in `folder`, the newest first, complete or not.
pub fn list(folder: &Path, prefix: &str) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<(u64, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let step = name.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort_by_key(|entry| std::cmp::Reverse(entry.0));
    found
}

/// What a kill left half written of the checkpoints of `prefix` in `folder`; it is removed before the next.
pub(crate) fn unfinished(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let is_unfinished = |path: &PathBuf| {
        let name = file_name(path);
        name.starts_with(&format!("{prefix}-")) && name.ends_with(".tmp")
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_unfinished).collect()
}

/// Checks every file of a checkpoint against its manifest and returns its state.
///
/// # Errors
/// [`CheckpointError`] naming the file that does not fit.
pub fn verify(checkpoint: &Path) -> Result<State, CheckpointError> {
    let manifest: Manifest = read_json(&checkpoint.join(MANIFEST))?;
    if manifest.format != FORMAT {
        return Err(CheckpointError::Format { path: checkpoint.into(), found: manifest.format });
    }
    for entry in &manifest.files {
        let path = checkpoint.join(&entry.name);
        let damaged = |problem: String| CheckpointError::Damaged { path: path.clone(), problem };
        if entry.name.contains(['/', '\\']) || entry.name.starts_with('.') {
            return Err(damaged("the manifest names a file outside the checkpoint".to_owned()));
        }
        let file = open(&path)?;
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        if bytes != entry.bytes {
            return Err(damaged(format!("it has {bytes} bytes, the manifest says {}", entry.bytes)));
        }
        let found =
            file_sha256(&path).map_err(|source| CheckpointError::Io { action: "read", path: path.clone(), source })?;
        if found != entry.sha256 {
            return Err(damaged("its SHA-256 is not the manifest's".to_owned()));
        }
    }
    if !manifest.files.iter().any(|entry| entry.name == STATE) {
        return Err(CheckpointError::Damaged {
            path: checkpoint.join(STATE),
            problem: "it is not in the manifest".to_owned(),
        });
    }
    read_json(&checkpoint.join(STATE))
}

/// Opens a file of a checkpoint. A missing file is damage; a file that cannot be read now is no reason to give the checkpoint up.
fn open(path: &Path) -> Result<File, CheckpointError> {
    File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CheckpointError::Damaged { path: path.into(), problem: "it is missing".to_owned() },
        _ => CheckpointError::Io { action: "open", path: path.into(), source },
    })
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let damaged = |problem: String| CheckpointError::Damaged { path: path.into(), problem };
    let file = open(path)?;
    let mut text = Vec::new();
    file.take(JSON_LIMIT_BYTES).read_to_end(&mut text).map_err(|error| damaged(format!("cannot be read: {error}")))?;
    serde_json::from_slice(&text).map_err(|error| damaged(plain_words(&error.to_string())))
}

/// The newest checkpoint of `prefix` that verifies; `notes` gets one line for each that is damaged.
///
/// # Errors
/// [`CheckpointError::Format`] and [`CheckpointError::Io`]: it may be whole, so training must not resume from an older one.
pub fn find_latest(
    folder: &Path,
    prefix: &str,
    notes: &mut Vec<String>,
) -> Result<Option<(State, PathBuf)>, CheckpointError> {
    for (step, path) in list(folder, prefix) {
        match verify(&path) {
            Ok(state) if state.step == step => return Ok(Some((state, path))),
            Ok(state) => notes.push(format!("{}: skipped: it holds step {}", path.display(), state.step)),
            Err(error @ CheckpointError::Damaged { .. }) => {
                notes.push(format!("skipped a checkpoint that does not verify: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Reads an array of a verified checkpoint.
///
/// # Errors
/// [`CheckpointError::Damaged`] if its length is not that of `array`.
pub fn read_array(checkpoint: &Path, name: &str, array: SliceMut<'_>) -> Result<(), CheckpointError> {
    let path = checkpoint.join(format!("{name}.bin"));
    let damaged = |problem: String| CheckpointError::Damaged { path: path.clone(), problem };
    let file = open(&path)?;
    let want = array.len() as u64 * array.dtype().size_bytes() as u64;
    let found = file.metadata().map_or(0, |metadata| metadata.len());
    if found != want {
        return Err(damaged(format!("it has {found} bytes, the model needs {want}")));
    }
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let read = match array {
        SliceMut::F32(x) => fill(&mut reader, x, f32::from_le_bytes),
        SliceMut::F64(x) => fill(&mut reader, x, f64::from_le_bytes),
        SliceMut::Bf16(x) => fill(&mut reader, x, half::bf16::from_le_bytes),
    };
    read.map_err(|error| damaged(format!("cannot be read: {error}")))
}

fn fill<T, const N: usize>(reader: &mut impl Read, out: &mut [T], convert: fn([u8; N]) -> T) -> io::Result<()> {
    let mut bytes = [0; N];
    for value in out {
        reader.read_exact(&mut bytes)?;
        *value = convert(bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(step: u64) -> State {
        State {
            step,
            tokens: 10 * step,
            loader: LoaderState { epoch_steps: step, ..LoaderState::default() },
            metrics_bytes: 0,
            best: Some((1, 0.1 + 0.2)),
            evaluations_since_best: 0,
            identity: BTreeMap::new(),
        }
    }

    fn values(step: u64) -> Vec<f32> {
        (0..100_000).map(|i| i as f32 * 0.1 + step as f32).collect()
    }

    fn save_step(folder: &Path, step: u64, keep: usize) {
        save(folder, "checkpoint", &state(step), &[("params", Slice::F32(&values(step)))], keep).unwrap();
    }

    fn latest(folder: &Path) -> (u64, Vec<f32>, Vec<String>) {
        let mut notes = Vec::new();
        let (found, path) = find_latest(folder, "checkpoint", &mut notes).unwrap().expect("one verifies");
        let mut params = vec![0.0; 100_000];
        read_array(&path, "params", SliceMut::F32(&mut params)).unwrap();
        assert_eq!(found, state(found.step), "floating point numbers survive");
        (found.step, params, notes)
    }

    #[test]
    fn the_newest_is_read_and_old_ones_are_pruned() {
        let folder = tempfile::tempdir().unwrap();
        for step in [9, 10, 11] {
            save_step(folder.path(), step, 2);
        }
        assert_eq!(list(folder.path(), "checkpoint").iter().map(|(step, _)| *step).collect::<Vec<_>>(), [11, 10]);
        let (step, params, notes) = latest(folder.path());
        assert_eq!((step, params == values(11), notes.len()), (11, true, 0));
    }

    #[test]
    fn a_damaged_checkpoint_is_named_and_the_one_before_is_read() {
        type Damage = fn(&Path);
        let cases: [(&str, Damage, &str); 7] = [
            ("flipped bit", |dir| flip(&dir.join("params.bin"), 1234), "SHA-256"),
            ("cut array", |dir| cut(&dir.join("params.bin"), 100), "bytes, the manifest says"),
            ("missing array", |dir| fs::remove_file(dir.join("params.bin")).unwrap(), "missing"),
            ("flipped state", |dir| flip(&dir.join("state.json"), 12), "SHA-256"),
            ("missing manifest", |dir| fs::remove_file(dir.join("manifest.json")).unwrap(), "manifest.json"),
            ("cut manifest", |dir| cut(&dir.join("manifest.json"), 20), "manifest.json"),
            (
                "empty folder",
                |dir| fs::read_dir(dir).unwrap().for_each(|f| fs::remove_file(f.unwrap().path()).unwrap()),
                "manifest",
            ),
        ];
        for (name, damage, wanted) in cases {
            let folder = tempfile::tempdir().unwrap();
            save_step(folder.path(), 1, 2);
            save_step(folder.path(), 2, 2);
            damage(&folder.path().join("checkpoint-2"));
            let (step, params, notes) = latest(folder.path());
            assert_eq!((step, params == values(1)), (1, true), "{name}");
            assert!(
                notes.len() == 1 && notes[0].contains("checkpoint-2") && notes[0].contains(wanted),
                "{name}: {notes:?}"
            );
        }
    }

    /// Such a checkpoint may hold days of work: resuming from an older one would throw them away.
    #[test]
    fn a_checkpoint_of_another_format_stops_the_run() {
        let folder = tempfile::tempdir().unwrap();
        save_step(folder.path(), 1, 2);
        save_step(folder.path(), 2, 2);
        let path = folder.path().join("checkpoint-2").join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 99");
        fs::write(path, text).unwrap();
        let error = find_latest(folder.path(), "checkpoint", &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("checkpoint-2") && error.contains("format 99"), "{error}");
    }

    #[test]
    fn a_past_that_is_done_again_replaces_the_future_and_keeps_itself() {
        let folder = tempfile::tempdir().unwrap();
        [1, 5, 6].into_iter().for_each(|step| save_step(folder.path(), step, 3));
        flip(&folder.path().join("checkpoint-6/params.bin"), 7);
        save_step(folder.path(), 2, 2);
        let steps: Vec<u64> = list(folder.path(), "checkpoint").iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, [2, 1]);
        assert_eq!(latest(folder.path()).0, 2);
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    fn cut(path: &Path, length: u64) {
        File::options().write(true).open(path).unwrap().set_len(length).unwrap();
    }

    /// Ends the writer before each of its operations in turn: what was committed before is always there and whole.
    #[test]
    fn a_writer_that_dies_anywhere_leaves_a_good_checkpoint() {
        let mut operations = 0;
        {
            let folder = tempfile::tempdir().unwrap();
            save_step(folder.path(), 1, 1);
            let mut count = |_: &'static str| {
                operations += 1;
                Ok(())
            };
            save_with(folder.path(), "checkpoint", &state(2), &[("params", Slice::F32(&values(2)))], 1, &mut count)
                .unwrap();
        }
        assert!(operations > 12, "{operations}");
        for dies_at in 0..operations {
            let folder = tempfile::tempdir().unwrap();
            save_step(folder.path(), 1, 1);
            let mut done = 0;
            let mut die = |_: &'static str| {
                done += 1;
                if done > dies_at { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
            };
            let error =
                save_with(folder.path(), "checkpoint", &state(2), &[("params", Slice::F32(&values(2)))], 1, &mut die)
                    .unwrap_err();
            assert!(error.to_string().contains("make room"), "{error}");
            let (step, params, notes) = latest(folder.path());
            assert!(params == values(step) && notes.is_empty(), "operation {dies_at}: step {step}, {notes:?}");
            save_step(folder.path(), 2, 1);
            assert_eq!(latest(folder.path()).0, 2);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
        }
    }
}
