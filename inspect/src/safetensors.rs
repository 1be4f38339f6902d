//! SafeTensors: u64 header length, JSON header, data (<https://huggingface.co/docs/safetensors>).
//!
//! The header's entries are parsed by the `safetensors` crate's types one at a time: its own whole-file reader
//! refuses files that are cut short, and files whose `__metadata__` is a tensor, which one ternary packer writes.

use std::collections::HashSet;

use safetensors::tensor::{Dtype, TensorInfo as Entry};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_pickle::{HashableValue, Value};

use crate::checkpoint::{Contents, Format};
use crate::storage::{Source, Storage, slice};
use crate::tensor::TensorInfo;
use crate::{DType, Error, Result};

/// The format's own limit on the header, in bytes.
pub const MAX_HEADER: u64 = 100_000_000;

pub(crate) fn recognises(bytes: &[u8]) -> bool {
    let Some(length) = slice(bytes, 0, 8) else { return false };
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
    (2..=MAX_HEADER).contains(&length) && bytes[8..].trim_ascii_start().first() == Some(&b'{')
}

pub(crate) fn read(source: &Source, file: usize) -> Result<Contents> {
    let bytes = source.bytes();
    let length = u64::from_le_bytes(slice(bytes, 0, 8).unwrap_or(&[0; 8]).try_into().expect("eight bytes"));
    let header = slice(bytes, 8, length).ok_or_else(|| {
        Error::damaged(format!(
            "the header takes {length} bytes and {} are there",
            bytes.len().saturating_sub(8)
        ))
        .at(8)
        .hint("the file was cut short; download or copy it again")
    })?;
    let Entries(header) = serde_json::from_slice(header)
        .map_err(|e| Error::damaged(format!("the header is not valid JSON: {e}")).at(8))?;
    let data = 8 + length;
    let available = bytes.len() as u64 - data;

    let mut contents = Contents::new(Format::SafeTensors);
    let mut end = 0;
    let mut ranges = Vec::new();
    let mut damage: Vec<String> = Vec::new();
    let mut names: HashSet<String> = HashSet::new();
    for (name, entry) in header {
        if name == "__metadata__" && entry.get("dtype").is_none() {
            contents.metadata = nested(crate::metadata::from_json(entry));
            continue;
        }
        if !names.insert(name.clone()) {
            damage.push(format!("the header names `{}` twice; the first one counts", name.escape_debug()));
            continue;
        }
        let entry: Entry = match serde_json::from_value(entry) {
            Ok(entry) => entry,
            Err(error) => {
                let name = name.escape_debug();
                damage.push(format!("the header's entry `{name}` is not a tensor: {error}"));
                continue;
            }
        };
        let Some(dtype) = dtype(entry.dtype) else {
            let name = name.escape_debug();
            damage.push(format!("the header's entry `{name}` has elements of unknown type {}", entry.dtype));
            continue;
        };
        let (start, stop) = (entry.data_offsets.0 as u64, entry.data_offsets.1 as u64);
        let index = contents.storages.len();
        let mut tensor = TensorInfo::contiguous(name, dtype, entry.shape, index, 0);
        let len = stop.saturating_sub(start);
        if tensor.byte_len() != Some(len) || start > stop {
            tensor.damage =
                Some(format!("its data_offsets {start}..{stop} do not match its shape and dtype"));
        } else if stop > available {
            tensor.damage = Some(format!(
                "the file is cut short: its data would end at byte {}, the file ends at {}",
                data.saturating_add(stop),
                bytes.len()
            ));
        }
        end = end.max(stop);
        ranges.push((start, stop));
        contents.storages.push(match tensor.damage {
            None => Storage::mapped(file, data + start, len),
            Some(_) if start < available && available < stop => {
                Storage::mapped(file, data + start, available - start)
            }
            Some(_) => Storage::lost("its bytes are not in the file", len, file, data.saturating_add(start)),
        });
        contents.tensors.push(tensor);
    }
    if end > available {
        damage.push(format!(
            "the file is cut short: its header describes {} bytes and {} are there",
            data.saturating_add(end),
            bytes.len()
        ));
    } else if end < available {
        contents.surplus = Some(format!("{} bytes follow the last tensor", available - end));
        contents.warnings.extend(contents.surplus.clone());
    }
    contents.tensors.sort_by_key(|t| t.storage.map(|s| ranges[s]));
    // The format allows neither; readers that trust it would take one tensor's bytes for another's.
    ranges.sort_unstable();
    let overlaps = ranges.windows(2).filter(|pair| pair[1].0 < pair[0].1 && pair[1].0 < pair[1].1).count();
    if overlaps > 0 {
        damage.push(format!("the data of {overlaps} tensors overlap those of others"));
    }
    let mut reached = 0;
    let mut gap = 0;
    for &(start, stop) in &ranges {
        gap += start.saturating_sub(reached);
        reached = reached.max(stop);
    }
    if gap > 0 {
        contents.warnings.push(format!("{gap} bytes between its tensors belong to none"));
    }
    const TOLD: usize = 8;
    if damage.len() > TOLD {
        let more = damage.len() - TOLD;
        damage.truncate(TOLD);
        damage.push(format!("and {more} more such faults"));
    }
    contents.damage = (!damage.is_empty()).then(|| damage.join("; "));
    Ok(contents)
}

/// `__metadata__` holds strings alone, so a config is put there as JSON text; such texts become the values they say.
fn nested(metadata: Value) -> Value {
    let Value::Dict(entries) = metadata else { return metadata };
    let parse = |value| match value {
        Value::String(text) if text.starts_with(['{', '[']) => {
            serde_json::from_str(&text).map_or(Value::String(text), crate::metadata::from_json)
        }
        other => other,
    };
    Value::Dict(entries.into_iter().map(|(key, value)| (key, parse(value))).collect())
}

/// The header's entries in their order, also those of a name that is there twice.
struct Entries(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// JSON that a tensor's bytes hold, as the ternary packer stores its shapes in a tensor named `__metadata__`.
pub(crate) fn json_of(bytes: &[u8]) -> Option<Value> {
    let value = crate::metadata::from_json(serde_json::from_slice(bytes).ok()?);
    matches!(&value, Value::Dict(d) if d.keys().all(|k| matches!(k, HashableValue::String(_))))
        .then_some(value)
}

/// The format's types that are read and written, and what they are here.
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

/// The format's type for elements of `dtype`, if it has one.
pub fn dtype_of(dtype: DType) -> Option<Dtype> {
    DTYPES.iter().find(|(_, ours)| *ours == dtype).map(|(theirs, _)| *theirs)
}
