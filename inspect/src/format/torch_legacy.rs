//! PyTorch's format before 1.6: pickles back to back (magic number, protocol version, system info, the object, the
//! list of storage keys), then each storage as an i64 element count and its raw elements, little-endian on every
//! machine (`_legacy_save` in `torch/serialization.py`, `THPStorage_writeFileRaw`). Bare pickles, which some tools
//! write, are read here too.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bytes::{ByteSource, Source, slice};
use crate::error::bytes_that;
use crate::format::{Container, Contents, Family, Format};
use crate::pickle::{Id, Node, Pickle};
use crate::storage::Storage;
use crate::torch::{EXTENSIONS, StorageRef, TorchObject, interpret, persistent_storage};
use crate::{DType, Damage, DamageKind, Error, Notice, NoticeKind, Result};

pub(crate) const CONTAINER: Container = Container {
    family: Family::TorchLegacy,
    extensions: EXTENSIONS,
    recognises,
    recognises_later: None,
    read,
};

/// A pickle without a container.
pub(crate) const BARE: Container = Container {
    family: Family::Pickle,
    extensions: &[],
    recognises: recognises_bare,
    recognises_later: None,
    read: read_bare,
};

/// 0x1950a86a20f9469cfc6c as the pickle's LONG1 argument.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

fn recognises(bytes: &[u8]) -> bool {
    // Protocols 0 and 1 have no header and write the magic number in decimal.
    bytes.starts_with(b"L119547037146038801333356L\n")
        || bytes
            .get(..32.min(bytes.len()))
            .is_some_and(|head| head.first() == Some(&0x80) && head.windows(MAGIC.len()).any(|w| w == MAGIC))
}

/// Whether `bytes` could be a bare pickle: protocol 2 to 5 says so in its first byte.
fn recognises_bare(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..])
}

/// A file that holds nothing but one storage: its element type, and where its bytes are in `bytes` (first, count).
pub(crate) fn lone_storage(bytes: &[u8]) -> Result<(DType, usize, usize)> {
    let broken = || Error::damaged("the storage inside its byte string is not in PyTorch's legacy format");
    if !recognises(bytes) {
        return Err(broken());
    }
    let mut at = 0;
    let mut next = || {
        let pickle = Pickle::parse(&bytes[at..])?;
        at += pickle.len;
        Ok::<_, Error>(pickle)
    };
    for _ in ["magic number", "protocol version", "system info"] {
        next()?;
    }
    let object = next()?;
    let Node::Persistent(pid) = *object.node(object.root) else { return Err(broken()) };
    let (_, dtype, ..) = persistent_storage(&object, pid)?;
    next()?;
    let start = at + 8;
    let count = slice(bytes, at as u64, 8).ok_or_else(broken)?;
    let count = u64::from_le_bytes(count.try_into().expect("eight bytes"));
    let len = count.checked_mul(dtype.element_size().unwrap_or(1) as u64).ok_or_else(broken)?;
    slice(bytes, start as u64, len).ok_or_else(broken)?;
    Ok((dtype, start, len as usize))
}

fn read_bare(source: &Arc<Source>) -> Result<Contents> {
    Pickle::read_at(source.data(), 0, |pickle, bytes| {
        let mut contents = Contents::new(Format::Pickle);
        contents.add_globals(&pickle);
        let mut object = interpret(&pickle);
        contents.tensors = object.placed(|storage| {
            storage.inline(bytes, Some((source, 0))).unwrap_or_else(|| {
                let why = Damage::new(DamageKind::NoData, "a bare pickle holds no storages");
                Storage::missing(why, storage.bytes)
            })
        });
        contents.add_plain(object);
        contents
    })
}

/// The result of `read` on the pickle at `at`, which errors call `what`, and the pickle's length.
fn next<T>(
    data: &dyn ByteSource,
    at: u64,
    what: &str,
    mut read: impl FnMut(&Pickle<'_>) -> T,
) -> Result<(T, u64)> {
    let parsed = Pickle::read_at(data, at, |pickle, _| (read(&pickle), pickle.len as u64));
    parsed.map_err(|e| {
        let offset = at + e.offset.unwrap_or(0);
        Error { what: format!("{what}: {}", e.what), offset: Some(offset), ..e }
    })
}

fn read(source: &Arc<Source>) -> Result<Contents> {
    let data = source.data();
    let (_, mut at) = next(data, 0, "the magic number", |_| ())?;
    let (protocol, len) = next(data, at, "the protocol version", |p| p.int(p.root))?;
    if protocol != Some(1001) {
        return Err(Error::unsupported("a legacy PyTorch file whose protocol version is not 1001"));
    }
    at += len;
    let (_, len) = next(data, at, "the system info", |_| ())?;
    let object_at = at + len;
    let mut contents = Contents::new(Format::TorchLegacy);
    let (mut object, len): (TorchObject, u64) = next(data, object_at, "the object", |pickle| {
        contents.globals.clear();
        contents.add_globals(pickle);
        interpret(pickle)
    })?;

    let Located { places, gone, shifted, damage, surplus, .. } =
        locate(data, object_at + len, &object.storages)?;
    contents.faults.extend(damage);
    contents.notices.extend(surplus);
    contents.tensors = object.placed(|storage| {
        let (key, first) = match &storage.view_of {
            Some((root, first)) => (root, *first),
            None => (&storage.key, 0),
        };
        let size = storage.dtype.element_size().unwrap_or(1) as u64;
        if let Some(why) = shifted.get(key) {
            return Storage::missing(why.clone(), storage.bytes);
        }
        match (storage.inline(&[], Some((source, object_at))), places.get(key)) {
            (Some(inline), _) => inline,
            (None, Some(&(start, len))) => {
                let skip = first.saturating_mul(size).min(len);
                Storage::mapped(source, start + skip, (len - skip).min(storage.bytes))
            }
            (None, None) => {
                let why = format!("its storage `{}` is not in what is left of the file", key.escape_debug());
                let why = Damage::new(DamageKind::StorageLost, why);
                match gone.get(key) {
                    Some(&start) => {
                        let start = start.saturating_add(first.saturating_mul(size));
                        Storage::lost(why, storage.bytes, source, start)
                    }
                    None => Storage::missing(why, storage.bytes),
                }
            }
        }
    });
    contents.add_plain(object);
    Ok(contents)
}

/// Where the storages of a legacy file are.
#[derive(Default)]
struct Located {
    /// First byte and bytes there, by key.
    places: HashMap<String, (u64, u64)>,
    /// Where the missing ones would begin.
    gone: HashMap<String, u64>,
    /// Those whose bytes cannot be located for certain, and why.
    shifted: HashMap<String, Damage>,
    damage: Option<Damage>,
    /// A notice about bytes after the last storage.
    surplus: Option<Notice>,
    /// First byte after the last storage; `None` if it is unknown.
    end: Option<u64>,
}

/// First byte after the storages of the legacy file `data`; `None` if that is unknown.
///
/// # Errors
/// When the bytes cannot be read.
pub(crate) fn end_of_storages(data: &dyn ByteSource) -> Result<Option<u64>> {
    match locate_all(data) {
        Ok(located) => Ok(located.end),
        Err(error) if error.kind == crate::ErrorKind::Io => Err(error),
        Err(_) => Ok(None),
    }
}

fn locate_all(data: &dyn ByteSource) -> Result<Located> {
    let mut at = 0;
    for what in ["magic number", "protocol version", "system info"] {
        at += next(data, at, what, |_| ())?.1;
    }
    // Storages of objects that are not interpreted count, too.
    let referred = |object: &Pickle<'_>| -> Vec<StorageRef> {
        (0..object.node_count())
            .filter_map(|index| match *object.node(Id::at(index)) {
                Node::Persistent(pid) => persistent_storage(object, pid).ok(),
                _ => None,
            })
            .map(|(key, dtype, count, _)| {
                let bytes = count.saturating_mul(dtype.element_size().unwrap_or(1) as u64);
                StorageRef { key, dtype, bytes, view_of: None, inline: None, bits: None }
            })
            .collect()
    };
    let (storages, len) = next(data, at, "the object", referred)?;
    locate(data, at + len, &storages)
}

/// Walks the list of storage keys at `at` and the storages after it.
///
/// # Errors
/// When the bytes cannot be read.
fn locate(data: &dyn ByteSource, at: u64, storages: &[StorageRef]) -> Result<Located> {
    // The element sizes, which determine where storages are, come from the object's persistent ids.
    let mut word_sizes: HashMap<&str, usize> = HashMap::new();
    let mut announced: HashMap<&str, u64> = HashMap::new();
    for storage in storages {
        let key = storage.view_of.as_ref().map_or(&storage.key, |(root, _)| root);
        word_sizes.insert(key, storage.dtype.element_size().unwrap_or(1));
        if storage.view_of.is_none() {
            announced.insert(key, storage.bytes);
        }
    }
    let mut located = Located::default();
    let listed = next(data, at, "the list of storage keys", |keys| -> Vec<String> {
        let key = |&key: &Id| match keys.node(key) {
            Node::Str(s) => s.to_string(),
            Node::Int(i) => i.to_string(),
            _ => String::new(),
        };
        keys.sequence(keys.root).unwrap_or(&[]).iter().map(key).collect()
    });
    let (keys, len) = match listed {
        Ok(listed) => listed,
        Err(error) if error.kind == crate::ErrorKind::Io => return Err(error),
        Err(error) => {
            let what = format!("the storages cannot be located: {error}");
            located.damage = Some(Damage::new(error.fault.unwrap_or_default(), what));
            return Ok(located);
        }
    };
    let mut position = at + len;
    // Storages since the last one whose count is what the object says, that one included.
    let mut doubtful: Vec<String> = Vec::new();
    let (mut miscounted, mut cut) = (false, false);
    for key in keys {
        let Some(&size) = word_sizes.get(key.as_str()) else {
            let what = format!(
                "the size of storage `{}` is unknown; it and those after it are lost",
                key.escape_debug()
            );
            located.damage = Some(Damage::new(DamageKind::StorageLost, what));
            return Ok(located);
        };
        let expected = announced.get(key.as_str()).copied();
        let Some(head) = data.part(position, 8)? else {
            let what = "the file is cut short within its storages";
            located.damage.get_or_insert_with(|| Damage::new(DamageKind::CutShort, what));
            cut = true;
            // Its own persistent id says where the next one would be.
            located.gone.insert(key, position.saturating_add(8));
            position = position.saturating_add(8).saturating_add(expected.unwrap_or(0));
            continue;
        };
        let count = u64::from_le_bytes((*head).try_into().expect("eight bytes"));
        let start = position + 8;
        let left = data.len() - start;
        let counted = count.checked_mul(size as u64);
        if expected.is_some() && counted != expected {
            miscounted = true;
            let what = format!(
                "storage `{}` records {count} elements, but the object gives another number, which is used",
                key.escape_debug()
            );
            located.damage.get_or_insert_with(|| Damage::new(DamageKind::Inconsistent, what));
        } else {
            miscounted = false;
            doubtful.clear();
        }
        doubtful.push(key.clone());
        let Some(len) = expected.or(counted).filter(|&len| len <= left) else {
            located.damage.get_or_insert_with(|| {
                let what = format!("the file is cut short: storage `{}` is incomplete", key.escape_debug());
                Damage::new(DamageKind::CutShort, what)
            });
            cut = true;
            position = start.saturating_add(expected.unwrap_or(left)).max(data.len());
            located.places.insert(key, (start, left));
            continue;
        };
        located.places.insert(key, (start, len));
        position = start + len;
    }
    located.end = Some(position);
    let surplus = data.len().saturating_sub(position);
    // An overwritten count does not shift anything: the next one, or the end of the file, is at its right place.
    if miscounted && (surplus > 0 || cut) {
        let why = "bytes were inserted or removed before or inside it: the element counts around it are not where they should be";
        let why = Damage::new(DamageKind::Shifted, why);
        located.shifted.extend(doubtful.into_iter().map(|key| (key, why.clone())));
    }
    if surplus > 0 {
        let text = bytes_that(surplus, "follow") + " the last storage";
        located.surplus = Some(Notice::new(NoticeKind::Surplus, text));
    }
    Ok(located)
}
