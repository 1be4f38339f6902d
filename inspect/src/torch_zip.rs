//! PyTorch's zip container (`torch.save` since 1.6) and TorchScript archives.
//!
//! Layout: entries under one top folder, `data.pkl` (the object), `data/<key>` (one storage each), `byteorder`,
//! `version`; TorchScript adds `constants.pkl`, `constants/<key>` and `code/`. Entries are stored and data is
//! 64-byte aligned (`caffe2/serialize/inline_container.cc`). PyTorch writes data.pkl before the storages, so a
//! file that was cut short still tells what it held: then the local headers are walked instead of the directory.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_pickle::{HashableValue, Value};

use crate::checkpoint::{Contents, Format};
use crate::pickle::Pickle;
use crate::storage::{Place, Source, Storage, inflate, slice};
use crate::torch::{StorageRef, TorchObject, interpret};
use crate::{Error, Result};

/// Signature of a local file header (APPNOTE.TXT 4.3.7).
pub const LOCAL_HEADER: &[u8; 4] = b"PK\x03\x04";
const DATA_DESCRIPTOR: &[u8; 4] = b"PK\x07\x08";
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
/// An inflated pickle may be this much larger than its file: pickles of real checkpoints are far smaller than
/// their weights, and what is built from one is proportional to it.
const PICKLE_ALLOWANCE: u64 = 8 << 20;

/// How a distributed checkpoint becomes one that is read.
pub(crate) const DCP_HINT: &str =
    "convert its folder: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER OUT.pt";

/// Whether `bytes` are an archive that something was put before.
pub(crate) fn recognises_prefixed(bytes: &[u8]) -> bool {
    matches!(central_directory(bytes), Ok(Directory::Of(entries)) if entries.iter().any(|e| e.name.ends_with("data.pkl")))
}

pub(crate) fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL_HEADER) || bytes.starts_with(END)
}

/// How an entry is compressed (APPNOTE.TXT 4.4.5).
#[derive(Clone, Copy, PartialEq)]
enum Method {
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

struct Entry {
    name: String,
    method: Method,
    offset: u64,
    /// Bytes in the file, no more than there are.
    compressed: u64,
    /// Bytes announced once decoded.
    len: u64,
    crc32: Option<u32>,
    whole: bool,
}

pub(crate) fn read(source: &Source, file: usize) -> Result<Contents> {
    let bytes = source.bytes();
    let (entries, damage) = match central_directory(bytes) {
        Ok(Directory::Of(entries)) => (entries, None),
        Ok(Directory::Several) => {
            return Err(Error::unsupported("holds several zip archives one after another, as the parts of a distributed checkpoint (.distcp) do").hint(DCP_HINT));
        }
        Err(reason) => {
            let entries = walk_local_headers(bytes);
            let why = format!(
                "the zip's central directory cannot be read ({reason}): the file was cut short or never finished; {} entries found by their local headers",
                entries.len()
            );
            (entries, Some(why))
        }
    };
    let by_name: HashMap<&str, &Entry> = entries.iter().map(|e| (e.name.as_str(), e)).collect();
    let main = entries
        .iter()
        .filter(|e| e.name == "data.pkl" || e.name.ends_with("/data.pkl"))
        .min_by_key(|e| e.name.len())
        .ok_or_else(|| match damage {
            Some(_) => {
                Error::damaged("a zip without central directory, and no data.pkl in what is left of it")
            }
            None if by_name.keys().any(|n| n.ends_with("model.json")) => {
                Error::unsupported("a TorchScript archive from before PyTorch 1.4")
                    .hint("load and save it with PyTorch 1.4 to 2")
            }
            None => Error::unsupported("a zip archive without data.pkl: not a PyTorch checkpoint"),
        })?;
    let prefix = main.name.strip_suffix("data.pkl").unwrap_or("");
    let script = by_name.contains_key(format!("{prefix}constants.pkl").as_str());
    let big_endian = by_name
        .get(format!("{prefix}byteorder").as_str())
        .is_some_and(|e| content(bytes, e).is_ok_and(|order| order.trim_ascii() == b"big"));

    let mut contents = Contents::new(if script { Format::TorchScript } else { Format::TorchZip });
    contents.damage = damage;
    let data = content(bytes, main).map_err(|e| e.in_tensor("data.pkl"))?;
    let pickle = Pickle::parse(&data).map_err(|e| Error {
        what: format!("data.pkl, offset {}: {}", e.offset.unwrap_or(0), e.what),
        offset: Some(main.offset),
        ..e
    })?;
    contents.add_globals(&pickle);
    let object = interpret(&pickle);
    let places = Places { entries: &by_name, folder: format!("{prefix}data/"), file, big_endian };
    places.add(&mut contents, object, &data, main);

    if let Some(entry) = by_name.get(format!("{prefix}constants.pkl").as_str()) {
        let data = content(bytes, entry)?;
        // Frozen modules keep their weights here.
        if let Ok(pickle) = Pickle::parse(&data) {
            contents.add_globals(&pickle);
            let mut object = interpret(&pickle);
            for tensor in &mut object.tensors {
                tensor.name = format!("constants.{}", tensor.name);
            }
            let metadata = std::mem::replace(&mut object.metadata, Value::None);
            let plain = std::mem::replace(&mut contents.metadata, Value::None);
            let places = Places { folder: format!("{prefix}constants/"), ..places };
            places.add(&mut contents, object, &data, entry);
            contents.metadata = plain;
            if let (Value::Dict(all), Value::List(items)) = (&mut contents.metadata, &metadata)
                && !items.is_empty()
            {
                all.insert(HashableValue::String("constants".into()), metadata);
            }
        } else {
            contents.warnings.push("constants.pkl is damaged; constants of the script are not listed".into());
        }
    }
    Ok(contents)
}

/// Where the storages of one pickle are.
struct Places<'e> {
    entries: &'e HashMap<&'e str, &'e Entry>,
    folder: String,
    file: usize,
    big_endian: bool,
}

impl Places<'_> {
    /// Adds `object`, which was read from `pickle`, the content of entry `from`.
    fn add(&self, contents: &mut Contents, object: TorchObject, pickle: &[u8], from: &Entry) {
        let first = contents.storages.len();
        let mapped = (from.method == Method::Stored).then_some((self.file, from.offset));
        for storage in &object.storages {
            let placed = storage.inline(pickle, mapped).unwrap_or_else(|| self.place(storage));
            contents.storages.push(placed);
        }
        for mut tensor in object.tensors {
            tensor.shift_storages(first);
            contents.tensors.push(tensor);
        }
        contents.metadata = object.metadata;
        contents.warnings.extend(object.warnings);
    }

    fn place(&self, storage: &StorageRef) -> Storage {
        let (file, key) = (self.file, &storage.key);
        let missing = |why: String| Storage::missing(why, storage.bytes);
        let Some(entry) = self.entries.get(format!("{}{key}", self.folder).as_str()) else {
            return missing(format!("its storage `{key}` is not in the file"));
        };
        // Which words to reverse is for each tensor to say: an untyped storage does not know.
        let swap = if self.big_endian { 2 } else { 1 };
        match entry.method {
            Method::Stored => Storage {
                place: Place::Mapped { file, offset: entry.offset },
                len: entry.compressed,
                crc32: entry.crc32.filter(|_| entry.whole),
                swap,
            },
            Method::Deflated if !entry.whole => {
                missing(format!("its compressed storage `{key}` is cut short"))
            }
            Method::Deflated => Storage {
                place: Place::Deflated { file, offset: entry.offset, compressed: entry.compressed },
                len: entry.len,
                crc32: entry.crc32,
                swap,
            },
            Method::Other(number) => missing(format!(
                "its storage `{key}` is compressed by zip method {number}; only stored and deflated are read"
            )),
        }
    }
}

fn content<'a>(bytes: &'a [u8], entry: &Entry) -> Result<Cow<'a, [u8]>> {
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
    if entry.len > bytes.len() as u64 + PICKLE_ALLOWANCE {
        return Err(Error::unsupported(format!(
            "the entry `{}` inflates to {} bytes, out of proportion to the file",
            entry.name, entry.len
        ))
        .at(entry.offset));
    }
    inflate(raw, entry.len).map(Cow::Owned).map_err(|e| e.at(entry.offset))
}

/// Entries by the central directory at the file's end (APPNOTE.TXT 4.3.12 to 4.3.16).
fn central_directory(bytes: &[u8]) -> Result<Directory, &'static str> {
    let tail = bytes.len().saturating_sub(END_RECORD + usize::from(u16::MAX));
    let end = (tail..bytes.len())
        .rev()
        .find(|&at| {
            let comment = word(bytes, at + 20, 2);
            bytes[at..].starts_with(END)
                && comment.is_some_and(|n| at + END_RECORD + n as usize <= bytes.len())
        })
        .ok_or("there is none")?;
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
        return Ok(Directory::Several);
    }
    let mut entries = Vec::new();
    for _ in 0..count {
        let header =
            bytes.get(at..after).filter(|h| h.starts_with(CENTRAL_HEADER)).ok_or("an entry is damaged")?;
        let (name_len, extra_len, comment_len) = (
            word(header, 28, 2).ok_or(CUT)? as usize,
            word(header, 30, 2).ok_or(CUT)? as usize,
            word(header, 32, 2).ok_or(CUT)? as usize,
        );
        let name = header.get(46..46 + name_len).ok_or(CUT)?;
        let extra = header.get(46 + name_len..46 + name_len + extra_len).ok_or(CUT)?;
        let mut sizes = [
            word(header, 24, 4).ok_or(CUT)?,
            word(header, 20, 4).ok_or(CUT)?,
            word(header, 42, 4).ok_or(CUT)?,
        ];
        widen(extra, &mut sizes);
        let [len, compressed, local] = sizes;
        let local =
            local.checked_add(shift).and_then(|at| usize::try_from(at).ok()).ok_or("an offset overflows")?;
        if !bytes.get(local..).is_some_and(|b| b.starts_with(LOCAL_HEADER)) {
            return Err("an entry points to no local header");
        }
        let skip = word(bytes, local + 26, 2).zip(word(bytes, local + 28, 2)).ok_or(CUT)?;
        let offset = local as u64 + 30 + skip.0 + skip.1;
        let left = (bytes.len() as u64).saturating_sub(offset);
        entries.push(Entry {
            name: String::from_utf8_lossy(name).into_owned(),
            method: Method::of(word(header, 10, 2).ok_or(CUT)?),
            offset,
            compressed: compressed.min(left),
            len,
            crc32: word(header, 16, 4).map(|crc| crc as u32),
            whole: compressed <= left,
        });
        at += 46 + name_len + extra_len + comment_len;
    }
    Ok(Directory::Of(entries))
}

/// What the central directory at the end of a file tells.
enum Directory {
    /// The entries of the one archive.
    Of(Vec<Entry>),
    /// Other archives stand before this one.
    Several,
}

const END_RECORD: usize = 22;
const CUT: &str = "it is cut short";

/// A little-endian word of `width` bytes.
fn word(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
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

/// Entries by their local headers (APPNOTE.TXT 4.3.7), in file order.
fn walk_local_headers(bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = 0;
    while let Some(found) = find(bytes, at, LOCAL_HEADER) {
        let Some((entry, next)) = local_entry(bytes, found) else {
            at = found + 4;
            continue;
        };
        let stop = !entry.whole || bytes[next..].starts_with(CENTRAL_HEADER);
        entries.push(entry);
        if stop {
            break;
        }
        at = next;
    }
    entries
}

/// The entry whose local header is at `at`, and where the next header is expected.
fn local_entry(bytes: &[u8], at: usize) -> Option<(Entry, usize)> {
    let header = |offset: usize, width: usize| word(bytes, at + offset, width);
    let (flags, method, crc) = (header(6, 2)?, header(8, 2)?, header(14, 4)? as u32);
    let name_end = at + 30 + header(26, 2)? as usize;
    let start = name_end + header(28, 2)? as usize;
    let name = String::from_utf8_lossy(bytes.get(at + 30..name_end)?).into_owned();
    let mut sizes = [header(22, 4)?, header(18, 4)?];
    widen(bytes.get(name_end..start)?, &mut sizes);
    let [len, compressed] = sizes;
    let left = (bytes.len() - start) as u64;
    let mut entry = Entry {
        name,
        method: Method::of(method),
        offset: start as u64,
        compressed: compressed.min(left),
        len,
        crc32: Some(crc),
        whole: compressed <= left,
    };
    let mut next = start + entry.compressed as usize;
    let sizes_follow = flags & 8 != 0 && compressed == 0;
    if sizes_follow {
        // The true end is the descriptor whose size is the distance to it.
        let mut from = start;
        let end = loop {
            let Some(found) = find(bytes, from, DATA_DESCRIPTOR) else { break None };
            let distance = (found - start) as u64;
            if word(bytes, found + 8, 4) == Some(distance) && word(bytes, found + 8, 8) != Some(distance) {
                break Some((found, word(bytes, found + 12, 4)?, 16));
            }
            if word(bytes, found + 8, 8) == Some(distance) {
                break Some((found, word(bytes, found + 16, 8)?, 24));
            }
            from = found + 1;
        };
        match end {
            Some((found, uncompressed, descriptor)) => {
                entry.compressed = (found - start) as u64;
                entry.len = uncompressed;
                entry.crc32 = word(bytes, found + 4, 4).map(|crc| crc as u32);
                next = (found + descriptor).min(bytes.len());
            }
            None => {
                entry.compressed = left;
                entry.len = left;
                entry.crc32 = None;
                entry.whole = false;
                next = bytes.len();
            }
        }
    }
    Some((entry, next))
}

fn find(bytes: &[u8], from: usize, signature: &[u8; 4]) -> Option<usize> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|&b| b == b'P')?;
        if bytes[at..].starts_with(signature) {
            return Some(at);
        }
        at += 1;
    }
}
