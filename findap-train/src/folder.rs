//! The run folder: one writer, durable files, free space.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use findap_data::files;
use findap_data::plain_words::plain_words;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{TrainError, io};

/// How long a lock is waited for: a process that was killed holds its own until the system has taken back its memory.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Time between two looks at a lock that is held.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A lock that holds a folder for this process. The system frees it when the process ends, however it ends; the file that stays
/// behind names the last owner and blocks nobody.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Locks `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// [`TrainError::Locked`] with the owner; [`TrainError::Io`].
    pub fn take(folder: &Path) -> Result<Self, TrainError> {
        fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        let path = folder.join("run.lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io("open", &path))?;
        let give_up_at = Instant::now() + LOCK_PATIENCE;
        let locked = loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if Instant::now() < give_up_at => std::thread::sleep(LOCK_POLL),
                other => break other,
            }
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                return Err(TrainError::Locked { path, owner: owner.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(io("lock", &path)(source)),
        }
        let owner = format!("process {} on {}\n", std::process::id(), host_name());
        file.set_len(0).map_err(io("write", &path))?;
        file.seek(SeekFrom::Start(0)).map_err(io("write", &path))?;
        file.write_all(owner.as_bytes()).map_err(io("write", &path))?;
        Ok(Self { _file: file })
    }

    /// Whether a process holds the lock of `folder` now. Nothing is written; a lock that cannot be looked at is taken for free.
    pub fn is_held(folder: &Path) -> bool {
        let Ok(file) = File::open(folder.join("run.lock")) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }
}

/// The machine's name, reduced to letters, digits, `-` and `.`.
pub(crate) fn host_name() -> String {
    let name =
        fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let plain: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
    if plain.is_empty() { "localhost".to_owned() } else { plain }
}

/// Writes a file so that it is whole or not there, and durable.
///
/// # Errors
/// [`TrainError::Io`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    files::write_whole(path, bytes).map_err(io("write", path))
}

/// Reads a value from JSON; `None` where there is no such file.
///
/// # Errors
/// [`TrainError::Io`], also for text that is no such value.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TrainError> {
    match fs::read(path) {
        Ok(bytes) => {
            let parsed = serde_json::from_slice(&bytes);
            parsed.map(Some).map_err(|error| io("read", path)(std::io::Error::other(plain_words(&error.to_string()))))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// Writes a value as JSON, whole or not at all.
///
/// # Errors
/// [`TrainError::Io`].
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let text = serde_json::to_vec_pretty(value).expect("invariant: plain values are JSON");
    write_whole(path, &text)
}

/// Writes a text whole; a file that has this text already is left as it is.
///
/// # Errors
/// [`TrainError::Io`].
pub(crate) fn write_if_new(path: &Path, text: &str) -> Result<(), TrainError> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    write_whole(path, text.as_bytes())
}

/// Bytes a user may still write below `folder`, which need not be there yet; `None` where the system does not say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let present = folder.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("."));
    let path = std::ffi::CString::new(present.as_os_str().as_encoded_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` is a NUL-terminated string and `stat` a writable statvfs; both outlive the call.
    let answer = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
    if answer != 0 {
        return None;
    }
    // SAFETY: every bit pattern is a statvfs, it was zeroed, and the call that filled it succeeded.
    let stat = unsafe { stat.assume_init() };
    Some(stat.f_bavail * stat.f_frsize)
}

/// Refuses where fewer than `need_bytes` bytes are free below `folder`.
///
/// # Errors
/// [`TrainError::DiskSpace`].
pub fn require_space(folder: &Path, need_bytes: u64) -> Result<(), TrainError> {
    match free_bytes(folder) {
        Some(free_bytes) if free_bytes < need_bytes => {
            Err(TrainError::DiskSpace { folder: folder.into(), need_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_writer_is_refused_and_the_lock_ends_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let error = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        FolderLock::take(folder.path()).unwrap();
    }

    #[test]
    fn space_is_refused_before_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(folder.path()).is_some_and(|free| free > 0));
        assert!(free_bytes(&folder.path().join("not/yet")).is_some() && free_bytes(Path::new("not-yet")).is_some());
        assert!(matches!(require_space(folder.path(), u64::MAX), Err(TrainError::DiskSpace { .. })));
        require_space(folder.path(), 1).unwrap();
    }
}
