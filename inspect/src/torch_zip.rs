//! PyTorch's zip container (`torch.save` since 1.6) and TorchScript archives.
//!
//! Layout: entries under one top folder, `data.pkl` (the object), `data/<key>` (one storage each), `byteorder`,
//! `version`; TorchScript adds `constants.pkl`, `constants/<key>` and `code/`. Entries are stored and data is
//! 64-byte aligned (`caffe2/serialize/inline_container.cc`). PyTorch writes data.pkl before the storages, so a
//! file that was cut short still tells what it held: then the local headers are walked instead of the directory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Cursor;

use serde_pickle::{HashableValue, Value};

use crate::checkpoint::{Contents, Format};
use crate::pickle::Pickle;
use crate::storage::{Place, Source, Storage, inflate, slice};
use crate::torch::{TorchObject, interpret};
use crate::{Error, Result};

const LOCAL_HEADER: &[u8; 4] = b"PK\x03\x04";
const DATA_DESCRIPTOR: &[u8; 4] = b"PK\x07\x08";
const CENTRAL_HEADER: &[u8; 4] = b"PK\x01\x02";
/// An inflated pickle may be this much larger than its file: pickles of real checkpoints are far smaller than
/// their weights, and what is built from one is proportional to it.
const PICKLE_ALLOWANCE: u64 = 8 << 20;

pub(crate) fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL_HEADER) || bytes.starts_with(b"PK\x05\x06")
}

struct Entry {
    name: String,
    deflated: bool,
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
        Ok(entries) => (entries, None),
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
    add(&mut contents, object, &by_name, &format!("{prefix}data/"), file, big_endian);

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
            add(&mut contents, object, &by_name, &format!("{prefix}constants/"), file, big_endian);
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

fn add(
    contents: &mut Contents,
    object: TorchObject,
    entries: &HashMap<&str, &Entry>,
    folder: &str,
    file: usize,
    big_endian: bool,
) {
    let first = contents.storages.len();
    for storage in &object.storages {
        let placed = match (&storage.inline, entries.get(format!("{folder}{}", storage.key).as_str())) {
            (Some(bytes), _) => Storage {
                place: Place::Inline(bytes.as_slice().into()),
                len: bytes.len() as u64,
                crc32: None,
                swap: 1,
            },
            (None, None) => {
                Storage::missing(format!("its storage `{}` is not in the file", storage.key), storage.bytes)
            }
            (None, Some(entry)) if entry.deflated && !entry.whole => Storage::missing(
                format!("its compressed storage `{}` is cut short", storage.key),
                storage.bytes,
            ),
            (None, Some(entry)) if entry.deflated => Storage {
                place: Place::Deflated { file, offset: entry.offset, compressed: entry.compressed },
                len: entry.len,
                crc32: entry.crc32,
                swap: if big_endian { storage.dtype.word_size() } else { 1 },
            },
            (None, Some(entry)) => Storage {
                place: Place::Mapped { file, offset: entry.offset },
                len: entry.compressed,
                crc32: entry.crc32.filter(|_| entry.whole),
                swap: if big_endian { storage.dtype.word_size() } else { 1 },
            },
        };
        contents.storages.push(placed);
    }
    for mut tensor in object.tensors {
        tensor.shift_storages(first);
        contents.tensors.push(tensor);
    }
    contents.metadata = object.metadata;
    contents.warnings.extend(object.warnings);
}

fn content<'a>(bytes: &'a [u8], entry: &Entry) -> Result<Cow<'a, [u8]>> {
    let raw = slice(bytes, entry.offset, entry.compressed)
        .filter(|_| entry.whole)
        .ok_or_else(|| Error::damaged(format!("the entry `{}` is cut short", entry.name)).at(entry.offset))?;
    if !entry.deflated {
        return Ok(Cow::Borrowed(raw));
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

fn central_directory(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let mut entries = Vec::with_capacity(archive.len());
    for i in 0..archive.len() {
        let entry = archive.by_index_raw(i).map_err(|e| e.to_string())?;
        let offset = entry.data_start().ok_or("an entry has no data")?;
        let whole = offset.checked_add(entry.compressed_size()).is_some_and(|end| end <= bytes.len() as u64);
        entries.push(Entry {
            name: entry.name().map_err(|e| e.to_string())?.into_owned(),
            deflated: entry.compression() != zip::CompressionMethod::Stored,
            offset,
            compressed: entry.compressed_size().min((bytes.len() as u64).saturating_sub(offset)),
            len: entry.size(),
            crc32: Some(entry.crc32()),
            whole,
        });
    }
    Ok(entries)
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
    let u16_at = |o: usize| Some(u16::from_le_bytes(bytes.get(o..o + 2)?.try_into().ok()?));
    let u32_at = |o: usize| Some(u32::from_le_bytes(bytes.get(o..o + 4)?.try_into().ok()?));
    let u64_at = |o: usize| Some(u64::from_le_bytes(bytes.get(o..o + 8)?.try_into().ok()?));
    let (flags, method, crc) = (u16_at(at + 6)?, u16_at(at + 8)?, u32_at(at + 14)?);
    let (mut compressed, mut len) = (u64::from(u32_at(at + 18)?), u64::from(u32_at(at + 22)?));
    let name_end = at + 30 + usize::from(u16_at(at + 26)?);
    let start = name_end + usize::from(u16_at(at + 28)?);
    let name = String::from_utf8_lossy(bytes.get(at + 30..name_end)?).into_owned();
    let mut extra = bytes.get(name_end..start)?;
    while let [a, b, c, d, rest @ ..] = extra {
        let size = usize::from(u16::from_le_bytes([*c, *d]));
        let Some(field) = rest.get(..size) else { break };
        if u16::from_le_bytes([*a, *b]) == 1 && field.len() >= 16 && len == u64::from(u32::MAX) {
            len = u64::from_le_bytes(field[..8].try_into().ok()?);
            compressed = u64::from_le_bytes(field[8..16].try_into().ok()?);
        }
        extra = &rest[size..];
    }
    let left = (bytes.len() - start) as u64;
    let mut entry = Entry {
        name,
        deflated: method != 0,
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
            if u32_at(found + 8).map(u64::from) == Some(distance) && u64_at(found + 8) != Some(distance) {
                break Some((found, u64::from(u32_at(found + 12)?), 16));
            }
            if u64_at(found + 8) == Some(distance) {
                break Some((found, u64_at(found + 16)?, 24));
            }
            from = found + 1;
        };
        match end {
            Some((found, uncompressed, descriptor)) => {
                entry.compressed = (found - start) as u64;
                entry.len = uncompressed;
                entry.crc32 = u32_at(found + 4);
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
