//! The bytes of a text file, unpacked as they are read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use crate::error::DataError;

const BUFFER_BYTES: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A text file's bytes without the byte order mark.
pub(super) type Input = Box<dyn BufRead + Send>;

/// How a file is packed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
    /// One that is not unpacked here.
    Other(&'static str),
}

impl Packing {
    pub(super) fn of(path: &Path) -> Result<Packing, DataError> {
        const MAGIC: [(&[u8], Packing); 5] = [
            (b"\x1f\x8b", Packing::Gzip),
            (b"\x28\xb5\x2f\xfd", Packing::Zstd),
            (b"PK\x03\x04", Packing::Other("zip")),
            (b"BZh", Packing::Other("bzip2")),
            (b"\xfd7zXZ", Packing::Other("xz")),
        ];
        let mut first = Vec::new();
        let file = File::open(path).map_err(|error| DataError::io("read", path, error))?;
        file.take(8).read_to_end(&mut first).map_err(|error| DataError::io("read", path, error))?;
        // A frame of zstd that is skipped, as parallel packers write before each of theirs.
        if matches!(first[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) {
            return Ok(Packing::Zstd);
        }
        let found = MAGIC.iter().find(|(magic, _)| first.starts_with(magic));
        Ok(found.map_or(Packing::Plain, |(_, packing)| *packing))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Packing::Plain => "not",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            Packing::Other(name) => name,
        }
    }
}

pub(super) fn open(path: &Path, packing: Packing) -> Result<Input, DataError> {
    let unpacked = || -> io::Result<Input> {
        let file = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
        let mut bytes: Box<dyn Read + Send> = match packing {
            // Files of several members, as parallel packers write them, are read to their end.
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
            Packing::Plain | Packing::Other(_) => Box::new(file),
        };
        let mut first = Vec::new();
        bytes.by_ref().take(BYTE_ORDER_MARK.len() as u64).read_to_end(&mut first)?;
        if first == BYTE_ORDER_MARK {
            first.clear();
        }
        Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, Cursor::new(first).chain(bytes))))
    };
    unpacked().map_err(|error| DataError::io("read", path, error))
}
