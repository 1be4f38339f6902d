//! Ranges of files that are compressed with Zstandard, as sources of their own. They are decompressed when they are asked
//! for, and the last ones are kept.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::{ByteSource, Source, Stamp};
use crate::{DamageKind, Error, Result};

/// Decompressed bytes that are kept for when they are asked for again: blocks of columns are read in turn, row by row.
const KEPT: usize = 1 << 30;

/// How frames begin.
const MAGIC: &[u8; 4] = b"\x28\xb5\x2f\xfd";

/// Which source a range is of, and where it begins there.
type Key = (usize, u64);

/// What was decompressed last, of several sources.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    bytes: HashMap<Key, Arc<[u8]>>,
    /// In the order in which they were decompressed.
    order: VecDeque<Key>,
    total: usize,
}

impl Recent {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn get(&self, key: Key, unpack: impl FnOnce() -> Result<Vec<u8>>) -> Result<Arc<[u8]>> {
        if let Some(bytes) = self.kept().bytes.get(&key) {
            return Ok(bytes.clone());
        }
        let bytes: Arc<[u8]> = unpack()?.into();
        let mut kept = self.kept();
        if kept.bytes.insert(key, bytes.clone()).is_none() {
            kept.order.push_back(key);
            kept.total += bytes.len();
        }
        while kept.order.len() > 1 && kept.total > KEPT {
            let oldest = kept.order.pop_front().and_then(|oldest| kept.bytes.remove(&oldest));
            kept.total -= oldest.map_or(0, |bytes| bytes.len());
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

/// Where the frame that begins at `at` ends, by the sizes of its blocks (RFC 8878, section 3.1.1); `None` where none does,
/// or not all of it is there.
///
/// # Errors
/// When the bytes cannot be read.
pub(crate) fn frame_end(source: &dyn ByteSource, at: u64) -> Result<Option<u64>> {
    let Some(head) = source.part(at, 5)?.filter(|head| head.starts_with(MAGIC)) else { return Ok(None) };
    let bits = |shift: u8, count: u8| usize::from(head[4] >> shift & ((1 << count) - 1));
    let single = bits(5, 1) as u64;
    let fields = (1 - single) + [0, 1, 2, 4][bits(0, 2)] + [single, 2, 4, 8][bits(6, 2)];
    let checksum = 4 * bits(2, 1) as u64;
    let mut at = at.saturating_add(5 + fields);
    loop {
        let Some(block) = source.part(at, 3)? else { return Ok(None) };
        let word = u32::from_le_bytes([block[0], block[1], block[2], 0]);
        let stored = match word >> 1 & 3 {
            // One byte, repeated.
            1 => 1,
            3 => return Ok(None),
            _ => u64::from(word >> 3),
        };
        at += 3 + stored;
        if word & 1 == 1 {
            let end = at + checksum;
            return Ok((end <= source.len()).then_some(end));
        }
    }
}

/// Decompresses frames, one after another, and passes over those that only carry what an application adds (RFC 8878,
/// section 3.1).
pub(crate) struct Frames<R: Read>(State<R>);

enum State<R: Read> {
    Between(Begun<R>),
    Within(Box<StreamingDecoder<Begun<R>, FrameDecoder>>),
    Over,
    Failed(std::io::ErrorKind, String),
}

/// What is read, of which the beginning was looked at already.
struct Begun<R: Read> {
    /// A magic number, and the length of a frame that is passed over.
    head: [u8; 8],
    /// Which bytes of it are still to be read.
    left: Range<usize>,
    rest: BufReader<R>,
}

impl<R: Read> Begun<R> {
    /// Reads on until the head is full, or everything is read.
    fn look(&mut self) -> std::io::Result<&[u8]> {
        self.head.copy_within(self.left.clone(), 0);
        self.left = 0..self.left.len();
        while self.left.end < self.head.len() {
            match self.rest.read(&mut self.head[self.left.end..]) {
                Ok(0) => break,
                Ok(count) => self.left.end += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.head[self.left.clone()])
    }
}

impl<R: Read> Read for Begun<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.left.is_empty() {
            return self.rest.read(out);
        }
        let count = out.len().min(self.left.len());
        out[..count].copy_from_slice(&self.head[self.left.start..][..count]);
        self.left.start += count;
        Ok(count)
    }
}

/// The length of the frame whose head this is, if it is one to pass over.
fn skipped(head: &[u8]) -> Option<u64> {
    let [a, b, c, d, e, f, g, h] = *head.first_chunk()?;
    let skips = u32::from_le_bytes([a, b, c, d]) & !0xf == 0x184d_2a50;
    skips.then(|| u32::from_le_bytes([e, f, g, h]).into())
}

impl<R: Read> Frames<R> {
    /// Those that `packed` reads.
    pub fn new(packed: R) -> Self {
        Frames(State::Between(Begun { head: [0; 8], left: 0..0, rest: BufReader::new(packed) }))
    }

    fn next(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.0, State::Over) {
                State::Over => return Ok(0),
                State::Failed(kind, what) => return Err(std::io::Error::new(kind, what)),
                State::Between(mut packed) => {
                    let head = packed.look()?;
                    if head.is_empty() {
                        return Ok(0);
                    }
                    if let Some(len) = skipped(head) {
                        packed.left = 0..0;
                        if std::io::copy(&mut packed.rest.by_ref().take(len), &mut std::io::sink())? < len {
                            return Err(std::io::ErrorKind::UnexpectedEof.into());
                        }
                        self.0 = State::Between(packed);
                        continue;
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

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        // Who reads on after an error is told it again, not that the data has ended.
        self.next(out).inspect_err(|error| self.0 = State::Failed(error.kind(), error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of one block that is not compressed (RFC 8878).
    fn raw(bytes: &[u8]) -> Vec<u8> {
        let header = u32::try_from(bytes.len()).unwrap() << 3 | 1;
        let mut frame = b"\x28\xb5\x2f\xfd\x20".to_vec();
        frame.push(bytes.len().try_into().unwrap());
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(bytes);
        frame
    }

    fn skippable(bytes: &[u8]) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).unwrap();
        [&b"\x5e\x2a\x4d\x18"[..], &len.to_le_bytes(), bytes].concat()
    }

    #[test]
    fn frames_follow_each_other_and_some_are_passed_over() {
        let packed = [skippable(b"a note"), raw(b"one "), skippable(b""), raw(b"two")].concat();
        assert_eq!(unpack(&packed, 7).unwrap(), b"one two");
        assert_eq!(unpack(b"", 7).unwrap(), b"");
    }

    #[test]
    fn what_is_cut_or_larger_than_announced_is_damage() {
        let packed = [raw(b"one "), skippable(b"a note")].concat();
        assert!(unpack(&packed, 3).unwrap_err().what.contains("more than the 3 bytes"));
        for end in 1..packed.len() {
            let whole = end == raw(b"one ").len();
            assert_eq!(unpack(&packed[..end], 100).is_ok(), whole, "cut at {end}");
        }
    }

    #[test]
    fn a_frame_ends_where_its_last_block_does() {
        let (one, two) = (raw(b"one "), raw(b"another"));
        let all = [one.clone(), two].concat();
        let ends = |bytes: &[u8], at: u64| frame_end(&bytes, at).unwrap();
        assert_eq!(ends(&all, 0), Some(one.len() as u64));
        assert_eq!(ends(&all, one.len() as u64), Some(all.len() as u64));
        assert_eq!((ends(&all, 1), ends(&all, all.len() as u64)), (None, None));
        for cut in 0..one.len() {
            assert_eq!(ends(&one[..cut], 0), None, "{cut}");
        }
    }

    #[test]
    fn an_error_is_told_again() {
        let packed = [raw(b"one "), b"no frame".to_vec()].concat();
        let mut frames = Frames::new(&packed[..]);
        let mut out = [0; 16];
        assert_eq!(frames.read(&mut out).unwrap(), 4);
        assert!(frames.read(&mut out).is_err());
        assert!(frames.read(&mut out).is_err());
    }
}
