//! Saves values with tensors among them as a PyTorch file, like `torch.save`.

use std::borrow::Cow;
use std::path::Path;

use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::{DType, contiguous_strides};
use rayon::prelude::*;

use crate::Result;
use crate::pickle::{Pickler, TensorRef};
use crate::torch::archive;

/// A value, a tensor, or a dict of such.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Object<'a> {
    /// A value without tensors.
    Plain(Value),
    /// `torch.float32`.
    Floats {
        /// Its shape; none for a scalar.
        shape: Vec<usize>,
        /// Its elements, row-major.
        values: Cow<'a, [f32]>,
    },
    /// `torch.int32`.
    Integers {
        /// Its shape.
        shape: Vec<usize>,
        /// Its elements, row-major.
        values: Cow<'a, [i32]>,
    },
    /// A dict in this order.
    Dict(Vec<(HashableValue, Object<'a>)>),
}

impl<'a> Object<'a> {
    /// A dict with text keys.
    pub fn dict<'k>(entries: impl IntoIterator<Item = (&'k str, Object<'a>)>) -> Self {
        Object::Dict(entries.into_iter().map(|(k, v)| (HashableValue::String(k.into()), v)).collect())
    }

    /// A tensor that borrows its elements.
    pub fn floats(shape: &[usize], values: &'a [f32]) -> Self {
        Object::Floats { shape: shape.to_vec(), values: Cow::Borrowed(values) }
    }

    /// A scalar tensor.
    pub fn scalar(value: f32) -> Self {
        Object::Floats { shape: Vec::new(), values: Cow::Owned(vec![value]) }
    }

    fn write(&'a self, pickler: &mut Pickler, storages: &mut Vec<Words<'a>>) {
        let (shape, words) = match self {
            Object::Plain(value) => return pickler.value(value),
            Object::Dict(entries) => {
                pickler.begin_dict();
                for (key, value) in entries {
                    pickler.key(key);
                    value.write(pickler, storages);
                }
                return pickler.end_dict();
            }
            Object::Floats { shape, values } => (shape, Words::Floats(values)),
            Object::Integers { shape, values } => (shape, Words::Integers(values)),
        };
        pickler.tensor(&TensorRef {
            key: storages.len(),
            dtype: words.dtype(),
            numel: words.bytes() / 4,
            offset: 0,
            shape,
            strides: &contiguous_strides(shape),
        });
        storages.push(words);
    }
}

/// Elements of a storage, 4 bytes each.
#[derive(Clone, Copy)]
enum Words<'a> {
    Floats(&'a [f32]),
    Integers(&'a [i32]),
}

impl Words<'_> {
    fn dtype(self) -> DType {
        match self {
            Words::Floats(_) => DType::F32,
            Words::Integers(_) => DType::I32,
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Words::Floats(values) => size_of_val(values) as u64,
            Words::Integers(values) => size_of_val(values) as u64,
        }
    }

    /// Calls `f` with the little-endian bytes of one piece after another, and their position in the storage.
    fn pieces(self, mut f: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        const PIECE: usize = 1 << 18;
        let mut buffer = Vec::new();
        let count = self.bytes() as usize / 4;
        for start in (0..count).step_by(PIECE) {
            let range = start..count.min(start + PIECE);
            buffer.clear();
            match self {
                Words::Floats(values) => buffer.extend(values[range].iter().flat_map(|x| x.to_le_bytes())),
                Words::Integers(values) => buffer.extend(values[range].iter().flat_map(|x| x.to_le_bytes())),
            }
            f(4 * start as u64, &buffer)?;
        }
        Ok(())
    }
}

/// Saves `object` to `path`, completely or not at all; an existing file is replaced only with `force`.
///
/// # Errors
/// `Exists`, `NoSpace` or `Write`.
pub fn save(object: &Object<'_>, path: &Path, force: bool) -> Result<()> {
    let (mut pickler, mut storages) = (Pickler::new(), Vec::new());
    object.write(&mut pickler, &mut storages);
    let sizes: Vec<u64> = storages.iter().map(|s| s.bytes()).collect();
    archive(path, force, &pickler.finish(), &sizes, |output, places| {
        let write = |(words, &place): (&Words<'_>, &u64)| {
            let mut crc = crc32fast::Hasher::new();
            words.pieces(|at, bytes| {
                crc.update(bytes);
                Ok(output.write_at(place + at, bytes)?)
            })?;
            Ok(crc.finalize())
        };
        Ok((storages.par_iter().zip(places).map(write).collect::<Result<_>>()?, ()))
    })?;
    Ok(())
}
