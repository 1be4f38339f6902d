//! Making a plan: which source tensors are written, under which names, as what.

use std::collections::{BTreeMap, HashMap, HashSet};

use ckpt_inspect::meaning::RopeScaling;
use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::{
    Checkpoint, DType, Error as ReadError, Format, Group, ModelConfig, Storage, TensorInfo, TernaryPacking,
    contiguous_strides, without_state_dict,
};

use crate::gguf::{self, Gguf};
use crate::names::{self, Style};
use crate::plain::{carried, is_training_state, key_text, told};
use crate::plan::{Blob, Content, Elements, Options, Output, Pair, Plan};
use crate::quant::Quant;
use crate::sharing::{Place, shared_runs, tied_names};
use crate::source::{gguf_student, grid, has_scale_beside, helpers, rotary};
use crate::target::Target;
use crate::ternary::Grid;
use crate::{Error, Result, complete};

/// Plans the conversion of `source`.
pub(crate) fn plan<'c>(source: &'c Checkpoint, options: &Options) -> Result<Plan<'c>> {
    let mut builder = Builder::new(source, options)?;
    let chosen = builder.choose()?;
    builder.add(chosen)?;
    builder.tell_of_the_model();
    let Builder { plan, .. } = builder;
    if plan.pairs.is_empty() {
        return Err(Error::of_source(source, "no tensor in it is a weight that could be converted"));
    }
    let mut names = HashSet::new();
    if let Some(twice) = plan.tensors.iter().find(|t| !names.insert(t.name.as_str())) {
        return Err(Error::Target(format!(
            "two tensors of the output would be called `{}`",
            twice.name.escape_debug()
        )));
    }
    (options.target.form().check)(&plan)?;
    // Beyond any disk; and sums of what is written stay in range.
    const MOST_BYTES: u64 = 1 << 60;
    let total = plan.blobs.iter().try_fold(0u64, |sum, blob| sum.checked_add(blob.bytes));
    if total.is_none_or(|total| total > MOST_BYTES) {
        return Err(ReadError::unsupported("its tensors, written out, would take more than 2^60 bytes")
            .in_file(&source.path)
            .into());
    }
    Ok(plan)
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
    /// Whether the output's configuration says what the divisors of rotary frequencies are made of.
    tells_rope: bool,
}

impl<'c, 'o> Builder<'c, 'o> {
    fn new(source: &'c Checkpoint, options: &'o Options) -> Result<Self> {
        let target = options.target;
        if options.keep_optimizer && !target.form().nests {
            return Err(Error::Target(
                "only PyTorch output (--to pt, fp32, f16, bf16, i2s) holds optimizer state".into(),
            ));
        }
        let pickled = !matches!(source.format, Format::SafeTensors | Format::Gguf { .. });
        let has_key = source.tensors.iter().any(|t| without_state_dict(&t.name) != t.name);
        // The seed's i2s form has its state dict under a key.
        let nested =
            pickled && target.form().nests && options.root.is_none() && (has_key || target == Target::Torch);
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
        if let (Value::Dict(entries), true) = (&mut metadata, target.form().nests) {
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
        let unknown = matches!(target, Target::Gguf(_)) && gguf::is_unknown(source);
        let style = options.names.or(target.style(source)).filter(|_| !unknown);
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
        let has_config = matches!(target, Target::Hf { .. }) || gguf_student(source).is_some();
        let is_llama3 = |config: ModelConfig| matches!(config.rope_scaling, RopeScaling::Llama3 { .. });
        let llama3 = || source.model_config().is_ok_and(is_llama3);
        let tells_rope = has_config && !matches!(target, Target::Gguf(_)) && llama3();
        Ok(Builder { plan, options, nested, prefix, style, tells_rope })
    }

    /// What is to be told of the model as a whole.
    fn tell_of_the_model(&mut self) {
        let (source, target) = (self.plan.source, self.options.target);
        if target.form().is_model {
            let note = complete::note(&self.plan);
            self.plan.notes.extend(note);
            return;
        }
        if !matches!(source.format, Format::Gguf { .. }) {
            return;
        }
        if gguf_student(source).is_none() {
            self.plan.notes.push(
                "what the GGUF keys say of the model has no place in such a file; --to hf writes it as config.json"
                    .into(),
            );
        } else if source.model.holds_codes() && target.packing().is_none() && target.form().tells_values {
            self.plan.notes.push(
                "BitLinear matrices are in their ternary form, and `latent: false` in the config says so to this suite; a trainer would make them ternary again, with mean|W| for their scale"
                    .into(),
            );
        }
    }

    /// The source tensors to write, their names and types.
    fn choose(&mut self) -> Result<Vec<Chosen>> {
        let (source, options) = (self.plan.source, self.options);
        let helpers = helpers(source);
        let mut chosen = Vec::new();
        let mut names: HashMap<String, &str> = HashMap::new();
        let (mut without_data, mut without_name) = (Vec::new(), Vec::new());
        for (index, tensor) in source.tensors.iter().enumerate() {
            let inner = match &options.root {
                Some(root) => tensor.name.strip_prefix(root.as_str()).and_then(|n| n.strip_prefix('.')),
                None => Some(tensor.name.as_str()),
            };
            let Some(inner) = inner else { continue };
            let training = tensor.group == Group::Optimizer
                || (tensor.group == Group::Other && is_training_state(inner.split('.').next().unwrap_or("")));
            let told = self.tells_rope && inner == names::ROPE_FACTORS;
            if helpers.contains(&index) || told || (training && !options.keep_optimizer) {
                continue;
            }
            if tensor.storage.is_none() && tensor.sparse.is_none() {
                without_data.push(tensor.name.as_str());
                continue;
            }
            if let Some(damage) = &tensor.damage {
                return Err(ReadError::from(damage)
                    .in_tensor(&tensor.name)
                    .in_file(&source.path)
                    .hint("a damaged checkpoint is not converted")
                    .into());
            }
            if self.is_foreign(inner) {
                without_name.push(tensor.name.as_str());
                continue;
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
        for (glob, dtype) in &options.dtypes {
            if !chosen.iter().any(|c| glob.is_match(without_state_dict(&c.name))) {
                self.plan.notes.push(format!(
                    "no tensor of the output matches --dtype '{}={dtype}'",
                    glob.glob().glob().escape_debug()
                ));
            }
        }
        let why = [(without_data, "were saved without data"), (without_name, "have no name in GGUF")];
        for (left_out, why) in why {
            if let Some(first) = left_out.first() {
                self.plan.notes.push(format!(
                    "{} tensors {why} and are left out, such as `{}`",
                    left_out.len(),
                    first.escape_debug()
                ));
            }
        }
        match options.target {
            Target::Gguf(settings) => self.settle_quants(settings, &mut chosen)?,
            _ => self.settle_grids(&mut chosen)?,
        }
        Ok(chosen)
    }

    fn no_root(&self, root: &str) -> Error {
        let within = |t: &TensorInfo| t.name.strip_prefix(root).is_some_and(|rest| rest.starts_with('.'));
        if self.plan.source.tensors.iter().any(within) {
            return Error::Target(format!(
                "what is under `{}` is training state, not weights; name a state dict",
                root.escape_debug()
            ));
        }
        let weights = self.plan.source.tensors.iter().filter(|t| t.group != Group::Optimizer);
        let mut keys: Vec<&str> = weights.filter_map(|t| Some(t.name.split_once('.')?.0)).collect();
        keys.dedup();
        keys.truncate(8);
        Error::Target(format!(
            "no tensor's name begins with `{}.`; keys that hold tensors: {}",
            root.escape_debug(),
            keys.join(", ")
        ))
    }

    /// Whether GGUF has no place for a tensor: neither a name that its readers know, nor one it had in GGUF before.
    fn is_foreign(&self, inner: &str) -> bool {
        let from_gguf = matches!(self.plan.source.format, Format::Gguf { .. });
        let known = names::translate(without_state_dict(inner), Style::Gguf).is_some();
        let nameless = !from_gguf && !known && !gguf::is_unknown(self.plan.source);
        matches!(self.options.target, Target::Gguf(_)) && nameless
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
        let packed = matches!(tensor.dtype, DType::Ggml(_) | DType::Ternary(_));
        let real = tensor.dtype.is_float() || packed || quantized;
        let bare = without_state_dict(name);
        let chosen =
            self.options.dtypes.iter().find(|(glob, _)| glob.is_match(bare)).map(|(_, dtype)| *dtype);
        let plain = match real {
            true => chosen.or(self.options.dtype),
            false => None,
        };
        let own = if tensor.dtype.is_float() || !real { tensor.dtype } else { DType::F32 };
        let dtype = plain.unwrap_or(own);
        // The rules of GGUF decide on real numbers.
        let ruled = real && matches!(self.options.target, Target::Gguf(_));
        let form = self.options.target.form();
        if !ruled && !(form.holds)(dtype) {
            return Err(Error::Target(format!(
                "tensor `{}` has elements of type {dtype}, which {} cannot hold; write it with {}",
                tensor.name.escape_debug(),
                form.reader,
                (form.instead)(dtype)
            )));
        }
        Ok(dtype)
    }

    /// Decides which matrices are packed, and finds their scales.
    fn settle_grids(&mut self, chosen: &mut [Chosen]) -> Result<()> {
        let (source, options) = (self.plan.source, self.options);
        let Some(packing) = options.target.packing() else { return Ok(()) };
        let student = source.model.student.as_ref();
        let eps = source.model.quantization_eps();
        let packable = |c: &Chosen| {
            let tensor = &source.tensors[c.index];
            let wanted = match &options.ternary {
                Some(glob) => glob.is_match(without_state_dict(&c.name)),
                None => source.model.is_ternary(tensor),
            };
            wanted && tensor.shape.len() == 2 && c.name.ends_with(".weight") && tensor.group == Group::Weights
        };
        let misfits =
            chosen.iter().filter(|c| packable(c) && !packing.tells_rows(&source.tensors[c.index].shape));
        let misfits = misfits.count();
        if misfits > 0 {
            self.plan.notes.push(format!(
                "{misfits} matrices stay unpacked: their rows are not a multiple of 4, as this packing needs"
            ));
        }
        for c in chosen.iter_mut() {
            let tensor = &source.tensors[c.index];
            if !packable(c) || !packing.tells_rows(&tensor.shape) {
                continue;
            }
            c.grid = Some(grid(source, tensor, eps)?);
        }
        let packed: Vec<&Chosen> = chosen.iter().filter(|c| c.grid.is_some()).collect();
        if packed.is_empty() {
            let why = match &options.ternary {
                Some(glob) => format!(
                    "no matrix in it, as they are called in the output, matches --ternary '{}'",
                    glob.glob().glob().escape_debug()
                ),
                None => "no matrix in it is known to be ternary; choose them with --ternary '*_proj.weight'"
                    .into(),
            };
            return Err(Error::of_source(source, why));
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

    /// Decides the types of GGUF output, and which matrices are written in their ternary form.
    fn settle_quants(&mut self, settings: Gguf, chosen: &mut [Chosen]) -> Result<()> {
        let (source, options) = (self.plan.source, self.options);
        let eps = source.model.quantization_eps();
        let is_ternary = |name: &str, tensor: &TensorInfo| {
            let wanted = match &options.ternary {
                Some(glob) => glob.is_match(name),
                None => source.model.is_ternary(tensor),
            };
            wanted && tensor.shape.len() == 2 && !gguf::is_outer(name)
        };
        let any = chosen.iter().any(|c| is_ternary(&c.name, &source.tensors[c.index]));
        let rules = gguf::Rules::new(settings, source, any, options.ternary.as_ref())?;
        if let (Some(glob), false) = (&options.ternary, any) {
            self.plan.notes.push(format!(
                "no matrix of the output matches --ternary '{}', so none is made ternary",
                glob.glob().glob().escape_debug()
            ));
        }
        let unknown = gguf::is_unknown(source);
        let mut told = gguf::Told::default();
        for c in chosen.iter_mut() {
            let tensor = &source.tensors[c.index];
            let ternary = is_ternary(&c.name, tensor);
            let asked = options.dtypes.iter().find(|(glob, _)| glob.is_match(&c.name));
            let asked = asked.map(|(_, dtype)| *dtype).or(options.dtype);
            let plain = gguf::ggml_of(c.dtype).is_some() && c.dtype.element_size().is_some();
            let keeps = rules.keeps_types() && asked.is_none() && (unknown || c.dtype == DType::F64);
            if plain && (keeps || !c.dtype.is_float()) {
                continue;
            }
            let asked = asked
                .map(|dtype| Quant::of(dtype).ok_or(dtype))
                .transpose()
                .map_err(|dtype| Error::Target(format!("GGUF weights are not written as {dtype}")))?;
            let quant = rules.quant(&c.name, tensor, ternary, asked, &mut told);
            c.dtype = quant.dtype();
            let packed = matches!(tensor.dtype, DType::Ternary(_));
            // A matrix whose scale stood beside it keeps it there.
            let beside = settings.exact_scales || has_scale_beside(tensor);
            let needs_scale = quant == Quant::I2S || (beside && quant.is_ternary());
            // Blocks that are ternary already keep their scales.
            let has_blocks = matches!(tensor.dtype, DType::Ggml(_)) && tensor.dtype.is_ternary();
            let rounds = ternary && !settings.latent && !has_blocks && !packed;
            if (quant.is_ternary() && (packed || needs_scale)) || rounds {
                let grid = grid(source, tensor, eps)?;
                // What a coarser type made of codes is computed with as it is.
                if !grid.exact && source.model.holds_codes() && !quant.is_ternary() {
                    continue;
                }
                told.grid(&c.name, quant, grid, beside);
                c.grid = Some(grid);
            }
        }
        self.plan.notes.extend(told.notes(source));
        Ok(())
    }

    fn add(&mut self, chosen: Vec<Chosen>) -> Result<()> {
        let lost = chosen.iter().filter(|c| {
            let tensor = &self.plan.source.tensors[c.index];
            c.grid.is_none() && matches!(tensor.dtype, DType::Ternary(_)) && tensor.scale.is_none()
        });
        let lost = lost.count();
        if lost > 0 {
            self.plan.notes.push(format!(
                "{lost} packed source matrices have no scale: they become -1, 0, +1 themselves"
            ));
        }
        let unpacked = chosen.iter().filter(|c| c.grid.is_none()).map(|c| (c.index, c.dtype));
        let form = self.options.target.form();
        let shared = match form.nests {
            true => shared_runs(self.plan.source, unpacked),
            false => HashMap::new(),
        };
        let mut blobs_of_runs: HashMap<(Storage, u64, DType, DType), usize> = HashMap::new();
        let mut identical: HashMap<Place, String> = HashMap::new();
        let mut shapes = serde_json::Map::new();
        for c in chosen {
            let tensor = &self.plan.source.tensors[c.index];
            let mut elements = Elements::new(tensor.clone(), rotary(self.plan.source, tensor, self.style));
            if let Target::Gguf(settings) = self.options.target {
                elements.grid = c.grid;
                self.add_gguf(c, elements, settings, &mut identical)?;
                continue;
            }
            self.plan.pairs.push(Pair { elements: elements.clone(), name: c.name.clone() });
            if let Some(grid) = c.grid {
                self.add_packed(c.name, elements, grid, &mut shapes)?;
                continue;
            }
            if let Some(run) = shared.get(&c.index) {
                let size = c.dtype.element_size().unwrap_or(1);
                let source_size = tensor.dtype.element_size().unwrap_or(1) as u64;
                let blob = *blobs_of_runs
                    .entry((run.storage.clone(), run.start, tensor.dtype, c.dtype))
                    .or_insert_with(|| {
                        let mut whole = tensor.clone();
                        (whole.shape, whole.strides) = (vec![run.elements], vec![1]);
                        whole.byte_offset = run.start;
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
            if let (true, Some(place)) = (form.ties, Place::of(tensor, c.dtype)) {
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
        if let (Target::Gguf(_), Some(factors)) = (self.options.target, gguf::rope_factors(self.plan.source))
        {
            let bytes: Vec<u8> = factors.iter().flat_map(|x| x.to_le_bytes()).collect();
            let (shape, len) = (vec![factors.len()], bytes.len() as u64);
            self.add_whole(names::ROPE_FACTORS.into(), DType::F32, shape, len, Content::Bytes(bytes));
        }
        if self.options.target == Target::I2sSafeTensors {
            let text = serde_json::Value::Object(shapes).to_string().into_bytes();
            let shape = vec![text.len()];
            self.add_whole("__metadata__".into(), DType::U8, shape, text.len() as u64, Content::Bytes(text));
        }
        Ok(())
    }

    /// A tensor of a GGUF file, and its scale where that stands beside it.
    fn add_gguf(
        &mut self,
        c: Chosen,
        elements: Elements,
        settings: Gguf,
        identical: &mut HashMap<Place, String>,
    ) -> Result<()> {
        let (tensor, quant) = (&elements.tensor, Quant::of(c.dtype));
        self.plan.pairs.push(Pair { elements: elements.clone(), name: c.name.clone() });
        if let Some(place) = Place::of(tensor, c.dtype) {
            // Readers know of one pair that may be one tensor.
            match identical.get(&place) {
                Some(other) if gguf::is_tied_pair(&c.name, other) => {
                    self.plan.tied.push((c.name, other.clone()));
                    return Ok(());
                }
                Some(_) => {}
                None => {
                    identical.insert(place, c.name.clone());
                }
            }
        }
        let shape = tensor.shape.clone();
        let bytes = gguf::ggml_of(c.dtype)
            .and_then(|ggml| ggml.bytes_for(&shape))
            .ok_or_else(|| ReadError::damaged("its size overflows").in_tensor(&tensor.name))?;
        let same = tensor.dtype == c.dtype && quant != Some(Quant::I2S) && tensor.scale.is_none();
        let beside = settings.exact_scales || has_scale_beside(tensor);
        let unit_scale = beside && matches!(quant, Some(Quant::Tq1_0 | Quant::Tq2_0)) && c.grid.is_some();
        let scale = c.grid.and_then(|g| g.scale).unwrap_or(1.0).abs();
        let content = match quant {
            Some(quant) if quant.is_packed() && !(same && c.grid.is_none()) => {
                Content::Blocks { elements, quant, unit_scale }
            }
            _ => Content::Elements(elements),
        };
        let layer = c.name.strip_suffix(".weight").unwrap_or(&c.name).to_string();
        self.add_whole(c.name, c.dtype, shape, bytes, content);
        if unit_scale {
            let name = format!("{layer}.scale");
            self.add_whole(name, DType::F32, vec![1], 4, Content::Bytes(scale.to_le_bytes().to_vec()));
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
    ) -> Result<()> {
        let shape = elements.tensor.shape.clone();
        if matches!(elements.tensor.dtype, DType::Ternary(_)) {
            // Codes are read as they are; the scale goes its own way.
            elements.tensor.scale = Some(1.0);
        }
        let layer = name.strip_suffix(".weight").unwrap_or(&name).to_string();
        let scale = grid.scale.unwrap_or(1.0).to_le_bytes().to_vec();
        let packing = self.options.target.packing().unwrap_or(TernaryPacking::I2s);
        let (Some(bytes), Some(stored)) = (packing.bytes_for(&shape), packing.stored(&shape)) else {
            return Err(ReadError::damaged("its size overflows").in_tensor(&elements.tensor.name).into());
        };
        let content = Content::Codes { elements, packing, grid };
        self.add_whole(name.clone(), DType::U8, stored, bytes, content);
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
        Ok(())
    }
}
