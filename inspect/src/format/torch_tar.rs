//! PyTorch's oldest format: a tar with `storages`, `tensors` and `pickle`
//! (`legacy_load` in `torch/serialization.py`).
//!
//! `storages`: a pickled count; each storage a pickled (key, location, class), an i64 element count and raw
//! elements; then a pickled list of views (key, root key, first element, elements). `tensors`: a pickled count; each
//! tensor a pickled (key, storage key, class), i32 dimensions, 4 unused bytes, i64 sizes, i64 strides, i64 offset.
//! `pickle` is the object, whose persistent ids are tensor or storage keys.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bytes::tarfile::{Member, Records, walk};
use crate::bytes::{ByteSource, Reader, Section, Source, text};
use crate::format::{Container, Contents, Family, Format};
use crate::pickle::{Id, Node, Pickle};
use crate::storage::Storage;
use crate::tensor::{TensorInfo, numel};
use crate::torch::{StorageRef, interpret_with, storage_dtype};
use crate::{DType, Damage, DamageKind, Error, Result};

pub(crate) const CONTAINER: Container =
    Container { family: Family::Tar, extensions: &[], recognises, recognises_later: None, read };

fn recognises(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar") || has_checksum(bytes)
}

/// Whether a header has its checksum, by which readers know archives older than the word `ustar`: the sum of its bytes,
/// signed or not, with the checksum's own as spaces, in octal.
fn has_checksum(bytes: &[u8]) -> bool {
    let Some(header) = bytes.get(..512) else { return false };
    let recorded = match &header[148..156] {
        [0x80, number @ ..] => number.iter().try_fold(0i64, |n, &b| Some(n.checked_mul(256)? + i64::from(b))),
        field => octal(field.split(|&b| b == 0).next().unwrap_or_default()),
    };
    let rest = || header[..148].iter().chain(&header[156..]);
    let spaces = 8 * i64::from(b' ');
    let unsigned = spaces + rest().map(|&b| i64::from(b)).sum::<i64>();
    let signed = spaces + rest().map(|&b| i64::from(b as i8)).sum::<i64>();
    recorded.is_some_and(|recorded| recorded == unsigned || recorded == signed)
}

/// A number as Python reads it, which takes a prefix, underscores, and separators of ASCII for spaces.
fn octal(field: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(field)
        .ok()?
        .trim_matches(|c| matches!(c, '\t'..='\r' | '\u{1c}'..='\u{1f}' | ' '));
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    let digits = digits.strip_prefix("0o").or(digits.strip_prefix("0O")).unwrap_or(&digits);
    i64::from_str_radix(digits, 8).ok()
}

/// Bytes of one storage: where in the file, how many, of which type.
#[derive(Clone, Copy)]
struct Run {
    offset: u64,
    len: u64,
    dtype: DType,
}

/// The members that PyTorch extracts, each the last one of its name.
const MEMBERS: [&str; 3] = ["pickle", "storages", "tensors"];

/// Where the content of a member begins, and its bytes.
type Range = (u64, u64);

/// The members that PyTorch extracts as the crate `tar` finds them, which reads as other programs do; and why it stops, if
/// it does.
fn usual_members(data: &dyn ByteSource) -> Result<(HashMap<String, Range>, Option<String>)> {
    let mut members = HashMap::new();
    let mut archive = tar::Archive::new(Reader { source: data, at: 0 });
    let entries = match archive.entries_with_seek() {
        Ok(entries) => entries,
        Err(error) => return Ok((members, Some(Reader::complaint(error)?))),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Ok((members, Some(Reader::complaint(error)?))),
        };
        let name = text(&entry.path_bytes()).trim_start_matches("./").to_string();
        members.insert(name, (entry.raw_file_position(), entry.size()));
    }
    Ok((members, None))
}

/// The same as Python's `tarfile` finds them, with which PyTorch extracts them; `None` in place of one that is no file.
fn members_of_python(
    data: &dyn ByteSource,
    records: Records,
) -> Result<(HashMap<String, Option<Range>>, bool)> {
    let walked = walk(data, records)?;
    let named = |member: &Member| {
        let name = text(&member.name).trim_start_matches("./").to_string();
        MEMBERS
            .contains(&name.as_str())
            .then(|| (name, member.has_content().then_some((member.at, member.len))))
    };
    Ok((walked.members.iter().filter_map(named).collect(), walked.odd.is_some()))
}

/// The members that PyTorch extracts, and how readers of tar archives disagree about them, if they do.
fn members(data: &dyn ByteSource) -> Result<(HashMap<String, Range>, Option<Damage>)> {
    let (mut usual, broken) = usual_members(data)?;
    let (newer, is_odd) = members_of_python(data, Records::Whole)?;
    let (older, _) = members_of_python(data, Records::Loose)?;
    let is_pytorchs = MEMBERS.iter().all(|name| usual.contains_key(*name) || newer.contains_key(*name));
    if let Some(error) = broken.as_ref().filter(|_| !is_pytorchs) {
        return Err(Error::damaged(format!("the tar archive is damaged: {error}")));
    }
    usual.retain(|name, _| MEMBERS.contains(&name.as_str()));
    let differs = |name: &&&str| {
        let own = usual.get(**name).copied();
        [&newer, &older].iter().any(|other| other.get(**name).copied().flatten() != own)
    };
    let what = match (MEMBERS.iter().find(differs), broken, is_odd) {
        (Some(name), ..) => Some(format!(
            "readers of tar archives disagree about `{name}`: Python's, which PyTorch uses, finds other bytes than others, and is what is shown"
        )),
        (None, Some(error), _) => Some(format!("the tar archive is damaged: {error}")),
        (None, None, true) => Some(
            "a member's size or its holes are written so that readers of tar archives differ in them".into(),
        ),
        (None, None, false) => None,
    };
    let of_python = |(name, range): (&String, &Option<Range>)| Some((name.clone(), (*range)?));
    usual.extend(older.iter().filter_map(of_python));
    usual.extend(newer.iter().filter_map(of_python));
    let damage = what.filter(|_| is_pytorchs).map(|what| Damage::new(DamageKind::Duplicate, what));
    Ok((usual, damage))
}

fn read(source: &Arc<Source>) -> Result<Contents> {
    let data = source.data();
    let (parts, disagreement) = members(data)?;
    let part = |name: &str| -> Result<Section<'_>> {
        let &(start, len) = parts.get(name).ok_or_else(|| {
            Error::unsupported(format!("a tar archive without `{name}`: not a PyTorch checkpoint"))
        })?;
        if start.checked_add(len).is_none_or(|end| end > data.len()) {
            return Err(Error::damaged(format!("`{name}` is cut short"))
                .because(DamageKind::CutShort)
                .at(start));
        }
        Ok(Section { whole: data, start, len })
    };
    let (object, storages, tensors) = (part("pickle")?, part("storages")?, part("tensors")?);
    let runs = read_storages(&storages, storages.start).map_err(|e| e.at(storages.start))?;
    let tensors_at = tensors.start;
    let tensors = read_tensors(&tensors, &runs).map_err(|e| e.at(tensors_at))?;
    let pickle_at = object.start;
    let object = object.bytes(0..object.len)?;
    let pickle = Pickle::parse(&object).map_err(|e| {
        let offset = pickle_at + e.offset.unwrap_or(0);
        Error { offset: Some(offset), ..e }
    })?;
    let known = |pid: Id| -> Option<(TensorInfo, StorageRef)> {
        let key = key_of(&pickle, pid)?;
        let (tensor, storage) = match tensors.get(&key) {
            Some((tensor, storage)) => (tensor.clone(), storage.clone()),
            None => {
                let run = runs.get(&key)?;
                let count = run.len / run.dtype.element_size()? as u64;
                (TensorInfo::contiguous(String::new(), run.dtype, vec![count as usize], None, 0), key.clone())
            }
        };
        let run = runs.get(&storage)?;
        let reference = StorageRef {
            key: storage,
            dtype: run.dtype,
            bytes: run.len,
            view_of: None,
            inline: None,
            bits: None,
        };
        Some((tensor, reference))
    };
    let mut contents = Contents::new(Format::TorchTar);
    contents.faults.extend(disagreement);
    contents.add_globals(&pickle);
    let mut listed = interpret_with(&pickle, &known);
    contents.tensors = listed.placed(|storage| {
        let inline = storage.inline(&object, Some((source, pickle_at)));
        match (inline, runs.get(&storage.key)) {
            (Some(inline), _) => inline,
            (None, Some(run)) => Storage::mapped(source, run.offset, run.len),
            (None, None) => {
                let why = Damage::new(DamageKind::StorageLost, "its storage is not in the file");
                Storage::missing(why, storage.bytes)
            }
        }
    });
    contents.add_plain(listed);
    Ok(contents)
}

fn key_of(pickle: &Pickle<'_>, id: Id) -> Option<String> {
    match pickle.node(id) {
        Node::Int(i) => Some(i.to_string()),
        Node::Str(s) => Some(s.to_string()),
        _ => None,
    }
}

/// The key of a record, and its parts.
fn triple<'p>(pickle: &'p Pickle<'_>) -> Result<(String, &'p [Id])> {
    let parts = pickle.sequence(pickle.root).filter(|p| p.len() == 3);
    let parts = parts.ok_or_else(|| Error::damaged("a record of the tar form is not a triple"))?;
    let key =
        key_of(pickle, parts[0]).ok_or_else(|| Error::damaged("a key of the tar form is not a number"))?;
    Ok((key, parts))
}

/// The result of `read` on the pickle at `at`; `at` is moved past it.
fn next<T>(part: &dyn ByteSource, at: &mut u64, mut read: impl FnMut(&Pickle<'_>) -> Result<T>) -> Result<T> {
    let (read, len) = Pickle::read_at(part, *at, |pickle, _| (read(&pickle), pickle.len as u64))?;
    *at += len;
    read
}

fn read_storages(part: &dyn ByteSource, base: u64) -> Result<HashMap<String, Run>> {
    let mut at = 0;
    let count = next(part, &mut at, |count| Ok(count.int(count.root).unwrap_or(0)))?;
    let mut runs = HashMap::new();
    for _ in 0..count {
        let (key, dtype) = next(part, &mut at, |record| {
            let (key, parts) = triple(record)?;
            let (_, class) =
                record.global(parts[2]).ok_or_else(|| Error::damaged("a storage's class is not a global"))?;
            let dtype = storage_dtype(class)
                .ok_or_else(|| Error::unsupported(format!("storage class `{}`", class.escape_debug())))?;
            Ok((key, dtype))
        })?;
        let count = i64_at(part, &mut at)?;
        let len = u64::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(dtype.element_size()? as u64))
            .filter(|&len| len <= part.len() - at)
            .ok_or_else(|| {
                Error::damaged(format!("storage `{key}` is cut short")).because(DamageKind::CutShort)
            })?;
        runs.insert(key, Run { offset: base + at, len, dtype });
        at += len;
    }
    next(part, &mut at, |views| read_views(views, &mut runs))?;
    Ok(runs)
}

/// Adds the runs that are parts of others.
fn read_views(views: &Pickle<'_>, runs: &mut HashMap<String, Run>) -> Result<()> {
    for &view in views.sequence(views.root).unwrap_or(&[]) {
        let bad = || Error::damaged("a storage view of the tar form is malformed");
        let &[target, root, first, len] = views.sequence(view).ok_or_else(bad)? else { return Err(bad()) };
        let (target, root) = key_of(views, target).zip(key_of(views, root)).ok_or_else(bad)?;
        let run = *runs.get(&root).ok_or_else(bad)?;
        let size = run.dtype.element_size().unwrap_or(1) as u64;
        let number = |id: Id| views.int(id).and_then(|n| u64::try_from(n).ok()?.checked_mul(size));
        let (skip, len) = number(first).zip(number(len)).ok_or_else(bad)?;
        if skip.checked_add(len).is_none_or(|end| end > run.len) {
            return Err(bad());
        }
        runs.insert(target, Run { offset: run.offset + skip, len, ..run });
    }
    Ok(())
}

fn read_tensors(
    part: &dyn ByteSource,
    runs: &HashMap<String, Run>,
) -> Result<HashMap<String, (TensorInfo, String)>> {
    let mut at = 0;
    let count = next(part, &mut at, |count| Ok(count.int(count.root).unwrap_or(0)))?;
    let mut tensors = HashMap::new();
    for _ in 0..count {
        let (key, storage) = next(part, &mut at, |record| {
            let (key, parts) = triple(record)?;
            Ok((key, key_of(record, parts[1]).unwrap_or_default()))
        })?;
        let run = runs.get(&storage).ok_or_else(|| {
            Error::damaged(format!("a tensor refers to storage `{storage}`, which is missing"))
        })?;
        let dims = i64_at(part, &mut at)? as i32;
        let dims = usize::try_from(dims)
            .ok()
            .filter(|&d| d <= 64)
            .ok_or_else(|| Error::damaged(format!("a tensor of {dims} dimensions")))?;
        let mut numbers = Vec::with_capacity(2 * dims + 1);
        for _ in 0..=2 * dims {
            let number = usize::try_from(i64_at(part, &mut at)?)
                .map_err(|_| Error::damaged("a negative size in a tensor of the tar form"))?;
            numbers.push(number);
        }
        let shape = numbers[..dims].to_vec();
        numel(&shape).ok_or_else(|| Error::damaged("the product of a shape overflows"))?;
        let offset = (numbers[2 * dims] as u64).saturating_mul(run.dtype.element_size().unwrap_or(1) as u64);
        let mut tensor = TensorInfo::contiguous(String::new(), run.dtype, shape, None, offset);
        tensor.strides = numbers[dims..2 * dims].to_vec();
        tensors.insert(key, (tensor, storage));
    }
    Ok(tensors)
}

/// The number at `at`; `at` is moved past it.
fn i64_at(part: &dyn ByteSource, at: &mut u64) -> Result<i64> {
    let word = part.part(*at, 8)?.ok_or_else(|| {
        Error::damaged("the tar form's records are cut short").because(DamageKind::CutShort)
    })?;
    *at += 8;
    Ok(i64::from_le_bytes((*word).try_into().expect("eight bytes")))
}
