//! A folder of `torch.distributed.checkpoint`, as one rank saves it: `__0_0.distcp`, in which every tensor and every plain
//! value is an archive of `torch.save`, one after another, and `.metadata`, a pickle that says where. Nesting is flattened
//! as torch's planner flattens it (`torch/distributed/checkpoint/_traverse.py`).

use std::collections::HashSet;
use std::path::Path;

use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::staged::{Control, StagedFolder};

use crate::encode::{Writer, Written};
use crate::note::Remedy;
use crate::pickle::Pickler;
use crate::plain::key_text;
use crate::plan::{Options, Plan};
use crate::target::Form;
use crate::torch::{self, Archive, Object};
use crate::{Error, Result};

/// `--to dcp`.
pub(crate) const FORM: Form = Form {
    name: "dcp",
    about: "Folder of torch.distributed.checkpoint, types unchanged",
    extension: "",
    shares: false,
    check: |plan| leaves(&Object::planned(plan)).map(drop),
    write,
    ..torch::FORM
};

/// The file of the one rank, and the listing.
const PART: &str = "__0_0.distcp";
const LISTING: &str = ".metadata";
/// The folder in the archives of parts.
const FOLDER: &str = "archive";
/// Modules of PyTorch's classes in a listing.
const METADATA: &str = "torch.distributed.checkpoint.metadata";
const FILESYSTEM: &str = "torch.distributed.checkpoint.filesystem";

/// Something that is saved by itself: a tensor, a plain value, or a tuple whatever it holds.
struct Leaf<'o> {
    /// The keys and indices that lead to it.
    path: Vec<HashableValue>,
    object: &'o Object,
}

impl Leaf<'_> {
    fn name(&self) -> String {
        self.path.iter().map(key_text).collect::<Vec<_>>().join(".")
    }
}

/// What is saved of `root`.
///
/// # Errors
/// `Target` for what has no name, or the same as another.
fn leaves(root: &Object) -> Result<Vec<Leaf<'_>>> {
    if !matches!(root, Object::Dict(_)) {
        let why = "a distributed checkpoint must be a dict of names at its root, and this one is not";
        return Err(Error::target(why).remedied_by(Remedy::Target("pt")));
    }
    let mut leaves = Vec::new();
    add_leaves(root, &mut Vec::new(), &mut leaves);
    let mut names = HashSet::new();
    match leaves.iter().map(Leaf::name).find(|name| !names.insert(name.clone())) {
        Some(twice) => {
            let why = format!(
                "two things of a distributed checkpoint would both be named `{}`",
                twice.escape_debug()
            );
            Err(Error::target(why).remedied_by(Remedy::Target("pt")))
        }
        None => Ok(leaves),
    }
}

fn add_leaves<'o>(object: &'o Object, path: &mut Vec<HashableValue>, leaves: &mut Vec<Leaf<'o>>) {
    let mut below = |key: HashableValue, inner: &'o Object| {
        path.push(key);
        add_leaves(inner, path, leaves);
        path.pop();
    };
    match object {
        Object::Dict(entries) => {
            entries.iter().for_each(|(key, inner)| below(HashableValue::String(key_text(key)), inner));
        }
        Object::List(items) if !is_leaf(object) => {
            items.iter().zip(0..).for_each(|(inner, i)| below(HashableValue::I64(i), inner));
        }
        _ => leaves.push(Leaf { path: path.clone(), object }),
    }
}

/// Whether torch saves `object` as one: it holds neither tensors nor dicts, except in tuples.
fn is_leaf(object: &Object) -> bool {
    match object {
        Object::Plain(_) | Object::Tuple(_) => true,
        Object::List(items) => items.iter().all(is_leaf),
        Object::Dict(_) | Object::Tensor(_) => false,
    }
}

/// A leaf, what is written of it, and where.
struct Part<'o> {
    leaf: &'o Leaf<'o>,
    pickle: Vec<u8>,
    /// Index of the tensor among the plan's, if it is one.
    tensor: Option<usize>,
    /// The plan's blobs that are its storages, and their sizes.
    blobs: Vec<usize>,
    sizes: Vec<u64>,
    start: u64,
    len: u64,
}

fn write(
    plan: &mut Plan<'_>,
    options: &Options,
    path: &Path,
    control: Control<'_>,
) -> Result<(u64, Vec<Written>)> {
    let root = Object::planned(plan);
    let leaves = leaves(&root)?;
    let mut end = 0;
    let mut parts: Vec<Part<'_>> = Vec::new();
    for leaf in &leaves {
        let tensor = match leaf.object {
            Object::Tensor(index) => Some(*index),
            _ => None,
        };
        let mut blobs: Vec<usize> = Vec::new();
        for index in leaf.object.tensors() {
            let blob = plan.tensors[index].blob;
            if !blobs.contains(&blob) {
                blobs.push(blob);
            }
        }
        let mut pickler = Pickler::new();
        let key = |blob: usize| blobs.iter().position(|own| *own == blob).unwrap_or(0);
        leaf.object.write(plan, &mut pickler, &key);
        let sizes = blobs.iter().map(|&blob| plan.blobs[blob].bytes).collect();
        let pickle = pickler.finish();
        let mut part = Part { leaf, pickle, tensor, blobs, sizes, start: end, len: 0 };
        part.len = part.archive().len();
        end += part.len;
        parts.push(part);
    }
    let listing = listing(plan, &parts);
    let total = end + listing.len() as u64;
    let staged = StagedFolder::create(path, total, options.force, is_ours)?;
    let output = staged.file(PART, end)?;
    let writer = Writer { source: plan.source, blobs: &plan.blobs, control, crc: true };
    let of_part = |part: &Part<'_>| {
        let archive = part.archive();
        let place = |(i, &blob): (usize, &usize)| (blob, part.start + archive.storage(i));
        part.blobs.iter().enumerate().map(place).collect::<Vec<_>>()
    };
    let places: Vec<(usize, u64)> = parts.iter().flat_map(of_part).collect();
    let mut written = vec![Written::default(); plan.blobs.len()];
    for ((blob, _), done) in places.iter().zip(writer.write(&output, &places)?) {
        written[*blob] = done;
    }
    for part in &parts {
        let crcs: Vec<u32> = part.blobs.iter().map(|&blob| written[blob].crc).collect();
        part.archive().finish(&output, part.start, &crcs)?;
    }
    control.check(path)?;
    staged.write(LISTING, &listing)?;
    staged.commit(&[output])?;
    Ok((total, written))
}

/// Whether a conversion may have written a file of this name.
fn is_ours(name: &str) -> bool {
    name == LISTING || (name.starts_with("__") && name.ends_with(".distcp"))
}

impl Part<'_> {
    fn archive(&self) -> Archive<'_> {
        Archive::new(FOLDER, &self.pickle, &self.sizes)
    }
}

/// The pickle of `.metadata`: what there is, how it is nested, and where it is.
fn listing(plan: &Plan<'_>, parts: &[Part<'_>]) -> Vec<u8> {
    let mut pickler = Pickler::new();
    pickler.instance(
        (METADATA, "Metadata"),
        Some(&mut |p| {
            p.begin_dict();
            p.text("state_dict_metadata");
            p.begin_dict();
            for part in parts {
                p.text(&part.leaf.name());
                match part.tensor {
                    Some(index) => add_tensor(p, plan, index),
                    None => p.instance((METADATA, "BytesStorageMetadata"), None),
                }
            }
            p.end_dict();
            p.text("planner_data");
            p.begin_dict();
            for part in parts {
                p.text(&part.leaf.name());
                p.tuple(|p| part.leaf.path.iter().for_each(|key| p.key(key)));
            }
            p.end_dict();
            p.text("storage_data");
            p.begin_dict();
            for part in parts {
                add_place(p, plan, part);
            }
            p.end_dict();
            p.end_dict();
        }),
    );
    pickler.finish()
}

fn add_tensor(pickler: &mut Pickler, plan: &Plan<'_>, index: usize) {
    let tensor = &plan.tensors[index];
    // Five fields, which every version reads: later ones add strides.
    let mut properties = |p: &mut Pickler| {
        p.tuple(|p| {
            p.known("torch", tensor.dtype.name());
            p.call("torch.serialization", "_get_layout", |p| p.text("torch.strided"));
            p.value(&Value::Bool(false));
            p.call(METADATA, "_MEM_FORMAT_ENCODING", |p| p.number(0));
            p.value(&Value::Bool(false));
        });
    };
    let mut chunk = |p: &mut Pickler| {
        p.begin_dict();
        p.text("offsets");
        p.size(&vec![0; tensor.shape.len()]);
        p.text("sizes");
        p.size(&tensor.shape);
        p.end_dict();
    };
    pickler.instance(
        (METADATA, "TensorStorageMetadata"),
        Some(&mut |p| {
            p.begin_dict();
            p.text("properties");
            p.instance((METADATA, "TensorProperties"), Some(&mut properties));
            p.text("size");
            p.size(&tensor.shape);
            p.text("chunks");
            p.begin_list();
            p.instance((METADATA, "ChunkStorageMetadata"), Some(&mut chunk));
            p.end_list();
            p.end_dict();
        }),
    );
}

fn add_place(pickler: &mut Pickler, plan: &Plan<'_>, part: &Part<'_>) {
    let mut index = |p: &mut Pickler| {
        p.begin_dict();
        p.text("fqn");
        p.text(&part.leaf.name());
        if let Some(index) = part.tensor {
            p.text("offset");
            p.size(&vec![0; plan.tensors[index].shape.len()]);
        }
        p.text("index");
        p.value(&part.tensor.map_or(Value::None, |_| Value::I64(0)));
        p.end_dict();
    };
    let mut info = |p: &mut Pickler| {
        p.begin_dict();
        p.text("relative_path");
        p.text(PART);
        p.text("offset");
        p.number(part.start);
        p.text("length");
        p.number(part.len);
        p.end_dict();
    };
    pickler.instance((METADATA, "MetadataIndex"), Some(&mut index));
    pickler.instance((FILESYSTEM, "_StorageInfo"), Some(&mut info));
}
