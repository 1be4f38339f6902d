//! A GGUF file's keys as plain values, and its tensors on their storages.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Header, LONGEST_PLAIN, recognises};
use crate::bytes::{ByteSource, Source};
use crate::format::{Container, Contents, Extension, Family, Format};
use crate::metadata::{HashableValue, Value};
use crate::storage::{Place, Segment, Storage};
use crate::tensor::TensorInfo;
use crate::{DType, Damage, DamageKind, Error, Result, TernaryPacking, ggml};

pub(crate) const CONTAINER: Container = Container {
    family: Family::Gguf,
    extensions: &[("gguf", Extension::Own)],
    recognises,
    recognises_later: None,
    read,
};

/// The result of `read` on the header of the file `data`, whose sizes are in PyTorch's order if it is `transposed`.
pub(crate) fn header_of<T>(
    data: &dyn ByteSource,
    transposed: bool,
    mut read: impl FnMut(Header<'_>) -> T,
) -> Result<T> {
    data.grow(0, |bytes| Ok(Header::parse_of(bytes, data.len(), transposed)?.map(&mut read)))?
}

/// The number of bytes at the start of the file `data` that its header is read from.
pub(crate) fn extent(data: &dyn ByteSource) -> Result<u64> {
    header_of(data, false, |header| header.extent)
}

fn read(source: &Arc<Source>) -> Result<Contents> {
    header_of(source.data(), false, |header| contents_of(source, header))?
}

/// The contents of a file whose sizes are in PyTorch's order.
pub(crate) fn read_transposed(source: &Arc<Source>) -> Result<Contents> {
    let mut contents: Contents = header_of(source.data(), true, |header| contents_of(source, header))??;
    // Those who wrote files so kept the float weights in them.
    if let Value::Dict(keys) = &mut contents.metadata {
        keys.entry(HashableValue::String("ckpt.latent".into())).or_insert(Value::Bool(true));
    }
    Ok(contents)
}

fn contents_of(source: &Arc<Source>, header: Header<'_>) -> Result<Contents> {
    let mut contents = Contents::new(Format::Gguf { version: header.version, big_endian: header.big_endian });
    let keys = header.keys.into_iter();
    contents.metadata = Value::Dict(
        keys.map(|(key, value)| (HashableValue::String(key), value.to_plain(LONGEST_PLAIN))).collect(),
    );
    let file_len = source.len();
    let swap = if header.big_endian { 2 } else { 1 };
    let mut storages: HashMap<(u64, u64), Storage> = HashMap::new();
    for tensor in header.tensors {
        let dtype = tensor.ggml.dtype();
        let is_i2s = dtype == DType::Ternary(TernaryPacking::BitnetX86);
        let packed = if is_i2s { tensor.bytes.saturating_sub(ggml::I2_S_TAIL) } else { tensor.bytes };
        let storage = match &tensor.damage {
            None => storages
                .entry((tensor.offset, packed))
                .or_insert_with(|| {
                    let segment = Segment { source: source.clone(), offset: tensor.offset, len: packed };
                    Storage::new(Place::Segments(segment.into()), packed, None, swap)
                })
                .clone(),
            Some(_) if tensor.offset < file_len && tensor.offset.saturating_add(packed) > file_len => {
                Storage::mapped(source, tensor.offset, file_len - tensor.offset)
            }
            Some(damage) => Storage::lost(damage.clone(), packed, source, tensor.offset),
        };
        let mut info = TensorInfo::contiguous(tensor.name, dtype, tensor.shape, Some(storage), 0);
        if is_i2s
            && tensor.damage.is_none()
            && let Some(tail) = source.data().part(tensor.offset + packed, 4)?
        {
            let tail: [u8; 4] = (*tail).try_into().map_err(|_| Error::damaged("its scale is cut short"))?;
            let scale = if header.big_endian { f32::from_be_bytes(tail) } else { f32::from_le_bytes(tail) };
            info.scale = Some(scale);
        }
        info.damage = tensor.damage;
        contents.tensors.push(info);
    }
    contents.notices = header.warnings;
    let lost = contents.tensors.iter().filter(|t| t.damage.is_some()).count();
    contents.faults.extend(header.damage);
    if lost > 0 && contents.faults.is_empty() {
        let what = format!("{lost} of {} tensors cannot be read", contents.tensors.len());
        contents.faults.push(Damage::new(DamageKind::Tensors, what));
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Short;

    #[test]
    fn the_first_bytes_of_a_header_are_enough_or_known_to_be_too_few() {
        let bytes = include_bytes!("../../../tests/data/every_type.gguf");
        for whole in [&bytes[..], &bytes[..bytes.len() / 3]] {
            let len = whole.len() as u64;
            let extent = extent(&whole as &dyn ByteSource).unwrap();
            let read = |given: &[u8]| {
                Ok::<_, Short>(
                    Header::parse_of(given, len, false)?.map_or_else(|e| e.to_string(), |h| format!("{h:?}")),
                )
            };
            let header = read(whole).unwrap();
            assert_eq!(read(&whole[..extent as usize]).unwrap(), header);
            for given in (0..extent as usize).step_by(7) {
                match read(&whole[..given]) {
                    Err(Short(needed)) => assert!((given as u64 + 1..=len).contains(&needed), "{given}"),
                    Ok(read) => assert_eq!(read, header, "{given}"),
                }
            }
        }
    }
}
