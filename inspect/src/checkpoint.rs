//! An opened checkpoint: its tensors, its plain values, and the way to their bytes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use ndarray::{ArrayViewD, CowArray, IxDyn, ShapeBuilder};
use serde_pickle::{HashableValue, Value};

use crate::model::Model;
use crate::pickle::Pickle;
use crate::storage::{Place, Source, Stamp, Storage, swap_words};
use crate::tensor::TensorInfo;
use crate::{DType, Error, ErrorKind, Group, Result};

/// The container a checkpoint came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Format {
    TorchZip,
    TorchScript,
    TorchLegacy,
    TorchTar,
    Pickle,
    SafeTensors,
    Gguf { version: u32, big_endian: bool },
}

impl Format {
    /// A stable lower-case name.
    pub fn name(self) -> String {
        match self {
            Format::TorchZip => "pytorch-zip".into(),
            Format::TorchScript => "torchscript".into(),
            Format::TorchLegacy => "pytorch-legacy".into(),
            Format::TorchTar => "pytorch-tar".into(),
            Format::Pickle => "pickle".into(),
            Format::SafeTensors => "safetensors".into(),
            Format::Gguf { version, big_endian: false } => format!("gguf-v{version}"),
            Format::Gguf { version, big_endian: true } => format!("gguf-v{version}-big-endian"),
        }
    }
}

/// What one file holds, as its format's reader gives it.
#[derive(Debug)]
pub(crate) struct Contents {
    pub format: Format,
    pub tensors: Vec<TensorInfo>,
    pub storages: Vec<Storage>,
    pub metadata: Value,
    pub globals: Vec<String>,
    pub warnings: Vec<String>,
    pub damage: Option<String>,
    /// The warning of bytes behind all that the format describes.
    pub surplus: Option<String>,
    /// Whether what names and places the tensors differs from its checksum.
    pub listing_damaged: bool,
}

impl Contents {
    pub fn new(format: Format) -> Self {
        Contents {
            format,
            tensors: Vec::new(),
            storages: Vec::new(),
            metadata: Value::Dict(Default::default()),
            globals: Vec::new(),
            warnings: Vec::new(),
            damage: None,
            surplus: None,
            listing_damaged: false,
        }
    }

    pub fn add_globals(&mut self, pickle: &Pickle<'_>) {
        add_new(&mut self.globals, pickle.globals.iter().map(|g| format!("{}.{}", g.module, g.name)));
    }
}

/// Adds those of `more` that are not in `list` yet.
pub(crate) fn add_new(list: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    let mut known: HashSet<String> = list.iter().cloned().collect();
    list.extend(more.into_iter().filter(|name| known.insert(name.clone())));
}

/// A checkpoint: one file, or a sharded set opened as one.
#[derive(Debug)]
pub struct Checkpoint {
    /// The path it was opened by.
    pub path: PathBuf,
    /// Its container.
    pub format: Format,
    /// Every tensor, in file order.
    pub tensors: Vec<TensorInfo>,
    /// Plain values: config, step, loss, optimizer settings, SafeTensors `__metadata__`, GGUF keys. A
    /// [`Value::Dict`] unless the object's root is something else.
    pub metadata: Value,
    /// `module.name` of every global of its pickles. None was imported.
    pub globals: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Why the container as a whole is damaged, when it is (cut short, no directory, shards missing).
    pub damage: Option<String>,
    /// Which network it is.
    pub model: Model,
    /// Training step and where it was found.
    pub step: Option<(u64, String)>,
    pub(crate) files: Vec<Source>,
    /// What else was looked at to open it: config.json and its kin, shards that are missing.
    pub(crate) beside: Vec<Stamp>,
    pub(crate) storages: Vec<Storage>,
    /// The warnings of bytes behind all that its files' formats describe.
    pub(crate) surplus: Vec<String>,
    /// Names that an index promises and no shard holds.
    pub(crate) absent: Vec<String>,
    /// Whether what names and places the tensors differs from its checksum.
    pub(crate) listing_damaged: bool,
}

/// Rust types that tensors can be viewed as.
pub trait Element: bytemuck::AnyBitPattern {
    /// Whether elements of `dtype` have this representation.
    fn matches(dtype: DType) -> bool;
}

macro_rules! elements {
    ($($rust:ty: $($dtype:ident)|+;)*) => {$(
        impl Element for $rust {
            fn matches(dtype: DType) -> bool {
                matches!(dtype, $(DType::$dtype)|+)
            }
        }
    )*};
}

elements! {
    f64: F64;
    f32: F32;
    half::f16: F16;
    half::bf16: BF16;
    i64: I64;
    i32: I32 | QI32;
    i16: I16;
    i8: I8 | QI8;
    u64: U64;
    u32: U32;
    u16: U16;
    u8: U8 | QU8 | Bool | F8E4M3FN | F8E5M2 | F8E4M3FNUZ | F8E5M2FNUZ | F8E8M0FNU;
    [f32; 2]: C64;
    [f64; 2]: C128;
}

/// A tensor that repeats its storage may be this many times larger than it when copied out.
const MAX_EXPANSION: u64 = 64;
const FREE_ELEMENTS: u64 = 1 << 20;

impl Checkpoint {
    /// The tensor called `name`.
    ///
    /// # Errors
    /// `NotFound`, with the closest names.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name).ok_or_else(|| {
            let last = name.rsplit('.').next().unwrap_or(name);
            let near: Vec<&str> = self
                .tensors
                .iter()
                .map(|t| t.name.as_str())
                .filter(|n| n.contains(last) || n.ends_with(name))
                .take(3)
                .collect();
            let error = Error::new(ErrorKind::NotFound, format!("has no tensor `{}`", name.escape_debug()))
                .in_file(&self.path);
            match near.as_slice() {
                [] => error.hint("list them with `ckpt inspect --all`"),
                near => error.hint(format!("did you mean {}?", near.join(", "))),
            }
        })
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes().len() as u64).sum()
    }

    /// The files it consists of.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|f| f.path.as_path())
    }

    /// Everything that its record depends on.
    pub(crate) fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.files.iter().map(|f| f.stamp.clone()).chain(self.beside.iter().cloned())
    }

    /// Elements of all weights; each storage's region counted once, however many names it has.
    pub fn parameters(&self) -> u64 {
        let mut seen = std::collections::HashSet::new();
        self.tensors
            .iter()
            .filter(|t| {
                t.group == Group::Weights
                    && (t.dtype.is_float()
                        || t.dtype.is_complex()
                        || matches!(t.dtype, DType::QI8 | DType::QU8 | DType::QI32)
                        || t.dtype.element_size().is_none())
            })
            // An expanded tensor has no more parameters than its storage has elements.
            .map(|t| (t, t.span().unwrap_or(0).min(t.numel())))
            .filter(|(t, n)| t.storage.is_none() || seen.insert((t.storage, t.byte_offset, *n)))
            .map(|(_, n)| n)
            .fold(0, u64::saturating_add)
    }

    /// Names of the other tensors on the same storage, for every tensor that has such, at most `limit` each.
    pub fn sharing(&self, limit: usize) -> Vec<Vec<&str>> {
        let mut by_storage: HashMap<usize, Vec<usize>> = HashMap::new();
        for (i, tensor) in self.tensors.iter().enumerate() {
            if let Some(storage) = tensor.storage.filter(|_| tensor.numel() > 0) {
                by_storage.entry(storage).or_default().push(i);
            }
        }
        self.tensors
            .iter()
            .enumerate()
            .map(|(i, tensor)| {
                let Some(group) = tensor.storage.and_then(|s| by_storage.get(&s)) else { return Vec::new() };
                group
                    .iter()
                    .filter(|&&j| j != i)
                    .take(limit)
                    .map(|&j| self.tensors[j].name.as_str())
                    .collect()
            })
            .collect()
    }

    /// The bytes of `tensor`'s elements, contiguous and little-endian: borrowed from the map when they are so
    /// there. Packed types give their packed bytes. A sparse tensor gives its values'.
    ///
    /// # Errors
    /// `Damaged` when bytes are missing or out of the storage; `Unsupported` for a view that repeats its storage
    /// out of all proportion.
    pub fn tensor_bytes<'a>(&'a self, tensor: &'a TensorInfo) -> Result<Cow<'a, [u8]>> {
        self.tensor_bytes_inner(tensor).map_err(|e| e.in_tensor(&tensor.name).in_file(&self.path))
    }

    fn tensor_bytes_inner<'a>(&'a self, tensor: &'a TensorInfo) -> Result<Cow<'a, [u8]>> {
        if let Some(sparse) = &tensor.sparse {
            return self.tensor_bytes_inner(&sparse.values);
        }
        if let Some(damage) = &tensor.damage {
            return Err(Error::damaged(damage.clone()));
        }
        let len = tensor.byte_len().ok_or_else(|| Error::damaged("its size overflows"))?;
        let Some(storage) = tensor.storage else {
            return Err(Error::unsupported("it was saved without data of its own"));
        };
        if len == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let storage = &self.storages[storage];
        tensor.check_bounds(storage.len)?;
        let start = tensor.byte_offset as usize;
        let whole = storage.bytes(&self.files)?;
        let mut bytes = if tensor.is_contiguous() {
            let range = start..start + len as usize;
            match whole {
                Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[range]),
                Cow::Owned(mut bytes) => {
                    bytes.truncate(range.end);
                    bytes.drain(..range.start);
                    Cow::Owned(bytes)
                }
            }
        } else {
            let size =
                tensor.dtype.element_size().ok_or_else(|| Error::unsupported("a strided packed tensor"))?;
            let span = tensor.span().unwrap_or(0);
            if tensor.numel() > FREE_ELEMENTS && tensor.numel() / MAX_EXPANSION > span {
                return Err(Error::unsupported(format!(
                    "it repeats {span} elements to {}; that is not copied out",
                    tensor.numel()
                )));
            }
            Cow::Owned(gather(&whole[start..], &tensor.shape, &tensor.strides, size))
        };
        if storage.swap > 1 {
            match tensor.dtype {
                DType::Ggml(ggml) => ggml.to_little_endian(bytes.to_mut()),
                _ => swap_words(bytes.to_mut(), tensor.dtype.word_size()),
            }
        }
        Ok(bytes)
    }

    /// Bytes that [`Checkpoint::tensor_bytes`] has to allocate for `tensor`: none where it can borrow from the map.
    pub fn copied_bytes(&self, tensor: &TensorInfo) -> u64 {
        let part = tensor.sparse.as_ref().map_or(tensor, |sparse| &sparse.values);
        let Some(storage) = part.storage.and_then(|s| self.storages.get(s)) else { return 0 };
        let own = part.byte_len().unwrap_or(0);
        match &storage.place {
            Place::Deflated { .. } => storage.len.saturating_add(own),
            Place::Filled { .. } => storage.len,
            _ if storage.swap > 1 || !part.is_contiguous() => own,
            _ => 0,
        }
    }

    /// `tensor` as an array of its own strides: borrowed from the map where alignment, byte order and compression
    /// allow it, else copied.
    ///
    /// # Errors
    /// Those of [`Checkpoint::tensor_bytes`], and `Unsupported` when `T` does not represent the dtype.
    pub fn view<T: Element>(&self, tensor: &TensorInfo) -> Result<CowArray<'_, T, IxDyn>> {
        self.view_inner(tensor).map_err(|e| e.in_tensor(&tensor.name).in_file(&self.path))
    }

    fn view_inner<T: Element>(&self, tensor: &TensorInfo) -> Result<CowArray<'_, T, IxDyn>> {
        if !T::matches(tensor.dtype) {
            return Err(Error::unsupported(format!(
                "{} elements cannot be viewed as {}",
                tensor.dtype,
                std::any::type_name::<T>()
            )));
        }
        let size = size_of::<T>();
        if let (Some(storage), None, None) = (tensor.storage, &tensor.damage, &tensor.sparse) {
            let storage = &self.storages[storage];
            tensor.check_bounds(storage.len)?;
            if storage.swap <= 1
                && tensor.numel() > 0
                && let Cow::Borrowed(whole) = storage.bytes(&self.files)?
                && let span = tensor.span().unwrap_or(0) as usize
                && let Some(run) =
                    whole.get(tensor.byte_offset as usize..tensor.byte_offset as usize + span * size)
                && let Ok(elements) = bytemuck::try_cast_slice::<u8, T>(run)
            {
                let shape = IxDyn(&tensor.shape).strides(IxDyn(&tensor.strides));
                // Refused for strides that ndarray has no view of; those are copied below.
                if let Ok(view) = ArrayViewD::from_shape(shape, elements) {
                    return Ok(CowArray::from(view));
                }
            }
        }
        let bytes = self.tensor_bytes_inner(tensor)?;
        let elements: Vec<T> = bytes.chunks_exact(size).map(bytemuck::pod_read_unaligned).collect();
        let array = ndarray::ArrayD::from_shape_vec(IxDyn(&tensor.shape), elements)
            .map_err(|e| Error::damaged(format!("its shape does not fit its elements: {e}")))?;
        Ok(CowArray::from(array))
    }

    /// Compares every storage that has one with its CRC-32, and marks the tensors on those that differ as damaged.
    /// Returns the names of the tensors found damaged.
    pub fn verify_checksums(&mut self) -> Vec<String> {
        use rayon::prelude::*;
        let files = &self.files;
        let bad: Vec<Option<String>> = self
            .storages
            .par_iter()
            .map(|storage| {
                let expected = storage.crc32?;
                match storage.bytes(files) {
                    Ok(bytes) => {
                        let found = crc32fast::hash(&bytes);
                        (found != expected).then(|| {
                            format!(
                                "checksum mismatch: CRC-32 is {found:08x}, the file records {expected:08x}"
                            )
                        })
                    }
                    Err(error) => Some(error.to_string()),
                }
            })
            .collect();
        let mut names = Vec::new();
        for tensor in &mut self.tensors {
            let why = tensor.storages().find_map(|s| bad[s].clone());
            if let Some(why) = why {
                tensor.damage.get_or_insert(why);
                names.push(tensor.name.clone());
            }
        }
        names
    }

    /// Whether the container or any tensor's bytes are damaged. A meta tensor, saved without data, is not damage.
    pub fn is_damaged(&self) -> bool {
        self.damage.is_some()
            || self.tensors.iter().any(|t| t.damage.is_some() && t.storages().next().is_some())
    }

    /// The plain value at a dotted path such as `config.training.muon_lr`.
    pub fn meta(&self, path: &str) -> Option<&Value> {
        lookup(&self.metadata, path)
    }
}

/// The plain value at a dotted path; list elements by index.
pub fn lookup<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, key| match value {
        Value::Dict(entries) => entries.get(&HashableValue::String(key.to_string())),
        Value::List(items) | Value::Tuple(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Copies a strided tensor out, row-major. The caller has checked its bounds.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let numel: usize = shape.iter().product();
    let mut out = Vec::with_capacity(numel * size);
    let mut index = vec![0; shape.len()];
    let (&row, &step) = (shape.last().unwrap_or(&1), strides.last().unwrap_or(&1));
    let mut start = 0;
    for _ in 0..numel / row.max(1) {
        if step == 1 {
            out.extend_from_slice(&bytes[start * size..(start + row) * size]);
        } else {
            for i in 0..row {
                let at = (start + i * step) * size;
                out.extend_from_slice(&bytes[at..at + size]);
            }
        }
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            index[axis] += 1;
            start += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            start -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}
