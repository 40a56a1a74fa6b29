//! The training log of a stage: `metrics.jsonl` and TensorBoard event files.
//!
//! `metrics.jsonl` has one flat object per line and never a NaN. A resumed stage cuts the file at its checkpoint's offset. So a run that
//! was stopped and resumed writes the file of one that was not, but for the times in it (`tokens_per_s`).

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::error::{TrainError, io};

/// Appends to a `metrics.jsonl`.
#[derive(Debug)]
pub struct JsonlWriter {
    file: File,
    path: std::path::PathBuf,
    offset: u64,
}

impl JsonlWriter {
    /// Opens `path` and cuts it at `offset` bytes.
    ///
    /// # Errors
    /// [`TrainError::Io`], also when the file is shorter than `offset`.
    pub fn open(path: &Path, offset: u64) -> Result<Self, TrainError> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(io("open", path))?;
        let length = file.metadata().map_err(io("look at", path))?.len();
        if length < offset {
            let short = std::io::Error::other(format!(
                "it has {length} bytes, the checkpoint knows of {offset}; take the stage back with `findap reset`"
            ));
            return Err(io("continue", path)(short));
        }
        file.set_len(offset).map_err(io("cut", path))?;
        file.seek(SeekFrom::Start(offset)).map_err(io("seek in", path))?;
        Ok(Self { file, path: path.into(), offset })
    }

    /// Appends one object; numbers that are not finite are left out.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn write(&mut self, fields: &[(&str, f64)]) -> Result<(), TrainError> {
        let mut object = Map::new();
        for (name, value) in fields {
            let whole = value.fract() == 0.0 && value.abs() < 9e15 && is_count(name);
            let value = if whole {
                Some(Value::from(*value as i64))
            } else {
                serde_json::Number::from_f64(*value).map(Value::Number)
            };
            if let Some(value) = value {
                object.insert((*name).to_owned(), value);
            }
        }
        let line = format!("{}\n", Value::Object(object));
        self.file.write_all(line.as_bytes()).map_err(io("write", &self.path))?;
        self.offset += line.len() as u64;
        Ok(())
    }

    /// Makes all lines durable and returns the file's length.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn sync(&mut self) -> Result<u64, TrainError> {
        self.file.sync_data().map_err(io("sync", &self.path))?;
        Ok(self.offset)
    }
}

fn is_count(name: &str) -> bool {
    matches!(name, "step" | "tokens" | "loss_tokens" | "pairs")
}

/// Writes a TensorBoard event file: records of (length, masked CRC-32C of the length, a protobuf `Event`, masked CRC-32C of it).
#[derive(Debug)]
pub struct TensorBoardWriter {
    file: File,
    path: std::path::PathBuf,
}

impl TensorBoardWriter {
    /// Begins a new event file in `folder`, which is read after those that are there. `step` is the number of steps already done:
    /// TensorBoard drops what earlier files say about later steps, for these are done again.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn create(folder: &Path, step: u64) -> Result<Self, TrainError> {
        let time = next_event_time(folder)?;
        let name = format!("events.out.tfevents.{time}.{}.{}.0", crate::folder::host_name(), std::process::id());
        let path = folder.join(name);
        let file = File::create(&path).map_err(io("create", &path))?;
        let mut writer = Self { file, path };
        let mut version = event_head(0);
        put_bytes(&mut version, 3, b"brain.Event:2");
        writer.record(&version)?;
        // A START drops events from its own step on. The step that was done last is to be kept.
        let mut start = event_head(step + 1);
        put_bytes(&mut start, 7, &[0x08, 0x01]); // session_log { status: START }
        writer.record(&start)?;
        Ok(writer)
    }

    /// Writes metrics under `step`, by the names that TensorBoard has for them.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn write(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<(), TrainError> {
        let mut summary = Vec::new();
        for (name, value) in scalars {
            let mut scalar = Vec::new();
            put_bytes(&mut scalar, 1, tag(name).as_bytes());
            scalar.push(0x15); // field 2, 32 bits: simple_value
            scalar.extend((*value as f32).to_le_bytes());
            put_bytes(&mut summary, 1, &scalar);
        }
        let mut event = event_head(step);
        put_bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    /// Makes all events durable: those of a checkpoint's steps are not written again.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn sync(&mut self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(io("sync", &self.path))
    }

    fn record(&mut self, data: &[u8]) -> Result<(), TrainError> {
        let length = (data.len() as u64).to_le_bytes();
        let mut bytes = Vec::with_capacity(data.len() + 16);
        bytes.extend(length);
        bytes.extend(masked_crc(&length).to_le_bytes());
        bytes.extend(data);
        bytes.extend(masked_crc(data).to_le_bytes());
        self.file.write_all(&bytes).map_err(io("write", &self.path))
    }
}

/// The name of a metric in TensorBoard: TRL's where its trainers log the same number, so that what is made for them finds it.
fn tag(metric: &str) -> &str {
    match metric {
        "reward_chosen" => "rewards/chosen",
        "reward_rejected" => "rewards/rejected",
        "reward_margin" => "rewards/margins",
        "reward_accuracy" => "rewards/accuracies",
        "logp_chosen" => "logps/chosen",
        "logp_rejected" => "logps/rejected",
        other => other,
    }
}

/// The seconds in the name of the next event file of a folder. TensorBoard reads files in the order of their names, so they lie
/// behind those of every file that is there, even if the clock was set back or a run was stopped within a second.
fn next_event_time(folder: &Path) -> Result<u64, TrainError> {
    let mut next = now() as u64;
    for entry in std::fs::read_dir(folder).map_err(io("list", folder))? {
        let name = entry.map_err(io("list", folder))?.file_name();
        let time =
            name.to_str().and_then(|name| name.strip_prefix("events.out.tfevents.")?.split('.').next()?.parse().ok());
        next = next.max(time.map_or(0, |time: u64| time + 1));
    }
    Ok(next)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// The beginning of an event: `wall_time` (field 1, 64 bits) and `step` (field 2).
fn event_head(step: u64) -> Vec<u8> {
    let mut event = vec![0x09];
    event.extend(now().to_le_bytes());
    event.push(0x10);
    put_varint(&mut event, step);
    event
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// What TensorBoard shows of a folder of event files, for tests.
#[cfg(test)]
pub(crate) mod reading {
    use super::*;

    /// The data of the records of an event file, whose checksums must be right.
    pub(crate) fn records(mut rest: &[u8]) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked_crc(&rest[..8]).to_le_bytes());
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked_crc(data).to_le_bytes());
            events.push(data.to_vec());
            rest = &rest[16 + length..];
        }
        events
    }

    /// The steps of the summaries that have the scalar `loss`: a START takes those from its own step on back.
    pub(crate) fn shown_steps(folder: &Path) -> Vec<u64> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = names.filter(|path| path.to_string_lossy().contains("tfevents")).collect();
        files.sort();
        let mut steps = Vec::new();
        for event in files.iter().flat_map(|path| records(&std::fs::read(path).unwrap())) {
            // wall time (9 bytes), step (a tag and a varint), then the one field that tells what the event is
            let length = 1 + event[10..].iter().position(|byte| *byte < 0x80).unwrap();
            let step = event[10..10 + length].iter().rev().fold(0, |step, byte| step << 7 | u64::from(byte & 0x7f));
            let rest = &event[10 + length..];
            match rest[0] >> 3 {
                7 => steps.retain(|shown| *shown < step),
                5 if rest.windows(6).any(|window| window == b"\x0a\x04loss") => steps.push(step),
                _ => {}
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::reading::{records, shown_steps};
    use super::*;

    #[test]
    fn lines_are_cut_at_the_offset_and_hold_no_nan() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = JsonlWriter::open(&path, 0).unwrap();
        writer.write(&[("step", 1.0), ("loss", 2.5)]).unwrap();
        let offset = writer.sync().unwrap();
        writer.write(&[("step", 2.0), ("loss", f64::NAN)]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1,\"loss\":2.5}\n{\"step\":2}\n");
        JsonlWriter::open(&path, offset).unwrap().write(&[("step", 2.0), ("loss", 1.0)]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":1.0}\n");
        assert!(JsonlWriter::open(&path, 1000).is_err());
    }

    #[test]
    fn event_files_are_framed_as_tensorboard_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = TensorBoardWriter::create(folder.path(), 300).unwrap();
        writer.write(301, &[("loss", 1.5)]).unwrap();
        let events = records(&std::fs::read(&writer.path).unwrap());
        assert_eq!(events.len(), 3);
        assert!(events[0].ends_with(b"brain.Event:2"));
        assert_eq!(events[2][9..12], [0x10, 0xad, 0x02]); // step 301 as a varint
        let mut scalar = vec![0x0a, 4];
        scalar.extend(b"loss");
        scalar.push(0x15);
        scalar.extend(1.5f32.to_le_bytes());
        assert!(events[2].ends_with(&scalar));
        // The published check value of CRC-32C and TensorFlow's mask of it.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn what_trl_logs_of_pairs_has_its_names_in_tensorboard() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = TensorBoardWriter::create(folder.path(), 0).unwrap();
        let names = [
            ("reward_chosen", "rewards/chosen"),
            ("reward_rejected", "rewards/rejected"),
            ("reward_margin", "rewards/margins"),
            ("reward_accuracy", "rewards/accuracies"),
            ("logp_chosen", "logps/chosen"),
            ("logp_rejected", "logps/rejected"),
            ("dpo_loss", "dpo_loss"),
        ];
        writer.write(1, &names.map(|(name, _)| (name, 0.5))).unwrap();
        let events = records(&std::fs::read(&writer.path).unwrap());
        for (name, tag) in names {
            let mut tagged = vec![0x0a, tag.len() as u8];
            tagged.extend(tag.as_bytes());
            assert!(events[2].windows(tagged.len()).any(|window| window == tagged), "{name} is {tag}");
        }
    }

    #[test]
    fn after_every_restart_each_step_is_shown_once() {
        let folder = tempfile::tempdir().unwrap();
        // (steps done at the beginning, the last step written before the kill): before any checkpoint, behind one, right at one
        for (done, last) in [(0, 3), (0, 7), (5, 9), (9, 12)] {
            let mut writer = TensorBoardWriter::create(folder.path(), done).unwrap();
            for step in done + 1..=last {
                writer.write(step, &[("loss", 1.0)]).unwrap();
            }
        }
        assert_eq!(shown_steps(folder.path()), (1..=12).collect::<Vec<_>>());
    }
}
