//! An opened checkpoint: its tensors, its plain values, and access to their bytes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ndarray::{CowArray, IxDyn};

use crate::bytes::{Beginning, Source, Stamp};
use crate::format::Format;
use crate::meaning::{Coding, Model, StateDicts, names};
use crate::metadata::{Value, lookup};
use crate::step::StepSource;
use crate::storage::Storage;
use crate::tensor::{Element, TensorInfo};
use crate::{DType, Damage, Error, ErrorKind, Group, Notice, Result, gguf};

/// Which tensors of a checkpoint lie on one storage. Of those that are alone on theirs, as nearly all are, nothing is kept.
pub(crate) struct Sharing<'c> {
    tensors: &'c [TensorInfo],
    /// The numbers of the tensors on each storage that has several, in order.
    groups: HashMap<&'c Storage, Vec<usize>>,
}

impl<'c> Sharing<'c> {
    pub fn of(checkpoint: &'c Checkpoint) -> Self {
        let tensors = &checkpoint.tensors[..];
        let placed = || {
            let filled = tensors.iter().enumerate().filter(|(_, tensor)| tensor.numel() > 0);
            filled.filter_map(|(i, tensor)| Some((i, tensor.storage.as_ref()?)))
        };
        let mut groups = HashMap::new();
        let mut seen = HashSet::new();
        for (_, storage) in placed() {
            if !seen.insert(storage) {
                groups.entry(storage).or_insert_with(Vec::new);
            }
        }
        drop(seen);
        if !groups.is_empty() {
            for (i, storage) in placed() {
                groups.entry(storage).and_modify(|group: &mut Vec<usize>| group.push(i));
            }
        }
        Sharing { tensors, groups }
    }

    /// The names of the tensors that lie on the storage of the `i`-th one, without itself, at most `limit`.
    pub fn names(&self, i: usize, limit: usize) -> impl Iterator<Item = &'c str> {
        let storage = self.tensors[i].storage.as_ref();
        let group = storage.and_then(|storage| self.groups.get(storage)).map_or(&[][..], Vec::as_slice);
        group.iter().filter(move |&&j| j != i).take(limit).map(|&j| self.tensors[j].name.as_str())
    }

    /// The same, to be kept.
    pub fn beside(&self, i: usize, limit: usize) -> Vec<String> {
        self.names(i, limit).map(str::to_string).collect()
    }
}

/// A checkpoint: one file, or a sharded set opened as one.
#[derive(Debug)]
#[non_exhaustive]
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
    pub warnings: Vec<Notice>,
    /// Damage to the container as a whole (cut short, no directory, shards missing).
    pub damage: Option<Damage>,
    /// Which network it is.
    pub model: Model,
    /// How its weights are quantized.
    pub coding: Coding,
    /// Training step and where it was found.
    pub step: Option<(u64, StepSource)>,
    /// The models that it consists of, if they are several: the folders that their tensors are called after, or nothing for
    /// the one whose tensors have their own names.
    pub components: Vec<String>,
    pub(crate) files: Vec<Arc<Source>>,
    /// The header of the first file, once it has been parsed again.
    pub(crate) header: OnceLock<Beginning>,
    /// Other paths that opening depended on: config.json and similar files, missing shards.
    pub(crate) beside: Vec<Stamp>,
    /// Names that an index promises and no shard holds.
    pub(crate) absent: Vec<String>,
    /// Whether the listing of the tensors fails its checksum.
    pub(crate) listing_damaged: bool,
}

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
                [] => error,
                near => error.hint(format!("did you mean {}?", near.join(", "))),
            }
        })
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.len()).sum()
    }

    /// The files it consists of.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|f| f.path.as_path())
    }

    /// Everything that its record depends on.
    pub(crate) fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.files.iter().map(|f| f.sampled()).chain(self.beside.iter().cloned())
    }

    /// Elements of all weights; regions of a storage with several names count once, and a network's moving average does not
    /// ([`Checkpoint::averaged_parameters`]).
    pub fn parameters(&self) -> u64 {
        self.count(false)
    }

    /// Elements of the moving average of the weights, if the checkpoint has one beside them.
    pub fn averaged_parameters(&self) -> u64 {
        self.count(true)
    }

    /// Elements of the weights that are a moving average of others, or of the rest.
    fn count(&self, of_average: bool) -> u64 {
        let mut seen = std::collections::HashSet::new();
        let averaged = StateDicts::averaged(self);
        let is_average = |t: &TensorInfo| averaged.is_some_and(|averaged| averaged.is_average(&t.name));
        self.tensors
            .iter()
            .filter(|t| is_average(t) == of_average)
            .filter(|t| {
                t.group == Group::Weights
                    && (t.dtype.is_float()
                        || t.dtype.is_complex()
                        || matches!(t.dtype, DType::QI8 | DType::QU8 | DType::QI32)
                        || t.dtype.element_size().is_none())
            })
            // An expanded tensor has no more parameters than its storage has elements.
            .map(|t| (t, t.span().unwrap_or(0).min(t.numel())))
            .filter(|(t, n)| t.storage.is_none() || seen.insert((&t.storage, t.byte_offset, *n)))
            .map(|(_, n)| n)
            .fold(0, u64::saturating_add)
    }

    /// For every tensor that shares its storage, the names of the others on it, at most `limit` each.
    pub fn sharing(&self, limit: usize) -> Vec<Vec<&str>> {
        let sharing = Sharing::of(self);
        (0..self.tensors.len()).map(|i| sharing.names(i, limit).collect()).collect()
    }

    /// The bytes of `tensor`'s elements: [`TensorInfo::bytes`], with errors that name the checkpoint.
    ///
    /// # Errors
    /// Those of [`TensorInfo::bytes`].
    pub fn tensor_bytes<'a>(&'a self, tensor: &'a TensorInfo) -> Result<Cow<'a, [u8]>> {
        tensor.bytes().map_err(|e| e.in_file(&self.path))
    }

    /// Bytes that [`Checkpoint::tensor_bytes`] has to allocate for `tensor`: 0 if it can borrow from the mapped file.
    pub fn copied_bytes(&self, tensor: &TensorInfo) -> u64 {
        let part = match (&tensor.sparse, &tensor.quantized) {
            (Some(sparse), _) => &sparse.values,
            (None, Some(quantized)) => quantized.codes(),
            (None, None) => tensor,
        };
        let Some(storage) = &part.storage else { return 0 };
        let own = part.byte_len().unwrap_or(0);
        match storage.copied(own) {
            0 if storage.run().swap > 1 || !part.is_contiguous() => own,
            copied => copied,
        }
    }

    /// `tensor` as an array: [`TensorInfo::view`], with errors that name the checkpoint.
    ///
    /// # Errors
    /// Those of [`TensorInfo::view`].
    pub fn view<'a, T: Element>(&'a self, tensor: &'a TensorInfo) -> Result<CowArray<'a, T, IxDyn>> {
        tensor.view().map_err(|e| e.in_file(&self.path))
    }

    /// Adds a fault of the container.
    pub(crate) fn add_damage(&mut self, more: Damage) {
        self.damage = Damage::joined(self.damage.take().into_iter().chain([more]));
    }

    /// Compares every storage that has one with its CRC-32, and marks the tensors on those that differ as damaged.
    /// Returns the names of the tensors found damaged.
    pub fn verify_checksums(&mut self) -> Vec<String> {
        self.verify_checksums_of(|_| true)
    }

    /// The same for the storages of the tensors that `wanted` accepts.
    pub fn verify_checksums_of(&mut self, wanted: impl Fn(&TensorInfo) -> bool) -> Vec<String> {
        use rayon::prelude::*;
        let storages: HashSet<&Storage> =
            self.tensors.iter().filter(|t| wanted(t)).flat_map(TensorInfo::storages).collect();
        let bad: HashMap<Storage, Damage> = storages
            .into_par_iter()
            .filter_map(|storage| {
                let damage = storage.contradicted()?;
                Some((storage.clone(), damage))
            })
            .collect();
        let mut names = Vec::new();
        for tensor in &mut self.tensors {
            let why = tensor.storages().find_map(|s| bad.get(s).cloned());
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

    /// The GGUF header of the checkpoint's first file, for what plain values only describe: vocabularies, merges,
    /// scores. `None` for other formats. Parsed anew, which takes about a millisecond.
    pub fn gguf_header(&self) -> Option<Result<gguf::Header<'_>>> {
        let file = self.files.first().filter(|_| matches!(self.format, Format::Gguf { .. }))?;
        let bytes = file.beginning(&self.header, || gguf::read::extent(file.data()));
        let parsed = |bytes| {
            let header = gguf::Header::parse_of(bytes, file.len(), false)??;
            let width =
                header.of_architecture("embedding_length").and_then(|v| u64::try_from(v.as_i64()?).ok());
            let tensors = header.tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice()));
            match names::is_transposed(width, tensors) {
                true => gguf::Header::parse_of(bytes, file.len(), true)?,
                false => Ok(header),
            }
        };
        Some(bytes.and_then(parsed).map_err(|e| e.in_file(&file.path)))
    }

    /// The plain value at a dotted path such as `config.training.muon_lr`.
    pub fn meta(&self, path: &str) -> Option<&Value> {
        lookup(&self.metadata, path)
    }
}
