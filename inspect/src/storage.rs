//! Where bytes are: mapped files, and the storages in them.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A file, mapped read-only.
#[derive(Debug)]
pub(crate) struct Source {
    pub path: PathBuf,
    /// The file as it was when it was opened.
    pub stamp: Stamp,
    map: Option<memmap2::Mmap>,
}

/// A file at one moment, as far as telling a later change needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    path: PathBuf,
    /// Size and modification time in nanoseconds; `None` when it is not there.
    state: Option<(u64, u128)>,
}

impl Stamp {
    /// What is at `path` now.
    pub fn of(path: &Path) -> Self {
        Self::new(path, std::fs::metadata(path).ok().as_ref())
    }

    fn new(path: &Path, metadata: Option<&std::fs::Metadata>) -> Self {
        let state = metadata.and_then(|m| {
            let modified = m.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
            Some((if m.is_dir() { 0 } else { m.len() }, modified))
        });
        // The file itself, so that a link that is turned elsewhere does not count as unchanged.
        let path = path.canonicalize().or_else(|_| std::path::absolute(path));
        Stamp { path: path.unwrap_or_default(), state }
    }

    /// Whether the file is still as it was.
    pub fn is_current(&self) -> bool {
        Self::of(&self.path) == *self
    }
}

impl Source {
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e: std::io::Error| Error::io(path, &e);
        // Opening a pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::new(crate::ErrorKind::Io, "is not a regular file")
                .in_file(path)
                .hint("checkpoints are mapped, so a pipe or device is to be copied to a file first"));
        }
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let map = if metadata.len() == 0 {
            None
        } else {
            // SAFETY: the map is read-only and private. If another process cuts the file short while it is
            // mapped, touching the lost pages ends this process with SIGBUS; nothing is corrupted.
            Some(unsafe { memmap2::Mmap::map(&file) }.map_err(io)?)
        };
        Ok(Source { path: path.to_path_buf(), stamp: Stamp::new(path, Some(&metadata)), map })
    }

    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

/// A run of bytes that tensors are views of.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub place: Place,
    /// Bytes it holds once decoded.
    pub len: u64,
    /// CRC-32 of its decoded bytes, where the container records one.
    pub crc32: Option<u32>,
    /// Above 1 when the words of its tensors are big-endian.
    pub swap: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// `len` bytes at `offset` of file `file`.
    Mapped { file: usize, offset: u64 },
    /// A raw deflate stream.
    Deflated { file: usize, offset: u64, compressed: u64 },
    /// Bytes that were inside the pickle.
    Inline(Arc<[u8]>),
    /// Not in the file, or not to be trusted.
    Missing {
        why: String,
        /// The file and the first byte there, where the bytes are or would be.
        at: Option<(usize, u64)>,
    },
    /// Made up: `kept` bytes at `offset` of file `file`, and `pattern` over and over.
    Filled { file: usize, offset: u64, kept: u64, pattern: Vec<u8> },
}

/// Deflate cannot expand further than this (RFC 1951: 258 bytes from 2 bits, and block overhead).
const DEFLATE_RATIO: u64 = 1032;

/// A deflated storage may be this large whatever its compressed size,
const FREE_INFLATION: u64 = 256 << 20;
/// and beyond that this many times its compressed size: weights hardly compress.
const MAX_INFLATION: u64 = 64;

impl Storage {
    pub fn mapped(file: usize, offset: u64, len: u64) -> Self {
        Storage { place: Place::Mapped { file, offset }, len, crc32: None, swap: 1 }
    }

    pub fn missing(why: impl Into<String>, len: u64) -> Self {
        Storage { place: Place::Missing { why: why.into(), at: None }, len, crc32: None, swap: 1 }
    }

    /// A missing storage whose first byte is, or would be, at `offset` of file `file`.
    pub fn lost(why: impl Into<String>, len: u64, file: usize, offset: u64) -> Self {
        Storage {
            place: Place::Missing { why: why.into(), at: Some((file, offset)) },
            len,
            crc32: None,
            swap: 1,
        }
    }

    /// The decoded bytes as they are in the file (not yet swapped).
    pub fn bytes<'a>(&'a self, files: &'a [Source]) -> Result<Cow<'a, [u8]>> {
        match &self.place {
            Place::Mapped { file, offset } => {
                let all = files[*file].bytes();
                slice(all, *offset, self.len).map(Cow::Borrowed).ok_or_else(|| {
                    Error::damaged(format!("{} bytes of storage are beyond the end of the file", self.len))
                        .at(*offset)
                        .in_file(&files[*file].path)
                })
            }
            Place::Deflated { file, offset, compressed } => {
                let source = &files[*file];
                if self.len > FREE_INFLATION && self.len / MAX_INFLATION > *compressed {
                    return Err(Error::unsupported(format!(
                        "its {compressed} compressed bytes inflate to {}, out of proportion",
                        self.len
                    ))
                    .at(*offset)
                    .in_file(&source.path)
                    .hint("unpack the archive and zip it again without compression"));
                }
                let packed = slice(source.bytes(), *offset, *compressed).ok_or_else(|| {
                    Error::damaged("a compressed storage is beyond the end of the file").at(*offset)
                });
                packed
                    .and_then(|packed| inflate(packed, self.len).map_err(|e| e.at(*offset)))
                    .map(Cow::Owned)
                    .map_err(|e| e.in_file(&source.path))
            }
            Place::Inline(bytes) => Ok(Cow::Borrowed(bytes)),
            Place::Missing { why, .. } => Err(Error::damaged(why.clone())),
            Place::Filled { file, offset, kept, pattern } => {
                let kept = slice(files[*file].bytes(), *offset, *kept)
                    .ok_or_else(|| Error::damaged("what is kept of it is beyond the end of the file"))?;
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(self.len as usize).map_err(|_| {
                    Error::unsupported(format!("{} bytes to fill are more than there is memory", self.len))
                })?;
                bytes.extend_from_slice(kept);
                // The pattern is in step with the tensor's first byte.
                bytes.extend(
                    pattern
                        .iter()
                        .cycle()
                        .skip(kept.len() % pattern.len().max(1))
                        .take(self.len as usize - kept.len()),
                );
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// `len` bytes of `all` from `offset`, if they are there.
pub(crate) fn slice(all: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let end = offset.checked_add(len)?;
    all.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
}

/// Inflates a raw deflate stream that must hold exactly `len` bytes.
pub(crate) fn inflate(packed: &[u8], len: u64) -> Result<Vec<u8>> {
    if len / DEFLATE_RATIO > packed.len() as u64 + 1 {
        return Err(Error::damaged(format!(
            "{} compressed bytes cannot hold the {len} announced",
            packed.len()
        )));
    }
    let mut out = Vec::new();
    flate2::read::DeflateDecoder::new(packed)
        .take(len + 1)
        .read_to_end(&mut out)
        .map_err(|e| Error::damaged(format!("the compressed data is damaged: {e}")))?;
    if out.len() as u64 != len {
        return Err(Error::damaged(format!("the compressed data does not hold the {len} bytes announced")));
    }
    Ok(out)
}

/// Reverses every word of `width` bytes.
pub(crate) fn swap_words(bytes: &mut [u8], width: usize) {
    if width > 1 {
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
}
