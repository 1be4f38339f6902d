//! Where bytes come from: a mapped file, bytes in memory, or anything else of known length that can return ranges.
//! Readers ask for the ranges that they need, never for a file as a whole.

pub(crate) mod compression;
pub(crate) mod computed;
pub mod metadata;
pub mod pickle;
pub(crate) mod segment;
pub mod staged;
mod stamp;
pub(crate) mod storage;
pub mod stored;
pub(crate) mod tarfile;
pub mod zip;
pub(crate) mod zstd;

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use memchr::memmem;

use crate::{DamageKind, Error, Result};
pub(crate) use stamp::Stamp;

/// How much is searched in one piece if ranges have to be fetched.
const WINDOW: u64 = 1 << 20;

/// A run of bytes of known length that gives any range of itself.
pub(crate) trait ByteSource: fmt::Debug + Send + Sync {
    /// How many bytes there are. It never changes.
    fn len(&self) -> u64;

    /// The bytes of `range`: borrowed where they are in memory, else fetched.
    ///
    /// # Errors
    /// `Damaged` for a range that extends beyond the end, `Io` when the bytes cannot be read.
    fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>>;

    /// Whether ranges are borrowed, so that a longer one costs no more than a short one.
    fn is_resident(&self) -> bool {
        false
    }

    /// Where byte `at` is in the file of this source's name, if the file has these bytes as they are.
    fn place(&self, _at: u64) -> Option<u64> {
        None
    }

    /// Says that `ranges` are about to be asked for, so that a source which has to fetch them does so at once.
    ///
    /// # Errors
    /// `Io` when they cannot be read.
    fn expect(&self, _ranges: &[Range<u64>]) -> Result<()> {
        Ok(())
    }
}

impl ByteSource for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        borrowed(self, range)
    }

    fn is_resident(&self) -> bool {
        true
    }
}

fn borrowed(all: &[u8], range: Range<u64>) -> Result<Cow<'_, [u8]>> {
    let inside = usize::try_from(range.start)
        .ok()
        .zip(usize::try_from(range.end).ok())
        .and_then(|(start, end)| all.get(start..end));
    inside.map(Cow::Borrowed).ok_or_else(|| {
        Error::damaged(format!("bytes up to {} are needed, and there are only {}", range.end, all.len()))
            .because(DamageKind::CutShort)
            .at(range.start)
    })
}

impl dyn ByteSource + '_ {
    /// `len` bytes from `at`, or as many as there are.
    pub fn window(&self, at: u64, len: u64) -> Result<Cow<'_, [u8]>> {
        let start = at.min(self.len());
        self.bytes(start..at.saturating_add(len).min(self.len()).max(start))
    }

    /// The `len` bytes from `at`; `None` unless all are there.
    pub fn part(&self, at: u64, len: u64) -> Result<Option<Cow<'_, [u8]>>> {
        match at.checked_add(len) {
            Some(end) if end <= self.len() => self.bytes(at..end).map(Some),
            _ => Ok(None),
        }
    }

    /// The result of `read` on the bytes from `at` on. It gets all of them if that costs nothing, else the first ones,
    /// and more as long as it asks for more.
    pub fn grow<T>(
        &self,
        at: u64,
        mut read: impl FnMut(&[u8]) -> std::result::Result<T, Short>,
    ) -> Result<T> {
        let left = self.len().saturating_sub(at);
        let mut len = if self.is_resident() { left } else { left.min(WINDOW / 16) };
        loop {
            match read(&self.window(at, len)?) {
                Ok(made) => return Ok(made),
                Err(Short(needed)) if len < left => len = left.min(len.saturating_mul(4).max(needed)),
                Err(short) => return Err(short.into()),
            }
        }
    }

    /// Where `needle` is within `range`, the first `most` places.
    pub fn positions(&self, needle: &[u8], range: Range<u64>, most: usize) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        self.search(needle, range, |at| {
            found.push(at);
            found.len() < most
        })?;
        Ok(found)
    }

    /// Whether `needle` is within `range`.
    pub fn contains(&self, needle: &[u8], range: Range<u64>) -> Result<bool> {
        self.positions(needle, range, 1).map(|found| !found.is_empty())
    }

    /// Calls `found` with every position of `needle` that does not overlap the one before, until it returns false.
    fn search(&self, needle: &[u8], range: Range<u64>, mut found: impl FnMut(u64) -> bool) -> Result<()> {
        let finder = memmem::Finder::new(needle);
        let end = range.end.min(self.len());
        let step = if self.is_resident() { u64::MAX } else { WINDOW };
        let (mut at, mut free) = (range.start, range.start);
        while at < end {
            // A needle across the border of two windows is found in the first.
            let reach = (needle.len() as u64).saturating_sub(1);
            let next = at.saturating_add(step).min(end);
            let window = self.bytes(at..next.saturating_add(reach).min(end))?;
            let mut from = free.saturating_sub(at) as usize;
            while let Some(place) = window.get(from..).and_then(|rest| finder.find(rest)) {
                let place = from + place;
                free = at + (place + needle.len()) as u64;
                if !found(at + place as u64) {
                    return Ok(());
                }
                from = place + needle.len();
            }
            at = next;
        }
        Ok(())
    }

    /// Calls `seen` with the bytes from `at` on, piece by piece, until it returns false.
    pub fn walk(&self, mut at: u64, mut seen: impl FnMut(&[u8]) -> bool) -> Result<()> {
        while at < self.len() {
            let window = self.window(at, WINDOW)?;
            if !seen(&window) {
                break;
            }
            at += window.len() as u64;
        }
        Ok(())
    }

    /// Whether `wanted` accepts every byte from `at` on.
    pub fn all_from(&self, at: u64, wanted: impl Fn(u8) -> bool) -> Result<bool> {
        let mut all = true;
        self.walk(at, |piece| {
            all = piece.iter().all(|&b| wanted(b));
            all
        })?;
        Ok(all)
    }

    /// Whether every byte is 0.
    pub fn is_zero(&self) -> Result<bool> {
        self.all_from(0, |b| b == 0)
    }

    /// The CRC-32 of all bytes.
    pub fn crc32(&self) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        self.walk(0, |piece| {
            hasher.update(piece);
            true
        })?;
        Ok(hasher.finalize())
    }
}

/// The error of a reader that needs more bytes than it was given: this many in all, which exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short(pub u64);

impl From<Short> for Error {
    fn from(Short(needed): Short) -> Self {
        Error::damaged(format!("{needed} bytes are needed, and there are fewer"))
            .because(DamageKind::CutShort)
    }
}

/// A range of another source, as a source of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section<'a> {
    pub whole: &'a dyn ByteSource,
    pub start: u64,
    pub len: u64,
}

impl<'a> Section<'a> {
    /// The bytes of `whole` from `start` on.
    pub fn from(whole: &'a dyn ByteSource, start: u64) -> Self {
        let start = start.min(whole.len());
        Section { whole, start, len: whole.len() - start }
    }

    /// The `len` bytes of `whole` from `start`; `None` unless all are there.
    pub fn part(whole: &'a dyn ByteSource, start: u64, len: u64) -> Option<Self> {
        let inside = start.checked_add(len).is_some_and(|end| end <= whole.len());
        inside.then_some(Section { whole, start, len })
    }
}

impl ByteSource for Section<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        within(self.whole, self.start, self.len, range)
    }

    fn expect(&self, ranges: &[Range<u64>]) -> Result<()> {
        self.whole.expect(&shifted(ranges, self.start))
    }

    fn is_resident(&self) -> bool {
        self.whole.is_resident()
    }
}

/// `ranges` of what begins at `start`, in the whole.
fn shifted(ranges: &[Range<u64>], start: u64) -> Vec<Range<u64>> {
    let within = |at: u64| start.saturating_add(at);
    ranges.iter().map(|range| within(range.start)..within(range.end)).collect()
}

/// `range` of the `len` bytes of `whole` from `start`.
fn within(whole: &dyn ByteSource, start: u64, len: u64, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
    match (start.checked_add(range.start), start.checked_add(range.end)) {
        (Some(from), Some(to)) if range.end <= len => whole.bytes(from..to),
        _ => {
            let what = format!("bytes up to {} are needed, and there are only {len}", range.end);
            Err(Error::damaged(what).because(DamageKind::CutShort))
        }
    }
}

/// Reads a source from its first byte to its last. Seeking beyond the end is an error.
pub(crate) struct Reader<'a> {
    pub source: &'a dyn ByteSource,
    pub at: u64,
}

impl Reader<'_> {
    /// The library error behind `error`.
    ///
    /// # Errors
    /// The source's own, if the bytes could not be read.
    pub fn complaint(error: std::io::Error) -> Result<String> {
        error.downcast::<Error>().map_or_else(|error| Ok(error.to_string()), Err)
    }
}

impl std::io::Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.source.window(self.at, out.len() as u64).map_err(std::io::Error::other)?;
        out[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

impl std::io::Seek for Reader<'_> {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        let place = match to {
            std::io::SeekFrom::Start(at) => Some(at),
            std::io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
            std::io::SeekFrom::End(by) => self.source.len().checked_add_signed(by),
        };
        let place = place.filter(|&at| at <= self.source.len());
        self.at = place.ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it ends earlier than its header says")
        })?;
        Ok(self.at)
    }
}

/// `len` bytes of `all` from `offset`, if they are there.
pub(crate) fn slice(all: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let end = offset.checked_add(len)?;
    all.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
}

/// `bytes` as text, with invalid UTF-8 replaced. Copied before it is checked: bytes of a map may change in between.
pub(crate) fn text(bytes: &[u8]) -> String {
    match String::from_utf8(bytes.to_vec()) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

/// A memory-mapped file.
///
/// The map is shared, not private: what another process writes to the file appears here, at any moment and in the
/// middle of any operation, and pages vanish when the file is truncated. So, for as long as it is mapped:
///
/// - The bytes may change between two reads. Only bytes may be borrowed, or numbers for which every bit pattern is
///   valid: never `str`, nor anything else that is only sound while an earlier check still holds. Text is copied
///   and then checked. A length or an offset is read once, into a variable, and that is checked against the map's
///   length and used. A change can cause wrong numbers, as any other damage can, but nothing worse.
/// - Reading a page that was truncated away ends the process with SIGBUS. This leaves no output half-written: outputs are
///   written under temporary names and renamed when complete.
/// - The length of the map itself does not change.
#[derive(Debug)]
struct Map(Option<memmap2::Mmap>);

impl Map {
    fn of(file: &File, len: u64) -> std::io::Result<Self> {
        if len == 0 {
            return Ok(Map(None));
        }
        // SAFETY: the file may change while it is mapped, and all code that reads the map keeps the contract above.
        unsafe { memmap2::Mmap::map(file) }.map(Some).map(Map)
    }

    fn all(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

impl ByteSource for Map {
    fn len(&self) -> u64 {
        self.all().len() as u64
    }

    fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        borrowed(self.all(), range)
    }

    fn is_resident(&self) -> bool {
        true
    }

    fn place(&self, at: u64) -> Option<u64> {
        Some(at)
    }
}

/// Bytes in memory that several owners share, made without copying from anything that owns bytes, such as a `Vec<u8>`,
/// an `Arc<[u8]>` or bytes compiled into a program.
#[derive(Clone)]
pub struct SharedBytes(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl SharedBytes {
    /// The bytes of `owner`, whose `as_ref` must always return the same ones.
    pub fn of(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        SharedBytes(Arc::new(owner))
    }

    fn all(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.all().len())
    }
}

macro_rules! shared {
    ($($owner:ty)*) => {$(
        impl From<$owner> for SharedBytes {
            fn from(owner: $owner) -> Self {
                Self::of(owner)
            }
        }
    )*};
}

shared! { Vec<u8> Box<[u8]> Arc<[u8]> &'static [u8] }

impl<const N: usize> From<&'static [u8; N]> for SharedBytes {
    fn from(bytes: &'static [u8; N]) -> Self {
        Self::of(bytes)
    }
}

impl ByteSource for SharedBytes {
    fn len(&self) -> u64 {
        self.all().len() as u64
    }

    fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        borrowed(self.all(), range)
    }

    fn is_resident(&self) -> bool {
        true
    }
}

/// One file of a checkpoint, wherever its bytes are.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its name for messages: the path that it was opened by.
    pub path: PathBuf,
    /// The file as it was when it was opened.
    stamp: Stamp,
    data: Box<dyn ByteSource>,
}

impl Source {
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let io = |e: std::io::Error| Error::io(path, &e);
        if let Some(remote) = stored::Remote::open(path) {
            let remote = remote.map_err(io)?;
            return Ok(Self::of(path, Stamp::remote(path, &remote.stat()), remote));
        }
        // Opening a pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::new(crate::ErrorKind::Io, "is not a regular file")
                .in_file(path)
                .hint("copy it to a file first: checkpoints are memory-mapped, which pipes and devices do not allow"));
        }
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let map = Map::of(&file, metadata.len()).map_err(io)?;
        Ok(Self::of(path, Stamp::new(path, Some(&metadata)), map))
    }

    /// Bytes in memory, called `name`.
    pub fn in_memory(name: &Path, bytes: SharedBytes) -> Arc<Self> {
        Self::of(name, Stamp::never(name), bytes)
    }

    pub fn of(path: &Path, stamp: Stamp, data: impl ByteSource + 'static) -> Arc<Self> {
        Arc::new(Source { path: path.to_path_buf(), stamp, data: Box::new(data) })
    }

    /// The `len` bytes of `whole` from `start`, as a file within the file; `None` unless all are there.
    pub fn section(whole: &Arc<Self>, start: u64, len: u64) -> Option<Arc<Self>> {
        Section::part(&*whole.data, start, len)?;
        let data = Box::new(Within { whole: whole.clone(), start, len });
        Some(Arc::new(Source { path: whole.path.clone(), stamp: whole.stamp.clone(), data }))
    }

    pub fn len(&self) -> u64 {
        self.data.len()
    }

    /// The file itself, where `path` leads there by links.
    pub fn real_path(&self) -> &Path {
        let real = self.stamp.path();
        if real.as_os_str().is_empty() { &self.path } else { real }
    }

    /// The file as it was when it was opened, with a digest of some of its bytes.
    pub fn sampled(&self) -> Stamp {
        self.stamp.clone().sampled(&*self.data)
    }

    /// Its bytes, by ranges.
    pub fn data(&self) -> &dyn ByteSource {
        &*self.data
    }

    /// `bytes` of `range`, with errors that name the file.
    pub fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        self.data.bytes(range).map_err(|e| e.in_file(&self.path))
    }

    /// The first bytes, `len` of them; `kept` stores how many these are, and the bytes themselves if they had to be
    /// fetched.
    pub fn beginning<'a>(
        &'a self,
        kept: &'a OnceLock<Beginning>,
        len: impl FnOnce() -> Result<u64>,
    ) -> Result<&'a [u8]> {
        let kept = match kept.get() {
            Some(kept) => kept,
            None => {
                let len = len()?;
                let fetched = match self.data.window(0, len)? {
                    Cow::Borrowed(_) => None,
                    Cow::Owned(fetched) => Some(fetched),
                };
                kept.get_or_init(|| Beginning { len, fetched })
            }
        };
        if let Some(fetched) = &kept.fetched {
            return Ok(fetched);
        }
        match self.data.window(0, kept.len)? {
            Cow::Borrowed(bytes) => Ok(bytes),
            Cow::Owned(_) => unreachable!("a source that lent its bytes does so again"),
        }
    }
}

/// A [`Section`] of a file that shares it.
#[derive(Debug)]
struct Within {
    whole: Arc<Source>,
    start: u64,
    len: u64,
}

impl ByteSource for Within {
    fn len(&self) -> u64 {
        self.len
    }

    fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        within(&*self.whole.data, self.start, self.len, range)
    }

    fn expect(&self, ranges: &[Range<u64>]) -> Result<()> {
        self.whole.data.expect(&shifted(ranges, self.start))
    }

    fn is_resident(&self) -> bool {
        self.whole.data.is_resident()
    }

    fn place(&self, at: u64) -> Option<u64> {
        self.whole.data.place(self.start.checked_add(at)?)
    }
}

/// The first bytes of a file.
#[derive(Debug)]
pub(crate) struct Beginning {
    len: u64,
    /// `None` where the source lends them.
    fetched: Option<Vec<u8>>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Bytes that have to be fetched, as those of a remote file.
    #[derive(Debug)]
    pub(crate) struct Fetched(pub Vec<u8>);

    impl ByteSource for Fetched {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
            borrowed(&self.0, range).map(|bytes| Cow::Owned(bytes.into_owned()))
        }
    }

    #[test]
    fn a_needle_across_windows_is_found_once() {
        let mut bytes = vec![0; 3 * WINDOW as usize];
        let places = [0, 7, WINDOW - 2, WINDOW + 2, 2 * WINDOW, 3 * WINDOW - 4];
        for &at in &places {
            bytes[at as usize..][..4].copy_from_slice(b"PK\x03\x04");
        }
        let (resident, fetched) = (&bytes[..], Fetched(bytes.clone()));
        let sources: [&dyn ByteSource; 2] = [&resident, &fetched];
        for source in sources {
            assert_eq!(source.positions(b"PK\x03\x04", 0..u64::MAX, usize::MAX).unwrap(), places);
            assert_eq!(source.positions(b"PK\x03\x04", 1..WINDOW, usize::MAX).unwrap(), [7]);
            assert!(!source.is_zero().unwrap());
        }
        // Those that overlap count once, wherever the windows end.
        let ones = vec![1; 2 * WINDOW as usize + 1];
        let (resident, fetched) = (&ones[..], Fetched(ones.clone()));
        let count = |source: &dyn ByteSource| source.positions(&[1, 1, 1], 0..u64::MAX, usize::MAX).unwrap();
        assert_eq!(count(&resident), count(&fetched));
    }

    #[test]
    fn ranges_beyond_the_end_are_errors() {
        let bytes: &[u8] = b"four";
        let source: &dyn ByteSource = &bytes;
        assert_eq!(source.bytes(2..5).unwrap_err().fault, Some(DamageKind::CutShort));
        assert_eq!(&*source.window(2, u64::MAX).unwrap(), b"ur");
        assert_eq!(&*source.window(9, 3).unwrap(), b"");
        assert_eq!(source.part(u64::MAX, 2).unwrap(), None);
    }
}
