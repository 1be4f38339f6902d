//! Zip archives: their entries by the central directory, and where that is damaged by whatever headers are left.
//! Numbers in parentheses are sections of APPNOTE.TXT (<https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use memchr::memmem;

use crate::storage::{inflate, slice};
use crate::{Error, Result};

/// Signature of a local file header (4.3.7).
pub const LOCAL_HEADER: &[u8; 4] = b"PK\x03\x04";
/// Signature of a data descriptor (4.3.9).
pub const DATA_DESCRIPTOR: &[u8; 4] = b"PK\x07\x08";
/// Signature of a central directory header (4.3.12).
pub const CENTRAL_HEADER: &[u8; 4] = b"PK\x01\x02";
/// Signature of the zip64 end of central directory record (4.3.14).
pub const ZIP64_END: &[u8; 4] = b"PK\x06\x06";
/// Signature of the zip64 end of central directory locator (4.3.15).
pub const ZIP64_LOCATOR: &[u8; 4] = b"PK\x06\x07";
/// Signature of the end of central directory record (4.3.16).
pub const END: &[u8; 4] = b"PK\x05\x06";
/// Id of the zip64 extended information extra field (4.5.3).
pub const ZIP64_EXTRA: u16 = 1;
/// Bytes of the end of central directory record without its comment.
pub const END_RECORD: usize = 22;

/// Bytes of a local header before its name.
const LOCAL_RECORD: usize = 30;
/// Bytes of a central header before its name.
const CENTRAL_RECORD: usize = 46;
/// Flag of an encrypted entry (4.4.4, bit 0).
pub(crate) const ENCRYPTED: u16 = 1;
/// Flag of an entry whose sizes and CRC-32 follow its data (4.4.4, bit 3).
pub(crate) const SIZES_FOLLOW: u16 = 1 << 3;
/// An inflated entry that is read whole may be this much larger than its file: pickles of real checkpoints are far
/// smaller than their weights, and what is built from one is proportional to it.
const INFLATED_ALLOWANCE: u64 = 8 << 20;
const CUT: &str = "it is cut short";

/// How an entry is compressed (4.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Stored,
    Deflated,
    /// Not read. PyTorch writes none of these.
    Other(u64),
}

impl Method {
    fn of(number: u64) -> Self {
        match number {
            0 => Method::Stored,
            8 => Method::Deflated,
            other => Method::Other(other),
        }
    }
}

/// One file of an archive.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub flags: u16,
    pub method: Method,
    /// Where its local header is.
    pub header: u64,
    /// Where its data begins.
    pub offset: u64,
    /// Bytes in the file, no more than there are.
    pub compressed: u64,
    /// Bytes announced once decoded.
    pub len: u64,
    pub crc32: Option<u32>,
    /// Whether all its bytes are there.
    pub whole: bool,
    /// Why its bytes are not to be trusted, when nothing can vouch for them.
    pub doubt: Option<&'static str>,
    /// What the system that wrote it says of the file (4.4.15): in the upper half, Unix's mode.
    pub attributes: u32,
}

/// What the central directory at the end of a file tells.
#[derive(Debug)]
pub(crate) enum Directory {
    /// The entries of the one archive.
    Of(Central),
    /// Other archives stand before this one.
    Several,
}

/// A central directory.
#[derive(Debug)]
pub(crate) struct Central {
    pub entries: Vec<Entry>,
    /// Bytes before the archive, by which its offsets are shifted.
    pub prefix: u64,
    /// Where the end record, its comment included, ends.
    pub end: u64,
    /// Where the directory begins.
    pub start: u64,
}

/// A central header, as it stands.
struct Record<'a> {
    name: &'a [u8],
    flags: u16,
    method: Method,
    crc32: u32,
    compressed: u64,
    len: u64,
    attributes: u32,
    /// Recorded place of the local header.
    local: u64,
    /// Bytes of the header itself.
    size: usize,
}

impl<'a> Record<'a> {
    fn read(bytes: &'a [u8], at: usize) -> Option<Self> {
        let header = bytes.get(at..).filter(|h| h.starts_with(CENTRAL_HEADER))?;
        let lengths = [word(header, 28, 2)?, word(header, 30, 2)?, word(header, 32, 2)?];
        let [name_len, extra_len, comment_len] = lengths.map(|n| n as usize);
        let name = header.get(CENTRAL_RECORD..CENTRAL_RECORD + name_len)?;
        let extra = header.get(CENTRAL_RECORD + name_len..CENTRAL_RECORD + name_len + extra_len)?;
        let mut sizes = [word(header, 24, 4)?, word(header, 20, 4)?, word(header, 42, 4)?];
        widen(extra, &mut sizes);
        let [len, compressed, local] = sizes;
        Some(Record {
            name,
            flags: word(header, 8, 2)? as u16,
            method: Method::of(word(header, 10, 2)?),
            crc32: word(header, 16, 4)? as u32,
            attributes: word(header, 38, 4)? as u32,
            compressed,
            len,
            local,
            size: CENTRAL_RECORD + name_len + extra_len + comment_len,
        })
    }

    /// The entry whose local header is at `header` and whose data begins at `offset`.
    fn entry(&self, header: u64, offset: u64, file_len: u64) -> Entry {
        let left = file_len.saturating_sub(offset);
        Entry {
            name: String::from_utf8_lossy(self.name).into_owned(),
            flags: self.flags,
            method: self.method,
            header,
            offset,
            compressed: self.compressed.min(left),
            len: self.len,
            crc32: Some(self.crc32),
            whole: self.compressed <= left,
            doubt: None,
            attributes: self.attributes,
        }
    }
}

/// A local header, as it stands.
pub(crate) struct Local<'a> {
    pub name: &'a [u8],
    pub flags: u16,
    pub method: Method,
    pub crc32: u32,
    pub compressed: u64,
    pub len: u64,
    /// Where the data begins.
    pub data: u64,
}

impl<'a> Local<'a> {
    /// The local header at `at`, if there is one.
    pub fn read(bytes: &'a [u8], at: u64) -> Option<Self> {
        let at = usize::try_from(at).ok()?;
        let header = bytes.get(at..).filter(|h| h.starts_with(LOCAL_HEADER))?;
        let name_end = LOCAL_RECORD + word(header, 26, 2)? as usize;
        let data = name_end + word(header, 28, 2)? as usize;
        let mut sizes = [word(header, 22, 4)?, word(header, 18, 4)?];
        widen(header.get(name_end..data)?, &mut sizes);
        let [len, compressed] = sizes;
        Some(Local {
            name: header.get(LOCAL_RECORD..name_end)?,
            flags: word(header, 6, 2)? as u16,
            method: Method::of(word(header, 8, 2)?),
            crc32: word(header, 14, 4)? as u32,
            compressed,
            len,
            data: (at + data) as u64,
        })
    }

    /// Whether sizes and CRC-32 follow the data instead of standing here.
    pub fn sizes_follow(&self) -> bool {
        self.flags & SIZES_FOLLOW != 0 && self.compressed == 0
    }
}

/// Whether an end of central directory record is where one has to be.
pub(crate) fn has_directory(bytes: &[u8]) -> bool {
    end_record(bytes).is_some()
}

/// Names in whatever central headers there are.
pub(crate) fn names_in_directory(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    memmem::find_iter(bytes, CENTRAL_HEADER).filter_map(|at| Some(Record::read(bytes, at)?.name))
}

/// Where the end of central directory record is: the last one whose comment fits (4.3.16).
fn end_record(bytes: &[u8]) -> Option<usize> {
    let tail = bytes.len().saturating_sub(END_RECORD + usize::from(u16::MAX));
    memmem::rfind_iter(&bytes[tail..], END)
        .map(|at| tail + at)
        .find(|&at| word(bytes, at + 20, 2).is_some_and(|n| at + END_RECORD + n as usize <= bytes.len()))
}

/// Entries by the central directory at the file's end (4.3.12 to 4.3.16).
///
/// # Errors
/// Why it cannot be followed: none, cut short, or pointing elsewhere than to the entries it names.
pub(crate) fn central_directory(bytes: &[u8]) -> Result<Directory, &'static str> {
    let end = end_record(bytes).ok_or("there is none")?;
    let (mut count, mut size, mut start, mut after) = (
        word(bytes, end + 10, 2).ok_or(CUT)?,
        word(bytes, end + 12, 4).ok_or(CUT)?,
        word(bytes, end + 16, 4).ok_or(CUT)?,
        end,
    );
    let locator = end.checked_sub(20).filter(|&at| bytes[at..].starts_with(ZIP64_LOCATOR));
    if let Some(locator) = locator {
        // Its offset is right unless bytes were put before the archive; then the record lies right before it.
        let recorded = word(bytes, locator + 8, 8).and_then(|at| usize::try_from(at).ok());
        let record = [recorded, locator.checked_sub(56)]
            .into_iter()
            .flatten()
            .find(|&at| bytes.get(at..).is_some_and(|b| b.starts_with(ZIP64_END)))
            .ok_or("its zip64 record is not where it should be")?;
        count = word(bytes, record + 32, 8).ok_or(CUT)?;
        size = word(bytes, record + 40, 8).ok_or(CUT)?;
        start = word(bytes, record + 48, 8).ok_or(CUT)?;
        after = record;
    }
    // Bytes put before the archive shift every offset by the same amount.
    let actual = (after as u64).checked_sub(size).ok_or("its size is larger than the file")?;
    let shift = actual.checked_sub(start).ok_or("its offset lies behind it")?;
    let mut at = actual as usize;
    if shift > 0 && bytes.starts_with(LOCAL_HEADER) {
        return match memmem::find(&bytes[..at], END) {
            Some(_) => Ok(Directory::Several),
            None => Err("it is not where it says that it is"),
        };
    }
    let mut entries = Vec::new();
    for _ in 0..count {
        let record = Record::read(&bytes[..after], at).ok_or("an entry is damaged")?;
        let local = record.local.checked_add(shift).ok_or("an offset overflows")?;
        let header = Local::read(bytes, local).ok_or("an entry points to no local header")?;
        entries.push(record.entry(local, header.data, bytes.len() as u64));
        at += record.size;
    }
    let comment = word(bytes, end + 20, 2).unwrap_or(0);
    Ok(Directory::Of(Central {
        entries,
        prefix: shift,
        end: end as u64 + END_RECORD as u64 + comment,
        start: actual,
    }))
}

/// Entries of an archive whose central directory cannot be followed, in file order: those of local headers, and those
/// that only a central header tells of. Of two that claim a name the one whose CRC-32 is right comes first.
pub(crate) fn salvage(bytes: &[u8]) -> Vec<Entry> {
    let mut entries = walk_local_headers(bytes);
    let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, entry) in entries.iter().enumerate() {
        by_name.entry(entry.name.clone()).or_default().push(i);
    }
    let records: Vec<Record<'_>> =
        memmem::find_iter(bytes, CENTRAL_HEADER).filter_map(|at| Record::read(bytes, at)).collect();
    let mut starts: Vec<u64> = records.iter().map(|r| r.local).collect();
    starts.sort_unstable();
    // Each guess costs a checksum of what it guesses; together they read the file a few times at most.
    let mut budget = 4 * bytes.len() as u64;
    let mut told: HashSet<&[u8]> = HashSet::new();
    for record in records.iter().filter(|r| told.insert(r.name)) {
        let name = String::from_utf8_lossy(record.name).into_owned();
        let known = by_name.get(&name).map_or(&[][..], Vec::as_slice);
        let mut places: Vec<(u64, u64)> =
            known.iter().map(|&i| (entries[i].header, entries[i].offset)).collect();
        if known.is_empty() {
            // Its header is gone. Its data ends where the next header begins, less a data descriptor; or, as PyTorch
            // writes it, begins at the next multiple of 64.
            let next = starts.partition_point(|&s| s <= record.local);
            let ends = starts.get(next).map_or(&[][..], std::slice::from_ref);
            for end in ends {
                places.extend([0, 16, 24].iter().filter_map(|descriptor| {
                    Some((record.local, end.checked_sub(*descriptor)?.checked_sub(record.compressed)?))
                }));
            }
            let after = record.local.saturating_add((LOCAL_RECORD + record.name.len()) as u64);
            places.extend(after.checked_next_multiple_of(64).map(|data| (record.local, data)));
            places.retain(|(header, data)| data > header);
        }
        let mut right = places.iter().filter_map(|&(header, data)| {
            let entry = record.entry(header, data, bytes.len() as u64);
            budget = budget.checked_sub(entry.compressed)?;
            (entry.whole && has_its_checksum(bytes, &entry)).then_some(entry)
        });
        match (right.next(), known) {
            (Some(entry), &[first, ..]) => entries[first] = entry,
            (Some(entry), []) => entries.push(entry),
            (None, known) => {
                // What the directory records still tells right from wrong.
                for &i in known {
                    let entry = &mut entries[i];
                    if !entry.whole && entry.compressed >= record.compressed {
                        let placed = record.entry(entry.header, entry.offset, bytes.len() as u64);
                        *entry = Entry { name: name.clone(), ..placed };
                    }
                }
            }
        }
    }
    entries
}

fn has_its_checksum(bytes: &[u8], entry: &Entry) -> bool {
    let Some(raw) = slice(bytes, entry.offset, entry.compressed) else { return false };
    let found = match entry.method {
        Method::Stored => crc32fast::hash(raw),
        Method::Deflated if entry.len <= bytes.len() as u64 + INFLATED_ALLOWANCE => {
            let Ok(inflated) = inflate(raw, entry.len) else { return false };
            crc32fast::hash(&inflated)
        }
        _ => return false,
    };
    entry.crc32 == Some(found)
}

/// Entries by their local headers (4.3.7), in file order.
fn walk_local_headers(bytes: &[u8]) -> Vec<Entry> {
    // A descriptor tells how long the data before it is, and so where that begins.
    let mut descriptors: HashMap<u64, (u64, u64)> = HashMap::new();
    for at in memmem::find_iter(bytes, DATA_DESCRIPTOR).map(|at| at as u64) {
        for width in [8, 4] {
            let size = word(bytes, at as usize + 8, width);
            if let Some(start) = size.and_then(|size| at.checked_sub(size)) {
                descriptors.entry(start).or_insert((at, width as u64));
            }
        }
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = 0;
    let directory = memmem::find(bytes, CENTRAL_HEADER);
    for found in memmem::find_iter(bytes, LOCAL_HEADER).map(|at| at as u64) {
        if found < at {
            continue;
        }
        let Some(local) = Local::read(bytes, found).filter(|l| is_plausible(l.name)) else { continue };
        if let Some(last) = entries.last_mut().filter(|last| !last.whole) {
            // What was taken to reach the end of the file ends here.
            last.compressed = last.compressed.min(found - last.offset);
            last.doubt = Some("its end and its checksum were overwritten");
        }
        let (entry, next) = local_entry(bytes, found, &local, &descriptors);
        at = next;
        entries.push(entry);
    }
    if let (Some(last), Some(directory)) = (entries.last_mut().filter(|e| !e.whole), directory)
        && directory as u64 >= last.offset
    {
        last.compressed = last.compressed.min(directory as u64 - last.offset);
        last.doubt = Some("its end and its checksum were overwritten");
    }
    entries
}

/// Whether a name is one that an archive of a checkpoint could hold.
fn is_plausible(name: &[u8]) -> bool {
    !name.is_empty() && std::str::from_utf8(name).is_ok_and(|n| !n.contains(char::is_control))
}

/// The entry of the header `local`, which is at `at`, and where the next header is expected.
fn local_entry(
    bytes: &[u8],
    at: u64,
    local: &Local<'_>,
    descriptors: &HashMap<u64, (u64, u64)>,
) -> (Entry, u64) {
    let left = bytes.len() as u64 - local.data;
    let mut entry = Entry {
        name: String::from_utf8_lossy(local.name).into_owned(),
        flags: local.flags,
        method: local.method,
        header: at,
        offset: local.data,
        compressed: local.compressed.min(left),
        len: local.len,
        crc32: Some(local.crc32),
        whole: local.compressed <= left,
        doubt: None,
        attributes: 0,
    };
    let mut next = local.data + entry.compressed;
    if local.sizes_follow() {
        let descriptor = descriptors.get(&local.data).and_then(|&(found, width)| {
            let size = word(bytes, (found + 8 + width) as usize, width as usize)?;
            Some((found, size, word(bytes, found as usize + 4, 4)?, 8 + 2 * width))
        });
        if let Some((found, len, crc32, size)) = descriptor {
            entry.compressed = found - local.data;
            entry.len = len;
            entry.crc32 = Some(crc32 as u32);
            next = found + size;
        } else {
            entry.compressed = left;
            entry.len = left;
            entry.crc32 = None;
            entry.whole = false;
        }
    }
    if !entry.whole {
        next = local.data;
    }
    (entry, next)
}

/// The decoded bytes of `entry`, which is read whole.
///
/// # Errors
/// `Damaged` when it is cut short or does not inflate, `Unsupported` for other compression and for an inflated size out
/// of proportion to the file.
pub(crate) fn content<'a>(bytes: &'a [u8], entry: &Entry) -> Result<Cow<'a, [u8]>> {
    let raw = slice(bytes, entry.offset, entry.compressed)
        .filter(|_| entry.whole)
        .ok_or_else(|| Error::damaged(format!("the entry `{}` is cut short", entry.name)).at(entry.offset))?;
    match entry.method {
        Method::Stored => return Ok(Cow::Borrowed(raw)),
        Method::Deflated => {}
        Method::Other(number) => {
            let what = format!("the entry `{}` is compressed by zip method {number}", entry.name);
            return Err(Error::unsupported(what).at(entry.offset).hint("save it again with torch.save"));
        }
    }
    if entry.len > bytes.len() as u64 + INFLATED_ALLOWANCE {
        return Err(Error::unsupported(format!(
            "the entry `{}` inflates to {} bytes, out of proportion to the file",
            entry.name, entry.len
        ))
        .at(entry.offset));
    }
    inflate(raw, entry.len).map(Cow::Owned).map_err(|e| e.at(entry.offset))
}

/// A little-endian word of `width` bytes.
pub(crate) fn word(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(bytes.get(at..at.checked_add(width)?)?);
    Some(u64::from_le_bytes(wide))
}

/// Replaces sizes of 2^32 - 1 by those of the zip64 extra field, which holds only these, in this order.
fn widen(mut extra: &[u8], sizes: &mut [u64]) {
    while let Some((id, size)) = word(extra, 0, 2).zip(word(extra, 2, 2)) {
        let Some(field) = extra.get(4..4 + size as usize) else { break };
        if id == u64::from(ZIP64_EXTRA) {
            let wide = sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX));
            for (i, size) in wide.enumerate() {
                *size = word(field, 8 * i, 8).unwrap_or(*size);
            }
        }
        extra = &extra[4 + size as usize..];
    }
}
