//! PyTorch's zip container (`torch.save` since 1.6) and TorchScript archives.
//!
//! Layout: entries under one top folder, `data.pkl` (the object), `data/<key>` (one storage each), `byteorder`,
//! `version`; TorchScript adds `constants.pkl`, `constants/<key>` and `code/`. Entries are stored and data is
//! 64-byte aligned (`caffe2/serialize/inline_container.cc`). PyTorch writes data.pkl before the storages, so a
//! file that was cut short still says what it contained: then the local headers are walked instead of the directory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bytes::{ByteSource, Source};
use crate::error::bytes_that;
use crate::format::{Container, Contents, Family, Format, torch_export};
use crate::metadata::{HashableValue, Value};
use crate::pickle::Pickle;
use crate::storage::{Place, Segment, Storage};
use crate::torch::{EXTENSIONS, StorageRef, TorchObject, interpret};
use crate::zip::{self, Central, Directory, END, Entry, LOCAL_HEADER, Method, content};
use crate::{Damage, DamageKind, Error, Notice, NoticeKind, Result};

pub(crate) const CONTAINER: Container = Container {
    family: Family::Zip,
    extensions: EXTENSIONS,
    recognises,
    recognises_later: Some(recognises_later),
    read,
};

/// What every archive of Keras 3 holds.
const KERAS: [&str; 2] = ["model.weights.h5", "config.json"];

/// Whether `bytes` are an archive of PyTorch although they do not begin like one: something was put before it, or its
/// beginning was overwritten.
fn recognises_later(source: &dyn ByteSource) -> Result<bool> {
    Ok(zip::has_directory(source)? && zip::names_in_directory(source, |name| name.ends_with(b"data.pkl"))?)
}

fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL_HEADER) || bytes.starts_with(END)
}

pub(crate) fn read(source: &Arc<Source>) -> Result<Contents> {
    read_form(source, true)
}

/// The same of an archive within another, which is no exported program.
pub(super) fn read_inner(source: &Arc<Source>) -> Result<Contents> {
    read_form(source, false)
}

/// Whether PyTorch, which does not distinguish cases, reads the entry called `name`.
fn is_read(name: &str) -> bool {
    let name = name.to_lowercase();
    name.ends_with(".pkl")
        || name.ends_with("byteorder")
        || ["/data/", "/constants/"].iter().any(|part| name.contains(part))
}

/// Why PyTorch does not read an archive that can be read, if so (`torch/serialization.py`, `_is_zipfile`;
/// `caffe2/serialize/inline_container.cc`, `getAllRecords`).
fn refused(central: &Central) -> Option<String> {
    if central.prefix > 0 {
        let before = bytes_that(central.prefix, "stand");
        return Some(format!("{before} before the archive, which PyTorch does not read then"));
    }
    if let Some(entry) = central.entries.iter().find(|e| is_read(&e.name) && e.flags & zip::ENCRYPTED != 0) {
        let name = entry.name.escape_debug();
        return Some(format!("its entry `{name}` is marked as encrypted, which PyTorch does not read"));
    }
    // What PyTorch writes has one folder; archives of others may be read as well.
    let (folder, _) = central.entries.first()?.name.split_once('/')?;
    let holds = |name: &str| name.split_once('/').is_some_and(|(first, _)| first == folder);
    let has_object = central.entries.iter().any(|e| holds(&e.name) && e.name.ends_with("/data.pkl"));
    let other = central.entries.iter().find(|e| !holds(&e.name)).filter(|_| has_object)?;
    Some(format!(
        "its entry `{}` is not in the folder `{}` of the others, and PyTorch reads no such archive",
        other.name.escape_debug(),
        folder.escape_debug()
    ))
}

fn read_form(source: &Arc<Source>, may_be_exported: bool) -> Result<Contents> {
    let bytes = source.data();
    let readings = zip::readings(bytes)?;
    let disagreement = readings.disagreement(false, is_read);
    let (entries, damage) = match readings.usual {
        Directory::Of(central) => {
            let damage = disagreement.map(|what| Damage::new(DamageKind::Duplicate, what));
            let refused = || refused(&central).map(|what| Damage::new(DamageKind::Inconsistent, what));
            let damage = damage.or_else(refused);
            (central.entries, damage)
        }
        Directory::Several => {
            return Err(Error::unsupported("contains several zip archives one after another, as the parts of a distributed checkpoint (.distcp) do").hint("give its folder, with the .metadata that says what they hold"));
        }
        Directory::Lost(reason) => {
            let entries = zip::salvage(bytes)?;
            let why = format!(
                "the zip's central directory cannot be read ({reason}): the file was truncated, overwritten or never finished; {} entries were found by their local headers",
                entries.len()
            );
            (entries, Some(Damage::new(DamageKind::DirectoryLost, why)))
        }
    };
    let mut by_name: HashMap<&str, &Entry> = HashMap::new();
    for entry in &entries {
        by_name.entry(&entry.name).or_insert(entry);
    }
    let main = entries
        .iter()
        .filter(|e| e.name == "data.pkl" || e.name.ends_with("/data.pkl"))
        .min_by_key(|e| e.name.len());
    if main.is_none()
        && may_be_exported
        && let Some(exported) = torch_export::read(source, &by_name)
    {
        return exported.map(|mut contents| {
            contents.faults.extend(damage);
            contents
        });
    }
    let main = main.ok_or_else(|| match damage {
        Some(_) => Error::damaged("a damaged zip in which data.pkl, which names the tensors, is missing"),
        None if KERAS.iter().all(|name| by_name.contains_key(name)) => Error::unsupported(
            "is a Keras model (.keras), whose weights are in an HDF5 file, which is not read",
        )
        .hint(crate::format::FROM_KERAS),
        None if by_name.keys().any(|n| n.ends_with("model.json")) => {
            Error::unsupported("a TorchScript archive from before PyTorch 1.4")
                .hint("load and save it with PyTorch 1.4 to 2")
        }
        None => Error::unsupported("a zip archive without data.pkl: not a PyTorch checkpoint"),
    })?;
    let prefix = main.name.strip_suffix("data.pkl").unwrap_or("");
    let script = by_name.contains_key(format!("{prefix}constants.pkl").as_str());
    let byteorder = format!("{prefix}byteorder");
    let big_endian = entries
        .iter()
        .find(|entry| entry.name.eq_ignore_ascii_case(&byteorder))
        .is_some_and(|e| content(bytes, e).is_ok_and(|order| order.trim_ascii() == b"big"));

    let mut contents = Contents::new(if script { Format::TorchScript } else { Format::TorchZip });
    contents.faults.extend(damage);
    contents.root = prefix.strip_suffix('/').map(str::to_string);
    let data = content(bytes, main).map_err(|e| e.in_tensor("data.pkl"))?;
    if main.crc32.is_some_and(|expected| expected != crc32fast::hash(&data)) {
        contents.listing_damaged = true;
        let what = "data.pkl differs from its checksum: names, shapes and values may be wrong";
        contents.faults.push(Damage::new(DamageKind::ChecksumMismatch, what));
    }
    let pickle = Pickle::parse(&data).map_err(|e| Error {
        what: format!("data.pkl, offset {}: {}", e.offset.unwrap_or(0), e.what),
        offset: Some(main.offset),
        ..e
    })?;
    contents.add_globals(&pickle);
    let object = interpret(&pickle);
    let places = Places { entries: &by_name, folder: format!("{prefix}data/"), source, big_endian };
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
            contents.notices.push(Notice::new(
                NoticeKind::DamagedPart,
                "constants.pkl is damaged; the script's constants are not listed",
            ));
        }
    }
    Ok(contents)
}

/// Where the storages of one pickle are.
struct Places<'e> {
    entries: &'e HashMap<&'e str, &'e Entry>,
    folder: String,
    source: &'e Arc<Source>,
    big_endian: bool,
}

impl Places<'_> {
    /// Adds `object`, which was read from `pickle`, the content of entry `from`.
    fn add(&self, contents: &mut Contents, mut object: TorchObject, pickle: &[u8], from: &Entry) {
        let mapped = (from.method == Method::Stored).then_some((self.source, from.offset));
        contents.tensors.extend(
            object.placed(|storage| storage.inline(pickle, mapped).unwrap_or_else(|| self.place(storage))),
        );
        contents.add_plain(object);
    }

    fn place(&self, storage: &StorageRef) -> Storage {
        let (source, key) = (self.source, &storage.key);
        let damage = |what: String| Damage::new(DamageKind::StorageLost, what);
        let Some(entry) = self.entries.get(format!("{}{key}", self.folder).as_str()) else {
            let why = damage(format!("its storage `{key}` is not in the file"));
            return Storage::missing(why, storage.bytes);
        };
        if let Some(doubt) = entry.doubt {
            let why = Damage::new(DamageKind::Inconsistent, format!("its storage `{key}`: {doubt}"));
            return Storage::lost(why, storage.bytes, source, entry.offset);
        }
        // Which words to reverse depends on each tensor: an untyped storage has no word size.
        let swap = if self.big_endian { 2 } else { 1 };
        let segment = Segment { source: source.clone(), offset: entry.offset, len: entry.compressed };
        match entry.method {
            Method::Stored => {
                let crc32 = entry.crc32.filter(|_| entry.whole);
                Storage::new(Place::Segments(segment.into()), entry.compressed, crc32, swap)
            }
            Method::Deflated if !entry.whole => {
                let why = format!("its compressed storage `{key}` is cut short");
                let why = Damage::new(DamageKind::CutShort, why);
                Storage::lost(why, storage.bytes, source, entry.offset)
            }
            Method::Deflated => Storage::new(Place::Deflated(segment), entry.len, entry.crc32, swap),
            Method::Other(number) => {
                let why = format!(
                    "its storage `{key}` is compressed by zip method {number}; only stored and deflated entries can be read"
                );
                Storage::missing(Damage::new(DamageKind::Compression, why), storage.bytes)
            }
        }
    }
}
