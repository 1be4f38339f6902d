//! Opens a path or bytes: has a layout join its files, and completes what single readers cannot know (groups, packings,
//! model, step).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::bytes::stored::{self, Stored};
use crate::bytes::{SharedBytes, Source, Stamp};
use crate::checkpoint::Checkpoint;
use crate::format::{self, Contents};
use crate::layout::{self, Opened, Set, Whole, companion};
use crate::meaning::compose::compose;
use crate::meaning::{Coding, Model, Quantization, gguf_keys, names, scheme};
use crate::metadata::{HashableValue, Value};
use crate::step::StepSource;
use crate::storage::Place;
use crate::tensor::TensorInfo;
use crate::{Damage, DamageKind, Error, Format, Group, Notice, NoticeKind, Result, TernaryPacking, gguf};
use crate::{group, step, ternary};

/// Opens the checkpoint at `path`: a file, one shard or the index of a sharded set, or a folder that holds one
/// checkpoint.
///
/// ```no_run
/// let checkpoint = ckpt_inspect::open("run/step-00500.pt")?;
/// let norm = checkpoint.tensor("norm.weight")?;
/// println!("{} bytes of {}", norm.bytes()?.len(), norm.dtype);
/// # Ok::<(), ckpt_inspect::Error>(())
/// ```
///
/// # Errors
/// `Io` when a file cannot be read, `Unrecognised` when its bytes are no known container, `Damaged` when nothing
/// in it can be listed. A container that can be listed in part opens, with [`Checkpoint::damage`] set.
pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
    open_with(path, &OpenOptions::default())
}

/// Opens a checkpoint in memory: the `bytes` of one file, which is called `name` in messages and in place of its path.
///
/// ```
/// let header = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
/// let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
/// bytes.extend(header);
/// bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
///
/// let checkpoint = ckpt_inspect::open_bytes("downloaded", bytes)?;
/// let w = checkpoint.tensor("w")?.view::<f32>()?;
/// assert_eq!(w.as_slice(), Some(&[1.5, -2.0][..]));
/// # Ok::<(), ckpt_inspect::Error>(())
/// ```
///
/// # Errors
/// Those of [`open`].
pub fn open_bytes(name: impl AsRef<Path>, bytes: impl Into<SharedBytes>) -> Result<Checkpoint> {
    open_bytes_with(name, bytes, &OpenOptions::default())
}

/// What a checkpoint does not record about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Which layout I2_S tensors of GGUF files have. Without it the layout is derived from the tensors' rows, or else
    /// x86 is assumed with a warning.
    pub i2s_layout: Option<I2sLayout>,
    /// Whether what a trainer put beside the model of a folder is opened with it: its tensors are then called after their
    /// file, such as `optimizer.state.0.exp_avg`, and damage of such a file is the checkpoint's.
    pub companions: bool,
    /// Whether the tensors of quantized weights are listed as their files have them: codes, scales and what else there
    /// is, instead of the weights that they make up.
    pub stored: bool,
}

impl OpenOptions {
    /// With I2_S tensors in this layout, where one is known.
    pub fn i2s(layout: Option<I2sLayout>) -> Self {
        OpenOptions { i2s_layout: layout, ..OpenOptions::default() }
    }
}

/// The layouts of bitnet.cpp's I2_S type, by the build that wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum I2sLayout {
    /// [`TernaryPacking::BitnetX86`].
    X86,
    /// [`TernaryPacking::BitnetArm`].
    Arm,
    /// [`TernaryPacking::BitnetRows`].
    Rows,
}

impl I2sLayout {
    /// The packing of this layout.
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
            _ => Err(Error::unsupported(format!("`{}` is not an I2_S layout", name.escape_debug()))
                .hint("the layouts are x86, arm and rows")),
        }
    }
}

/// [`open`], given what the checkpoint does not record.
///
/// # Errors
/// Those of [`open`].
pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Checkpoint> {
    let begun = Instant::now();
    let path = &*stored::admitted(path.as_ref());
    let set = layout::set_of(path)?;
    let mut checkpoint = match set.files.is_empty() {
        true => compose(path, &set, options)?,
        false => open_set(path, &set, options)?,
    };
    if options.companions && path.is_stored_folder() {
        for file in companion::companions(path)? {
            attach(&mut checkpoint, &file);
        }
    }
    stored::all_answered(path, begun)?;
    Ok(checkpoint)
}

/// The checkpoint in the files of `set`.
pub(super) fn open_set(path: &Path, set: &Set, options: &OpenOptions) -> Result<Checkpoint> {
    let opened = |file: &PathBuf| Opened { path: file.clone(), source: Source::open(file), read };
    assemble(path, set.files.iter().map(opened).collect(), set, options)
}

/// Adds what the companion `file` of the checkpoint's model holds.
fn attach(checkpoint: &mut Checkpoint, file: &Path) {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let opened = Source::open(file).and_then(|source| {
        let contents = format::read(&source)?;
        Ok((source, contents))
    });
    let (source, contents) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            checkpoint.beside.push(Stamp::of(file));
            let kind = error.fault.unwrap_or(DamageKind::UnreadableShard);
            return checkpoint.add_damage(Damage::new(kind, error.in_file(file).to_string()));
        }
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    if let Some(mut damage) = Damage::joined(contents.faults) {
        damage.what = format!("{name}: {damage}");
        checkpoint.add_damage(damage);
    }
    let group = if companion::is_optimizer(file) { Group::Optimizer } else { Group::Other };
    for mut tensor in contents.tensors {
        tensor.name = format!("{stem}.{}", tensor.name);
        tensor.group = group;
        check(&mut tensor);
        checkpoint.tensors.push(tensor);
    }
    if let Value::Dict(all) = &mut checkpoint.metadata {
        all.entry(HashableValue::String(stem.clone())).or_insert(contents.metadata);
    }
    format::add_new(&mut checkpoint.globals, contents.globals);
    checkpoint.warnings.extend(contents.notices.into_iter().map(|notice| {
        let text = format!("{name}: {}", notice.text);
        Notice { text, ..notice }.renamed(|inner| format!("{stem}.{inner}"))
    }));
    checkpoint.files.push(source);
}

/// [`open_bytes`], given what the checkpoint does not record.
///
/// # Errors
/// Those of [`open`].
pub fn open_bytes_with(
    name: impl AsRef<Path>,
    bytes: impl Into<SharedBytes>,
    options: &OpenOptions,
) -> Result<Checkpoint> {
    let name = name.as_ref();
    let source = Ok(Source::in_memory(name, bytes.into()));
    let file = Opened { path: name.to_path_buf(), source, read };
    assemble(name, vec![file], &Set::default(), options)
}

/// The checkpoint in `files`, which are those of `set`.
pub(crate) fn assemble(
    path: &Path,
    files: Vec<Opened>,
    set: &Set,
    options: &OpenOptions,
) -> Result<Checkpoint> {
    let whole = layout::join(set, files).map_err(|e| e.in_file(path))?;
    Ok(completed(path, whole, set, options))
}

/// The checkpoint of what the files of `set` hold together.
pub(super) fn completed(path: &Path, whole: Whole, set: &Set, options: &OpenOptions) -> Checkpoint {
    let Whole { contents, files, unread } = whole;
    let mut checkpoint = Checkpoint {
        path: path.to_path_buf(),
        format: contents.format,
        tensors: contents.tensors,
        metadata: contents.metadata,
        globals: contents.globals,
        warnings: contents.notices,
        damage: Damage::joined(contents.faults),
        model: Model::default(),
        coding: Coding::default(),
        step: None,
        files,
        header: OnceLock::new(),
        beside: set.beside.iter().cloned().chain(unread.iter().map(|file| Stamp::of(file))).collect(),
        components: Vec::new(),
        absent: Vec::new(),
        listing_damaged: contents.listing_damaged,
    };
    complete(&mut checkpoint, set, options);
    checkpoint
}

/// The contents of `source`; a GGUF file whose sizes are in PyTorch's order is read as intended.
fn read(source: &Arc<Source>) -> Result<Contents> {
    let contents = format::read(source)?;
    let tensors = contents.tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice()));
    let is_gguf = matches!(contents.format, Format::Gguf { .. });
    match is_gguf && names::is_transposed(gguf_keys::width(&contents.metadata), tensors) {
        true => gguf::read::read_transposed(source),
        false => Ok(contents),
    }
}

/// Keys that lead to two tensors by the same name, as `a.b` and `a` with `b` in it do.
fn equal_names(tensors: &[TensorInfo]) -> Option<Notice> {
    let mut names = HashSet::with_capacity(tensors.len());
    let mut again = tensors.iter().filter(|tensor| !names.insert(tensor.name.as_str()));
    let first = again.next()?.name.escape_debug().to_string();
    let more = match again.count() {
        0 => String::new(),
        more => format!(", and {more} more share another's name"),
    };
    let text = format!("two tensors are called `{first}`{more}; by name the first is found");
    Some(Notice::new(NoticeKind::Duplicate, text))
}

fn complete(checkpoint: &mut Checkpoint, set: &Set, options: &OpenOptions) {
    ternary::settle_i2s(checkpoint, options.i2s_layout);
    // What a trainer keeps is so too where its file is opened alone, unless a network is in it.
    let is_state = companion::is_companion(&checkpoint.path)
        && !companion::is_optimizer(&checkpoint.path)
        && checkpoint.tensors.iter().all(|tensor| tensor.shape.len() < 2);
    for tensor in &mut checkpoint.tensors {
        tensor.group = if is_state { Group::Other } else { group::group(tensor) };
        check(tensor);
    }
    checkpoint.warnings.extend(equal_names(&checkpoint.tensors));
    let joined = layout::Joined {
        format: checkpoint.format,
        files: checkpoint.files.len(),
        tensors: &checkpoint.tensors,
        metadata: &checkpoint.metadata,
    };
    for lacks in layout::lacks(set, &joined) {
        lacks.damage.into_iter().for_each(|damage| checkpoint.add_damage(damage));
        checkpoint.warnings.extend(lacks.notices);
        checkpoint.absent.extend(lacks.absent);
    }
    let config = set.config.as_ref();
    let quantization = config.and_then(Quantization::of_config);
    let packed = match options.stored {
        true => ternary::count(checkpoint, quantization.as_ref()),
        false => {
            ternary::recognise(checkpoint, quantization.as_ref());
            0
        }
    };
    ternary::apply_scales(checkpoint);
    if !matches!(checkpoint.format, Format::Gguf { .. }) {
        let config = scheme::Config::of(config, set.quantization.as_ref());
        scheme::recognise(checkpoint, &config, options.stored);
        checkpoint.coding.stored += packed;
    }
    checkpoint.model = Model::recognise(&checkpoint.tensors, &checkpoint.metadata, config);
    checkpoint.model.repeats_layers = set.merged;
    checkpoint.step = step::from_metadata(&checkpoint.metadata)
        .or_else(|| step::from_tensors(&checkpoint.tensors))
        .or_else(|| set.trainer_step.map(|s| (s, StepSource::Trainer)))
        .or_else(|| step::from_path(&checkpoint.path).map(|s| (s, StepSource::Name)));
    if let (Value::Dict(all), Some(config)) = (&mut checkpoint.metadata, config) {
        all.entry(HashableValue::String("config.json".into())).or_insert_with(|| config.clone());
    }
}

/// Marks tensors that are not within their storage.
fn check(tensor: &mut TensorInfo) {
    if tensor.damage.is_some() {
        return;
    }
    if let Some(sparse) = &mut tensor.sparse {
        for part in sparse.indices.iter_mut().chain([&mut sparse.values]) {
            check(part);
            if let Some(damage) = &part.damage {
                tensor.damage = Some(damage.clone());
            }
        }
        return;
    }
    let Some(storage) = &tensor.storage else { return };
    if let Place::Missing { why, .. } = &storage.run().place {
        tensor.damage = Some((**why).clone());
    } else if let Err(error) = tensor.check_bounds(storage.byte_len()) {
        tensor.damage = Some(Damage::new(error.fault.unwrap_or_default(), error.what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::tests::Fetched;

    /// The checkpoint in `bytes`, opened from a source that has to fetch every range.
    fn open_fetched(path: &Path, bytes: &[u8]) -> Result<Checkpoint> {
        let source = Ok(Source::of(path, Stamp::never(path), Fetched(bytes.to_vec())));
        let file = Opened { path: path.to_path_buf(), source, read: format::read };
        assemble(path, vec![file], &Set::default(), &OpenOptions::default())
    }

    /// Everything that is known of a checkpoint.
    fn summary(opened: Result<Checkpoint>) -> std::result::Result<Vec<String>, String> {
        let checkpoint = opened.map_err(|e| e.to_string())?;
        let mut summary = vec![format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            checkpoint.format,
            checkpoint.metadata,
            checkpoint.globals,
            checkpoint.warnings,
            checkpoint.damage,
            checkpoint.step,
            checkpoint.gguf_header().map(|header| header.map(|h| (h.data_offset, h.keys.len())).ok()),
        )];
        for tensor in &checkpoint.tensors {
            let bytes =
                checkpoint.tensor_bytes(tensor).map(|b| crc32fast::hash(&b)).map_err(|e| e.to_string());
            summary.push(format!("{tensor:?} {bytes:?}"));
        }
        Ok(summary)
    }

    #[test]
    fn fetched_ranges_give_the_same_as_a_map() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folders = ["../tests/fixtures/formats", "../tests/fixtures/packed", "tests/data"];
        let mut seen = 0;
        for folder in folders {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if !crate::recognises(&path) {
                    continue;
                }
                let bytes = std::fs::read(&path).unwrap();
                for cut in [bytes.len(), bytes.len() - 1, bytes.len() * 2 / 3, bytes.len() / 9] {
                    let bytes = &bytes[..cut];
                    let at = format!("{} up to {cut}", path.display());
                    assert_eq!(
                        summary(open_fetched(&path, bytes)),
                        summary(open_bytes(&path, bytes.to_vec())),
                        "{at}"
                    );
                }
                seen += 1;
            }
        }
        assert!(seen > 10, "only {seen} files");
    }
}
