//! Tensors on the same bytes: written once if the format allows sharing, else recorded as tied.

use std::collections::HashMap;

use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::{Checkpoint, DType, Format, Storage, TensorInfo};

/// The runs of storages that several of `tensors` (index, type to write) are views of, by tensor: written once, so that
/// tied weights stay tied. Tensors share where their elements have one type and keep one.
pub(crate) fn shared_runs(
    source: &Checkpoint,
    tensors: impl Iterator<Item = (usize, DType)>,
) -> HashMap<usize, Run> {
    let mut groups: HashMap<(Storage, DType, DType), Vec<usize>> = HashMap::new();
    for (index, target) in tensors {
        let tensor = &source.tensors[index];
        let plain = tensor.dtype.element_size().is_some() && tensor.quantizer.is_none();
        if let (Some(storage), true, true) = (&tensor.storage, plain, tensor.numel() > 0) {
            groups.entry((storage.clone(), tensor.dtype, target)).or_default().push(index);
        }
    }
    let mut runs = HashMap::new();
    for ((storage, dtype, _), mut members) in groups {
        let size = dtype.element_size().unwrap_or(1) as u64;
        let range = |i: &usize| {
            let tensor = &source.tensors[*i];
            let end = tensor.byte_offset + tensor.span().unwrap_or(0) * size;
            (tensor.byte_offset, end)
        };
        // Overlapping tensors form a run; separate ones are written on their own.
        members.sort_by_key(range);
        let mut joined: Vec<(u64, u64, Vec<usize>)> = Vec::new();
        for member in members {
            let (start, end) = range(&member);
            match joined.last_mut() {
                Some(run) if start < run.1 && (start - run.0).is_multiple_of(size) => {
                    run.1 = run.1.max(end);
                    run.2.push(member);
                }
                _ => joined.push((start, end, vec![member])),
            }
        }
        for (start, end, members) in joined.into_iter().filter(|(_, _, members)| members.len() > 1) {
            let elements = ((end - start) / size) as usize;
            let run = |m| (m, Run { storage: storage.clone(), start, elements });
            runs.extend(members.into_iter().map(run));
        }
    }
    runs
}

/// A run of one storage.
#[derive(Clone)]
pub(crate) struct Run {
    pub storage: Storage,
    /// First byte.
    pub start: u64,
    pub elements: usize,
}

/// Tensors of the same place hold the same elements.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Place(Storage, u64, Vec<usize>, Vec<usize>, DType, DType);

impl Place {
    /// The place of `tensor` when it is written as `dtype`.
    pub fn of(tensor: &TensorInfo, dtype: DType) -> Option<Place> {
        (tensor.numel() > 0 && tensor.quantizer.is_none() && tensor.quantized.is_none()).then_some(())?;
        let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
        Some(Place(tensor.storage.clone()?, tensor.byte_offset, shape, strides, tensor.dtype, dtype))
    }
}

/// Names that a SafeTensors file says it left out, with the tensor that each is the same as: `save_model` of the
/// safetensors library records tied weights so.
pub(crate) fn tied_names(source: &Checkpoint) -> Vec<(String, usize)> {
    let Value::Dict(entries) = &source.metadata else { return Vec::new() };
    if source.format != Format::SafeTensors {
        return Vec::new();
    }
    let index: HashMap<&str, usize> =
        source.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    entries
        .iter()
        .filter_map(|(key, value)| {
            let (HashableValue::String(name), Value::String(kept)) = (key, value) else { return None };
            let kept = *index.get(kept.as_str())?;
            (!index.contains_key(name.as_str())).then(|| (name.clone(), kept))
        })
        .collect()
}
