//! Ranges of files that are compressed with Zstandard, as sources of their own. They are decompressed when they are asked
//! for, and the last ones are kept.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::{ByteSource, Source, Stamp};
use crate::{DamageKind, Error, Result};

/// Decompressed bytes that are kept for when they are asked for again: blocks of columns are read in turn, row by row.
const KEPT: usize = 1 << 30;

/// What was decompressed last, of several sources.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<VecDeque<((usize, u64), Arc<[u8]>)>>);

impl Recent {
    fn get(&self, key: (usize, u64), unpack: impl FnOnce() -> Result<Vec<u8>>) -> Result<Arc<[u8]>> {
        let kept = || self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let known = |all: &VecDeque<((usize, u64), Arc<[u8]>)>| {
            all.iter().find(|(other, _)| *other == key).map(|(_, bytes)| bytes.clone())
        };
        if let Some(bytes) = known(&kept()) {
            return Ok(bytes);
        }
        let bytes: Arc<[u8]> = unpack()?.into();
        let mut all = kept();
        if known(&all).is_none() {
            all.push_back((key, bytes.clone()));
        }
        while all.len() > 1 && all.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > KEPT {
            all.pop_front();
        }
        Ok(bytes)
    }
}

/// A range of a file that is decompressed when it is read.
#[derive(Debug)]
struct Unpacked {
    packed: Arc<Source>,
    start: u64,
    /// Bytes in the file, and once decompressed.
    packed_len: u64,
    len: u64,
    recent: Arc<Recent>,
}

/// The `packed_len` bytes of `packed` from `start`, decompressed, as a source. It has at most `limit` bytes.
///
/// # Errors
/// `Damaged` for what does not decompress, or to more.
pub(crate) fn source(
    packed: &Arc<Source>,
    (start, packed_len): (u64, u64),
    limit: u64,
    recent: &Arc<Recent>,
) -> Result<Arc<Source>> {
    let mut unpacked = Unpacked { packed: packed.clone(), start, packed_len, len: 0, recent: recent.clone() };
    unpacked.len = unpacked.all(limit)?.len() as u64;
    let name: &Path = &packed.path;
    Ok(Source::of(name, Stamp::never(name), unpacked))
}

impl Unpacked {
    fn all(&self, limit: u64) -> Result<Arc<[u8]>> {
        let key = (Arc::as_ptr(&self.packed) as usize, self.start);
        self.recent.get(key, || {
            let bytes = self.packed.bytes(self.start..self.start.saturating_add(self.packed_len))?;
            unpack(&bytes, limit)
        })
    }
}

impl ByteSource for Unpacked {
    fn len(&self) -> u64 {
        self.len
    }

    fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let all = self.all(self.len)?;
        Ok(Cow::Owned(super::borrowed(&all, range)?.into_owned()))
    }

    fn is_resident(&self) -> bool {
        false
    }
}

/// The frames in `packed`, decompressed to at most `limit` bytes.
fn unpack(packed: &[u8], limit: u64) -> Result<Vec<u8>> {
    let damaged = |what: String| Error::damaged(what).because(DamageKind::Compression);
    let mut out = Vec::new();
    let read = Frames::new(packed).take(limit.saturating_add(1)).read_to_end(&mut out);
    read.map_err(|error| damaged(format!("the compressed data is damaged: {error}")))?;
    if out.len() as u64 > limit {
        return Err(damaged(format!("the compressed data holds more than the {limit} bytes announced")));
    }
    Ok(out)
}

/// Decompresses frames, one after another.
pub(crate) struct Frames<R: Read>(State<R>);

enum State<R: Read> {
    Between(BufReader<R>),
    Within(Box<StreamingDecoder<BufReader<R>, FrameDecoder>>),
    Over,
}

impl<R: Read> Frames<R> {
    /// Those that `packed` reads.
    pub fn new(packed: R) -> Self {
        Frames(State::Between(BufReader::new(packed)))
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.0, State::Over) {
                State::Over => return Ok(0),
                State::Between(mut packed) => {
                    if packed.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    let frame = StreamingDecoder::new(packed).map_err(std::io::Error::other)?;
                    self.0 = State::Within(Box::new(frame));
                }
                State::Within(mut frame) => match frame.read(out)? {
                    0 => self.0 = State::Between(frame.into_inner()),
                    count => {
                        self.0 = State::Within(frame);
                        return Ok(count);
                    }
                },
            }
        }
    }
}
