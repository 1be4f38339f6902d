//! SafeTensors: header length, JSON header padded to 8 bytes, data. Tensors are laid by element size, largest first, as
//! the safetensors library lays them, so that every one is aligned; in source order within a size.

use std::collections::BTreeMap;
use std::path::Path;

use ckpt_inspect::TernaryPacking;
use ckpt_inspect::metadata::{HashableValue, Value, whole_json};
use ckpt_inspect::safetensors::{MAX_HEADER, dtype_of};
use ckpt_inspect::staged::{Control, OutputFile, StagedFile, StagedFolder};
use serde_json::{Map, json};

use crate::encode::{Writer, Written};
use crate::names::Style;
use crate::note::Remedy;
use crate::plan::{Options, Plan};
use crate::target::Form;
use crate::{Error, Result};

/// The header's `__metadata__`: plain values as text, nested ones as JSON text. `format` is what Hugging Face's
/// loaders ask for.
fn metadata(plan: &Plan<'_>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if let Value::Dict(entries) = &plan.metadata {
        for (key, value) in entries {
            let HashableValue::String(key) = key else { continue };
            let text = match value {
                Value::String(text) => text.clone(),
                other => whole_json(other).to_string(),
            };
            all.insert(key.clone(), text);
        }
    }
    all.extend(plan.tied.iter().cloned());
    all.insert("format".into(), "pt".into());
    all
}

/// One file's tensors, and where they go.
struct File {
    header: Vec<u8>,
    /// Blobs and their offsets in the file.
    places: Vec<(usize, u64)>,
    len: u64,
}

impl File {
    fn new(plan: &Plan<'_>, mut tensors: Vec<usize>, path: &Path) -> Result<File> {
        let size = |&i: &usize| std::cmp::Reverse(plan.tensors[i].dtype.element_size());
        tensors.sort_by_key(size);
        let mut entries = Map::new();
        if plan.target.form().tells_values {
            entries.insert("__metadata__".into(), json!(metadata(plan)));
        }
        let mut places = Vec::new();
        let mut end = 0;
        for i in tensors {
            let tensor = &plan.tensors[i];
            let start = end;
            end += plan.blobs[tensor.blob].bytes;
            let entry = json!({
                "dtype": dtype_of(tensor.dtype),
                "shape": tensor.shape,
                "data_offsets": [start, end],
            });
            entries.insert(tensor.name.clone(), entry);
            places.push((tensor.blob, start));
        }
        let mut header = serde_json::Value::Object(entries).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let length = header.len() as u64;
        if length > MAX_HEADER {
            let why = format!(
                "{}: its names and metadata take {length} bytes, more than the {MAX_HEADER} that a header may have; write several files",
                path.display()
            );
            return Err(Error::target(why).remedied_by(Remedy::ShardSize));
        }
        header.splice(..0, length.to_le_bytes());
        let data = header.len() as u64;
        places.iter_mut().for_each(|(_, offset)| *offset += data);
        Ok(File { header, places, len: data + end })
    }

    fn write(&self, plan: &Plan<'_>, output: &OutputFile, control: Control<'_>) -> Result<Vec<Written>> {
        output.write_at(0, &self.header)?;
        let writer = Writer { source: plan.source, blobs: &plan.blobs, control, crc: false };
        writer.write(output, &self.places)
    }
}

/// `--to safetensors`.
pub(crate) const FORM: Form = Form {
    name: "safetensors",
    about: "SafeTensors, types unchanged",
    extension: "safetensors",
    splits: true,
    reader: "SafeTensors",
    holds: |dtype| dtype_of(dtype).is_some(),
    instead: |_| Remedy::Target("pt"),
    style: None,
    nests: false,
    shares: false,
    ties: true,
    tells_values: true,
    is_model: false,
    packing: |_| None,
    check: without_metadata,
    write,
};

/// `--to i2s -o X.safetensors`.
pub(crate) const I2S: Form = Form {
    name: "",
    style: Some(Style::Student),
    tells_values: false,
    packing: |_| Some(TernaryPacking::I2sUnscaled),
    check: |_| Ok(()),
    ..FORM
};

/// Refuses a tensor with the name that the header uses for metadata.
pub(crate) fn without_metadata(plan: &Plan<'_>) -> Result<()> {
    match plan.tensors.iter().any(|t| t.name == "__metadata__") {
        true => Err(Error::target(
            "a tensor is named `__metadata__`, which SafeTensors reserves for other purposes",
        )
        .remedied_by(Remedy::Target("pt"))),
        false => Ok(()),
    }
}

fn write(
    plan: &mut Plan<'_>,
    options: &Options,
    path: &Path,
    control: Control<'_>,
) -> Result<(u64, Vec<Written>)> {
    match options.max_shard_bytes {
        Some(limit) => write_folder(plan, path, Some(limit), &[], options.force, control),
        None => write_file(plan, path, options.force, control),
    }
}

/// Writes `plan` to the file `path`.
fn write_file(
    plan: &Plan<'_>,
    path: &Path,
    force: bool,
    control: Control<'_>,
) -> Result<(u64, Vec<Written>)> {
    let file = File::new(plan, (0..plan.tensors.len()).collect(), path)?;
    let staged = StagedFile::create(path, file.len, force)?;
    let written = in_blob_order(plan, &[&file], file.write(plan, staged.output(), control)?);
    control.check(path)?;
    staged.commit()?;
    Ok((file.len, written))
}

/// Writes `plan` into the folder `path`: `model.safetensors`, or shards of at most `limit` bytes of tensors and their
/// index (a single larger tensor is a shard of its own), and `beside`, other files by name.
pub(crate) fn write_folder(
    plan: &Plan<'_>,
    path: &Path,
    limit: Option<u64>,
    beside: &[(String, Vec<u8>)],
    force: bool,
    control: Control<'_>,
) -> Result<(u64, Vec<Written>)> {
    let mut shards: Vec<Vec<usize>> = vec![Vec::new()];
    let mut filled = 0;
    for (i, tensor) in plan.tensors.iter().enumerate() {
        let bytes = plan.blobs[tensor.blob].bytes;
        if let (Some(last), true) = (shards.last(), limit.is_some_and(|limit| filled + bytes > limit))
            && !last.is_empty()
        {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards.last_mut().expect("there is a first shard").push(i);
    }
    let count = shards.len();
    let name = |shard: usize| match count {
        1 => "model.safetensors".to_string(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
    };
    let mut weight_map = BTreeMap::new();
    for (shard, tensors) in shards.iter().enumerate() {
        weight_map.extend(tensors.iter().map(|&i| (plan.tensors[i].name.clone(), name(shard))));
    }
    let files: Vec<File> = shards.into_iter().map(|s| File::new(plan, s, path)).collect::<Result<_>>()?;
    let mut beside = beside.to_vec();
    if count > 1 {
        let index = json!({"metadata": {"total_size": plan.bytes()}, "weight_map": weight_map});
        let text = format!("{index:#}\n").into_bytes();
        beside.push(("model.safetensors.index.json".into(), text));
    }
    let total =
        files.iter().map(|f| f.len).sum::<u64>() + beside.iter().map(|(_, b)| b.len() as u64).sum::<u64>();
    let staged = StagedFolder::create(path, total, force, is_ours)?;
    let mut outputs = Vec::new();
    let mut written = Vec::new();
    for (shard, file) in files.iter().enumerate() {
        let output = staged.file(&name(shard), file.len)?;
        written.extend(file.write(plan, &output, control)?);
        outputs.push(output);
    }
    for (name, bytes) in &beside {
        staged.write(name, bytes)?;
    }
    control.check(path)?;
    staged.commit(&outputs)?;
    let files: Vec<&File> = files.iter().collect();
    Ok((total, in_blob_order(plan, &files, written)))
}

fn in_blob_order(plan: &Plan<'_>, files: &[&File], written: Vec<Written>) -> Vec<Written> {
    let mut ordered = vec![Written::default(); plan.blobs.len()];
    let places = files.iter().flat_map(|f| &f.places);
    places.zip(written).for_each(|((blob, _), w)| ordered[*blob] = w);
    ordered
}

/// Whether a conversion to a folder may have written a file of this name.
fn is_ours(name: &str) -> bool {
    name.ends_with(".safetensors")
        || name == "model.safetensors.index.json"
        || name == "config.json"
        || crate::hf::may_be_copied(name)
}
