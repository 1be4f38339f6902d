//! What is to be written: every output tensor with its name, type and shape, and the blobs of bytes they lie in, whose
//! sizes are known before the first one is written.

use std::collections::{BTreeMap, HashMap, HashSet};

use ckpt_inspect::{
    Checkpoint, DType, Error as ReadError, Format, Group, TensorInfo, TernaryPacking, contiguous_strides,
    without_state_dict,
};
use globset::GlobMatcher;
use serde_pickle::{HashableValue, Value};

use crate::encode::{Decoded, Rotary, bytes};
use crate::names::{self, Style};
use crate::ternary::{self, Grid};
use crate::{Error, Result};

/// What to write, and how tensors go into it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The container and packing.
    pub target: Target,
    /// Type of all floating-point weights; their own when not given. Packed and quantized ones become float32.
    pub dtype: Option<DType>,
    /// Types of the weights that a pattern matches, by the names in the output; the first match counts.
    pub dtypes: Vec<(GlobMatcher, DType)>,
    /// The key of the state dict to convert, such as `ema_state_dict`.
    pub root: Option<String>,
    /// Whether optimizer state, schedulers and random states come along. PyTorch output only.
    pub keep_optimizer: bool,
    /// Naming; by default the target's own.
    pub names: Option<Style>,
    /// The matrices to pack, by the names in the output; by default those that a BitLinear uses.
    pub ternary: Option<GlobMatcher>,
    /// SafeTensors: begin a new shard beyond this many bytes of tensors.
    pub max_shard_bytes: Option<u64>,
    /// Whether to replace what is there.
    pub force: bool,
}

impl Options {
    /// Everything as it is, into `target`.
    pub fn new(target: Target) -> Self {
        Options {
            target,
            dtype: None,
            dtypes: Vec::new(),
            root: None,
            keep_optimizer: false,
            names: None,
            ternary: None,
            max_shard_bytes: None,
            force: false,
        }
    }
}

/// Containers and packings that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// PyTorch's zip.
    Torch,
    /// The seed's i2s form in PyTorch's zip: `L.weight`, `L_shape`, `L_scale`.
    I2s,
    /// The ternary packer's SafeTensors form: `L.weight`, shapes in a `__metadata__` tensor, no scale.
    I2sSafeTensors,
    /// SafeTensors, one file or a folder of shards.
    SafeTensors,
    /// A Hugging Face model folder.
    Hf {
        /// Whether BitLinear matrices are packed as Hugging Face's BitNet integration does.
        packed: bool,
    },
}

impl Target {
    fn is_torch(self) -> bool {
        matches!(self, Target::Torch | Target::I2s)
    }

    fn packing(self) -> Option<TernaryPacking> {
        match self {
            Target::I2s => Some(TernaryPacking::I2s),
            Target::I2sSafeTensors => Some(TernaryPacking::I2sUnscaled),
            Target::Hf { packed: true } => Some(TernaryPacking::HfBitnet),
            _ => None,
        }
    }

    fn style(self, source: &Checkpoint) -> Option<Style> {
        match self {
            Target::I2s | Target::I2sSafeTensors => Some(Style::Student),
            Target::Hf { .. } => Some(Style::Hf),
            // GGUF's names are of use to GGUF readers alone.
            Target::Torch | Target::SafeTensors => {
                matches!(source.format, Format::Gguf { .. }).then_some(Style::Hf)
            }
        }
    }
}

/// A run of bytes of the output.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its element type as stored: `U8` for packed codes.
    pub dtype: DType,
    /// Its length.
    pub bytes: u64,
    /// What the bytes are.
    pub content: Content,
}

/// Where the bytes of a blob come from.
#[derive(Clone, Debug)]
pub enum Content {
    /// They are here.
    Bytes(Vec<u8>),
    /// A source tensor's elements, converted to the blob's type.
    Elements(Elements),
    /// The ternary codes of a source matrix, packed.
    Codes {
        /// The matrix.
        elements: Elements,
        /// The bits.
        packing: TernaryPacking,
        /// How values become codes.
        grid: Grid,
    },
}

/// Elements of the source in the order they are written in.
#[derive(Clone, Debug)]
pub struct Elements {
    /// The tensor, or a run of the storage that several tensors share.
    pub tensor: TensorInfo,
    /// Set where GGUF interleaved the rows.
    pub rotary: Option<Rotary>,
    dense: Option<Box<TensorInfo>>,
}

impl Elements {
    /// The elements of `tensor`.
    pub fn new(tensor: TensorInfo, rotary: Option<Rotary>) -> Self {
        let dense = tensor.sparse.is_some().then(|| {
            let strides = contiguous_strides(&tensor.shape);
            Box::new(TensorInfo { sparse: None, strides, ..tensor.clone() })
        });
        Elements { tensor, rotary, dense }
    }

    /// The tensor once a sparse one is spread out.
    pub fn dense(&self) -> &TensorInfo {
        self.dense.as_deref().unwrap_or(&self.tensor)
    }
}

/// A tensor of the output.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its full name there.
    pub name: String,
    /// Element type as stored.
    pub dtype: DType,
    /// Shape as stored.
    pub shape: Vec<usize>,
    /// Strides on the blob, in elements.
    pub strides: Vec<usize>,
    /// Index of the blob.
    pub blob: usize,
    /// First byte on the blob.
    pub offset: u64,
}

/// A source tensor and the name under which the output holds what it says.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The source tensor's elements in the output's order.
    pub elements: Elements,
    /// The output tensor.
    pub name: String,
}

/// Everything that a writer needs, and what the user is to be told.
#[derive(Debug)]
pub struct Plan<'c> {
    /// Where elements come from.
    pub source: &'c Checkpoint,
    /// What is being written.
    pub target: Target,
    /// The bytes.
    pub blobs: Vec<Blob>,
    /// The tensors on them, in source order.
    pub tensors: Vec<Output>,
    /// Names left out because the tensor is the very same as another, with that one's name.
    pub tied: Vec<(String, String)>,
    /// Plain values to keep, by key.
    pub metadata: Value,
    /// What verification compares.
    pub pairs: Vec<Pair>,
    /// What the output does not say any more.
    pub notes: Vec<String>,
}

impl<'c> Plan<'c> {
    /// Plans the conversion of `source`.
    ///
    /// # Errors
    /// `Read` when tensors are damaged, `Target` when the target cannot hold what was asked for.
    pub fn new(source: &'c Checkpoint, options: &Options) -> Result<Self> {
        let mut builder = Builder::new(source, options)?;
        let chosen = builder.choose()?;
        builder.add(chosen)?;
        let Builder { plan, .. } = builder;
        if plan.pairs.is_empty() {
            return Err(Error::Target(format!(
                "{}: no tensor in it is a weight that could be converted",
                source.path.display()
            )));
        }
        Ok(plan)
    }

    /// Bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|b| b.bytes).sum()
    }
}

/// A source tensor with what was decided about it.
struct Chosen {
    index: usize,
    name: String,
    dtype: DType,
    grid: Option<Grid>,
}

struct Builder<'c, 'o> {
    plan: Plan<'c>,
    options: &'o Options,
    /// Whether the output is laid out as the source's object is.
    nested: bool,
    /// The key under which weights go, with its dot.
    prefix: &'static str,
    style: Option<Style>,
}

impl<'c, 'o> Builder<'c, 'o> {
    fn new(source: &'c Checkpoint, options: &'o Options) -> Result<Self> {
        let target = options.target;
        if options.keep_optimizer && !target.is_torch() {
            return Err(Error::Target(
                "only PyTorch output (--to pt, fp32, f16, bf16, i2s) holds optimizer state".into(),
            ));
        }
        let pickled = !matches!(source.format, Format::SafeTensors | Format::Gguf { .. });
        let has_key = source.tensors.iter().any(|t| without_state_dict(&t.name) != t.name);
        // The seed's i2s form has its state dict under a key.
        let nested =
            pickled && target.is_torch() && options.root.is_none() && (has_key || target == Target::Torch);
        if options.keep_optimizer && !nested {
            return Err(Error::Target(
                "--keep-optimizer needs a PyTorch source, whole: without --root".into(),
            ));
        }
        let mut metadata = match (nested, pickled, &source.metadata) {
            (true, _, Value::Dict(entries)) if !options.keep_optimizer => {
                let kept = entries.iter().filter(|(key, _)| !is_training_state(&key_text(key)));
                Value::Dict(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
            }
            (true, _, whole) => whole.clone(),
            (false, true, Value::Dict(entries)) => Value::Dict(told(entries)),
            (false, false, Value::Dict(entries)) => Value::Dict(carried(source, entries)),
            _ => Value::Dict(BTreeMap::new()),
        };
        let mut prefix = "";
        if let (Value::Dict(entries), true) = (&mut metadata, target.is_torch()) {
            let packed = HashableValue::String("packed".into());
            entries.remove(&packed);
            if !nested && (!entries.is_empty() || target == Target::I2s) {
                prefix = "model_state_dict.";
                let key = HashableValue::String("model_state_dict".into());
                entries.insert(key, Value::Dict(BTreeMap::new()));
            }
            if target == Target::I2s {
                entries.insert(packed, Value::Bool(true));
            }
        }
        let style = options.names.or(target.style(source));
        let plan = Plan {
            source,
            target,
            blobs: Vec::new(),
            tensors: Vec::new(),
            tied: Vec::new(),
            metadata,
            pairs: Vec::new(),
            notes: Vec::new(),
        };
        Ok(Builder { plan, options, nested, prefix, style })
    }

    /// The source tensors to write, their names and types.
    fn choose(&mut self) -> Result<Vec<Chosen>> {
        let (source, options) = (self.plan.source, self.options);
        let helpers = helpers(source);
        let mut chosen = Vec::new();
        let mut names: HashMap<String, &str> = HashMap::new();
        let mut without_data = Vec::new();
        for (index, tensor) in source.tensors.iter().enumerate() {
            let inner = match &options.root {
                Some(root) => tensor.name.strip_prefix(root.as_str()).and_then(|n| n.strip_prefix('.')),
                None => Some(tensor.name.as_str()),
            };
            let Some(inner) = inner else { continue };
            let training = tensor.group == Group::Optimizer
                || (tensor.group == Group::Other && is_training_state(inner.split('.').next().unwrap_or("")));
            if helpers.contains(&index) || (training && !options.keep_optimizer) {
                continue;
            }
            if let Some(damage) = &tensor.damage {
                if tensor.storage.is_none() && tensor.sparse.is_none() {
                    without_data.push(tensor.name.as_str());
                    continue;
                }
                return Err(ReadError::damaged(damage.clone())
                    .in_tensor(&tensor.name)
                    .in_file(&source.path)
                    .hint("a damaged checkpoint is not converted")
                    .into());
            }
            let name = if training { inner.to_string() } else { self.name(inner) };
            if let Some(other) = names.insert(name.clone(), &tensor.name) {
                return Err(Error::Target(format!(
                    "`{}` and `{}` would both be called `{}`; choose a state dict with --root",
                    other.escape_debug(),
                    tensor.name.escape_debug(),
                    name.escape_debug()
                )));
            }
            let dtype = if training { tensor.dtype } else { self.dtype(tensor, &name)? };
            chosen.push(Chosen { index, name, dtype, grid: None });
        }
        for (name, index) in tied_names(source) {
            if let Some(dtype) = chosen.iter().find(|c| c.index == index).map(|c| c.dtype) {
                chosen.push(Chosen { index, name: self.name(&name), dtype, grid: None });
            }
        }
        if let (Some(root), true) = (&options.root, chosen.is_empty()) {
            return Err(self.no_root(root));
        }
        if let Some(first) = without_data.first() {
            self.plan.notes.push(format!(
                "{} tensors were saved without data and are left out, such as `{}`",
                without_data.len(),
                first.escape_debug()
            ));
        }
        self.settle_grids(&mut chosen)?;
        Ok(chosen)
    }

    fn no_root(&self, root: &str) -> Error {
        let mut keys: Vec<&str> =
            self.plan.source.tensors.iter().filter_map(|t| Some(t.name.split_once('.')?.0)).collect();
        keys.dedup();
        keys.truncate(8);
        Error::Target(format!(
            "no tensor's name begins with `{}.`; keys that hold tensors: {}",
            root.escape_debug(),
            keys.join(", ")
        ))
    }

    fn name(&self, inner: &str) -> String {
        let bare = without_state_dict(inner);
        let styled = self.style.and_then(|style| names::translate(bare, style));
        let name = styled.unwrap_or_else(|| bare.to_string());
        if self.nested {
            let key = &inner[..inner.len() - bare.len()];
            format!("{key}{name}")
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// The stored type of a tensor that is not packed.
    fn dtype(&self, tensor: &TensorInfo, name: &str) -> Result<DType> {
        let quantized = matches!(tensor.dtype, DType::QI8 | DType::QU8 | DType::QI32);
        let real = tensor.dtype.is_float() || tensor.dtype.element_size().is_none() || quantized;
        let bare = without_state_dict(name);
        let chosen =
            self.options.dtypes.iter().find(|(glob, _)| glob.is_match(bare)).map(|(_, dtype)| *dtype);
        let plain = match real {
            true => chosen.or(self.options.dtype),
            false => None,
        };
        let own = if tensor.dtype.is_float() || !real { tensor.dtype } else { DType::F32 };
        let dtype = plain.unwrap_or(own);
        if !self.options.target.is_torch() && ckpt_inspect::safetensors::dtype_of(dtype).is_none() {
            return Err(Error::Target(format!(
                "tensor `{}` has elements of type {dtype}, which SafeTensors cannot hold; write it with --to pt",
                tensor.name.escape_debug()
            )));
        }
        Ok(dtype)
    }

    /// Decides which matrices are packed, and finds their scales.
    fn settle_grids(&mut self, chosen: &mut [Chosen]) -> Result<()> {
        let (source, options) = (self.plan.source, self.options);
        let Some(packing) = options.target.packing() else { return Ok(()) };
        let student = source.model.student.as_ref();
        let eps = student.map_or(1e-8, |s| s.quantization_eps);
        let packable = |c: &Chosen| {
            let tensor = &source.tensors[c.index];
            let wanted = match &options.ternary {
                Some(glob) => glob.is_match(without_state_dict(&c.name)),
                None => source.model.is_ternary(tensor),
            };
            wanted && tensor.shape.len() == 2 && c.name.ends_with(".weight") && tensor.group == Group::Weights
        };
        let misfits =
            chosen.iter().filter(|c| packable(c) && !ternary::fits(packing, &source.tensors[c.index].shape));
        let misfits = misfits.count();
        if misfits > 0 {
            self.plan.notes.push(format!(
                "{misfits} matrices stay unpacked: their rows are not a multiple of 4, as this packing needs"
            ));
        }
        for c in chosen.iter_mut() {
            let tensor = &source.tensors[c.index];
            if !packable(c) || !ternary::fits(packing, &tensor.shape) {
                continue;
            }
            c.grid = Some(match tensor.dtype {
                DType::Ternary(_) => Grid { scale: tensor.scale, exact: true },
                _ => {
                    let elements = Elements::new(tensor.clone(), None);
                    let bytes = bytes(source, &elements.tensor)?;
                    let values = Decoded::new(source, &elements, &bytes)?;
                    Grid::measure(&values, eps)
                        .map_err(|e| e.in_tensor(&tensor.name).in_file(&source.path))?
                }
            });
        }
        let packed: Vec<&Chosen> = chosen.iter().filter(|c| c.grid.is_some()).collect();
        if packed.is_empty() {
            return Err(Error::Target(format!(
                "{}: no matrix in it is known to be ternary; choose them with --ternary '*_proj.weight'",
                source.path.display()
            )));
        }
        let rounded = packed.iter().filter(|c| c.grid.is_some_and(|g| !g.exact)).count();
        if rounded > 0 {
            let bit = if student.is_some() { ", as BitLinear rounds them in every forward pass" } else { "" };
            self.plan.notes.push(format!(
                "{rounded} matrices are rounded to -1, 0, +1 times mean|W|{bit}; the float weights cannot be had back"
            ));
        }
        if student.is_some_and(|s| s.bitlinear_per_channel) {
            self.plan
                .notes
                .push("the model scales each row on its own; the packed form has one scale a matrix".into());
        }
        let unscaled = packed.iter().filter(|c| c.grid.is_some_and(|g| g.scale.is_none())).count();
        if unscaled > 0 {
            self.plan.notes.push(format!("{unscaled} source matrices have no scale: 1 is written for it"));
        }
        if packing == TernaryPacking::I2sUnscaled {
            self.plan
                .notes
                .push("this form keeps codes only: the scales of all packed matrices are lost".into());
        }
        Ok(())
    }

    fn add(&mut self, chosen: Vec<Chosen>) -> Result<()> {
        let lost: Vec<&Chosen> = chosen
            .iter()
            .filter(|c| c.grid.is_none() && self.plan.source.tensors[c.index].dtype.is_ternary())
            .filter(|c| self.plan.source.tensors[c.index].scale.is_none())
            .filter(|c| matches!(self.plan.source.tensors[c.index].dtype, DType::Ternary(_)))
            .collect();
        if !lost.is_empty() {
            self.plan.notes.push(format!(
                "{} packed source matrices have no scale: they become -1, 0, +1 themselves",
                lost.len()
            ));
        }
        let shared = if self.options.target.is_torch() { self.shared_runs(&chosen) } else { HashMap::new() };
        let mut blobs_of_runs: HashMap<(usize, u64), usize> = HashMap::new();
        let mut identical: HashMap<Place, String> = HashMap::new();
        let mut shapes = serde_json::Map::new();
        for c in chosen {
            let tensor = &self.plan.source.tensors[c.index];
            let elements = Elements::new(tensor.clone(), rotary(self.plan.source, tensor, self.style));
            self.plan.pairs.push(Pair { elements: elements.clone(), name: c.name.clone() });
            if let Some(grid) = c.grid {
                self.add_packed(c.name, elements, grid, &mut shapes);
                continue;
            }
            if let Some(run) = shared.get(&c.index) {
                let size = c.dtype.element_size().unwrap_or(1);
                let source_size = tensor.dtype.element_size().unwrap_or(1) as u64;
                let blob = *blobs_of_runs.entry((run.storage, run.start)).or_insert_with(|| {
                    let whole = TensorInfo {
                        shape: vec![run.elements],
                        strides: vec![1],
                        byte_offset: run.start,
                        ..tensor.clone()
                    };
                    let bytes = (run.elements * size) as u64;
                    let content = Content::Elements(Elements::new(whole, None));
                    self.plan.blobs.push(Blob { dtype: c.dtype, bytes, content });
                    self.plan.blobs.len() - 1
                });
                self.plan.tensors.push(Output {
                    name: c.name,
                    dtype: c.dtype,
                    shape: tensor.shape.clone(),
                    strides: tensor.strides.clone(),
                    blob,
                    offset: (tensor.byte_offset - run.start) / source_size * size as u64,
                });
                continue;
            }
            if let (false, Some(place)) = (self.options.target.is_torch(), Place::of(tensor, c.dtype)) {
                if let Some(other) = identical.get(&place) {
                    self.plan.tied.push((c.name, other.clone()));
                    continue;
                }
                identical.insert(place, c.name.clone());
            }
            let bytes = c
                .dtype
                .bytes_for(&tensor.shape)
                .ok_or_else(|| ReadError::damaged("its size overflows").in_tensor(&tensor.name))?;
            self.add_whole(c.name, c.dtype, tensor.shape.clone(), bytes, Content::Elements(elements));
        }
        if self.options.target == Target::I2sSafeTensors {
            let text = serde_json::Value::Object(shapes).to_string().into_bytes();
            let shape = vec![text.len()];
            self.add_whole("__metadata__".into(), DType::U8, shape, text.len() as u64, Content::Bytes(text));
        }
        Ok(())
    }

    fn add_whole(&mut self, name: String, dtype: DType, shape: Vec<usize>, bytes: u64, content: Content) {
        self.plan.blobs.push(Blob { dtype, bytes, content });
        let (blob, strides) = (self.plan.blobs.len() - 1, contiguous_strides(&shape));
        self.plan.tensors.push(Output { name, dtype, shape, strides, blob, offset: 0 });
    }

    /// A packed matrix and what stands beside it in this form.
    fn add_packed(
        &mut self,
        name: String,
        mut elements: Elements,
        grid: Grid,
        shapes: &mut serde_json::Map<String, serde_json::Value>,
    ) {
        let shape = elements.tensor.shape.clone();
        if matches!(elements.tensor.dtype, DType::Ternary(_)) {
            // Codes are read as they are; the scale goes its own way.
            elements.tensor.scale = Some(1.0);
        }
        let numel: usize = shape.iter().product();
        let layer = name.strip_suffix(".weight").unwrap_or(&name).to_string();
        let scale = grid.scale.unwrap_or(1.0).to_le_bytes().to_vec();
        let packing = self.options.target.packing().unwrap_or(TernaryPacking::I2s);
        let content = Content::Codes { elements, packing, grid };
        let bytes = numel.div_ceil(4);
        let stored = match packing {
            TernaryPacking::HfBitnet => vec![shape[0] / 4, shape[1]],
            _ => vec![bytes],
        };
        self.add_whole(name.clone(), DType::U8, stored, bytes as u64, content);
        match packing {
            TernaryPacking::HfBitnet => {
                self.add_whole(
                    format!("{layer}.weight_scale"),
                    DType::F32,
                    vec![1],
                    4,
                    Content::Bytes(scale),
                );
            }
            TernaryPacking::I2sUnscaled => {
                shapes.insert(format!("{name}_shape"), serde_json::json!(shape));
            }
            _ => {
                let sizes: Vec<u8> = shape.iter().flat_map(|&d| (d as i64).to_le_bytes()).collect();
                let rank = vec![shape.len()];
                self.add_whole(
                    format!("{layer}_shape"),
                    DType::I64,
                    rank,
                    sizes.len() as u64,
                    Content::Bytes(sizes),
                );
                self.add_whole(format!("{layer}_scale"), DType::F32, Vec::new(), 4, Content::Bytes(scale));
            }
        }
    }

    /// The runs of storages that several tensors look at, by tensor: written once, so that tied weights stay tied.
    fn shared_runs(&self, chosen: &[Chosen]) -> HashMap<usize, Run> {
        let source = self.plan.source;
        let mut groups: HashMap<(usize, DType, DType), Vec<usize>> = HashMap::new();
        for c in chosen.iter().filter(|c| c.grid.is_none()) {
            let tensor = &source.tensors[c.index];
            let plain = tensor.dtype.element_size().is_some() && tensor.quantizer.is_none();
            if let (Some(storage), true, true) = (tensor.storage, plain, tensor.numel() > 0) {
                groups.entry((storage, tensor.dtype, c.dtype)).or_default().push(c.index);
            }
        }
        let mut runs = HashMap::new();
        for ((storage, dtype, _), members) in groups {
            let size = dtype.element_size().unwrap_or(1) as u64;
            let range = |i: &usize| {
                let tensor = &source.tensors[*i];
                let end = tensor.byte_offset + tensor.span().unwrap_or(0) * size;
                (tensor.byte_offset, end, tensor.byte_len().unwrap_or(0))
            };
            // Tensors that overlap, or follow each other, make a run; one that lies apart is written on its own.
            let mut sorted = members.clone();
            sorted.sort_by_key(range);
            let mut joined: Vec<(u64, u64, Vec<usize>)> = Vec::new();
            for member in sorted {
                let (start, end, _) = range(&member);
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
                runs.extend(members.into_iter().map(|m| (m, Run { storage, start, elements })));
            }
        }
        runs
    }
}

/// A run of one storage.
#[derive(Clone, Copy)]
struct Run {
    storage: usize,
    /// First byte.
    start: u64,
    elements: usize,
}

/// Tensors of the same place hold the same elements.
#[derive(PartialEq, Eq, Hash)]
struct Place(usize, u64, Vec<usize>, Vec<usize>, DType, DType);

impl Place {
    fn of(tensor: &TensorInfo, dtype: DType) -> Option<Place> {
        (tensor.numel() > 0 && tensor.quantizer.is_none()).then_some(())?;
        let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
        Some(Place(tensor.storage?, tensor.byte_offset, shape, strides, tensor.dtype, dtype))
    }
}

/// Tensors that only say how others are packed.
fn helpers(source: &Checkpoint) -> HashSet<usize> {
    let packed: HashSet<&str> = source
        .tensors
        .iter()
        .filter(|t| matches!(t.dtype, DType::Ternary(_)))
        .filter_map(|t| t.name.strip_suffix(".weight"))
        .collect();
    let is_helper = |t: &TensorInfo| {
        let layer = [".weight_scale", "_scale", "_shape"].iter().find_map(|s| t.name.strip_suffix(s));
        layer.is_some_and(|layer| packed.contains(layer)) || (t.name == "__metadata__" && !packed.is_empty())
    };
    source.tensors.iter().enumerate().filter(|(_, t)| is_helper(t)).map(|(i, _)| i).collect()
}

/// Interleaved query and key rows of llama-architecture GGUF files, when they are to go under other names.
fn rotary(source: &Checkpoint, tensor: &TensorInfo, style: Option<Style>) -> Option<Rotary> {
    let llama = matches!(source.format, Format::Gguf { .. }) && source.model.architecture == "llama";
    let query = tensor.name.ends_with(".attn_q.weight");
    if !llama || style == Some(Style::Gguf) || !(query || tensor.name.ends_with(".attn_k.weight")) {
        return None;
    }
    let Value::Dict(keys) = &source.metadata else { return None };
    let number =
        |key: &str| keys.get(&HashableValue::String(key.into())).and_then(ckpt_inspect::metadata::as_u64);
    let heads = number("llama.attention.head_count")?;
    let heads = if query { heads } else { number("llama.attention.head_count_kv").unwrap_or(heads) };
    let rows = *tensor.shape.first()? as u64;
    let fits = heads > 0 && rows.is_multiple_of(2 * heads);
    fits.then(|| Rotary { head_dim: (rows / heads) as usize })
}

/// Whether a checkpoint's key holds what only training needs.
fn is_training_state(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.contains("optim")
        || key.contains("scheduler")
        || key.contains("rng")
        || key.contains("random")
        || key == "training_state"
        || key == "scaler"
        || key.starts_with("grad_scaler")
}

fn key_text(key: &HashableValue) -> String {
    match key {
        HashableValue::String(text) => text.clone(),
        HashableValue::I64(i) => i.to_string(),
        other => other.to_string(),
    }
}

/// What a PyTorch object says beside its tensors and its training state.
fn told(entries: &BTreeMap<HashableValue, Value>) -> BTreeMap<HashableValue, Value> {
    let empty = |value: &Value| match value {
        Value::Dict(inner) => inner.is_empty(),
        Value::List(inner) => inner.is_empty(),
        _ => false,
    };
    entries
        .iter()
        .filter(|(key, value)| {
            !empty(value) && !is_training_state(&key_text(key)) && key_text(key) != "packed"
        })
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The plain values of SafeTensors and GGUF files that mean something elsewhere. Their numbers are text there.
fn carried(source: &Checkpoint, entries: &BTreeMap<HashableValue, Value>) -> BTreeMap<HashableValue, Value> {
    if matches!(source.format, Format::Gguf { .. }) {
        return BTreeMap::new();
    }
    let tied: HashSet<&str> = source.tensors.iter().map(|t| t.name.as_str()).collect();
    let number = |text: &str| match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(n), _) => Some(Value::I64(n)),
        (_, Ok(x)) if text.contains(['.', 'e']) => Some(Value::F64(x)),
        _ => None,
    };
    entries
        .iter()
        .filter(|(key, value)| {
            let names_a_tensor = matches!(value, Value::String(text) if tied.contains(text.as_str()));
            !names_a_tensor && !matches!(key_text(key).as_str(), "format" | "config.json")
        })
        .map(|(key, value)| {
            let value = match value {
                Value::String(text) => number(text).unwrap_or_else(|| value.clone()),
                other => other.clone(),
            };
            (key.clone(), value)
        })
        .collect()
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
