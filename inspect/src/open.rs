//! Opens a path: recognises the container by its first bytes, joins sharded sets, and completes what single
//! readers cannot know (groups, packings, model, step).

use std::path::{Path, PathBuf};

use serde_pickle::{HashableValue, Value};

use crate::checkpoint::{Checkpoint, Contents, Format, add_new};
use crate::folder::{self, Set};
use crate::model::Model;
use crate::storage::{Place, Source, Stamp, Storage};
use crate::{Error, Result};
use crate::{gguf, names, safetensors, step, ternary, torch_legacy, torch_tar, torch_zip};

/// Opens the checkpoint at `path`: a file, one shard or the index of a sharded set, or a folder that holds one
/// checkpoint.
///
/// # Errors
/// `Io` when a file cannot be read, `Unrecognised` when its bytes are no known container, `Damaged` when nothing
/// in it can be listed. A container that can be listed in part opens, with [`Checkpoint::damage`] set.
pub fn open(path: &Path) -> Result<Checkpoint> {
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
    complete(&mut checkpoint, &set);
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
    } else if torch_zip::recognises_prefixed(bytes) {
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
    error("is not a PyTorch, SafeTensors or GGUF file")
        .hint("these are recognised by content; the file's extension does not matter")
}

fn read_gguf(source: &Source, file: usize) -> Result<Contents> {
    let header = gguf::Header::parse(source.bytes())?;
    let format = Format::Gguf { version: header.version, big_endian: header.big_endian };
    let mut contents = Contents::new(format);
    let mut keys = std::collections::BTreeMap::new();
    for (key, value) in &header.keys {
        keys.insert(HashableValue::String(key.to_string()), value.to_plain(usize::MAX));
    }
    contents.metadata = Value::Dict(keys);
    for tensor in header.tensors {
        let index = contents.storages.len();
        let mut storage = Storage::mapped(file, tensor.offset, tensor.bytes);
        if header.big_endian {
            storage.swap = 2;
        }
        if let Some(damage) = &tensor.damage {
            storage = Storage::missing(damage.clone(), tensor.bytes);
        }
        contents.storages.push(storage);
        let mut info =
            crate::TensorInfo::contiguous(tensor.name.to_string(), tensor.dtype, tensor.shape, index, 0);
        info.damage = tensor.damage;
        contents.tensors.push(info);
    }
    contents.warnings = header.warnings;
    let cut = contents.tensors.iter().filter(|t| t.damage.is_some()).count();
    if cut > 0 {
        contents.damage =
            Some(format!("{cut} of {} tensors are not whole in the file", contents.tensors.len()));
    }
    Ok(contents)
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

fn complete(checkpoint: &mut Checkpoint, set: &Set) {
    if let Some(missing) = &set.missing {
        add_damage(checkpoint, missing.clone());
    }
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
                "{} tensors of the index are in no shard, such as `{}`",
                lost.len(),
                first.escape_debug()
            );
            add_damage(checkpoint, what);
        }
        let unlisted = checkpoint.tensors.iter().filter(|t| !index.contains(&t.name)).count();
        if unlisted > 0 {
            checkpoint.warnings.push(format!("{unlisted} tensors of the shards are not in the index"));
        }
    }
    let config = set.config.as_ref();
    let quantization = config.and_then(|c| crate::checkpoint::lookup(c, "quantization_config")).cloned();
    ternary::recognise(checkpoint, quantization.as_ref());
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
fn check(tensor: &mut crate::TensorInfo, storages: &[Storage]) {
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
    if let Place::Missing(why) = &storage.place {
        tensor.damage = Some(why.clone());
    } else if let Err(error) = tensor.check_bounds(storage.len) {
        tensor.damage = Some(error.what);
    }
}

/// Checkpoints below `path`: itself, or for a folder all that it holds, in name order.
///
/// # Errors
/// `Io` when a folder cannot be listed.
pub fn find(path: &Path) -> Result<Vec<PathBuf>> {
    folder::find(path, 0)
}
