//! PyTorch's format before 1.6: pickles back to back (magic number, protocol version, system info, the object, the
//! list of storage keys), then each storage as an i64 element count and its raw elements, little-endian on every
//! machine (`_legacy_save` in `torch/serialization.py`, `THPStorage_writeFileRaw`). Bare pickles, which some tools write, are read here too.

use std::collections::HashMap;

use crate::checkpoint::{Contents, Format};
use crate::pickle::{Id, Node, Pickle};
use crate::storage::{Source, Storage, slice};
use crate::torch::{StorageRef, interpret, persistent_storage};
use crate::{DType, Error, Result};

/// 0x1950a86a20f9469cfc6c as the pickle's LONG1 argument.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

pub(crate) fn recognises(bytes: &[u8]) -> bool {
    // Protocols 0 and 1 have no header and write the magic number in decimal.
    bytes.starts_with(b"L119547037146038801333356L\n")
        || bytes
            .get(..32.min(bytes.len()))
            .is_some_and(|head| head.first() == Some(&0x80) && head.windows(MAGIC.len()).any(|w| w == MAGIC))
}

/// Whether `bytes` could be a bare pickle: protocol 2 to 5 says so in its first byte.
pub(crate) fn recognises_bare(bytes: &[u8]) -> bool {
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

pub(crate) fn read_bare(source: &Source, file: usize) -> Result<Contents> {
    let pickle = Pickle::parse(source.bytes())?;
    let mut contents = Contents::new(Format::Pickle);
    contents.add_globals(&pickle);
    let object = interpret(&pickle);
    for storage in &object.storages {
        contents.storages.push(
            storage
                .inline(source.bytes(), Some((file, 0)))
                .unwrap_or_else(|| Storage::missing("a bare pickle holds no storages", storage.bytes)),
        );
    }
    contents.tensors = object.tensors;
    contents.metadata = object.metadata;
    contents.warnings = object.warnings;
    Ok(contents)
}

pub(crate) fn read(source: &Source, file: usize) -> Result<Contents> {
    let bytes = source.bytes();
    let mut at = 0;
    let mut next = |what: &str| -> Result<Pickle<'_>> {
        let pickle = Pickle::parse(&bytes[at..]).map_err(|e| {
            let offset = at as u64 + e.offset.unwrap_or(0);
            Error { what: format!("{what}: {}", e.what), offset: Some(offset), ..e }
        })?;
        at += pickle.len;
        Ok(pickle)
    };
    let magic = next("the magic number")?;
    let protocol = next("the protocol version")?;
    if protocol.int(protocol.root) != Some(1001) {
        return Err(Error::unsupported("a legacy PyTorch file whose protocol version is not 1001"));
    }
    let system = next("the system info")?;
    let object_pickle = next("the object")?;
    let at = magic.len + protocol.len + system.len + object_pickle.len;
    let object_at = magic.len + protocol.len + system.len;
    let mut contents = Contents::new(Format::TorchLegacy);
    contents.add_globals(&object_pickle);
    let object = interpret(&object_pickle);

    let Located { places, gone, shifted, damage, surplus, .. } = locate(bytes, at, &object.storages);
    contents.damage = damage;
    contents.warnings.extend(surplus.clone());
    contents.surplus = surplus;

    for storage in &object.storages {
        let (key, first) = match &storage.view_of {
            Some((root, first)) => (root, *first),
            None => (&storage.key, 0),
        };
        let size = storage.dtype.element_size().unwrap_or(1) as u64;
        if let Some(why) = shifted.get(key) {
            contents.storages.push(Storage::missing(why.clone(), storage.bytes));
            continue;
        }
        let placed =
            match (storage.inline(&bytes[object_at..], Some((file, object_at as u64))), places.get(key)) {
                (Some(inline), _) => inline,
                (None, Some(&(start, len))) => {
                    let skip = first.saturating_mul(size).min(len);
                    Storage::mapped(file, start + skip, (len - skip).min(storage.bytes))
                }
                (None, None) => {
                    let why =
                        format!("its storage `{}` is not in what is left of the file", key.escape_debug());
                    match gone.get(key) {
                        Some(&start) => {
                            let start = start.saturating_add(first.saturating_mul(size));
                            Storage::lost(why, storage.bytes, file, start)
                        }
                        None => Storage::missing(why, storage.bytes),
                    }
                }
            };
        contents.storages.push(placed);
    }
    contents.tensors = object.tensors;
    contents.metadata = object.metadata;
    contents.warnings.extend(object.warnings);
    Ok(contents)
}

/// Where the storages of a legacy file are.
#[derive(Default)]
struct Located {
    /// First byte and bytes there, by key.
    places: HashMap<String, (u64, u64)>,
    /// Where those that are not in the file would begin.
    gone: HashMap<String, u64>,
    /// Those whose bytes cannot be told from others, and why.
    shifted: HashMap<String, String>,
    damage: Option<String>,
    /// The warning of bytes after the last storage.
    surplus: Option<String>,
    /// First byte after the last storage; `None` when it cannot be told.
    end: Option<u64>,
}

/// First byte after the storages of the legacy file `bytes`; `None` when that cannot be told.
pub(crate) fn end_of_storages(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for _ in ["magic number", "protocol version", "system info"] {
        at += Pickle::parse(&bytes[at..]).ok()?.len;
    }
    let object = Pickle::parse(&bytes[at..]).ok()?;
    // Storages of objects that are not interpreted count, too.
    let storages: Vec<StorageRef> = (0..object.node_count())
        .filter_map(|index| match *object.node(Id::at(index)) {
            Node::Persistent(pid) => persistent_storage(&object, pid).ok(),
            _ => None,
        })
        .map(|(key, dtype, count, _)| {
            let bytes = count.saturating_mul(dtype.element_size().unwrap_or(1) as u64);
            StorageRef { key, dtype, bytes, view_of: None, inline: None }
        })
        .collect();
    let end = locate(bytes, at + object.len, &storages).end?;
    usize::try_from(end).ok()
}

/// Walks the list of storage keys at `at` and the storages after it.
fn locate(bytes: &[u8], at: usize, storages: &[StorageRef]) -> Located {
    // The element sizes, which place the storages, are told by the object's persistent ids.
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
    let keys = match Pickle::parse(&bytes[at..]) {
        Ok(keys) => keys,
        Err(error) => {
            let offset = at as u64 + error.offset.unwrap_or(0);
            let error = Error {
                what: format!("the list of storage keys: {}", error.what),
                offset: Some(offset),
                ..error
            };
            located.damage = Some(format!("the storages cannot be located: {error}"));
            return located;
        }
    };
    let mut position = (at + keys.len) as u64;
    // Storages since the last one whose count is what the object says, that one included.
    let mut doubtful: Vec<String> = Vec::new();
    let (mut miscounted, mut cut) = (false, false);
    for &key in keys.sequence(keys.root).unwrap_or(&[]) {
        let key = match keys.node(key) {
            Node::Str(s) => s.to_string(),
            Node::Int(i) => i.to_string(),
            _ => String::new(),
        };
        let Some(&size) = word_sizes.get(key.as_str()) else {
            located.damage = Some(format!(
                "nothing tells the size of storage `{}`; it and those after it are lost",
                key.escape_debug()
            ));
            return located;
        };
        let expected = announced.get(key.as_str()).copied();
        let Some(head) = slice(bytes, position, 8) else {
            located.damage.get_or_insert("the file is cut short within its storages".into());
            cut = true;
            // Its own persistent id tells where the next one would be.
            located.gone.insert(key, position.saturating_add(8));
            position = position.saturating_add(8).saturating_add(expected.unwrap_or(0));
            continue;
        };
        let count = u64::from_le_bytes(head.try_into().expect("eight bytes"));
        let start = position + 8;
        let left = bytes.len() as u64 - start;
        let counted = count.checked_mul(size as u64);
        if expected.is_some() && counted != expected {
            miscounted = true;
            located.damage.get_or_insert(format!(
                "storage `{}` says that it has {count} elements, and the object another number, which counts",
                key.escape_debug()
            ));
        } else {
            miscounted = false;
            doubtful.clear();
        }
        doubtful.push(key.clone());
        let Some(len) = expected.or(counted).filter(|&len| len <= left) else {
            located.damage.get_or_insert_with(|| {
                format!("the file is cut short: storage `{}` is not whole", key.escape_debug())
            });
            cut = true;
            position = start.saturating_add(expected.unwrap_or(left)).max(bytes.len() as u64);
            located.places.insert(key, (start, left));
            continue;
        };
        located.places.insert(key, (start, len));
        position = start + len;
    }
    located.end = Some(position);
    let surplus = (bytes.len() as u64).saturating_sub(position);
    // A count that was overwritten moves nothing: the next one, or the end of the file, is where it belongs.
    if miscounted && (surplus > 0 || cut) {
        let why = "bytes were inserted or removed before it or in it: the counts before and after it do not lie where they belong";
        located.shifted.extend(doubtful.into_iter().map(|key| (key, why.to_string())));
    }
    if surplus > 0 {
        located.surplus = Some(format!("{surplus} bytes follow the last storage"));
    }
    located
}
