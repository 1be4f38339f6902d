//! Making a plan: which source tensors are written, under which names and as which types.

mod choose;
pub(crate) mod experts;
mod kept;
mod outputs;
mod types;

use std::collections::{BTreeMap, HashSet};

use ckpt_inspect::meaning::architecture::Kind;
use ckpt_inspect::meaning::names::Names;
use ckpt_inspect::meaning::{Averaged, Quantization, RopeScaling, StateDicts, role};
use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::stored::Stored;
use ckpt_inspect::{
    Checkpoint, DType, Error as ReadError, Format, Group, MODEL_STATE, ModelConfig, NoticeKind, Role,
    TensorInfo, holds_objects, is_of_optimizer, is_training_state,
};

use crate::names::Style;
use crate::note::{Note, Omission, Remedy};
use crate::plain::{carried, key_text, values_of, without_training};
use crate::plan::{Options, Plan};
use crate::source::gguf_student;
use crate::target::Target;
use crate::ternary::Grid;
use crate::{Error, Result, complete, gguf};
use kept::Kept;

/// Plans the conversion of `source`.
pub(crate) fn plan<'c>(source: &'c Checkpoint, options: &Options) -> Result<Plan<'c>> {
    // Codes are never written as if they were weights.
    let is_stored = !matches!(options.target, Target::Gguf(_));
    let keeps = options.keep_quantized && is_stored && source.tensors.iter().all(|t| t.quantized.is_none());
    if let Some(why) = source.coding.refusal().filter(|_| !keeps) {
        return Err(Error::of_source(source, why));
    }
    let of_weights = |name: &String| options.keep_optimizer || !is_of_optimizer(name);
    let unread =
        source.warnings.iter().find(|n| n.kind == NoticeKind::Unread && n.tensors.iter().any(of_weights));
    if let Some(notice) = unread.filter(|_| !options.allow_incomplete) {
        return Err(Error::Unread { path: source.path.clone(), why: notice.text.clone() });
    }
    let form = options.target.form();
    if keeps && !options.decode_the_rest {
        refuse_losses(source, options.target)?;
    }
    if !source.components.is_empty() && (form.is_model || options.target.packing().is_some()) {
        let names: Vec<String> = source.components.iter().map(|name| folder_name(name)).collect();
        let why = format!(
            "it consists of several models, those in {}, and the output would be one: convert each of them by itself",
            names.join(", ")
        );
        return Err(Error::of_source(source, why));
    }
    if (form.is_model || options.target.packing().is_some()) && is_adapter(source) {
        let why = "it is a LoRA adapter: small matrices that change a model that is not in this file; merge the two first, for example with PEFT's `merge_and_unload`";
        return Err(Error::of_source(source, why));
    }
    let quantization = source.model.quantization.as_ref();
    let scaled = quantization.is_some_and(Quantization::scales_outputs);
    let packs = options.target == (Target::Hf { packed: true });
    let biased = || Names::of(source).played().any(|(role, _)| role.kind() == Kind::Bias);
    if form.is_model && !keeps && scaled != packs && (packs || quantization.is_some()) && biased() {
        let why = "its layers have biases; transformers multiplies these by the scale if the matrix is packed, so they would change";
        return Err(Error::of_source(source, why));
    }
    if let (true, Some(rounding)) = (form.is_model && !keeps, quantization.and_then(|q| q.other.as_ref())) {
        return Err(Error::of_source(source, format!("it {rounding}, which the output could not say")));
    }
    let averaged = without_average(source, options);
    let own = averaged.map(|averaged| options.clone().with(|o| o.root = Some(averaged.network.into())));
    let mut builder = Builder::new(source, own.as_ref().unwrap_or(options))?;
    if let Some(Averaged { network, average, .. }) = averaged {
        builder.plan.notes.push(Note::AverageLeftOut { network: network.into(), average: average.into() });
    }
    let chosen = builder.choose()?;
    builder.add(chosen)?;
    if builder.plan.pairs.is_empty() {
        // Of a model that the form has no name for, that says more.
        (form.check)(&builder.plan)?;
        if matches!(options.target, Target::Gguf(_)) {
            gguf::check_architecture(source)?;
        }
        let nameless = builder.plan.notes.iter().find_map(|note| match note {
            Note::LeftOut { count, first, why: Omission::NoName } => Some((*count, first.escape_debug())),
            _ => None,
        });
        return Err(Error::of_source(
            source,
            match nameless {
                Some((count, first)) => format!(
                    "none of its {count} tensors is called like one of such a model, the first is `{first}`"
                ),
                None => "it contains no weights to convert".into(),
            },
        ));
    }
    builder.note_on_the_model()?;
    let Builder { plan, .. } = builder;
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

/// The network and its moving average, of which only the first is written where nobody said which: what training measures, and
/// what is run, are the weights themselves. Of other networks than those that are trained here, it is not known which of the two
/// is meant; an output of several dicts has both.
fn without_average<'c>(source: &'c Checkpoint, options: &Options) -> Option<Averaged<'c>> {
    let is_nested = options.target.form().nests;
    let is_open = options.root.is_none() && !is_nested && source.model.student.is_some();
    is_open.then(|| StateDicts::averaged(source))?
}

/// Refuses to keep what the target cannot hold: blocks of GGUF and other packings, and what a configuration says of codes.
fn refuse_losses(source: &Checkpoint, target: Target) -> Result<()> {
    let is_packed = |dtype: DType| {
        matches!(dtype, DType::Ggml(_) | DType::Ternary(_) | DType::QI8 | DType::QU8 | DType::QI32)
    };
    let reader = target.form().reader;
    if let Some(tensor) = source.tensors.iter().find(|t| t.group == Group::Weights && is_packed(t.dtype)) {
        let (name, dtype) = (tensor.name.escape_debug(), tensor.dtype);
        return Err(Error::of_source(source, format!("`{name}` is {dtype}, which {reader} cannot keep")));
    }
    let instance = |t: &TensorInfo| t.instance.clone().filter(|_| t.group != Group::Optimizer);
    if let Some((tensor, instance)) = source.tensors.iter().find_map(|t| Some((t, instance(t)?))) {
        let (name, class) = (tensor.name.escape_debug(), instance.class.escape_debug());
        let why = format!(
            "`{name}` is an instance of a class, {class}: its parts could be kept, and not what they are"
        );
        return Err(Error::of_source(source, why));
    }
    let has_config = matches!(target, Target::Hf { .. });
    if let (Some(method), true, false) = (&source.coding.method, source.coding.stored > 0, has_config) {
        let why = format!(
            "its quantization settings ({}) would be lost: only a folder has a config.json",
            method.escape_debug()
        );
        return Err(Error::of_source(source, why).remedied_by(Remedy::Target("hf")));
    }
    Ok(())
}

/// Whether it holds low-rank changes to a model's matrices, and no model.
fn is_adapter(source: &Checkpoint) -> bool {
    let weights = source.tensors.iter().zip(role::roles(&source.tensors));
    let mut matrices = weights.filter(|(t, _)| t.group == Group::Weights && t.shape.len() > 1).peekable();
    matrices.peek().is_some() && matrices.all(|(_, role)| matches!(role, Role::LoraA | Role::LoraB))
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
    /// What is written where that is not the source's tensor itself: a part of it, or several of them together.
    tensor: Option<Box<TensorInfo>>,
    grid: Option<Grid>,
    /// Set if its codes and scales are kept in blocks.
    kept: Option<Kept>,
}

impl Chosen {
    /// What is written.
    fn tensor<'t>(&'t self, source: &'t Checkpoint) -> &'t TensorInfo {
        self.tensor.as_deref().unwrap_or(&source.tensors[self.index])
    }
}

/// The key of the weights where the output has those of a folder, and what its trainer keeps beside them.
const MODEL: &str = "model";

/// Whether an optimizer in a file of its own belongs to the model of the folder `source`.
fn has_optimizer_beside(source: &Checkpoint) -> bool {
    let joins = matches!(source.format, Format::TorchDistributed | Format::DeepSpeed);
    !joins && source.path.is_stored_folder() && source.tensors.iter().any(|t| t.group == Group::Optimizer)
}

struct Builder<'c, 'o> {
    plan: Plan<'c>,
    options: &'o Options,
    /// Whether the output has the structure of the source's object.
    nested: bool,
    /// Whether it is a model and its optimizer, of files of one folder.
    joined: bool,
    /// The key under which weights are stored, with its dot, if there is one.
    prefix: String,
    style: Option<Style>,
    /// Which of the source's names begin with the key of a dict that was saved.
    dicts: StateDicts<'c>,
    /// What all weights' names begin with, where that is the key of a state dict or what a wrapper puts before names.
    wrapper: Option<&'c str>,
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
        let joined = options.keep_optimizer && has_optimizer_beside(source);
        let pickled = joined || !matches!(source.format, Format::SafeTensors | Format::Gguf { .. });
        let dicts = StateDicts::of(source);
        let has_key = source.tensors.iter().any(|t| dicts.key(&t.name).is_some_and(|key| key != "model"));
        // Readers of i2s files expect the state dict under a key.
        let keeps = matches!(target, Target::Torch | Target::Dcp);
        let nested = pickled && target.form().nests && options.root.is_none() && (has_key || keeps);
        if options.keep_optimizer && !nested {
            return Err(Error::target(match &options.root {
                Some(_) => {
                    "optimizer state can only be kept when the source is converted as a whole, not one of its state dicts (--root)"
                }
                None => "the source has no optimizer state to keep (--keep-optimizer)",
            }));
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
        let (mut prefix, mut left_beside) = (String::new(), Vec::new());
        if let (Value::Dict(entries), true) = (&mut metadata, target.form().nests) {
            let packed = HashableValue::String("packed".into());
            if !options.keep_quantized {
                entries.remove(&packed);
            }
            if joined {
                let left: Vec<HashableValue> =
                    entries.keys().filter(|key| holds_objects(&key_text(key))).cloned().collect();
                left.iter().for_each(|key| drop(entries.remove(key)));
                left_beside = left.iter().map(key_text).collect();
            }
            if joined
                && source.tensors.iter().all(|t| t.group != Group::Weights || dicts.key(&t.name).is_none())
            {
                // The weights get a key of their own beside those of the optimizer's file and the scheduler's.
                prefix = format!("{MODEL}.");
                entries.insert(HashableValue::String(MODEL.into()), Value::Dict(BTreeMap::new()));
            }
            // What resumes from a distributed checkpoint asks for names, not for a state dict.
            if !nested && target != Target::Dcp && (!entries.is_empty() || target == Target::I2s) {
                prefix = format!("{MODEL_STATE}.");
                let key = HashableValue::String(MODEL_STATE.into());
                entries.insert(key, Value::Dict(BTreeMap::new()));
            }
            if target == Target::I2s {
                entries.insert(packed, Value::Bool(true));
            }
        }
        let unknown = matches!(target, Target::Gguf(_)) && gguf::is_unknown(source);
        let own_names = options.own_names
            && options.names.is_none()
            && target.packing().is_none()
            && !matches!(target, Target::Gguf(_));
        // A class that is not known has names of its own: to change some of them would be to lose all of them.
        let of_unknown_class = source.model.config.is_some()
            && source.model.family().is_none()
            && !matches!(source.format, Format::Gguf { .. });
        let style = options.names.or(target.style(source)).filter(|_| !unknown && !own_names);
        let style = style.filter(|style| *style != Style::Hf || options.names.is_some() || !of_unknown_class);
        let plan = Plan {
            source,
            target,
            blobs: Vec::new(),
            tensors: Vec::new(),
            tied: Vec::new(),
            metadata,
            pairs: Vec::new(),
            notes: if left_beside.is_empty() {
                Vec::new()
            } else {
                vec![Note::LeftBeside { names: left_beside }]
            },
            keeps: options.keep_quantized && source.coding.stored > 0,
            keys: None,
        };
        let has_config = matches!(target, Target::Hf { .. }) || gguf_student(source).is_some();
        let is_told = |config: ModelConfig| {
            matches!(config.rope_scaling, RopeScaling::Llama3 { .. } | RopeScaling::LongRope { .. })
        };
        let told = || source.model_config().is_ok_and(is_told);
        let config_has_rope = has_config && !matches!(target, Target::Gguf(_)) && told();
        let wrapper = dicts.beginning(source);
        Ok(Builder { plan, options, nested, joined, prefix, style, dicts, wrapper, config_has_rope })
    }

    /// Notes what the output lacks to be the whole model; refuses to leave out tensors of it, unless that is allowed.
    fn note_on_the_model(&mut self) -> Result<()> {
        let (source, target) = (self.plan.source, self.options.target);
        if self.plan.keeps {
            // Its layers have other tensors than the architecture's.
            return Ok(());
        }
        match complete::lacks(&self.plan) {
            Some(lacks) if self.options.allow_incomplete => self.plan.notes.push(Note::Incomplete(lacks)),
            Some(lacks) => return Err(Error::Incomplete { path: source.path.clone(), lacks }),
            None => {}
        }
        if target.form().is_model || !matches!(source.format, Format::Gguf { .. }) {
            return Ok(());
        }
        if gguf_student(source).is_none() {
            self.plan.notes.push(Note::GgufKeysLost);
        } else if source.model.holds_codes() && target.packing().is_none() && target.form().tells_values {
            self.plan.notes.push(Note::TernaryForm);
        }
        Ok(())
    }
}
