//! Making a plan: which source tensors are written, under which names and as which types.

use std::collections::{BTreeMap, HashMap, HashSet};

use ckpt_inspect::meaning::RopeScaling;
use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::{
    Checkpoint, DType, Error as ReadError, Format, Group, ModelConfig, Storage, TensorInfo, TernaryPacking,
    contiguous_strides, without_state_dict,
};

use crate::gguf::{self, Gguf};
use crate::names::{self, Style};
use crate::note::{Note, Omission, Remedy};
use crate::plain::{carried, is_training_state, key_text, values_of, without_training};
use crate::plan::{Blob, Content, Elements, Options, Output, Pair, Plan};
use crate::quant::Quant;
use crate::sharing::{Place, shared_runs, tied_names};
use crate::source::{beside_codes, gguf_student, grid, has_scale_beside, helpers, rotary};
use crate::target::Target;
use crate::ternary::Grid;
use crate::{Error, Result, complete};

/// Plans the conversion of `source`.
pub(crate) fn plan<'c>(source: &'c Checkpoint, options: &Options) -> Result<Plan<'c>> {
    // Codes are never written as if they were weights.
    let keeps = options.keep_quantized && source.tensors.iter().all(|t| t.quantized.is_none());
    if keeps && source.coding.stored > 0 && matches!(options.target, Target::Gguf(_)) {
        return Err(Error::target("GGUF holds no codes of other formats; write them dequantized"));
    }
    if let Some(why) = source.coding.refusal().filter(|_| !keeps) {
        return Err(Error::of_source(source, why));
    }
    let form = options.target.form();
    if !source.components.is_empty() && (form.is_model || options.target.packing().is_some()) {
        let names: Vec<String> = source.components.iter().map(|name| folder_name(name)).collect();
        let why = format!(
            "it consists of several models, those in {}, and the output would be one: convert each of them by itself",
            names.join(", ")
        );
        return Err(Error::of_source(source, why));
    }
    let mut builder = Builder::new(source, options)?;
    let chosen = builder.choose()?;
    builder.add(chosen)?;
    builder.note_on_the_model();
    let Builder { plan, .. } = builder;
    if plan.pairs.is_empty() {
        return Err(Error::of_source(source, "it contains no weights to convert"));
    }
    let mut names = HashSet::new();
    if let Some(twice) = plan.tensors.iter().find(|t| !names.insert(t.name.as_str())) {
        return Err(Error::target(format!(
            "two tensors of the output would both be named `{}`",
            twice.name.escape_debug()
        )));
    }
    (options.target.form().check)(&plan)?;
    // Larger than any disk, so that sums of sizes do not overflow.
    const MOST_BYTES: u64 = 1 << 60;
    let total = plan.blobs.iter().try_fold(0u64, |sum, blob| sum.checked_add(blob.bytes));
    if total.is_none_or(|total| total > MOST_BYTES) {
        return Err(ReadError::unsupported("its tensors would take more than 2^60 bytes in the output")
            .in_file(&source.path)
            .into());
    }
    Ok(plan)
}

/// The folder of a component, in words.
fn folder_name(component: &str) -> String {
    match component {
        "" => "the folder itself".into(),
        name => format!("{}/", name.escape_debug()),
    }
}

/// A source tensor and the decisions about it.
struct Chosen {
    index: usize,
    name: String,
    dtype: DType,
    grid: Option<Grid>,
}

struct Builder<'c, 'o> {
    plan: Plan<'c>,
    options: &'o Options,
    /// Whether the output has the structure of the source's object.
    nested: bool,
    /// The key under which weights are stored, with its dot.
    prefix: &'static str,
    style: Option<Style>,
    /// Whether the output's configuration gives the parameters that determine the divisors of rotary frequencies.
    config_has_rope: bool,
}

impl<'c, 'o> Builder<'c, 'o> {
    fn new(source: &'c Checkpoint, options: &'o Options) -> Result<Self> {
        let target = options.target;
        if options.keep_optimizer && !target.form().nests {
            return Err(Error::target("optimizer state can only be kept in PyTorch output")
                .remedied_by(Remedy::Target("pt")));
        }
        let pickled = !matches!(source.format, Format::SafeTensors | Format::Gguf { .. });
        let has_key = source.tensors.iter().any(|t| without_state_dict(&t.name) != t.name);
        // Readers of i2s files expect the state dict under a key.
        let keeps = matches!(target, Target::Torch | Target::Dcp);
        let nested = pickled && target.form().nests && options.root.is_none() && (has_key || keeps);
        if options.keep_optimizer && !nested {
            return Err(Error::target(
                "optimizer state can only be kept when a PyTorch source is converted as a whole, not one of its state dicts",
            ));
        }
        let mut metadata = match (nested, pickled, &source.metadata) {
            (true, _, Value::Dict(entries)) if !options.keep_optimizer => {
                let kept = entries.iter().filter(|(key, _)| !is_training_state(&key_text(key)));
                Value::Dict(kept.map(|(key, value)| (key.clone(), without_training(value))).collect())
            }
            (true, _, whole) => whole.clone(),
            (false, true, Value::Dict(entries)) => Value::Dict(values_of(entries)),
            (false, false, Value::Dict(entries)) => Value::Dict(carried(source, entries)),
            _ => Value::Dict(BTreeMap::new()),
        };
        let mut prefix = "";
        if let (Value::Dict(entries), true) = (&mut metadata, target.form().nests) {
            let packed = HashableValue::String("packed".into());
            entries.remove(&packed);
            // What resumes from a distributed checkpoint asks for names, not for a state dict.
            if !nested && target != Target::Dcp && (!entries.is_empty() || target == Target::I2s) {
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
            keeps: options.keep_quantized && source.coding.stored > 0,
        };
        let has_config = matches!(target, Target::Hf { .. }) || gguf_student(source).is_some();
        let is_llama3 = |config: ModelConfig| matches!(config.rope_scaling, RopeScaling::Llama3 { .. });
        let llama3 = || source.model_config().is_ok_and(is_llama3);
        let config_has_rope = has_config && !matches!(target, Target::Gguf(_)) && llama3();
        Ok(Builder { plan, options, nested, prefix, style, config_has_rope })
    }

    /// Notes what the output lacks to be the whole model.
    fn note_on_the_model(&mut self) {
        let (source, target) = (self.plan.source, self.options.target);
        if self.plan.keeps {
            // Its layers have other tensors than the architecture's.
            return;
        }
        if target.form().is_model {
            let note = complete::note(&self.plan);
            self.plan.notes.extend(note);
            return;
        }
        if !matches!(source.format, Format::Gguf { .. }) {
            return;
        }
        if gguf_student(source).is_none() {
            self.plan.notes.push(Note::GgufKeysLost);
        } else if source.model.holds_codes() && target.packing().is_none() && target.form().tells_values {
            self.plan.notes.push(Note::TernaryForm);
        }
    }

    /// The source tensors to write, their names and types.
    fn choose(&mut self) -> Result<Vec<Chosen>> {
        let (source, options) = (self.plan.source, self.options);
        let (helpers, beside) = (helpers(source, options.target), beside_codes(source));
        let mut chosen = Vec::new();
        let mut names: HashMap<String, &str> = HashMap::new();
        let (mut without_data, mut without_name, mut without_use) = (Vec::new(), Vec::new(), Vec::new());
        for (index, tensor) in source.tensors.iter().enumerate() {
            let inner = match &options.root {
                Some(root) => tensor.name.strip_prefix(root.as_str()).and_then(|n| n.strip_prefix('.')),
                None => Some(tensor.name.as_str()),
            };
            let Some(inner) = inner else { continue };
            let training = tensor.group == Group::Optimizer
                || (tensor.group == Group::Other && is_training_state(inner.split('.').next().unwrap_or("")));
            let in_config = self.config_has_rope && inner == names::ROPE_FACTORS;
            if helpers.contains(&index) || in_config || (training && !options.keep_optimizer) {
                continue;
            }
            if beside.contains(&index) {
                without_use.push(tensor.name.as_str());
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
                    .hint("a damaged checkpoint cannot be converted; recover what is intact first")
                    .into());
            }
            if self.is_foreign(inner) {
                without_name.push(tensor.name.as_str());
                continue;
            }
            let name = if training { inner.to_string() } else { self.name(inner) };
            if let Some(other) = names.insert(name.clone(), &tensor.name) {
                let why = format!(
                    "`{}` and `{}` would both be named `{}`; choose one state dict",
                    other.escape_debug(),
                    tensor.name.escape_debug(),
                    name.escape_debug()
                );
                return Err(Error::target(why).remedied_by(Remedy::Root));
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
                let pattern = glob.glob().glob().to_string();
                self.plan.notes.push(Note::UnmatchedType { pattern, dtype: *dtype });
            }
        }
        let left_out = [
            (without_data, Omission::NoData),
            (without_name, Omission::NoName),
            (without_use, Omission::NoCodes),
        ];
        for (left_out, why) in left_out {
            if let Some(first) = left_out.first() {
                let (count, first) = (left_out.len(), first.to_string());
                self.plan.notes.push(Note::LeftOut { count, first, why });
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
            return Error::target(format!(
                "`{}` contains training state, not weights; give the key of a state dict",
                root.escape_debug()
            ));
        }
        let weights = self.plan.source.tensors.iter().filter(|t| t.group != Group::Optimizer);
        let mut keys: Vec<&str> = weights.filter_map(|t| Some(t.name.split_once('.')?.0)).collect();
        keys.dedup();
        keys.truncate(8);
        Error::target(format!(
            "no tensor's name begins with `{}.`; keys that contain tensors: {}",
            root.escape_debug(),
            keys.join(", ")
        ))
    }

    /// Whether a tensor has no name in GGUF: neither one that readers know, nor one that it had in a GGUF source.
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
        let packed = matches!(tensor.dtype, DType::Ggml(_) | DType::Ternary(_) | DType::Quantized(_));
        let real = tensor.dtype.is_float() || packed || quantized;
        let bare = without_state_dict(name);
        let chosen =
            self.options.dtypes.iter().find(|(glob, _)| glob.is_match(bare)).map(|(_, dtype)| *dtype);
        let plain = match real && !self.plan.keeps {
            true => chosen.or(self.options.dtype),
            false => None,
        };
        let own = if tensor.dtype.is_float() || !real { tensor.dtype } else { DType::F32 };
        let dtype = plain.unwrap_or(own);
        // The rules of GGUF decide on real numbers.
        let ruled = real && matches!(self.options.target, Target::Gguf(_));
        let form = self.options.target.form();
        if !ruled && !(form.holds)(dtype) {
            let why = format!(
                "tensor `{}` has elements of type {dtype}, which {} cannot hold",
                tensor.name.escape_debug(),
                form.reader
            );
            return Err(Error::target(why).remedied_by((form.instead)(dtype)));
        }
        Ok(dtype)
    }

    /// Decides which matrices are packed, and finds their scales.
    fn settle_grids(&mut self, chosen: &mut [Chosen]) -> Result<()> {
        let (source, options) = (self.plan.source, self.options);
        let Some(packing) = options.target.packing() else { return Ok(()) };
        let student = source.model.student.as_ref();
        let floor = source.model.quantization_floor();
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
            self.plan.notes.push(Note::Unpacked { count: misfits });
        }
        for c in chosen.iter_mut() {
            let tensor = &source.tensors[c.index];
            if !packable(c) || !packing.tells_rows(&tensor.shape) {
                continue;
            }
            c.grid = Some(grid(source, tensor, floor)?);
        }
        let packed: Vec<&Chosen> = chosen.iter().filter(|c| c.grid.is_some()).collect();
        if packed.is_empty() {
            return Err(match &options.ternary {
                Some(glob) => Error::of_source(
                    source,
                    format!(
                        "none of its matrices, by their names in the output, matches '{}'",
                        glob.glob().glob().escape_debug()
                    ),
                ),
                None => Error::of_source(
                    source,
                    "none of its matrices is known to be ternary; choose them by a pattern",
                )
                .remedied_by(Remedy::Ternary("*_proj.weight")),
            });
        }
        let rounded = packed.iter().filter(|c| c.grid.is_some_and(|g| !g.exact)).count();
        if rounded > 0 {
            self.plan.notes.push(Note::Rounded { count: rounded, as_in_training: student.is_some() });
        }
        if student.is_some_and(|s| s.bitlinear_per_channel) {
            self.plan.notes.push(Note::RowScalesLost);
        }
        let unscaled = packed.iter().filter(|c| c.grid.is_some_and(|g| g.scale.is_none())).count();
        if unscaled > 0 {
            self.plan.notes.push(Note::Unscaled { count: unscaled });
        }
        if packing == TernaryPacking::I2sUnscaled {
            self.plan.notes.push(Note::ScalesLost);
        }
        Ok(())
    }

    /// Decides the types of GGUF output, and which matrices are written in their ternary form.
    fn settle_quants(&mut self, settings: Gguf, chosen: &mut [Chosen]) -> Result<()> {
        let (source, options) = (self.plan.source, self.options);
        let floor = source.model.quantization_floor();
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
            let pattern = glob.glob().glob().to_string();
            self.plan.notes.push(Note::UnmatchedTernary { pattern });
        }
        let unknown = gguf::is_unknown(source);
        let mut choices = gguf::Choices::default();
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
            let can_be = |quant: &Quant| quant.is_made() || quant.dtype() == tensor.dtype;
            let asked = asked
                .map(|dtype| Quant::of(dtype).filter(can_be).ok_or(dtype))
                .transpose()
                .map_err(|dtype| Error::target(format!("weights cannot be written to GGUF as {dtype}")))?;
            let mut quant = rules.quant(&c.name, tensor, ternary, asked, &mut choices);
            c.dtype = quant.dtype();
            let packed = matches!(tensor.dtype, DType::Ternary(_));
            // A matrix whose scale was stored next to it keeps it there.
            let beside = settings.exact_scales || has_scale_beside(tensor);
            let needs_scale = quant == Quant::I2S || (beside && quant.is_ternary());
            // Blocks that are already ternary keep their scales.
            let has_blocks = matches!(tensor.dtype, DType::Ggml(_)) && tensor.dtype.is_ternary();
            let rounds = ternary && !settings.latent && !has_blocks && !packed;
            if (quant.is_ternary() && (packed || needs_scale)) || rounds {
                let grid = grid(source, tensor, floor)?;
                // Codes that a coarser type has rounded already are written as they are, not rounded again.
                if !grid.exact && source.model.holds_codes() && !quant.is_ternary() {
                    continue;
                }
                if !quant.is_made() {
                    quant = rules.fallback();
                    c.dtype = quant.dtype();
                }
                choices.grid(&c.name, quant, grid, beside);
                c.grid = Some(grid);
            }
        }
        self.plan.notes.extend(choices.notes(source));
        Ok(())
    }

    fn add(&mut self, chosen: Vec<Chosen>) -> Result<()> {
        let lost = chosen.iter().filter(|c| {
            let tensor = &self.plan.source.tensors[c.index];
            c.grid.is_none() && matches!(tensor.dtype, DType::Ternary(_)) && tensor.scale.is_none()
        });
        let lost = lost.count();
        if lost > 0 {
            self.plan.notes.push(Note::BareCodes { count: lost });
        }
        let unpacked = chosen.iter().filter(|c| c.grid.is_none()).map(|c| (c.index, c.dtype));
        let form = self.options.target.form();
        let shared = match form.shares {
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

    /// A tensor of a GGUF file, and its scale if that is a separate tensor.
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
            // Readers accept that one pair of names may share a tensor.
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
        let copied = tensor.dtype == c.dtype && quant != Some(Quant::I2S) && c.grid.is_none();
        let beside = settings.exact_scales || has_scale_beside(tensor);
        let unit_scale = beside && matches!(quant, Some(Quant::Tq1_0 | Quant::Tq2_0)) && c.grid.is_some();
        let scales = match (unit_scale, tensor.scale, &tensor.scales) {
            (true, ..) => Some(vec![c.grid.and_then(|g| g.scale).unwrap_or(1.0).abs()]),
            (false, Some(scale), _) if copied => Some(vec![scale]),
            (false, None, Some(scales)) if copied => Some(scales.to_vec()),
            _ => None,
        };
        let content = match quant {
            Some(quant) if quant.is_packed() && !copied => Content::Blocks { elements, quant, unit_scale },
            _ => Content::Elements(elements),
        };
        let layer = c.name.strip_suffix(".weight").unwrap_or(&c.name).to_string();
        self.add_whole(c.name, c.dtype, shape, bytes, content);
        if let Some(scales) = scales {
            let name = format!("{layer}.scale");
            let bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            let (shape, len) = (vec![scales.len()], bytes.len() as u64);
            self.add_whole(name, DType::F32, shape, len, Content::Bytes(bytes));
        }
        Ok(())
    }

    fn add_whole(&mut self, name: String, dtype: DType, shape: Vec<usize>, bytes: u64, content: Content) {
        self.plan.blobs.push(Blob { dtype, bytes, content });
        let (blob, strides) = (self.plan.blobs.len() - 1, contiguous_strides(&shape));
        self.plan.tensors.push(Output { name, dtype, shape, strides, blob, offset: 0 });
    }

    /// A packed matrix and the tensors that go with it in this form.
    fn add_packed(
        &mut self,
        name: String,
        mut elements: Elements,
        grid: Grid,
        shapes: &mut serde_json::Map<String, serde_json::Value>,
    ) -> Result<()> {
        let shape = elements.tensor.shape.clone();
        if matches!(elements.tensor.dtype, DType::Ternary(_)) {
            // Codes are read as they are; the scale is written separately.
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
