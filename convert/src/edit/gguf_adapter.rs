//! A LoRA adapter as a GGUF file of its own, which llama.cpp loads beside its base (`--lora`). Its form is that of llama.cpp's
//! convert_lora_to_gguf.py; the scale of a tensor there is alpha / rank (`llama_adapter_lora_weight::get_scale`).

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use ckpt_inspect::gguf::{ARCHITECTURE, Keys};
use ckpt_inspect::meaning::architecture::Role;
use ckpt_inspect::{Checkpoint, DType, Error as ReadError, Format, Result as ReadResult};
use serde_json::json;

use super::adapter::{Adapter, refused};
use super::derived::{Derived, Make, is_made};
use super::input::{Input, Reader};
use super::lora::{OtherName, orientation};
use super::targets::{Targets, role, shares_head};
use super::{Change, Draft, Edit, Row, listed};
use crate::names::{self, Style};
use crate::plan::{Blob, Content, Elements, Options, Output, Pair, Plan};
use crate::quant::Quant;
use crate::source::{rotary, row_order};
use crate::target::Target;
use crate::{Error, Result, Rotary};

/// `--adapter-of`.
pub(super) const ROW: Row = Row {
    flag: "adapter-of",
    value: Some("BASE"),
    repeats: false,
    about: "gguf: write a LoRA adapter in PEFT's form as an adapter for llama.cpp (`llama-cli --lora`); BASE is the model that it was trained for",
    settings: &[],
    make: |given| {
        Ok(Box::new(AdapterOf { base: given.values.first().map(PathBuf::from).unwrap_or_default() }))
    },
};

/// Makes a GGUF adapter of a LoRA adapter in PEFT's form.
#[derive(Clone, Debug)]
pub struct AdapterOf {
    base: PathBuf,
}

impl AdapterOf {
    /// For the model at `base`.
    pub fn new(base: impl Into<PathBuf>) -> Self {
        AdapterOf { base: base.into() }
    }
}

impl Edit for AdapterOf {
    fn inputs(&self) -> Vec<PathBuf> {
        vec![self.base.clone()]
    }

    fn apply(&self, draft: &mut Draft) -> Result<()> {
        if !matches!(draft.settings.target, Target::Gguf(_)) {
            return Err(Error::target(
                "an adapter can only be written as GGUF: give -o FILE.gguf, or merge it with --lora",
            ));
        }
        let base = ckpt_inspect::open(&self.base)?;
        let adapter = Adapter::open(&draft.checkpoint.path)?;
        let architecture = architecture(&base)?;
        let dtype = match draft.settings.quant {
            None => DType::F32,
            Some(quant @ (Quant::F32 | Quant::F16 | Quant::BF16)) => quant.dtype(),
            Some(quant) => {
                return Err(Error::target(format!(
                    "an adapter is written as f32, f16 or bf16, and not as {quant}"
                )));
            }
        };
        let targets = Targets::of(&base);
        let (mut tensors, mut rotated) = (Vec::new(), HashMap::new());
        let reader = Reader::new(&base.path);
        for (name, tensor) in &adapter.replaced {
            // PEFT saves embeddings that it changes with their changes.
            let own = targets.find(name).map(|at| &base.tensors[at]);
            let alike = own.filter(|own| own.dtype == tensor.dtype && own.shape == tensor.shape);
            let is_copy = match alike {
                Some(own) => Input::new(&reader, own).is_same(&adapter.input(tensor))?,
                None => own.is_some_and(|own| !is_made(own.dtype) || own.dtype != tensor.dtype),
            };
            if !(adapter.below.contains(name) && is_copy) {
                let why = format!(
                    "it replaces `{}` as a whole, which an adapter of GGUF cannot; merge it with --lora",
                    name.escape_debug()
                );
                return Err(refused(&adapter.path, why));
            }
        }
        let places: Vec<Option<usize>> =
            adapter.changes.keys().map(|module| targets.find(&format!("{module}.weight"))).collect();
        let unknown: Vec<&str> = adapter
            .changes
            .keys()
            .zip(&places)
            .filter(|(_, at)| at.is_none())
            .map(|(m, _)| m.as_str())
            .collect();
        if !unknown.is_empty() {
            let why = format!(
                "it is an adapter for another base: {} has no {}",
                base.path.display(),
                listed(unknown.into_iter())
            );
            return Err(refused(&adapter.path, why));
        }
        adapter.check_meant(&base)?;
        draft.changes.extend(OtherName::of(&adapter, &base).map(|change| Box::new(change) as _));
        // llama.cpp looks up rows of the embedding by token and multiplies by the same tensor, and has one adapter for both.
        let outer = |module: &&String| {
            matches!(role(&format!("{module}.weight")), Some(Role::Embedding | Role::Head))
        };
        if let Some(module) = adapter.changes.keys().find(outer).filter(|_| shares_head(&base)) {
            let why = format!(
                "it changes `{}`, and the head of {} is its embedding, of which llama.cpp takes no adapter; merge it with --lora",
                module.escape_debug(),
                base.path.display()
            );
            return Err(refused(&adapter.path, why));
        }
        for ((module, change), at) in adapter.changes.iter().zip(places) {
            let shown = module.escape_debug();
            let (Some(a), Some(b), Some(at)) = (&change.a, &change.b, at) else { continue };
            if change.magnitude.is_some() || change.bias.is_some() {
                let what = if change.bias.is_some() { "a bias" } else { "a magnitude (DoRA)" };
                let why = format!(
                    "`{shown}` has {what}, which an adapter of GGUF cannot have; merge it with --lora"
                );
                return Err(refused(&adapter.path, why));
            }
            let own = &base.tensors[at];
            let fits = orientation(&own.shape, change, Some(false), false)
                .is_some_and(|(.., turned)| turned == change.is_embedding);
            if !fits || a.shape.len() != 2 {
                let why = format!(
                    "it is an adapter for another base: {} has `{}` of shape {:?}, and its matrices are {:?} and {:?}",
                    base.path.display(),
                    own.name.escape_debug(),
                    own.shape,
                    a.shape,
                    b.shape
                );
                return Err(refused(&adapter.path, why));
            }
            let is_gguf = matches!(base.format, Format::Gguf { .. });
            let name = match is_gguf {
                true => Some(own.name.clone()),
                false => names::translate(&own.name, Style::Gguf),
            };
            let name =
                name.ok_or_else(|| refused(&adapter.path, format!("GGUF has no name for `{shown}`")))?;
            let order = match is_gguf {
                true => row_order(&base, own).map(|order| Rotary { interleave: !order.interleave, ..order }),
                false => rotary(&base, own, Some(Style::Gguf)),
            };
            let mut first = a.clone();
            if change.is_embedding {
                // Rows are looked up by token.
                first.shape.reverse();
                first.strides.reverse();
            }
            first.name = format!("{name}.lora_a");
            let unit = if adapter.alpha == 0.0 { 1.0 } else { adapter.alpha / change.rank as f64 };
            let mut second = match change.scaling / unit {
                1.0 => b.clone(),
                by => Derived::tensor(b, DType::F32, Box::new(Scaled { input: adapter.input(b), by }))?.0,
            };
            second.name = format!("{name}.lora_b");
            rotated.extend(order.map(|order| (second.name.clone(), order)));
            tensors.extend([first, second]);
        }
        adapter.check_whole(&base)?;
        let mut keys = Keys::default();
        keys.set(ARCHITECTURE, architecture.as_str());
        keys.set("general.type", "adapter");
        keys.set("adapter.type", "lora");
        keys.set("adapter.lora.alpha", &(adapter.alpha as f32));
        if let Some(name) = adapter.path.file_name() {
            keys.set("general.name", name.to_string_lossy().as_ref());
        }
        if let Some(kind) = Quant::of(dtype).and_then(Quant::file_type) {
            keys.set("general.file_type", &kind);
        }
        keys.set("general.quantization_version", &2u32);
        let change = Written {
            base: base.path.to_string_lossy().into_owned(),
            architecture,
            modules: adapter.changes.len(),
        };
        draft.changes.push(Box::new(change));
        for tensor in &mut tensors {
            tensor.group = ckpt_inspect::Group::Weights;
        }
        (draft.checkpoint.tensors, draft.rotated) = (tensors, rotated);
        (draft.keys, draft.stripped, draft.dtype) = (Some(keys), true, Some(dtype));
        Ok(())
    }
}

/// GGUF's name of the architecture of `base`.
fn architecture(base: &Checkpoint) -> Result<String> {
    if let (Format::Gguf { .. }, Some(header)) = (&base.format, base.gguf_header()) {
        let header = header?;
        return header.architecture().ok_or_else(|| Error::of_source(base, "it names no architecture"));
    }
    match base.model_config() {
        Ok(config) => Ok(config.gguf_name().to_string()),
        Err(error) => {
            let why = format!("{error}, and an adapter of GGUF names the architecture of its base");
            Err(Error::of_source(base, why))
        }
    }
}

/// What to write of the adapter in `draft`.
pub(super) fn plan<'d>(draft: &'d Draft, keys: &Keys, options: &Options) -> Result<Plan<'d>> {
    let source = &draft.checkpoint;
    let dtype = draft.dtype.unwrap_or(DType::F32);
    let mut plan = Plan {
        source,
        target: options.target,
        blobs: Vec::new(),
        tensors: Vec::new(),
        tied: Vec::new(),
        metadata: ckpt_inspect::metadata::Value::Dict(Default::default()),
        pairs: Vec::new(),
        notes: Vec::new(),
        keeps: false,
        keys: Some(keys.clone()),
    };
    for tensor in &source.tensors {
        let order = draft.rotated.get(&tensor.name).copied();
        let elements = Elements::new(tensor, order);
        let bytes = dtype.bytes_for(&tensor.shape);
        let bytes = bytes.ok_or_else(|| ReadError::damaged("its size overflows").in_tensor(&tensor.name))?;
        plan.pairs.push(Pair { elements: elements.clone(), name: tensor.name.clone() });
        plan.tensors.push(Output::new(tensor.name.clone(), dtype, tensor.shape.clone(), plan.blobs.len()));
        plan.blobs.push(Blob::new(dtype, bytes, Content::Elements(elements)));
    }
    Ok(plan)
}

/// A matrix times a number.
#[derive(Debug)]
struct Scaled {
    input: Input,
    by: f64,
}

impl Make for Scaled {
    fn make(&self, range: Range<usize>, take: &mut dyn FnMut(&[f64])) -> ReadResult<()> {
        let mut values = self.input.numbers(range)?;
        values.iter_mut().for_each(|x| *x *= self.by);
        take(&values);
        Ok(())
    }
}

/// An adapter that is one of GGUF.
#[derive(Clone, Debug)]
struct Written {
    base: String,
    architecture: String,
    modules: usize,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.modules == 1 { "" } else { "s" };
        let Written { base, architecture, modules } = self;
        write!(
            f,
            "LoRA of {modules} module{plural} as an adapter for {} ({})",
            base.escape_debug(),
            architecture.escape_debug()
        )
    }
}

impl Change for Written {
    fn record(&self) -> serde_json::Value {
        json!({"edit": ROW.flag, "base": self.base, "architecture": self.architecture, "modules": self.modules})
    }
}
