//! PyTorch's zip: `data.pkl` first, so that a truncated file still says what it contained, then `byteorder`, one entry
//! per storage, `version` and `.data/serialization_id`.

use std::path::Path;

use ckpt_inspect::TernaryPacking;
use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::staged::{Control, OutputFile, StagedFile};
use ckpt_inspect::torch::has_dtype;

use crate::Result;
use crate::encode::{Writer, Written};
use crate::names::Style;
use crate::note::Remedy;
use crate::pickle::{Pickler, TensorRef, buffer};
use crate::plan::{Options, Plan};
use crate::target::Form;
use crate::zip::Layout;

/// The version of the container that every PyTorch since 1.6 reads.
const VERSION: &[u8] = b"3\n";
const BYTEORDER: &[u8] = b"little";
/// Digits of the serialization id.
const ID_LEN: usize = 40;

/// `--to pt`.
pub(crate) const FORM: Form = Form {
    name: "pt",
    about: "PyTorch, types unchanged",
    extension: "pt",
    splits: false,
    reader: "PyTorch",
    holds: has_dtype,
    instead: |_| Remedy::Target("safetensors"),
    style: None,
    nests: true,
    shares: true,
    ties: false,
    tells_values: true,
    is_model: false,
    packing: |_| None,
    check: |_| Ok(()),
    write,
};

/// `--to i2s`.
pub(crate) const I2S: Form = Form {
    name: "i2s",
    about: "Packed ternary, four values per byte; -o FILE.safetensors writes the SafeTensors form, without scales",
    style: Some(Style::Student),
    packing: |_| Some(TernaryPacking::I2s),
    ..FORM
};

/// Writes `plan` to `path`.
fn write(
    plan: &mut Plan<'_>,
    options: &Options,
    path: &Path,
    control: Control<'_>,
) -> Result<(u64, Vec<Written>)> {
    let sizes: Vec<u64> = plan.blobs.iter().map(|b| b.bytes).collect();
    let writer = Writer { source: plan.source, blobs: &plan.blobs, control, crc: true };
    archive(path, options.force, &pickle(plan), &sizes, |output, places| {
        let places: Vec<(usize, u64)> = places.iter().copied().enumerate().collect();
        let written = writer.write(output, &places)?;
        control.check(path)?;
        Ok((written.iter().map(|w| w.crc).collect(), written))
    })
}

/// Writes an archive of `pickle` and storages of these sizes. `storages` writes them at the places it is given, and
/// returns their CRC-32s with its own result.
pub(crate) fn archive<T>(
    path: &Path,
    force: bool,
    pickle: &[u8],
    sizes: &[u64],
    storages: impl FnOnce(&OutputFile, &[u64]) -> Result<(Vec<u32>, T)>,
) -> Result<(u64, T)> {
    let folder = path.file_stem().and_then(|s| s.to_str()).filter(|s| s.len() < 256).unwrap_or("archive");
    let archive = Archive::new(folder, pickle, sizes);
    let staged = StagedFile::create(path, archive.len(), force)?;
    let output = staged.output();
    let places: Vec<u64> = (0..sizes.len()).map(|i| archive.storage(i)).collect();
    let (crcs, result) = storages(output, &places)?;
    archive.finish(output, 0, &crcs)?;
    staged.commit()?;
    Ok((archive.len(), result))
}

/// What `torch.save` writes, before it is written: everything but the storages, and where those go.
pub(crate) struct Archive<'p> {
    layout: Layout,
    pickle: &'p [u8],
    storages: usize,
}

/// Before the storages come data.pkl and byteorder.
const FIRST: usize = 2;

impl<'p> Archive<'p> {
    /// An archive of `pickle` and storages of these sizes, whose entries are in `folder`.
    pub fn new(folder: &str, pickle: &'p [u8], sizes: &[u64]) -> Self {
        let named = |name: &str, len: usize| (format!("{folder}/{name}"), len as u64);
        let mut entries = vec![named("data.pkl", pickle.len()), named("byteorder", BYTEORDER.len())];
        entries.extend(sizes.iter().enumerate().map(|(i, &bytes)| (format!("{folder}/data/{i}"), bytes)));
        entries.extend([named("version", VERSION.len()), named(".data/serialization_id", ID_LEN)]);
        Archive { layout: Layout::new(entries), pickle, storages: sizes.len() }
    }

    /// Bytes of it.
    pub fn len(&self) -> u64 {
        self.layout.len()
    }

    /// Where the storage number `i` begins in it.
    pub fn storage(&self, i: usize) -> u64 {
        self.layout.data(FIRST + i)
    }

    /// Writes the rest of it, from `start` of `output` on, once its storages are there and have these CRC-32s.
    pub fn finish(&self, output: &OutputFile, start: u64, storages: &[u32]) -> Result<()> {
        let count = FIRST + self.storages + 2;
        let all: Vec<u8> = storages.iter().flat_map(|crc| crc.to_le_bytes()).collect();
        let id = format!("{:020}{:020}", crc32fast::hash(self.pickle), crc32fast::hash(&all));
        let small = [(0, self.pickle), (1, BYTEORDER), (count - 2, VERSION), (count - 1, id.as_bytes())];
        let mut crcs: Vec<u32> = vec![0; count];
        crcs[FIRST..count - 2].copy_from_slice(storages);
        for (entry, bytes) in small {
            output.write_at(start + self.layout.data(entry), bytes)?;
            crcs[entry] = crc32fast::hash(bytes);
        }
        for (entry, &crc) in crcs.iter().enumerate() {
            let (at, header) = self.layout.local_header(entry, crc);
            output.write_at(start + at, &header)?;
        }
        let (at, directory) = self.layout.central_directory(&crcs);
        output.write_at(start + at, &directory)?;
        Ok(())
    }
}

/// The object that is saved: the plan's plain values with its tensors among them.
pub(crate) enum Object {
    Plain(Value),
    Dict(Vec<(HashableValue, Object)>),
    List(Vec<Object>),
    Tuple(Vec<Object>),
    /// Index among the plan's tensors.
    Tensor(usize),
}

impl Object {
    /// The object that `plan` makes.
    pub fn planned(plan: &Plan<'_>) -> Object {
        let mut root = Object::of(&plan.metadata);
        for (index, tensor) in plan.tensors.iter().enumerate() {
            root.insert(&tensor.name, index);
        }
        root
    }

    fn of(value: &Value) -> Object {
        match value {
            Value::Dict(_) if buffer(value).is_some() => Object::Plain(value.clone()),
            Value::Dict(entries) => {
                Object::Dict(entries.iter().map(|(key, value)| (key.clone(), Object::of(value))).collect())
            }
            Value::List(items) => Object::List(items.iter().map(Object::of).collect()),
            Value::Tuple(items) => Object::Tuple(items.iter().map(Object::of).collect()),
            other => Object::Plain(other.clone()),
        }
    }

    /// Whether it holds others.
    fn is_container(&self) -> bool {
        matches!(self, Object::Dict(_) | Object::List(_) | Object::Tuple(_))
    }

    /// Tensor `index` under `key` alone.
    fn under(key: &str, index: usize) -> Object {
        Object::Dict(vec![(HashableValue::String(key.into()), Object::Tensor(index))])
    }

    /// Puts tensor `index` at the path `name`, whose keys may hold dots themselves: as deep as containers lead, and
    /// under the rest of the path there. Lists and tuples without their tensors get them back in order.
    fn insert(&mut self, name: &str, index: usize) {
        match self {
            Object::Dict(entries) => {
                for (key, value) in entries.iter_mut() {
                    let inner = after_key(name, key).filter(|_| value.is_container());
                    if let Some(inner) = inner {
                        return value.insert(inner, index);
                    }
                }
                // Values that stand for the tensor, as those of a small array of NumPy do.
                let own = |key: &HashableValue| matches!(key, HashableValue::String(own) if own == name);
                if let Some((_, value)) = entries.iter_mut().find(|(key, _)| own(key)) {
                    *value = Object::Tensor(index);
                    return;
                }
                entries.push((HashableValue::String(name.into()), Object::Tensor(index)));
            }
            Object::List(items) | Object::Tuple(items) => {
                let (first, rest) = name.split_once('.').unwrap_or((name, ""));
                let at = first.parse::<usize>().map_or(items.len(), |at| at.min(items.len()));
                match items.get_mut(at) {
                    _ if rest.is_empty() => items.insert(at, Object::Tensor(index)),
                    Some(inner) if inner.is_container() => inner.insert(rest, index),
                    // A text in the place of something that could not be read, and holds tensors.
                    Some(inner @ Object::Plain(_)) => *inner = Object::under(rest, index),
                    _ => items.insert(at, Object::under(rest, index)),
                }
            }
            // A root that holds nothing else.
            Object::Plain(_) if name.is_empty() => *self = Object::Tensor(index),
            Object::Plain(_) => *self = Object::under(name, index),
            Object::Tensor(first) => {
                let both = [("", *first), (name, index)];
                let entry = |(name, index): (&str, usize)| {
                    (HashableValue::String(name.into()), Object::Tensor(index))
                };
                *self = Object::Dict(both.map(entry).into());
            }
        }
    }

    /// The tensors in it, in order.
    pub fn tensors(&self) -> Vec<usize> {
        match self {
            Object::Plain(_) => Vec::new(),
            Object::Dict(entries) => entries.iter().flat_map(|(_, value)| value.tensors()).collect(),
            Object::List(items) | Object::Tuple(items) => items.iter().flat_map(Object::tensors).collect(),
            Object::Tensor(index) => vec![*index],
        }
    }

    /// Appends it to a pickle. `key` gives the number that the storage of a blob has in its archive.
    pub fn write(&self, plan: &Plan<'_>, pickler: &mut Pickler, key: &dyn Fn(usize) -> usize) {
        match self {
            Object::Plain(value) => pickler.value(value),
            Object::Dict(entries) => {
                pickler.begin_dict();
                for (name, value) in entries {
                    pickler.key(name);
                    value.write(plan, pickler, key);
                }
                pickler.end_dict();
            }
            Object::List(items) => {
                pickler.begin_list();
                items.iter().for_each(|item| item.write(plan, pickler, key));
                pickler.end_list();
            }
            Object::Tuple(items) => {
                pickler.tuple(|pickler| items.iter().for_each(|item| item.write(plan, pickler, key)));
            }
            Object::Tensor(index) => {
                let tensor = &plan.tensors[*index];
                let size = tensor.dtype.element_size().unwrap_or(1) as u64;
                pickler.tensor(&TensorRef {
                    key: key(tensor.blob),
                    dtype: tensor.dtype,
                    numel: plan.blobs[tensor.blob].bytes / size,
                    offset: tensor.offset / size,
                    shape: &tensor.shape,
                    strides: &tensor.strides,
                });
            }
        }
    }
}

/// What follows `key` and its dot in `name`.
fn after_key<'n>(name: &'n str, key: &HashableValue) -> Option<&'n str> {
    let rest = match key {
        HashableValue::String(text) => name.strip_prefix(text.as_str()),
        HashableValue::I64(i) => name.strip_prefix(i.to_string().as_str()),
        _ => None,
    };
    rest?.strip_prefix('.')
}

fn pickle(plan: &Plan<'_>) -> Vec<u8> {
    let mut pickler = Pickler::new();
    Object::planned(plan).write(plan, &mut pickler, &|blob| blob);
    pickler.finish()
}
