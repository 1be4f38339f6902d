//! Storages: runs of bytes, in files or in memory, that tensors are views of.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::bytes::computed::Compute;
pub(crate) use crate::bytes::segment::{Segment, Segments};
use crate::bytes::{SharedBytes, Source};
use crate::{Damage, DamageKind, Error, Result};

/// A run of bytes that tensors are views of. It knows where its bytes are, so a tensor on it can be read
/// without its file; cloning it clones a pointer. Two storages are equal if they are the same one, as those of tied
/// weights have.
#[derive(Clone)]
pub struct Storage(Arc<Run>);

/// The data of a storage.
#[derive(Debug)]
pub(crate) struct Run {
    pub place: Place,
    /// Bytes it holds once decoded.
    pub len: u64,
    /// CRC-32 of its decoded bytes, where the container records one.
    pub crc32: Option<u32>,
    /// Above 1 when the words of its tensors are big-endian.
    pub swap: usize,
    /// Of what it was pieced together.
    pieces: Option<Box<Pieces>>,
}

#[derive(Debug)]
struct Pieces {
    /// Where each of several ranges begins in it.
    starts: Vec<u64>,
    /// The storages with checksums that it was pieced together from.
    parts: Vec<Storage>,
}

#[derive(Debug)]
pub(crate) enum Place {
    /// Ranges of files, one after another. A request within one range borrows; others are copied together.
    Segments(Segments),
    /// A raw deflate stream.
    Deflated(Segment),
    /// Bytes that were inside the pickle.
    Inline(Arc<[u8]>),
    /// Bytes that are not in the file, or cannot be trusted.
    Missing {
        why: Box<Damage>,
        /// The file, and the position in it where the bytes are or should be.
        at: Option<(Arc<Source>, u64)>,
    },
    /// Ranges of files by where each begins, in order, with holes between them.
    Holed { kept: Box<[(u64, Segment)]>, why: Box<Damage> },
    /// The same, with `pattern` repeated in the holes.
    Filled { kept: Box<[(u64, Segment)]>, pattern: Box<[u8]> },
    /// Bytes that are made of others.
    Computed(Arc<dyn Compute>),
}

/// Deflate cannot expand further than this (RFC 1951: 258 bytes from 2 bits, and block overhead).
const DEFLATE_RATIO: u64 = 1032;

/// A deflated storage may always be this large,
const FREE_INFLATION: u64 = 256 << 20;
/// and beyond that this many times its compressed size: weights hardly compress.
const MAX_INFLATION: u64 = 64;

impl PartialEq for Storage {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Storage {}

impl Hash for Storage {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a storage of {} bytes", self.0.len)
    }
}

impl Storage {
    pub(crate) fn new(place: Place, len: u64, crc32: Option<u32>, swap: usize) -> Self {
        Self::with_parts(place, len, crc32, swap, Vec::new())
    }

    fn with_parts(place: Place, len: u64, crc32: Option<u32>, swap: usize, parts: Vec<Storage>) -> Self {
        let starts = match &place {
            Place::Segments(segments) if segments.len() > 1 => segments
                .iter()
                .scan(0u64, |next, segment| {
                    let start = *next;
                    *next = start.saturating_add(segment.len);
                    Some(start)
                })
                .collect(),
            _ => Vec::new(),
        };
        let pieces = (!starts.is_empty() || !parts.is_empty()).then(|| Box::new(Pieces { starts, parts }));
        Storage(Arc::new(Run { place, len, crc32, swap, pieces }))
    }

    /// The storages with checksums that it was pieced together from.
    fn parts(&self) -> &[Storage] {
        self.0.pieces.as_ref().map_or(&[], |pieces| &pieces.parts)
    }

    /// `len` bytes of `source` from `offset`.
    pub(crate) fn mapped(source: &Arc<Source>, offset: u64, len: u64) -> Self {
        let segment = Segment { source: source.clone(), offset, len };
        Self::new(Place::Segments(segment.into()), len, None, 1)
    }

    /// `len` bytes that `compute` makes.
    pub fn computed(compute: Arc<dyn Compute>, len: u64) -> Self {
        Self::new(Place::Computed(compute), len, None, 1)
    }

    /// The same number of bytes in the same order of words, which `compute` makes of those of `storage`.
    pub(crate) fn derived(storage: &Storage, compute: Arc<dyn Compute>) -> Self {
        let Run { len, crc32, swap, .. } = *storage.run();
        let vouched = if crc32.is_some() { vec![storage.clone()] } else { storage.parts().to_vec() };
        Self::with_parts(Place::Computed(compute), len, None, swap, vouched)
    }

    /// Whether its bytes are made of others.
    pub fn is_computed(&self) -> bool {
        matches!(self.0.place, Place::Computed(_))
    }

    /// Whether `bytes` are those that it has from byte `start` on, where they are computed and that is known without
    /// computing them again; else `None`.
    pub fn gave(&self, start: u64, bytes: &[u8]) -> Option<bool> {
        match &self.0.place {
            Place::Computed(compute) => compute.gave(start, bytes),
            _ => None,
        }
    }

    /// The CRC-32 of its bytes that its container records, before any change of their order.
    pub fn crc32(&self) -> Option<u32> {
        self.0.crc32
    }

    pub(crate) fn missing(why: Damage, len: u64) -> Self {
        Self::new(Place::Missing { why: why.into(), at: None }, len, None, 1)
    }

    /// A missing storage whose first byte should be at `offset` of `source`.
    pub(crate) fn lost(why: Damage, len: u64, source: &Arc<Source>, offset: u64) -> Self {
        let at = Some((source.clone(), offset));
        Self::new(Place::Missing { why: why.into(), at }, len, None, 1)
    }

    /// The file of this machine that has its bytes as they are, little-endian and one after another, and where they begin in
    /// it (the file itself, where it was opened by a link); `None` for one that is compressed, pieced together, of another byte order, or in no file.
    pub fn place(&self) -> Option<(&Path, u64)> {
        let Place::Segments(segments) = &self.0.place else { return None };
        let [Segment { source, offset, .. }] = &segments[..] else { return None };
        let begins = source.data().place(*offset).filter(|_| self.0.swap <= 1)?;
        Some((source.real_path(), begins))
    }

    /// Whether the file of its [`place`](Self::place) is still the one that was opened, unchanged: false for one that was
    /// replaced or written to since.
    pub fn is_current(&self) -> bool {
        let Place::Segments(segments) = &self.0.place else { return false };
        segments.iter().all(|segment| segment.source.sampled().is_current())
    }

    /// The storage whose bytes are `parts`, ranges of others, one after another: for a tensor that was saved in
    /// pieces. Nothing is copied.
    ///
    /// # Errors
    /// `Damaged` for ranges that do not exist; `Unsupported` for storages that are not ranges of files (compressed,
    /// within a pickle, filled up), and for different byte orders.
    pub fn pieced<'a>(parts: impl IntoIterator<Item = (&'a Storage, Range<u64>)>) -> Result<Self> {
        let (mut segments, mut len, mut swap) = (Vec::new(), 0u64, None);
        let (mut checked, mut seen) = (Vec::new(), HashSet::new());
        for (storage, range) in parts {
            let run = storage.run();
            if range.start > range.end || range.end > run.len {
                let what = format!("needs byte {} of a storage of {} bytes", range.end, run.len);
                return Err(Error::damaged(what).because(DamageKind::BeyondStorage));
            }
            if *swap.get_or_insert(run.swap) != run.swap {
                return Err(Error::unsupported("parts of different byte orders"));
            }
            if run.crc32.is_some() && seen.insert(storage) {
                checked.push(storage.clone());
            }
            len = len.saturating_add(range.end - range.start);
            segments.extend(storage.segments(range)?);
        }
        Ok(Self::with_parts(Place::Segments(segments.into()), len, None, swap.unwrap_or(1), checked))
    }

    /// A storage of `len` bytes of which those of `parts` are there, ranges of others by where each begins, in order; the
    /// rest is lost for the reason `why`.
    ///
    /// # Errors
    /// Those of [`Storage::pieced`].
    pub(crate) fn holed<'a>(
        parts: impl IntoIterator<Item = (u64, &'a Storage, Range<u64>)>,
        len: u64,
        why: Damage,
    ) -> Result<Self> {
        let (mut kept, mut swap) = (Vec::new(), None);
        for (mut at, storage, range) in parts {
            let own = storage.run().swap;
            if *swap.get_or_insert(own) != own {
                return Err(Error::unsupported("parts of different byte orders"));
            }
            for segment in storage.segments(range)? {
                let next = at.saturating_add(segment.len);
                kept.push((at, segment));
                at = next;
            }
        }
        Ok(Self::new(Place::Holed { kept: kept.into(), why: why.into() }, len, None, swap.unwrap_or(1)))
    }

    /// The ranges of files that `range` of it is.
    fn segments(&self, range: Range<u64>) -> Result<Vec<Segment>> {
        let pieces = match &self.0.place {
            Place::Segments(pieces) => pieces,
            Place::Missing { why, .. } | Place::Holed { why, .. } => return Err((&**why).into()),
            _ => return Err(Error::unsupported("a part that is not a range of a file")),
        };
        let (mut start, mut segments) = (0u64, Vec::new());
        for piece in pieces.iter() {
            let end = start.saturating_add(piece.len);
            let (from, to) = (range.start.clamp(start, end), range.end.clamp(start, end));
            if from < to {
                let offset = piece.offset.saturating_add(from - start);
                segments.push(Segment { source: piece.source.clone(), offset, len: to - from });
            }
            start = end;
        }
        Ok(segments)
    }

    /// The parts of `range` that are in no range of a file, where others are.
    pub(crate) fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let Place::Holed { kept, .. } = &self.0.place else { return Vec::new() };
        let (mut holes, mut next) = (Vec::new(), range.start);
        for (at, segment) in kept.iter() {
            let (from, to) = ((*at).min(range.end), at.saturating_add(segment.len).min(range.end));
            if from > next {
                holes.push(next..from);
            }
            next = next.max(to);
        }
        if next < range.end {
            holes.push(next..range.end);
        }
        holes
    }

    /// The file that its bytes begin in.
    pub(crate) fn file(&self) -> Option<&Path> {
        let source = match &self.run().place {
            Place::Segments(segments) => &segments.first()?.source,
            Place::Deflated(segment) => &segment.source,
            Place::Missing { at, .. } => &at.as_ref()?.0,
            Place::Holed { kept, .. } => &kept.first()?.1.source,
            Place::Inline(_) | Place::Filled { .. } | Place::Computed(_) => return None,
        };
        Some(&source.path)
    }

    pub(crate) fn run(&self) -> &Run {
        &self.0
    }

    /// Bytes it holds once decoded.
    pub fn byte_len(&self) -> u64 {
        self.0.len
    }

    /// Bytes that [`Storage::range`] of `len` bytes has to allocate.
    pub(crate) fn copied(&self, len: u64) -> u64 {
        match &self.0.place {
            Place::Deflated(_) => self.0.len.saturating_add(len),
            Place::Filled { .. } | Place::Holed { .. } | Place::Computed(_) => len,
            Place::Segments(segments) => match &segments[..] {
                [one] if one.source.data().is_resident() => 0,
                _ => len,
            },
            Place::Inline(_) | Place::Missing { .. } => 0,
        }
    }

    /// The same bytes in memory, fetched, inflated or put together once.
    pub(crate) fn in_memory(&self) -> Result<Self> {
        if self.copied(self.0.len) == 0 {
            return Ok(self.clone());
        }
        let bytes = self.range(0..self.0.len)?.into_owned();
        let source = Source::in_memory(Path::new(""), SharedBytes::of(bytes));
        let segment = Segment { source, offset: 0, len: self.0.len };
        Ok(Self::new(Place::Segments(segment.into()), self.0.len, None, self.0.swap))
    }

    /// Whether its bytes lie elsewhere, so that each range is fetched: few and large ones are best.
    pub fn is_fetched(&self) -> bool {
        match &self.0.place {
            Place::Segments(segments) => segments.iter().any(|segment| !segment.source.data().is_resident()),
            _ => false,
        }
    }

    /// Whether a range of it takes no more than its own bytes: not where all have to be inflated for it.
    pub(crate) fn gives_ranges(&self) -> bool {
        match &self.0.place {
            Place::Deflated(_) => false,
            Place::Computed(compute) => compute.gives_ranges(),
            _ => true,
        }
    }

    /// The CRC-32 of the decoded bytes as they are in the file (not yet swapped).
    pub(crate) fn checksum(&self) -> Result<u32> {
        const PIECE: u64 = 1 << 20;
        // Data that must be assembled is requested once.
        let piece = if matches!(self.0.place, Place::Segments(_)) { PIECE } else { self.0.len.max(1) };
        let (mut hasher, mut at) = (crc32fast::Hasher::new(), 0);
        while at < self.0.len {
            let end = at.saturating_add(piece).min(self.0.len);
            hasher.update(&self.range(at..end)?);
            at = end;
        }
        Ok(hasher.finalize())
    }

    /// Whether its bytes, or those that it was pieced together from, have a checksum.
    pub(crate) fn is_vouched_for(&self) -> bool {
        self.0.crc32.is_some() || !self.parts().is_empty()
    }

    /// What differs from a checksum, if something does.
    pub(crate) fn contradicted(&self) -> Option<Damage> {
        let Some(expected) = self.0.crc32 else { return self.parts().iter().find_map(Self::contradicted) };
        match self.checksum() {
            Ok(found) if found == expected => None,
            Ok(found) => Some(Damage::new(
                DamageKind::ChecksumMismatch,
                format!("checksum mismatch: CRC-32 is {found:08x}, the file records {expected:08x}"),
            )),
            Err(error) => Some(error.into()),
        }
    }

    /// A range of the decoded bytes as they are in the file.
    pub(crate) fn range(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let beyond = || {
            Error::damaged(format!("its storage of {} bytes lies beyond the end of the file", self.0.len))
                .because(DamageKind::CutShort)
        };
        match &self.0.place {
            Place::Segments(segments) => {
                let starts = self.0.pieces.as_ref().map_or(&[][..], |pieces| &pieces.starts);
                let first = starts.partition_point(|&start| start <= range.start).saturating_sub(1);
                let start = starts.get(first).copied().unwrap_or(0);
                let rest = segments.get(first..).unwrap_or(&[]);
                gathered(rest, start, range).map_err(|error| match rest.first() {
                    Some(first) if error.kind == crate::ErrorKind::Damaged => {
                        beyond().at(first.offset).in_file(&first.source.path)
                    }
                    _ => error,
                })
            }
            Place::Deflated(Segment { source, offset, len: compressed }) => {
                if self.0.len > FREE_INFLATION && self.0.len / MAX_INFLATION > *compressed {
                    return Err(Error::unsupported(format!(
                        "its {compressed} compressed bytes would inflate to {}, which is out of proportion",
                        self.0.len
                    ))
                    .at(*offset)
                    .in_file(&source.path)
                    .hint("unpack the archive and zip it again without compression"));
                }
                let packed = source.data().part(*offset, *compressed).and_then(|packed| {
                    packed
                        .ok_or_else(|| Error::damaged("a compressed storage lies beyond the end of the file"))
                });
                packed
                    .and_then(|packed| inflate(&packed, self.0.len))
                    .map_err(|e| e.at(*offset).in_file(&source.path))
                    .and_then(|bytes| cut_out(bytes, range))
            }
            Place::Inline(bytes) => {
                let inside = crate::bytes::slice(bytes, range.start, range.end.saturating_sub(range.start));
                inside.map(Cow::Borrowed).ok_or_else(beyond)
            }
            Place::Computed(_) if range.start > range.end || range.end > self.0.len => Err(beyond()),
            Place::Computed(compute) => compute.bytes(range).map(Cow::Owned),
            Place::Missing { why, .. } => Err((&**why).into()),
            Place::Holed { kept, why } => match self.holes(range.clone()).is_empty() {
                true => overlaid(vec![0; length(&range)?], kept, range),
                false => Err((&**why).into()),
            },
            Place::Filled { kept, pattern } => {
                if range.start > range.end || range.end > self.0.len {
                    return Err(Error::damaged(format!(
                        "needs byte {} of a storage of {} bytes",
                        range.end, self.0.len
                    ))
                    .because(DamageKind::BeyondStorage));
                }
                // The pattern is in step with the tensor's first byte.
                let (len, step) = (length(&range)?, pattern.len().max(1));
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(len).map_err(|_| {
                    Error::unsupported(format!("there is not enough memory to fill {len} bytes"))
                })?;
                let skipped = (range.start % step as u64) as usize;
                bytes.extend(pattern.iter().cycle().skip(skipped).take(len));
                overlaid(bytes, kept, range)
            }
        }
    }
}

fn length(range: &Range<u64>) -> Result<usize> {
    let len = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok());
    len.ok_or_else(|| Error::damaged("its range is none").because(DamageKind::BeyondStorage))
}

/// The bytes of `range`, which are `bytes` except where something was `kept`.
fn overlaid(mut bytes: Vec<u8>, kept: &[(u64, Segment)], range: Range<u64>) -> Result<Cow<'static, [u8]>> {
    let first = kept.partition_point(|(at, segment)| at.saturating_add(segment.len) <= range.start);
    for (at, segment) in kept[first..].iter().take_while(|(at, _)| *at < range.end) {
        let (from, to) = (range.start.max(*at), range.end.min(at.saturating_add(segment.len)));
        if from >= to {
            continue;
        }
        let start = segment.offset.saturating_add(from - at);
        let own = segment.source.bytes(start..start.saturating_add(to - from)).map_err(|_| {
            Error::damaged("its stored part lies beyond the end of the file").because(DamageKind::CutShort)
        })?;
        bytes[(from - range.start) as usize..(to - range.start) as usize].copy_from_slice(&own);
    }
    Ok(Cow::Owned(bytes))
}

fn cut_out(mut bytes: Vec<u8>, range: Range<u64>) -> Result<Cow<'static, [u8]>> {
    let len = bytes.len() as u64;
    if range.start > range.end || range.end > len {
        return Err(Error::damaged(format!("needs byte {} of a storage of {len} bytes", range.end))
            .because(DamageKind::BeyondStorage));
    }
    bytes.truncate(range.end as usize);
    bytes.drain(..range.start as usize);
    Ok(Cow::Owned(bytes))
}

/// The bytes of `range` in `segments`, of which the first begins at `start` and the others follow.
fn gathered(segments: &[Segment], mut start: u64, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
    let beyond = || Error::damaged("its pieces end before it does").because(DamageKind::CutShort);
    let len = range.end.checked_sub(range.start).ok_or_else(beyond)?;
    let mut copied: Vec<u8> = Vec::new();
    for segment in segments {
        let end = start.checked_add(segment.len).ok_or_else(beyond)?;
        let (from, to) = (range.start.clamp(start, end), range.end.clamp(start, end));
        if from < to || (len == 0 && (start..=end).contains(&range.start)) {
            let offset = |at: u64| segment.offset.checked_add(at - start).ok_or_else(beyond);
            let bytes = segment.source.bytes(offset(from)?..offset(to)?)?;
            if bytes.len() as u64 == len {
                return Ok(bytes);
            }
            copied.extend_from_slice(&bytes);
            if copied.len() as u64 == len {
                break;
            }
        }
        start = end;
    }
    if copied.len() as u64 == len { Ok(Cow::Owned(copied)) } else { Err(beyond()) }
}

/// Inflates a raw deflate stream that must hold exactly `len` bytes.
pub(crate) fn inflate(packed: &[u8], len: u64) -> Result<Vec<u8>> {
    let damaged = |what: String| Err(Error::damaged(what).because(DamageKind::Compression));
    if len / DEFLATE_RATIO > packed.len() as u64 + 1 {
        return damaged(format!("{} compressed bytes cannot hold the {len} announced", packed.len()));
    }
    let mut out = Vec::new();
    if let Err(error) = flate2::read::DeflateDecoder::new(packed).take(len + 1).read_to_end(&mut out) {
        return damaged(format!("the compressed data is damaged: {error}"));
    }
    if out.len() as u64 != len {
        return damaged(format!("the compressed data does not contain the {len} bytes announced"));
    }
    Ok(out)
}

/// Reverses every word of `width` bytes.
pub(crate) fn swap_words(bytes: &mut [u8], width: usize) {
    if width > 1 {
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::bytes::Stamp;
    use crate::bytes::tests::Fetched;
    use crate::tensor::TensorInfo;
    use std::collections::HashSet;

    fn file(name: &str, bytes: &[u8]) -> Arc<Source> {
        Source::in_memory(Path::new(name), bytes.to_vec().into())
    }

    fn remote(name: &str, bytes: &[u8]) -> Arc<Source> {
        let name = Path::new(name);
        Source::of(name, Stamp::never(name), Fetched(bytes.to_vec()))
    }

    /// The bytes 0 to 15, which lie in three files.
    fn pieced(make: fn(&str, &[u8]) -> Arc<Source>) -> Storage {
        let whole: Vec<u8> = (0..16).collect();
        let segment = |source, offset, len| Segment { source, offset, len };
        let files = [make("a", &[&[9; 3], &whole[..6]].concat()), make("b", &whole[6..8]), make("c", &whole)];
        let [a, b, c] = files;
        Storage::new(
            Place::Segments(vec![segment(a, 3, 6), segment(b, 0, 2), segment(c, 8, 8)].into()),
            16,
            Some(crc32fast::hash(&whole)),
            1,
        )
    }

    #[test]
    fn a_storage_in_three_files_is_one() {
        for make in [file, remote] {
            let storage = pieced(make);
            let whole: Vec<u8> = (0..16).collect();
            for start in 0..=16 {
                for end in start..=16 {
                    let range = storage.range(start as u64..end as u64).unwrap();
                    assert_eq!(*range, whole[start..end], "{start}..{end}");
                }
            }
            assert_eq!(storage.range(10..17).unwrap_err().fault, Some(DamageKind::CutShort));
        }
        // What one of them holds is not copied.
        let storage = pieced(file);
        assert!(matches!(storage.range(8..16).unwrap(), Cow::Borrowed(_)));
        assert!(matches!(storage.range(7..16).unwrap(), Cow::Owned(_)));
    }

    #[test]
    fn a_tensor_on_pieces_reads_like_any_other() {
        let storage = pieced(file);
        let mut tensor = TensorInfo::contiguous("t".into(), DType::U16, vec![2, 3], Some(storage.clone()), 4);
        let words = |tensor: &TensorInfo| tensor.view::<u16>().unwrap().iter().copied().collect::<Vec<_>>();
        assert_eq!(words(&tensor), [0x0504, 0x0706, 0x0908, 0x0b0a, 0x0d0c, 0x0f0e]);
        tensor.strides = vec![1, 2];
        assert_eq!(words(&tensor), [0x0504, 0x0908, 0x0d0c, 0x0706, 0x0b0a, 0x0f0e]);
        assert_eq!(&*tensor.bytes().unwrap(), [4, 5, 8, 9, 12, 13, 6, 7, 10, 11, 14, 15]);
        assert_eq!(HashSet::from([storage.clone(), pieced(file), storage]).len(), 2);
    }
}
