//! PyTorch's oldest format: a tar with `storages`, `tensors` and `pickle`
//! (`legacy_load` in `torch/serialization.py`).
//!
//! `storages`: a pickled count; each storage a pickled (key, location, class), an i64 element count and raw
//! elements; then a pickled list of views (key, root key, first element, elements). `tensors`: a pickled count; each
//! tensor a pickled (key, storage key, class), i32 dimensions, 4 unused bytes, i64 sizes, i64 strides, i64 offset.
//! `pickle` is the object, whose persistent ids are tensor or storage keys.

use std::collections::HashMap;
use std::io::Cursor;

use crate::checkpoint::{Contents, Format};
use crate::pickle::{Id, Node, Pickle};
use crate::storage::{Source, Storage, slice};
use crate::tensor::{TensorInfo, numel};
use crate::torch::{StorageRef, interpret_with, storage_dtype};
use crate::{DType, Error, Result};

pub(crate) fn recognises(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// Bytes of one storage: where in the file, how many, of which type.
#[derive(Clone, Copy)]
struct Run {
    offset: u64,
    len: u64,
    dtype: DType,
}

pub(crate) fn read(source: &Source, file: usize) -> Result<Contents> {
    let bytes = source.bytes();
    let mut parts: HashMap<String, (u64, u64)> = HashMap::new();
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    let broken = |e: std::io::Error| Error::damaged(format!("the tar archive is damaged: {e}"));
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_string();
        parts.insert(name, (entry.raw_file_position(), entry.size()));
    }
    let part = |name: &str| -> Result<(u64, &[u8])> {
        let &(offset, len) = parts.get(name).ok_or_else(|| {
            Error::unsupported(format!("a tar archive without `{name}`: not a PyTorch checkpoint"))
        })?;
        let inside = slice(bytes, offset, len)
            .ok_or_else(|| Error::damaged(format!("`{name}` is cut short")).at(offset))?;
        Ok((offset, inside))
    };
    let (pickle_at, object) = part("pickle")?;
    let (storages_at, storages) = part("storages")?;
    let (tensors_at, tensors) = part("tensors")?;

    let runs = read_storages(storages, storages_at).map_err(|e| e.at(storages_at))?;
    let tensors = read_tensors(tensors, &runs).map_err(|e| e.at(tensors_at))?;
    let pickle = Pickle::parse(object).map_err(|e| {
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
                (TensorInfo::contiguous(String::new(), run.dtype, vec![count as usize], 0, 0), key.clone())
            }
        };
        let run = runs.get(&storage)?;
        let reference =
            StorageRef { key: storage, dtype: run.dtype, bytes: run.len, view_of: None, inline: None };
        Some((tensor, reference))
    };
    let mut contents = Contents::new(Format::TorchTar);
    contents.add_globals(&pickle);
    let listed = interpret_with(&pickle, &known);
    for storage in &listed.storages {
        let inline = storage.inline(object, Some((file, pickle_at)));
        contents.storages.push(match (inline, runs.get(&storage.key)) {
            (Some(inline), _) => inline,
            (None, Some(run)) => Storage::mapped(file, run.offset, run.len),
            (None, None) => Storage::missing("its storage is not in the file", storage.bytes),
        });
    }
    contents.tensors = listed.tensors;
    contents.metadata = listed.metadata;
    contents.warnings.extend(listed.warnings);
    Ok(contents)
}

fn key_of(pickle: &Pickle<'_>, id: Id) -> Option<String> {
    match pickle.node(id) {
        Node::Int(i) => Some(i.to_string()),
        Node::Str(s) => Some(s.to_string()),
        _ => None,
    }
}

fn triple<'p>(pickle: &'p Pickle<'_>) -> Result<(String, &'p [Id])> {
    let parts = pickle.sequence(pickle.root).filter(|p| p.len() == 3);
    let parts = parts.ok_or_else(|| Error::damaged("a record of the tar form is not a triple"))?;
    let key =
        key_of(pickle, parts[0]).ok_or_else(|| Error::damaged("a key of the tar form is not a number"))?;
    Ok((key, parts))
}

fn read_storages(bytes: &[u8], base: u64) -> Result<HashMap<String, Run>> {
    let mut at = 0;
    let count = Pickle::parse(bytes)?;
    at += count.len;
    let mut runs = HashMap::new();
    for _ in 0..count.int(count.root).unwrap_or(0) {
        let record = Pickle::parse(&bytes[at..])?;
        at += record.len;
        let (key, parts) = triple(&record)?;
        let (_, class) =
            record.global(parts[2]).ok_or_else(|| Error::damaged("a storage's class is not a global"))?;
        let dtype = storage_dtype(class)
            .ok_or_else(|| Error::unsupported(format!("storage class `{}`", class.escape_debug())))?;
        let count = i64_at(bytes, at)?;
        at += 8;
        let len = u64::try_from(count)
            .ok()
            .and_then(|n| n.checked_mul(dtype.element_size()? as u64))
            .filter(|&len| len <= (bytes.len() - at) as u64)
            .ok_or_else(|| Error::damaged(format!("storage `{key}` is cut short")))?;
        runs.insert(key, Run { offset: base + at as u64, len, dtype });
        at += len as usize;
    }
    let views = Pickle::parse(&bytes[at..])?;
    for &view in views.sequence(views.root).unwrap_or(&[]) {
        let bad = || Error::damaged("a storage view of the tar form is malformed");
        let &[target, root, first, len] = views.sequence(view).ok_or_else(bad)? else { return Err(bad()) };
        let (target, root) = key_of(&views, target).zip(key_of(&views, root)).ok_or_else(bad)?;
        let run = *runs.get(&root).ok_or_else(bad)?;
        let size = run.dtype.element_size().unwrap_or(1) as u64;
        let number = |id: Id| views.int(id).and_then(|n| u64::try_from(n).ok()?.checked_mul(size));
        let (skip, len) = number(first).zip(number(len)).ok_or_else(bad)?;
        if skip.checked_add(len).is_none_or(|end| end > run.len) {
            return Err(bad());
        }
        runs.insert(target, Run { offset: run.offset + skip, len, ..run });
    }
    Ok(runs)
}

fn read_tensors(bytes: &[u8], runs: &HashMap<String, Run>) -> Result<HashMap<String, (TensorInfo, String)>> {
    let mut at = 0;
    let count = Pickle::parse(bytes)?;
    at += count.len;
    let mut tensors = HashMap::new();
    for _ in 0..count.int(count.root).unwrap_or(0) {
        let record = Pickle::parse(&bytes[at..])?;
        at += record.len;
        let (key, parts) = triple(&record)?;
        let storage = key_of(&record, parts[1]).unwrap_or_default();
        let run = runs.get(&storage).ok_or_else(|| {
            Error::damaged(format!("a tensor refers to storage `{storage}`, which is not there"))
        })?;
        let dims = i64_at(bytes, at)? as i32;
        at += 8;
        let dims = usize::try_from(dims)
            .ok()
            .filter(|&d| d <= 64)
            .ok_or_else(|| Error::damaged(format!("a tensor of {dims} dimensions")))?;
        let mut numbers = Vec::with_capacity(2 * dims + 1);
        for _ in 0..=2 * dims {
            let number = usize::try_from(i64_at(bytes, at)?)
                .map_err(|_| Error::damaged("a negative size in a tensor of the tar form"))?;
            numbers.push(number);
            at += 8;
        }
        let shape = numbers[..dims].to_vec();
        numel(&shape).ok_or_else(|| Error::damaged("the product of a shape overflows"))?;
        let offset = (numbers[2 * dims] as u64).saturating_mul(run.dtype.element_size().unwrap_or(1) as u64);
        let mut tensor = TensorInfo::contiguous(String::new(), run.dtype, shape, 0, offset);
        tensor.strides = numbers[dims..2 * dims].to_vec();
        tensors.insert(key, (tensor, storage));
    }
    Ok(tensors)
}

fn i64_at(bytes: &[u8], at: usize) -> Result<i64> {
    let word =
        slice(bytes, at as u64, 8).ok_or_else(|| Error::damaged("the tar form's records are cut short"))?;
    Ok(i64::from_le_bytes(word.try_into().expect("eight bytes")))
}
