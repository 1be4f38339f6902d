//! What `torch.export.save` writes (`.pt2`): an archive with the program as JSON, and its tensors as raw bytes,
//! `data/weights/weight_0` and so on, that `data/weights/NAME_weights_config.json` describes
//! (`torch/export/pt2_archive`). The program itself is not read.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use crate::bytes::Source;
use crate::format::{Contents, Format, torch_zip};
use crate::storage::{Place, Segment, Storage};
use crate::tensor::TensorInfo;
use crate::zip::{Entry, Method, content};
use crate::{DType, Damage, DamageKind, Error, Notice, NoticeKind, Result};

/// The end of the name of what describes the weights, and the constants; the folders of both; whether names of tensors
/// say which.
const TABLES: [(&str, &str, &str); 2] = [
    ("_weights_config.json", "data/weights/", ""),
    ("_constants_config.json", "data/constants/", "constants."),
];

/// The types by their numbers (`ScalarType` in `torch/_export/serde/schema.py`).
const TYPES: [(u64, DType); 21] = [
    (1, DType::U8),
    (2, DType::I8),
    (3, DType::I16),
    (4, DType::I32),
    (5, DType::I64),
    (6, DType::F16),
    (7, DType::F32),
    (8, DType::F64),
    (9, DType::C32),
    (10, DType::C64),
    (11, DType::C128),
    (12, DType::Bool),
    (13, DType::BF16),
    (28, DType::U16),
    (29, DType::F8E4M3FN),
    (30, DType::F8E5M2),
    (31, DType::F8E4M3FNUZ),
    (32, DType::F8E5M2FNUZ),
    (33, DType::F8E8M0FNU),
    (34, DType::U32),
    (35, DType::U64),
];

#[derive(Deserialize)]
struct Table {
    config: BTreeMap<String, Payload>,
}

#[derive(Deserialize)]
struct Payload {
    path_name: String,
    #[serde(default)]
    is_param: bool,
    #[serde(default)]
    use_pickle: bool,
    tensor_meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    dtype: u64,
    sizes: Vec<Number>,
    strides: Vec<Number>,
    storage_offset: Number,
    layout: u64,
}

/// A number that might have been a symbol.
#[derive(Deserialize)]
struct Number {
    as_int: Option<usize>,
}

/// The number of the dense layout in `Layout` of the same file.
const STRIDED: u64 = 7;

/// The tensors of the exported program whose archive has these `entries`; `None` if it is none.
///
/// # Errors
/// `Unsupported` for an archive of a form that is not read; those of reading its tables.
pub(super) fn read(source: &Arc<Source>, entries: &HashMap<&str, &Entry>) -> Option<Result<Contents>> {
    let exported = |name: &&&str| {
        let last = name.rsplit('/').next().unwrap_or(name);
        TABLES.iter().any(|(end, folder, _)| last.ends_with(end) && name.contains(folder))
            || matches!(
                last,
                "serialized_exported_program.json" | "serialized_state_dict.pt" | "archive_format"
            )
    };
    entries.keys().find(exported)?;
    Some(read_tables(source, entries))
}

fn read_tables(source: &Arc<Source>, entries: &HashMap<&str, &Entry>) -> Result<Contents> {
    let mut contents = Contents::new(Format::TorchZip);
    let mut names: Vec<&str> = entries.keys().copied().collect();
    names.sort_unstable();
    let mut known = false;
    for (end, folder, prefix) in TABLES {
        let tables = names.iter().filter(|name| name.ends_with(end) && name.contains(folder));
        let several = tables.clone().count() > 1;
        for name in tables {
            let Some(start) = name.find(folder) else { continue };
            // The table is called like its model, which names are to tell where there are several.
            let model = name[start + folder.len()..].strip_suffix(end).filter(|_| several);
            let model = model.map(|model| format!("{model}.")).unwrap_or_default();
            known = true;
            let text = content(source.data(), entries[name])?.into_owned();
            let table: Table = serde_json::from_slice(&text)
                .map_err(|e| Error::damaged(format!("{} is not valid: {e}", name.escape_debug())))?;
            let places = Places {
                source,
                entries,
                folder: &name[..start + folder.len()],
                given: RefCell::default(),
                unpickled: RefCell::default(),
            };
            for (tensor, payload) in table.config {
                places.add(&mut contents, format!("{model}{prefix}{tensor}"), &payload);
            }
        }
    }
    if !known {
        let what = "is a program exported by torch.export, in a form whose weights are not read";
        return Err(Error::unsupported(what).hint(
            "load it with torch.export.load, and save its weights: torch.save(program.state_dict, FILE)",
        ));
    }
    let text = "it is a program exported by torch.export: its weights are shown, not the program";
    contents.notices.push(Notice::new(NoticeKind::NotShown, text));
    contents.tell_first();
    Ok(contents)
}

/// Where the bytes of a table's tensors are.
struct Places<'e> {
    source: &'e Arc<Source>,
    entries: &'e HashMap<&'e str, &'e Entry>,
    folder: &'e str,
    /// Those that were given: tied weights are in one place.
    given: RefCell<HashMap<String, Storage>>,
    /// What was in the archives within this one that were read: each is read once.
    unpickled: RefCell<HashMap<String, Vec<TensorInfo>>>,
}

impl Places<'_> {
    /// Adds the tensor `name`.
    fn add(&self, contents: &mut Contents, name: String, payload: &Payload) {
        let unreadable = |what: &str| {
            let what = format!("`{}` {what}", name.escape_debug());
            Damage::new(DamageKind::UnreadableEntry, what)
        };
        let entry = self.entries.get(format!("{}{}", self.folder, payload.path_name).as_str());
        let Some(meta) = &payload.tensor_meta else {
            let text = format!("`{}` is not a tensor, so it is not shown", name.escape_debug());
            return contents.notices.push(Notice::new(NoticeKind::NotShown, text));
        };
        let number = |number: &Number| number.as_int;
        let shape: Option<Vec<usize>> = meta.sizes.iter().map(number).collect();
        let strides: Option<Vec<usize>> = meta.strides.iter().map(number).collect();
        let dtype = TYPES.iter().find(|(known, _)| *known == meta.dtype).map(|(_, dtype)| *dtype);
        let (Some(shape), Some(strides), Some(offset), Some(dtype)) =
            (shape, strides, meta.storage_offset.as_int, dtype)
        else {
            return contents.faults.push(unreadable("has no type or size that is known"));
        };
        if payload.use_pickle {
            return self.add_pickled(contents, &name, payload, entry.copied());
        }
        let width = dtype.element_size().unwrap_or(1);
        let start = offset.checked_mul(width);
        let sized = shape.len() == strides.len() && crate::format::tensor::numel(&shape).is_some();
        let (Some(start), true, STRIDED) = (start, sized, meta.layout) else {
            return contents.faults.push(unreadable("is laid out in a way that is not read"));
        };
        let mut tensor = TensorInfo::contiguous(name.clone(), dtype, shape, None, start as u64);
        (tensor.strides, tensor.requires_grad) = (strides, payload.is_param);
        let bytes = tensor.byte_len().unwrap_or(0);
        let mut given = self.given.borrow_mut();
        let storage = || match entry {
            Some(entry) if entry.method == Method::Stored => {
                let segment =
                    Segment { source: self.source.clone(), offset: entry.offset, len: entry.compressed };
                let crc32 = entry.crc32.filter(|_| entry.whole);
                Storage::new(Place::Segments(segment.into()), entry.compressed, crc32, 1)
            }
            Some(entry) if entry.method == Method::Deflated && entry.whole => {
                let segment =
                    Segment { source: self.source.clone(), offset: entry.offset, len: entry.compressed };
                Storage::new(Place::Deflated(segment), entry.len, entry.crc32, 1)
            }
            _ => {
                let path = payload.path_name.escape_debug();
                let what = format!("its bytes `{path}` are not in the file");
                Storage::missing(Damage::new(DamageKind::StorageLost, what), bytes)
            }
        };
        tensor.storage = Some(given.entry(payload.path_name.clone()).or_insert_with(storage).clone());
        contents.tensors.push(tensor);
    }

    /// Adds a tensor that is an archive of its own within this one.
    fn add_pickled(&self, contents: &mut Contents, name: &str, payload: &Payload, entry: Option<&Entry>) {
        let named = |tensors: &[TensorInfo]| {
            let named = tensors.iter().map(|tensor| {
                let name = match tensor.name.as_str() {
                    "" => name.to_string(),
                    own => format!("{name}.{own}"),
                };
                TensorInfo { name, ..tensor.clone() }
            });
            named.collect::<Vec<_>>()
        };
        if let Some(read) = self.unpickled.borrow().get(&payload.path_name) {
            return contents.tensors.extend(named(read));
        }
        let inner = entry
            .filter(|entry| entry.method == Method::Stored)
            .and_then(|entry| Source::section(self.source, entry.offset, entry.compressed))
            .ok_or_else(|| Error::damaged("its bytes are not in the file"))
            .and_then(|section| torch_zip::read_inner(&section));
        match inner {
            Ok(inner) => {
                contents.tensors.extend(named(&inner.tensors));
                self.unpickled.borrow_mut().insert(payload.path_name.clone(), inner.tensors);
                crate::format::add_new(&mut contents.globals, inner.globals);
                contents.faults.extend(inner.faults);
                contents.notices.extend(inner.notices);
            }
            Err(error) => {
                let what = format!("`{}`: {error}", name.escape_debug());
                contents.faults.push(Damage::new(error.fault.unwrap_or_default(), what));
            }
        }
    }
}
