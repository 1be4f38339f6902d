//! SafeTensors: u64 header length, JSON header, data (<https://huggingface.co/docs/safetensors>).
//!
//! The header's entries are parsed by the `safetensors` crate's types one at a time: its own whole-file reader
//! refuses files that are cut short, and files whose `__metadata__` is a tensor, which one ternary packer writes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorInfo as Entry};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::bytes::{ByteSource, Source, slice};
use crate::error::bytes_that;
use crate::format::{Container, Contents, Extension, Family, Format, HEAD};
use crate::metadata::{HashableValue, Value};
use crate::storage::Storage;
use crate::tensor::TensorInfo;
use crate::{DType, Damage, DamageKind, Error, Notice, NoticeKind, Result};

/// The format's own limit on the header, in bytes.
pub const MAX_HEADER: u64 = 100_000_000;

/// JSON in a header that is kept as plain values has at most this many bytes: they take up to thirty times as much memory.
const MOST_VALUES: usize = 8 << 20;
/// More dimensions than a tensor of any program has: PyTorch's and NumPy's have 64 at most.
const MOST_DIMENSIONS: usize = 1024;

pub(crate) const CONTAINER: Container = Container {
    family: Family::SafeTensors,
    extensions: &[("safetensors", Extension::Own)],
    recognises,
    recognises_later: None,
    read,
};

fn recognises(bytes: &[u8]) -> bool {
    let Some(length) = slice(bytes, 0, 8) else { return false };
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
    (2..=MAX_HEADER).contains(&length) && bytes[8..].trim_ascii_start().first() == Some(&b'{')
}

/// The bytes of the SafeTensors file that begins at `at`, if one does: its header, and what that announces.
pub(crate) fn extent(source: &dyn ByteSource, at: u64) -> Option<u64> {
    let head = source.window(at, HEAD).ok().filter(|head| recognises(head))?;
    let length = u64::from_le_bytes(slice(&head, 0, 8)?.try_into().ok()?);
    let header = source.part(at.checked_add(8)?, length).ok()??.into_owned();
    let ends = Entries::of(&header)
        .ok()?
        .filter_map(|(_, entry)| Some(serde_json::from_slice::<Entry>(entry).ok()?.data_offsets.1 as u64));
    let data = ends.max().unwrap_or(0);
    length.checked_add(8)?.checked_add(data)
}

pub(crate) fn read(source: &Arc<Source>) -> Result<Contents> {
    let bytes = source.data();
    let file_len = bytes.len();
    let length = bytes.part(0, 8)?.map_or(0, |b| u64::from_le_bytes((*b).try_into().expect("eight bytes")));
    let header = bytes.part(8, length)?.ok_or_else(|| {
        Error::damaged(format!(
            "the header should take {length} bytes, and there are only {}",
            file_len.saturating_sub(8)
        ))
        .because(DamageKind::CutShort)
        .at(8)
        .hint("the file was cut short; download or copy it again")
    })?;
    // Copied, since text is checked and then kept.
    let header = header.into_owned();
    let entries = Entries::of(&header)
        .map_err(|e| Error::damaged(format!("the header is not valid JSON: {e}")).at(8))?;
    let data = 8 + length;
    let available = file_len - data;

    let mut contents = Contents::new(Format::SafeTensors);
    let mut end = 0;
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut faults: Vec<Damage> = Vec::new();
    let mut fault = |kind, what: String| faults.push(Damage::new(kind, what));
    let mut names: HashSet<Cow<'_, str>> = HashSet::new();
    for (name, entry) in entries {
        if name == "__metadata__" && !is_tensor(entry) {
            let kept = if entry.len() <= MOST_VALUES { serde_json::from_slice(entry).ok() } else { None };
            let notice = match &kept {
                None if entry.len() > MOST_VALUES => {
                    Some(format!("its __metadata__ takes {} bytes and was not read", entry.len()))
                }
                None => Some("its __metadata__ is nested too deeply and was not read".into()),
                Some(metadata) if !is_text(metadata) => {
                    Some("its __metadata__ holds other things than text".into())
                }
                Some(_) => None,
            };
            contents.notices.extend(notice.map(|text| Notice::new(NoticeKind::Unusual, text).refused()));
            if let Some(metadata) = kept {
                contents.metadata = nested(crate::metadata::from_json(metadata));
            }
            continue;
        }
        if !names.insert(name.clone()) {
            let name = name.escape_debug();
            fault(
                DamageKind::Duplicate,
                format!("the header names `{name}` twice; the first occurrence is used"),
            );
            continue;
        }
        let entry: Entry = match value(entry) {
            Ok(entry) => entry,
            Err(error) => {
                let name = name.escape_debug();
                let what = format!("the header's entry `{name}` is not a tensor: {error}");
                fault(DamageKind::UnreadableEntry, what);
                continue;
            }
        };
        if entry.shape.len() > MOST_DIMENSIONS {
            let name = name.escape_debug();
            let what = format!("the header's entry `{name}` has {} dimensions", entry.shape.len());
            fault(DamageKind::UnreadableEntry, what);
            continue;
        }
        let Some(dtype) = dtype(entry.dtype) else {
            let name = name.escape_debug();
            let what = format!("the header's entry `{name}` has elements of unknown type {}", entry.dtype);
            fault(DamageKind::UnknownType, what);
            continue;
        };
        let (start, stop) = (entry.data_offsets.0 as u64, entry.data_offsets.1 as u64);
        let mut tensor = TensorInfo::contiguous(name.into_owned(), dtype, entry.shape, None, 0);
        let len = stop.saturating_sub(start);
        if tensor.byte_len() != Some(len) || start > stop {
            let what = format!("its data_offsets {start}..{stop} do not match its shape and dtype");
            tensor.damage = Some(Damage::new(DamageKind::Shape, what));
        } else if stop > available {
            let what = format!(
                "the file is cut short: its data would end at byte {}, the file ends at {file_len}",
                data.saturating_add(stop),
            );
            tensor.damage = Some(Damage::new(DamageKind::CutShort, what));
        }
        end = end.max(stop);
        tensor.storage = Some(match tensor.damage {
            None => Storage::mapped(source, data + start, len),
            Some(_) if start < available && available < stop => {
                Storage::mapped(source, data + start, available - start)
            }
            Some(_) => {
                let why = Damage::new(DamageKind::StorageLost, "its bytes are not in the file");
                Storage::lost(why, len, source, data.saturating_add(start))
            }
        });
        ranges.push((start, stop));
        contents.tensors.push(tensor);
    }
    if end > available {
        let what = format!(
            "the file is cut short: its header describes {} bytes, and there are only {file_len}",
            data.saturating_add(end),
        );
        fault(DamageKind::CutShort, what);
    } else if end < available {
        let text = bytes_that(available - end, "follow") + " the last tensor";
        contents.notices.push(Notice::new(NoticeKind::Surplus, text).refused());
    }
    sort_together(&mut ranges, &mut contents.tensors);
    // The format allows neither; trusting readers would mistake one tensor's bytes for another's.
    let overlaps = ranges.windows(2).filter(|pair| pair[1].0 < pair[0].1 && pair[1].0 < pair[1].1).count();
    if overlaps > 0 {
        let what = match overlaps {
            1 => "the data of 1 tensor overlaps that of another".to_string(),
            n => format!("the data of {n} tensors overlap those of others"),
        };
        fault(DamageKind::Overlap, what);
    }
    let mut reached = 0;
    let mut gap = 0;
    for &(start, stop) in &ranges {
        gap += start.saturating_sub(reached);
        reached = reached.max(stop);
    }
    if gap > 0 {
        let text = format!("{gap} bytes between its tensors belong to no tensor");
        contents.notices.push(Notice::new(NoticeKind::Hole, text).refused());
    }
    contents.faults = faults;
    contents.tell_first();
    Ok(contents)
}

/// Whether `metadata` is what the format allows as such: texts by name, or nothing.
fn is_text(metadata: &serde_json::Value) -> bool {
    match metadata {
        serde_json::Value::Null => true,
        serde_json::Value::Object(entries) => entries.values().all(serde_json::Value::is_string),
        _ => false,
    }
}

/// `__metadata__` holds only strings, so a config is stored there as JSON text; such text is parsed.
fn nested(metadata: Value) -> Value {
    let Value::Dict(entries) = metadata else { return metadata };
    let parse = |value| match value {
        Value::String(text) if text.starts_with(['{', '[']) && text.len() <= MOST_VALUES => {
            serde_json::from_str(&text).map_or(Value::String(text), crate::metadata::from_json)
        }
        other => other,
    };
    Value::Dict(entries.into_iter().map(|(key, value)| (key, parse(value))).collect())
}

/// Sorts `ranges`, and `tensors` with them.
fn sort_together(ranges: &mut [(u64, u64)], tensors: &mut [TensorInfo]) {
    if ranges.is_sorted() {
        return;
    }
    let mut from: Vec<usize> = (0..ranges.len()).collect();
    from.sort_by_key(|&i| ranges[i]);
    // Along each cycle of places that give to each other: nothing is held twice.
    for first in 0..from.len() {
        let mut at = first;
        loop {
            let giver = std::mem::replace(&mut from[at], at);
            if giver == first {
                break;
            }
            ranges.swap(at, giver);
            tensors.swap(at, giver);
            at = giver;
        }
    }
}

/// A header's entries in their order, including repeated names, each with its value's JSON: parsed as a whole, they would
/// take many times the memory.
struct Entries<'h> {
    rest: &'h [u8],
}

impl<'h> Entries<'h> {
    /// Those of `header`, if it is an object of JSON.
    fn of(header: &'h [u8]) -> serde_json::Result<Self> {
        let Checked = serde_json::from_slice(header)?;
        Ok(Entries { rest: header.trim_ascii_start().get(1..).unwrap_or_default() })
    }
}

impl<'h> Iterator for Entries<'h> {
    type Item = (Cow<'h, str>, &'h [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.trim_ascii_start();
        if rest.first() != Some(&b'"') {
            return None;
        }
        // Texts with escapes are not there as they are meant.
        let (key, len) = match first::<&str>(rest) {
            Ok((key, len)) => (Cow::Borrowed(key), len),
            Err(_) => first::<String>(rest).map(|(key, len)| (Cow::Owned(key), len)).ok()?,
        };
        // The colon, and then the comma or the closing brace.
        let rest = rest[len..].trim_ascii_start().get(1..).unwrap_or_default();
        let (_, len) = first::<IgnoredAny>(rest).ok()?;
        self.rest = rest[len..].trim_ascii_start().get(1..).unwrap_or_default();
        Some((key, rest[..len].trim_ascii()))
    }
}

/// The JSON value that `text` begins with, and where it ends.
fn first<'t, T: Deserialize<'t>>(text: &'t [u8]) -> serde_json::Result<(T, usize)> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter();
    let value = values.next().unwrap_or_else(|| Err(serde::de::Error::custom("a value is missing")))?;
    Ok((value, values.byte_offset()))
}

/// The entry whose JSON is `text`. The error says nothing about the place in that.
fn value(text: &[u8]) -> serde_json::Result<Entry> {
    serde_json::from_slice(text).or_else(|error| match text.len() <= MOST_VALUES {
        true => serde_json::from_value(serde_json::from_slice(text)?),
        false => Err(error),
    })
}

/// Whether the JSON of `__metadata__` describes a tensor.
fn is_tensor(text: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Described {
        #[serde(rename = "dtype")]
        _dtype: IgnoredAny,
    }
    serde_json::from_slice::<Described>(text).is_ok()
}

/// An object of JSON, of which nothing is kept.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Checked;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Checked, A::Error> {
                while map.next_entry::<String, IgnoredAny>()?.is_some() {}
                Ok(Checked)
            }
        }
        deserializer.deserialize_map(Whole)
    }
}

/// JSON in a tensor's bytes: the ternary packer stores its shapes in a tensor named `__metadata__`.
pub(crate) fn json_of(bytes: &[u8]) -> Option<Value> {
    let text = bytes.to_vec();
    let value = crate::metadata::from_json(serde_json::from_slice(&text).ok()?);
    matches!(&value, Value::Dict(d) if d.keys().all(|k| matches!(k, HashableValue::String(_))))
        .then_some(value)
}

/// The format's types that are read and written, and the corresponding types here.
const DTYPES: [(Dtype, DType); 22] = [
    (Dtype::BOOL, DType::Bool),
    (Dtype::U8, DType::U8),
    (Dtype::I8, DType::I8),
    (Dtype::F8_E5M2, DType::F8E5M2),
    (Dtype::F8_E4M3, DType::F8E4M3FN),
    (Dtype::F8_E8M0, DType::F8E8M0FNU),
    (Dtype::F8_E4M3FNUZ, DType::F8E4M3FNUZ),
    (Dtype::F8_E5M2FNUZ, DType::F8E5M2FNUZ),
    (Dtype::I16, DType::I16),
    (Dtype::U16, DType::U16),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::I32, DType::I32),
    (Dtype::U32, DType::U32),
    (Dtype::F32, DType::F32),
    (Dtype::C64, DType::C64),
    (Dtype::F64, DType::F64),
    (Dtype::I64, DType::I64),
    (Dtype::U64, DType::U64),
    (Dtype::F4, DType::F4E2M1),
    (Dtype::F6_E2M3, DType::F6E2M3),
    (Dtype::F6_E3M2, DType::F6E3M2),
];

fn dtype(dtype: Dtype) -> Option<DType> {
    DTYPES.iter().find(|(theirs, _)| *theirs == dtype).map(|(_, ours)| *ours)
}

/// The format's name of the type `dtype`, if it has one.
pub fn dtype_of(dtype: DType) -> Option<String> {
    DTYPES.iter().find(|(_, ours)| *ours == dtype).map(|(theirs, _)| theirs.to_string())
}
