//! Opens a path: recognises the container by its first bytes, joins sharded sets, and completes what single
//! readers cannot know (groups, packings, model, step).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_pickle::{HashableValue, Value};

use crate::checkpoint::{Checkpoint, Contents, Format, add_new};
use crate::folder::{self, Set};
use crate::meaning::Model;
use crate::metadata::as_u64;
use crate::storage::{Place, Source, Stamp, Storage, slice};
use crate::tensor::TensorInfo;
use crate::{DType, Error, Result, TernaryPacking};
use crate::{ggml, gguf, names, safetensors, step, ternary, torch_legacy, torch_tar, torch_zip};

/// Opens the checkpoint at `path`: a file, one shard or the index of a sharded set, or a folder that holds one
/// checkpoint.
///
/// # Errors
/// `Io` when a file cannot be read, `Unrecognised` when its bytes are no known container, `Damaged` when nothing
/// in it can be listed. A container that can be listed in part opens, with [`Checkpoint::damage`] set.
pub fn open(path: &Path) -> Result<Checkpoint> {
    open_with(path, &OpenOptions::default())
}

/// What a checkpoint cannot tell of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Which layout I2_S tensors of GGUF files have. Without it the tensors' rows tell, or else x86 is assumed and a
    /// warning says so.
    pub i2s_layout: Option<I2sLayout>,
}

/// The layouts of bitnet.cpp's I2_S type, by the build that wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum I2sLayout {
    /// [`TernaryPacking::BitnetX86`].
    X86,
    /// [`TernaryPacking::BitnetArm`].
    Arm,
    /// [`TernaryPacking::BitnetRows`].
    Rows,
}

impl I2sLayout {
    /// The packing it is.
    pub fn packing(self) -> TernaryPacking {
        match self {
            I2sLayout::X86 => TernaryPacking::BitnetX86,
            I2sLayout::Arm => TernaryPacking::BitnetArm,
            I2sLayout::Rows => TernaryPacking::BitnetRows,
        }
    }
}

impl std::str::FromStr for I2sLayout {
    type Err = Error;

    /// `x86`, `arm` or `rows`.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "x86" => Ok(I2sLayout::X86),
            "arm" => Ok(I2sLayout::Arm),
            "rows" => Ok(I2sLayout::Rows),
            _ => Err(Error::unsupported(format!("`{}` is no I2_S layout", name.escape_debug()))
                .hint("there are x86, arm and rows")),
        }
    }
}

/// [`open`], told what the checkpoint cannot tell.
///
/// # Errors
/// Those of [`open`].
pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let set = folder::set_of(path)?;
    let mut checkpoint: Option<Checkpoint> = None;
    let mut unreadable: Vec<Error> = Vec::new();
    let mut unread: Vec<Stamp> = Vec::new();
    for (number, file) in set.files.iter().enumerate() {
        let at = checkpoint.as_ref().map_or(0, |c| c.files.len());
        let opened = Source::open(file).and_then(|source| match read(&source, at) {
            Ok(contents) => Ok((source, contents)),
            Err(error) => Err(error.in_file(file)),
        });
        match (opened, &mut checkpoint) {
            (Ok((source, contents)), None) => checkpoint = Some(begin(path, source, contents)),
            (Ok((source, contents)), Some(checkpoint)) => join(checkpoint, source, contents, number),
            (Err(error), _) => {
                unread.push(Stamp::of(file));
                unreadable.push(error);
            }
        }
    }
    let Some(mut checkpoint) = checkpoint else {
        let nothing = || Error::new(crate::ErrorKind::Unrecognised, "holds no checkpoint").in_file(path);
        return Err(unreadable.into_iter().next().unwrap_or_else(nothing));
    };
    // A set whose other shards can be read is damaged, not unreadable.
    for error in unreadable {
        add_damage(&mut checkpoint, error.to_string());
    }
    checkpoint.beside = set.beside.iter().cloned().chain(unread).collect();
    complete(&mut checkpoint, &set, options);
    Ok(checkpoint)
}

/// Whether `path` is a file that begins like a checkpoint.
pub fn recognises(path: &Path) -> bool {
    use std::io::Read;
    let mut head = Vec::new();
    let readable = std::fs::File::open(path).and_then(|f| f.take(512).read_to_end(&mut head)).is_ok();
    readable
        && (torch_zip::recognises(&head)
            || gguf::recognises(&head)
            || safetensors::recognises(&head)
            || torch_legacy::recognises(&head)
            || torch_tar::recognises(&head)
            || torch_legacy::recognises_bare(&head))
}

fn read(source: &Source, file: usize) -> Result<Contents> {
    let bytes = source.bytes();
    if torch_zip::recognises(bytes) {
        torch_zip::read(source, file)
    } else if gguf::recognises(bytes) {
        read_gguf(source, file)
    } else if safetensors::recognises(bytes) {
        safetensors::read(source, file)
    } else if torch_legacy::recognises(bytes) {
        torch_legacy::read(source, file)
    } else if torch_tar::recognises(bytes) {
        torch_tar::read(source, file)
    } else if torch_legacy::recognises_bare(bytes) {
        torch_legacy::read_bare(source, file)
    } else if torch_zip::recognises_later(bytes) {
        torch_zip::read(source, file)
    } else {
        Err(unrecognised(bytes))
    }
}

/// First bytes of files that are mistaken for checkpoints, what they are, and what to do.
const OTHERS: [(&[u8], &str, &str); 7] = [
    (b"\x89HDF", "is an HDF5 (Keras) file, which is not read", "save the weights as SafeTensors"),
    (b"\x1f\x8b", "is compressed with gzip", "decompress it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard", "decompress it first (unzstd)"),
    (b"\xfd7zXZ", "is compressed with xz", "decompress it first (unxz)"),
    (b"BZh", "is compressed with bzip2", "decompress it first (bunzip2)"),
    (b"\x93NUMPY", "is a single NumPy array (.npy), which is not read", "save it as SafeTensors"),
    (b"{", "is JSON, not a checkpoint", "a shard index ends in .index.json and holds a `weight_map`"),
];

fn unrecognised(bytes: &[u8]) -> Error {
    let error = |what: &str| Error::new(crate::ErrorKind::Unrecognised, what);
    if bytes.is_empty() {
        return error("is empty").hint("the writer died before its first byte, or the disk was full");
    }
    if bytes.iter().all(|&b| b == 0) {
        return error("holds only zero bytes").hint("the file was allocated and never written");
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return error("is a Git LFS pointer, not the checkpoint itself").hint("fetch it with `git lfs pull`");
    }
    if bytes.trim_ascii_start().starts_with(b"<") {
        return error("is HTML or XML, not a checkpoint").hint("the download was probably an error page");
    }
    if let Some((_, what, hint)) = OTHERS.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        return error(what).hint(*hint);
    }
    if let Some(head) = bytes.get(..9).filter(|head| head[8] == b'{') {
        let length = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
        return error("would be a SafeTensors file, if its header's length were possible")
            .hint(format!("its first eight bytes say {length}, and at most 100 MB are allowed"));
    }
    error("is not a PyTorch, SafeTensors or GGUF file")
        .hint("these are recognised by content; the file's extension does not matter")
}

fn read_gguf(source: &Source, file: usize) -> Result<Contents> {
    let header = gguf::Header::parse(source.bytes())?;
    let mut contents = Contents::new(Format::Gguf { version: header.version, big_endian: header.big_endian });
    let keys = header.keys.iter();
    contents.metadata = Value::Dict(
        keys.map(|(key, value)| {
            (HashableValue::String(key.to_string()), value.to_plain(gguf::LONGEST_PLAIN))
        })
        .collect(),
    );
    let mut storages: HashMap<(u64, u64), usize> = HashMap::new();
    for tensor in header.tensors {
        let dtype = tensor.ggml.dtype();
        let is_i2s = dtype == DType::Ternary(TernaryPacking::BitnetX86);
        let packed = if is_i2s { tensor.bytes.saturating_sub(ggml::I2_S_TAIL) } else { tensor.bytes };
        let mut new_storage = || {
            contents.storages.push(match &tensor.damage {
                Some(damage) => {
                    let (file_len, end) = (source.bytes().len() as u64, tensor.offset.saturating_add(packed));
                    match tensor.offset < file_len && end > file_len {
                        true => Storage::mapped(file, tensor.offset, file_len - tensor.offset),
                        false => Storage::lost(damage.clone(), packed, file, tensor.offset),
                    }
                }
                None => Storage {
                    swap: if header.big_endian { 2 } else { 1 },
                    ..Storage::mapped(file, tensor.offset, packed)
                },
            });
            contents.storages.len() - 1
        };
        let index = match tensor.damage {
            None => *storages.entry((tensor.offset, packed)).or_insert_with(new_storage),
            Some(_) => new_storage(),
        };
        let mut info = TensorInfo::contiguous(tensor.name.into_owned(), dtype, tensor.shape, index, 0);
        if is_i2s && tensor.damage.is_none() {
            let tail = slice(source.bytes(), tensor.offset + packed, 4).and_then(|b| b.try_into().ok());
            info.scale = tail.map(if header.big_endian { f32::from_be_bytes } else { f32::from_le_bytes });
        }
        info.damage = tensor.damage;
        contents.tensors.push(info);
    }
    contents.warnings = header.warnings;
    contents.surplus = header.surplus;
    contents.damage = header.damage;
    let lost = contents.tensors.iter().filter(|t| t.damage.is_some()).count();
    if lost > 0 && contents.damage.is_none() {
        contents.damage = Some(format!("{lost} of {} tensors cannot be read", contents.tensors.len()));
    }
    Ok(contents)
}

/// What a GGUF checkpoint lacks of the splits and tensors that its `split.` keys promise.
fn missing_splits(checkpoint: &Checkpoint) -> Option<String> {
    let key = |name: &str| {
        let Value::Dict(entries) = &checkpoint.metadata else { return None };
        as_u64(entries.get(&HashableValue::String(name.into()))?)
    };
    let (Format::Gguf { .. }, Some(count)) = (checkpoint.format, key("split.count")) else { return None };
    let (files, tensors) = (checkpoint.files.len() as u64, checkpoint.tensors.len() as u64);
    if count > files {
        return Some(format!(
            "it is split {} of {count}, and the others are not beside it under names that end in -0000N-of-{count:05}",
            key("split.no").map_or_else(|| "one".into(), |n| n.saturating_add(1).to_string())
        ));
    }
    let promised = key("split.tensors.count")?;
    (promised > tensors).then(|| format!("the splits hold {tensors} of {promised} tensors"))
}

fn begin(path: &Path, source: Source, contents: Contents) -> Checkpoint {
    Checkpoint {
        path: path.to_path_buf(),
        format: contents.format,
        tensors: contents.tensors,
        metadata: contents.metadata,
        globals: contents.globals,
        warnings: contents.warnings,
        damage: contents.damage,
        model: Model::default(),
        step: None,
        files: vec![source],
        beside: Vec::new(),
        storages: contents.storages,
        surplus: contents.surplus.into_iter().collect(),
        absent: Vec::new(),
        listing_damaged: contents.listing_damaged,
    }
}

fn join(checkpoint: &mut Checkpoint, source: Source, contents: Contents, number: usize) {
    let first = checkpoint.storages.len();
    checkpoint.files.push(source);
    checkpoint.storages.extend(contents.storages);
    let known: std::collections::HashSet<String> =
        checkpoint.tensors.iter().map(|t| t.name.clone()).collect();
    for mut tensor in contents.tensors {
        tensor.shift_storages(first);
        if known.contains(&tensor.name) {
            checkpoint.warnings.push(format!(
                "`{}` is in more than one shard; the first one counts",
                tensor.name.escape_debug()
            ));
        } else {
            checkpoint.tensors.push(tensor);
        }
    }
    add_new(&mut checkpoint.globals, contents.globals);
    if let (Value::Dict(all), Value::Dict(more)) = (&mut checkpoint.metadata, contents.metadata) {
        for (key, value) in more {
            all.entry(key).or_insert(value);
        }
    }
    checkpoint.warnings.extend(contents.warnings);
    checkpoint.surplus.extend(contents.surplus);
    checkpoint.listing_damaged |= contents.listing_damaged;
    if let Some(damage) = contents.damage {
        add_damage(checkpoint, format!("shard {}: {damage}", number + 1));
    }
}

fn add_damage(checkpoint: &mut Checkpoint, more: String) {
    match &mut checkpoint.damage {
        Some(damage) => {
            damage.push_str("; ");
            damage.push_str(&more);
        }
        None => checkpoint.damage = Some(more),
    }
}

fn complete(checkpoint: &mut Checkpoint, set: &Set, options: &OpenOptions) {
    if let Some(missing) = &set.missing {
        add_damage(checkpoint, missing.clone());
    } else if let Some(missing) = missing_splits(checkpoint) {
        add_damage(checkpoint, missing);
    }
    ternary::settle_i2s(checkpoint, options.i2s_layout);
    for tensor in &mut checkpoint.tensors {
        tensor.group = names::group(tensor);
        check(tensor, &checkpoint.storages);
    }
    checkpoint.warnings.extend(set.warnings.iter().cloned());
    if let Some(index) = &set.weight_map {
        let known: std::collections::HashSet<&str> =
            checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
        let lost: Vec<&String> = index.iter().filter(|n| !known.contains(n.as_str())).collect();
        if let Some(first) = lost.first() {
            let what = format!(
                "of the tensors in the index, {} are in no shard, such as `{}`",
                lost.len(),
                first.escape_debug()
            );
            add_damage(checkpoint, what);
            checkpoint.absent = lost.into_iter().cloned().collect();
        }
        let unlisted = checkpoint.tensors.iter().filter(|t| !index.contains(&t.name)).count();
        if unlisted > 0 {
            checkpoint.warnings.push(format!("{unlisted} tensors of the shards are not in the index"));
        }
    }
    let config = set.config.as_ref();
    let quantization = config.and_then(|c| crate::checkpoint::lookup(c, "quantization_config")).cloned();
    ternary::recognise(checkpoint, quantization.as_ref());
    ternary::apply_scales(checkpoint);
    checkpoint.model = Model::recognise(&checkpoint.tensors, &checkpoint.metadata, config);
    checkpoint.step = step::from_metadata(&checkpoint.metadata)
        .or_else(|| step::from_tensors(checkpoint))
        .or_else(|| set.trainer_step.map(|s| (s, "trainer_state.json".to_string())))
        .or_else(|| step::from_path(&checkpoint.path).map(|s| (s, "file name".to_string())));
    if let (Value::Dict(all), Some(config)) = (&mut checkpoint.metadata, config) {
        all.entry(HashableValue::String("config.json".into())).or_insert_with(|| config.clone());
    }
}

/// Marks a tensor that does not lie within its storage, and those that share its fate.
fn check(tensor: &mut TensorInfo, storages: &[Storage]) {
    if tensor.damage.is_some() {
        return;
    }
    if let Some(sparse) = &mut tensor.sparse {
        for part in sparse.indices.iter_mut().chain([&mut sparse.values]) {
            check(part, storages);
            if let Some(damage) = &part.damage {
                tensor.damage = Some(damage.clone());
            }
        }
        return;
    }
    let Some(storage) = tensor.storage.and_then(|s| storages.get(s)) else { return };
    if let Place::Missing { why, .. } = &storage.place {
        tensor.damage = Some(why.clone());
    } else if let Err(error) = tensor.check_bounds(storage.len) {
        tensor.damage = Some(error.what);
    }
}

/// Checkpoints below `path`: itself, or for a folder all that it holds, in name order. Files that are named like
/// checkpoints and do not begin like one are among them, so that none is passed over: opening them tells why.
///
/// # Errors
/// `Io` when a folder cannot be listed.
pub fn find(path: &Path) -> Result<Vec<PathBuf>> {
    folder::find(path, 0)
}

/// What tells that two paths lead to the same checkpoint: a file by any of its names, a sharded set by any shard.
pub fn identity(path: &Path) -> PathBuf {
    folder::identity(path)
}
