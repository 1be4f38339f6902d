//! Zip archives: their entries by the central directory or, if that is damaged, by the headers that are left.
//! Numbers in parentheses are sections of APPNOTE.TXT (<https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>).

mod directory;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::Read;

use crate::bytes::{ByteSource, Section, text};
use crate::storage::inflate;
use crate::{DamageKind, Error, Result};
pub(crate) use directory::{
    Central, Directory, Readings, archives, central_directory, has_directory, named, names_in_directory,
    readings,
};

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
/// Id of the extra field with a name in Unicode (4.6.9).
const UNICODE_PATH: u64 = 0x7075;
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
/// Entries looked for in an archive without a directory.
const MOST_ENTRIES: usize = 1 << 22;
const CUT: &str = "it is cut short";

/// How an entry is compressed (4.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Bytes in the file, at most as many as exist.
    pub compressed: u64,
    /// Bytes announced once decoded.
    pub len: u64,
    pub crc32: Option<u32>,
    /// Whether all its bytes exist.
    pub whole: bool,
    /// Why its bytes cannot be trusted, if there is nothing to verify them with.
    pub doubt: Option<&'static str>,
    /// External file attributes (4.4.15): the upper half is the Unix mode.
    pub attributes: u32,
    /// Its name to readers that look for another one in Unicode (4.6.9), if that differs.
    pub alias: Option<String>,
    /// What its local header says otherwise than the directory, of what readers go by.
    pub disputed: Option<&'static str>,
}

impl Entry {
    /// What two entries have in common that are read alike.
    pub fn identity(&self) -> (String, u64, Method, u64, u64) {
        (self.name.clone(), self.header, self.method, self.compressed, self.len)
    }
}

/// A central header, unverified.
struct Record<'a> {
    name: Cow<'a, [u8]>,
    flags: u16,
    method: Method,
    crc32: u32,
    compressed: u64,
    len: u64,
    attributes: u32,
    /// Recorded place of the local header.
    local: u64,
    /// Length of the header itself.
    size: usize,
    alias: Option<String>,
}

impl<'a> Record<'a> {
    /// The central header at `at` of `source`, if there is one.
    fn fetch(source: &'a dyn ByteSource, at: u64) -> Result<Option<Self>> {
        let size = source.window(at, CENTRAL_RECORD as u64)?;
        let lengths = [28, 30, 32].map(|field| word(&size, field, 2).unwrap_or(0));
        let size = CENTRAL_RECORD as u64 + lengths.iter().sum::<u64>();
        Ok(match source.window(at, size)? {
            Cow::Borrowed(bytes) => Record::read(bytes, 0),
            Cow::Owned(bytes) => Record::read(&bytes, 0).map(Record::into_owned),
        })
    }

    fn into_owned<'b>(self) -> Record<'b> {
        Record { name: Cow::Owned(self.name.into_owned()), ..self }
    }

    /// The central header at `at` of `bytes`, if there is one.
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
            name: Cow::Borrowed(name),
            flags: word(header, 8, 2)? as u16,
            method: Method::of(word(header, 10, 2)?),
            crc32: word(header, 16, 4)? as u32,
            attributes: word(header, 38, 4)? as u32,
            compressed,
            len,
            local,
            size: CENTRAL_RECORD + name_len + extra_len + comment_len,
            alias: alias(extra, name),
        })
    }

    /// The entry whose local header is at `header` and whose data begins at `offset`.
    fn entry(&self, header: u64, offset: u64, file_len: u64) -> Entry {
        let left = file_len.saturating_sub(offset);
        Entry {
            name: text(&self.name),
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
            alias: self.alias.clone(),
            disputed: None,
        }
    }

    /// What `local` says otherwise, of what readers go by.
    fn disputed_by(&self, local: &Local<'_>) -> Option<&'static str> {
        let sizes = (local.compressed, local.len) == (self.compressed, self.len);
        match () {
            () if local.name != self.name => Some("the name"),
            () if local.method != self.method => Some("the compression"),
            () if (local.flags ^ self.flags) & ENCRYPTED != 0 => Some("the encryption flag"),
            () if !local.sizes_follow() && !sizes => Some("the sizes"),
            () => None,
        }
    }
}

/// The name that the extra field 0x7075 of an entry called `name` gives it in Unicode, if that is another one. Readers differ in
/// whether they look at it: Python's `zipfile` does since 3.12.1.
fn alias(extra: &[u8], name: &[u8]) -> Option<String> {
    let mut rest = extra;
    while let (Some(id), Some(len)) = (word(rest, 0, 2), word(rest, 2, 2)) {
        let end = (4 + len as usize).min(rest.len());
        // A byte for the version, and the CRC-32 of the name.
        if id == UNICODE_PATH
            && let Some(unicode) = rest[4..end].get(5..)
        {
            let unicode = unicode.split(|byte| *byte == 0).next().unwrap_or_default();
            return (!unicode.is_empty() && unicode != name).then(|| text(unicode));
        }
        rest = &rest[end..];
    }
    None
}

/// A local header, unverified.
pub(crate) struct Local<'a> {
    pub name: Cow<'a, [u8]>,
    pub flags: u16,
    pub method: Method,
    pub crc32: u32,
    pub compressed: u64,
    pub len: u64,
    /// Where the data begins.
    pub data: u64,
    /// Its name in Unicode (4.6.9), if that differs.
    pub alias: Option<String>,
}

impl<'a> Local<'a> {
    /// The local header at `at`, if there is one.
    pub fn read(source: &'a dyn ByteSource, at: u64) -> Result<Option<Self>> {
        let fixed = source.window(at, LOCAL_RECORD as u64)?;
        if !fixed.starts_with(LOCAL_HEADER) {
            return Ok(None);
        }
        let Some((name_len, extra_len)) = word(&fixed, 26, 2).zip(word(&fixed, 28, 2)) else {
            return Ok(None);
        };
        let after = at + LOCAL_RECORD as u64;
        let Some(name) = source.part(after, name_len)? else { return Ok(None) };
        let Some(extra) = source.part(after + name_len, extra_len)? else { return Ok(None) };
        let number = |at: usize, width: usize| word(&fixed, at, width).unwrap_or(0);
        let mut sizes = [number(22, 4), number(18, 4)];
        widen(&extra, &mut sizes);
        let [len, compressed] = sizes;
        Ok(Some(Local {
            alias: alias(&extra, &name),
            name,
            flags: number(6, 2) as u16,
            method: Method::of(number(8, 2)),
            crc32: number(14, 4) as u32,
            compressed,
            len,
            data: after + name_len + extra_len,
        }))
    }

    /// Whether sizes and CRC-32 follow the data instead of being in this header.
    pub fn sizes_follow(&self) -> bool {
        self.flags & SIZES_FOLLOW != 0 && self.compressed == 0
    }
}

/// Entries of an archive whose central directory cannot be followed, in file order: those of local headers, and those
/// known only from a central header. If two have the same name, the one with the right CRC-32 comes first.
///
/// # Errors
/// When the bytes cannot be read.
pub(crate) fn salvage(source: &dyn ByteSource) -> Result<Vec<Entry>> {
    let mut entries = walk_local_headers(source)?;
    let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, entry) in entries.iter().enumerate() {
        by_name.entry(entry.name.clone()).or_default().push(i);
    }
    let mut records: Vec<Record<'_>> = Vec::new();
    for at in source.positions(CENTRAL_HEADER, 0..source.len(), usize::MAX)? {
        records.extend(Record::fetch(source, at)?);
    }
    let mut starts: Vec<u64> = records.iter().map(|r| r.local).collect();
    starts.sort_unstable();
    // Each guess costs a checksum over the guessed range; together they read the file a few times at most.
    let mut budget = 4 * source.len();
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for record in records.iter().filter(|r| seen.insert(&r.name)) {
        let name = text(&record.name);
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
        let mut right = None;
        for (header, data) in places {
            let entry = record.entry(header, data, source.len());
            let Some(left) = budget.checked_sub(entry.compressed) else { continue };
            budget = left;
            if entry.whole && has_its_checksum(source, &entry)? {
                right = Some(entry);
                break;
            }
        }
        match (right, known) {
            (Some(entry), &[first, ..]) => entries[first] = entry,
            (Some(entry), []) => entries.push(entry),
            (None, known) => {
                // The directory's CRC-32 still shows whether the guess is right.
                for &i in known {
                    let entry = &mut entries[i];
                    if !entry.whole && entry.compressed >= record.compressed {
                        let placed = record.entry(entry.header, entry.offset, source.len());
                        *entry = Entry { name: name.clone(), ..placed };
                    }
                }
            }
        }
    }
    Ok(entries)
}

fn has_its_checksum(source: &dyn ByteSource, entry: &Entry) -> Result<bool> {
    let Some(raw) = Section::part(source, entry.offset, entry.compressed) else { return Ok(false) };
    let found = match entry.method {
        Method::Stored => (&raw as &dyn ByteSource).crc32()?,
        Method::Deflated if entry.len <= source.len() + INFLATED_ALLOWANCE => {
            let Ok(inflated) = inflate(&raw.bytes(0..raw.len)?, entry.len) else { return Ok(false) };
            crc32fast::hash(&inflated)
        }
        _ => return Ok(false),
    };
    Ok(entry.crc32 == Some(found))
}

/// Entries by their local headers (4.3.7), in file order.
fn walk_local_headers(source: &dyn ByteSource) -> Result<Vec<Entry>> {
    // A descriptor gives the length of the data before it, and thereby where the data begins.
    let mut descriptors: HashMap<u64, (u64, u64)> = HashMap::new();
    for at in source.positions(DATA_DESCRIPTOR, 0..source.len(), MOST_ENTRIES)? {
        let descriptor = source.window(at, 16)?;
        for width in [8, 4] {
            let size = word(&descriptor, 8, width);
            if let Some(start) = size.and_then(|size| at.checked_sub(size)) {
                descriptors.entry(start).or_insert((at, width as u64));
            }
        }
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = 0;
    let directory = source.positions(CENTRAL_HEADER, 0..source.len(), 1)?.first().copied();
    for found in source.positions(LOCAL_HEADER, 0..source.len(), usize::MAX)? {
        if found < at {
            continue;
        }
        let Some(local) = Local::read(source, found)?.filter(|l| is_plausible(&l.name)) else { continue };
        if let Some(last) = entries.last_mut().filter(|last| !last.whole) {
            // An entry that seemed to reach the end of the file ends here.
            last.compressed = last.compressed.min(found - last.offset);
            last.doubt = Some("its end and its checksum were overwritten");
        }
        let (entry, next) = local_entry(source, found, &local, &descriptors)?;
        at = next;
        entries.push(entry);
    }
    if let (Some(last), Some(directory)) = (entries.last_mut().filter(|e| !e.whole), directory)
        && directory >= last.offset
    {
        last.compressed = last.compressed.min(directory - last.offset);
        last.doubt = Some("its end and its checksum were overwritten");
    }
    Ok(entries)
}

/// Whether an archive of a checkpoint could contain this name.
fn is_plausible(name: &[u8]) -> bool {
    !name.is_empty() && String::from_utf8(name.to_vec()).is_ok_and(|n| !n.contains(char::is_control))
}

/// The entry of the header `local`, which is at `at`, and where the next header is expected.
fn local_entry(
    source: &dyn ByteSource,
    at: u64,
    local: &Local<'_>,
    descriptors: &HashMap<u64, (u64, u64)>,
) -> Result<(Entry, u64)> {
    let left = source.len() - local.data;
    let mut entry = Entry {
        name: text(&local.name),
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
        alias: local.alias.clone(),
        disputed: None,
    };
    let mut next = local.data + entry.compressed;
    if local.sizes_follow() {
        let descriptor = match descriptors.get(&local.data) {
            Some(&(found, width)) => {
                let fields = source.window(found, 8 + 2 * width)?;
                let size = word(&fields, (8 + width) as usize, width as usize);
                size.zip(word(&fields, 4, 4)).map(|(size, crc32)| (found, size, crc32, 8 + 2 * width))
            }
            None => None,
        };
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
    Ok((entry, next))
}

/// The decoded bytes of `entry`, which is read whole.
///
/// # Errors
/// `Damaged` when it is cut short or does not inflate, `Unsupported` for other compression and for an inflated size out
/// of proportion to the file.
pub(crate) fn content<'a>(source: &'a dyn ByteSource, entry: &Entry) -> Result<Cow<'a, [u8]>> {
    let raw = source.part(entry.offset, entry.compressed)?.filter(|_| entry.whole).ok_or_else(|| {
        Error::damaged(format!("the entry `{}` is cut short", entry.name))
            .because(DamageKind::CutShort)
            .at(entry.offset)
    })?;
    match entry.method {
        Method::Stored => return Ok(raw),
        Method::Deflated => {}
        Method::Other(number) => {
            let what = format!("the entry `{}` is compressed by zip method {number}", entry.name);
            return Err(Error::unsupported(what).at(entry.offset).hint("save it again with torch.save"));
        }
    }
    if entry.len > source.len() + INFLATED_ALLOWANCE {
        return Err(Error::unsupported(format!(
            "the entry `{}` inflates to {} bytes, which is out of proportion to the file",
            entry.name, entry.len
        ))
        .at(entry.offset));
    }
    inflate(&raw, entry.len).map(Cow::Owned).map_err(|e| e.at(entry.offset))
}

/// The name in the local header at the start of `bytes`.
pub(crate) fn first_name(bytes: &[u8]) -> Option<&[u8]> {
    let len = word(bytes, 26, 2)? as usize;
    bytes.get(LOCAL_RECORD..LOCAL_RECORD + len)
}

/// The first decoded bytes of `entry`, up to `most` of them.
///
/// # Errors
/// `Unsupported` for an unsupported compression, `Io` when the bytes cannot be read.
pub(crate) fn beginning(source: &dyn ByteSource, entry: &Entry, most: u64) -> Result<Vec<u8>> {
    // Deflate lengthens data by at most a few bytes per 32 KiB.
    let raw = source.window(entry.offset, entry.compressed.min(most + most / 1024 + 64))?;
    match entry.method {
        Method::Stored => Ok(raw[..raw.len().min(most as usize)].to_vec()),
        Method::Deflated => {
            let mut out = Vec::new();
            // Only what was decoded before an error, such as that of the cut, is needed.
            let _ = flate2::read::DeflateDecoder::new(&*raw).take(most).read_to_end(&mut out);
            Ok(out)
        }
        Method::Other(number) => {
            let what = format!("the entry `{}` is compressed by zip method {number}", entry.name);
            Err(Error::unsupported(what).at(entry.offset))
        }
    }
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
