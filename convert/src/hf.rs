//! Hugging Face model folders: config.json, weights under `model.…` names, and the tokenizer's files.

use std::io::Read;

use ckpt_inspect::stored::{Kind, Stored};
use std::collections::BTreeMap;
use std::path::Path;

use ckpt_inspect::meaning::names::{Names, ROPE_FACTORS};
use ckpt_inspect::meaning::{Quantization, RopeScaling};
use ckpt_inspect::metadata::whole_json;
use ckpt_inspect::staged::Control;
use ckpt_inspect::vocabulary::{BESIDE, FILE_NAMES, TEMPLATES_FOLDER, Vocabulary};
use ckpt_inspect::{Checkpoint, DType, Error as ReadError, Group, ModelConfig, TernaryPacking, model_folder};
use serde_json::{Map, Value as Json, json};

use crate::encode::Written;
use crate::names::Style;
use crate::note::Note;
use crate::plan::{Options, Plan};
use crate::target::{Form, Target};
use crate::{Error, Result, safetensors, tokenizer};

/// Files of a tokenizer's vocabulary apart from the others, as older ones are.
const VOCABULARY: [&str; 2] = ["vocab.json", "merges.txt"];
/// Files that say how weights are quantized, which are copied where they stay so.
const QUANTIZATION: [&str; 3] = ["hf_quant_config.json", "quantize_config.json", "quant_config.json"];
/// What config.json says besides of how experts of DeepSeek-V4 are quantized.
const EXPERT_DTYPE: &str = "expert_dtype";
/// Larger ones do not belong to a tokenizer.
const MAX_BESIDE: u64 = 256 << 20;

/// `--to hf`.
pub(crate) const FORM: Form = Form {
    name: "hf",
    about: "Hugging Face model folder, types unchanged",
    extension: "",
    style: Some(Style::Hf),
    is_model: true,
    packing: |target| (target == Target::Hf { packed: true }).then_some(TernaryPacking::HfBitnet),
    write,
    ..safetensors::FORM
};

/// The files next to a model's weights that are copied with them.
fn copied() -> impl Iterator<Item = &'static str> {
    FILE_NAMES.into_iter().chain(BESIDE).chain(VOCABULARY)
}

/// Whether a file called so may lie beside the weights of a model because it was copied there.
pub(crate) fn may_be_copied(name: &str) -> bool {
    copied().chain(QUANTIZATION).any(|copied| copied == name)
}

fn write(
    plan: &mut Plan<'_>,
    options: &Options,
    path: &Path,
    control: Control<'_>,
) -> Result<(u64, Vec<Written>)> {
    let beside = beside(plan)?;
    safetensors::write_folder(plan, path, options.max_shard_bytes, &beside, options.force, control)
}

/// config.json and the files next to the source, by name. Adds to the plan's notes what config.json cannot express.
fn beside(plan: &mut Plan<'_>) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let embedded = match Vocabulary::embedded(plan.source) {
        Ok(mut vocabulary) => {
            vocabulary.iter_mut().for_each(Vocabulary::settle_usual_roles);
            vocabulary
        }
        Err(error) => {
            plan.notes.push(Note::TokenizerUnreadable { error: error.what });
            None
        }
    };
    if let Some(config) = config(plan, embedded.as_ref())? {
        files.push(("config.json".to_string(), config_file(plan, config)));
    }
    // What lies beside a GGUF file that has its own may belong to any other.
    if let Some(vocabulary) = &embedded {
        let own = tokenizer::files(vocabulary, &mut plan.notes);
        if !own.is_empty() {
            let ids = tokenizer::ids(vocabulary);
            files.extend(own);
            if !ids.is_empty() {
                files.push(("generation_config.json".to_string(), text(Json::Object(ids))));
            }
            return Ok(files);
        }
    }
    let folder = model_folder(&plan.source.path);
    let kept = QUANTIZATION.into_iter().filter(|_| plan.keeps);
    // Of the folder it is told that it is left.
    for name in copied().chain([TEMPLATES_FOLDER]).chain(kept) {
        let path = folder.join(name);
        match path.stored() {
            Ok(stat) if stat.kind == Kind::File && stat.bytes <= MAX_BESIDE => {
                let mut bytes = Vec::new();
                let read = path.stored_bytes().and_then(|file| file.take(MAX_BESIDE).read_to_end(&mut bytes));
                read.map_err(|e| ReadError::io(&path, &e))?;
                if name.ends_with(".json")
                    && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
                {
                    plan.notes.push(Note::InvalidJson { name, error: error.to_string() });
                }
                files.push((name.to_string(), bytes));
            }
            Ok(_) => plan.notes.push(Note::NotCopied { name, limit: MAX_BESIDE }),
            Err(_) => {}
        }
    }
    if !files.iter().any(|(name, _)| name.starts_with("tokenizer") || name == "vocab.json") {
        plan.notes.push(Note::NoTokenizer { embedded: false });
    }
    Ok(files)
}

fn config_file(plan: &Plan<'_>, mut config: Map<String, Json>) -> Vec<u8> {
    let given = plan.source.model.quantization.as_ref().filter(|q| q.is_bitnet());
    if plan.target == (Target::Hf { packed: true }) {
        // Its other keys, such as those on norms in each BitLinear, apply to packed matrices too.
        let own = config.get(Quantization::KEY).filter(|_| given.is_some()).and_then(Json::as_object);
        let mut packed = own.cloned().unwrap_or_default();
        packed.extend(Quantization::packed().map(|(key, word)| (key.to_string(), json!(word))));
        config.insert(Quantization::KEY.into(), Json::Object(packed));
    } else if !plan.keeps && !given.is_some_and(|q| q.online) {
        // Without that of float masters, transformers would multiply by them unrounded.
        if plan.source.tensors.iter().any(|tensor| tensor.quantized.is_some()) {
            config.shift_remove(EXPERT_DTYPE);
        }
        forget_quantization(&mut config);
    }
    // The types of scales are not what a quantized model computes in.
    if !plan.keeps {
        let dtype = json!(main_dtype(plan).name());
        // Its newer name, which counts where both are there.
        if let Some(newer) = config.get_mut("dtype") {
            newer.clone_from(&dtype);
        }
        config.insert("torch_dtype".into(), dtype);
    }
    text(Json::Object(config))
}

/// Removes from `config`, and from the configurations of parts of the model that are in it, what they say of quantization.
fn forget_quantization(config: &mut Map<String, Json>) {
    config.retain(|key, _| !Quantization::KEYS.contains(&key.as_str()));
    for (_, part) in config.iter_mut().filter(|(key, _)| Quantization::is_of_part(key)) {
        if let Json::Object(part) = part {
            forget_quantization(part);
        }
    }
}

fn text(json: Json) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}

/// The type of most of the floating-point weights.
fn main_dtype(plan: &Plan<'_>) -> DType {
    let mut sizes: BTreeMap<&str, (u64, DType)> = BTreeMap::new();
    for tensor in plan.tensors.iter().filter(|t| t.dtype.is_float()) {
        sizes.entry(tensor.dtype.name()).or_insert((0, tensor.dtype)).0 += plan.blobs[tensor.blob].bytes;
    }
    sizes.into_values().max_by_key(|(bytes, _)| *bytes).map_or(DType::F32, |(_, dtype)| dtype)
}

/// The contents of config.json, with the ids that the vocabulary inside the source gives a role; `None` if no model is
/// recognised, which is noted.
fn config(plan: &mut Plan<'_>, vocabulary: Option<&Vocabulary>) -> Result<Option<Map<String, Json>>> {
    let source = plan.source;
    let model = source.model_config();
    let described = |model: &ModelConfig| {
        let mut config = model.to_hugging_face();
        config.extend(vocabulary.map(tokenizer::ids).unwrap_or_default());
        config
    };
    if let Some(student) = model.as_ref().ok().filter(|model| model.is_student()) {
        plan.notes.extend(not_in_config(student, plan.target));
        plan.notes.extend(source.model.assumed.iter().cloned().map(Note::Assumed));
        return Ok(Some(described(student)));
    }
    let norms =
        source.model.quantization.as_ref().is_some_and(|quantization| quantization.norm_eps.is_some());
    if plan.target == (Target::Hf { packed: false }) && is_packed(source) && norms {
        let why =
            "its layers normalize what they round (use_rms_norm), which plain layers do not: write it packed";
        return Err(Error::of_source(source, why));
    }
    if plan.target == (Target::Hf { packed: false }) && is_packed(source) {
        plan.notes.push(Note::BitLinearLost);
    }
    if let Some(Json::Object(config)) = source.model.config.as_ref().map(whole_json) {
        let (class, names) =
            (&source.model.architecture, source.model.family().map_or(&[][..], |f| f.classes));
        let is_written = names.first().is_none_or(|first| first == class) || !names.contains(&class.as_str());
        return Ok(Some(match model {
            Ok(model) if !is_written && !plan.keeps => renamed(config, &model),
            _ => config,
        }));
    }
    let why = match model {
        Err(why) => why,
        Ok(model) => {
            if let Some(tensor) = Names::of(source).unused.first() {
                let name = tensor.name.escape_debug();
                let why = format!(
                    "its layers have tensors that no config.json of its kind describes, such as `{name}`"
                );
                return Err(Error::of_source(source, why));
            }
            if model.rope_scaling == RopeScaling::None
                && source.tensors.iter().any(|t| t.name == ROPE_FACTORS)
            {
                plan.notes.push(Note::RopeFactors);
            }
            return Ok(Some(described(&model)));
        }
    };
    if plan.target == (Target::Hf { packed: true }) {
        return Err(Error::of_source(
            source,
            "its model is not recognised, so there is no config.json to say how it is packed; write it unpacked",
        ));
    }
    plan.notes.push(Note::NoConfig(why));
    Ok(None)
}

/// Whether matrices of BitLinears are stored as codes.
fn is_packed(source: &Checkpoint) -> bool {
    source.tensors.iter().any(|t| t.dtype.is_ternary() && t.group == Group::Weights)
}

/// A configuration of a class that only its own code defines, as that of the class which transformers has for the same
/// `model`.
fn renamed(mut config: Map<String, Json>, model: &ModelConfig) -> Map<String, Json> {
    config.retain(|key, _| !matches!(key.as_str(), "auto_map" | "input_bits" | "weight_bits"));
    config.extend(model.to_hugging_face());
    if model.use_bitlinear_attn || model.use_bitlinear_ffn {
        let masters = Quantization::of_masters().map(|(key, word)| (key.to_string(), json!(word)));
        config.insert(Quantization::KEY.into(), Json::Object(masters.into_iter().collect()));
    }
    config
}

/// What bitnet-student computes and config.json cannot express.
fn not_in_config(student: &ModelConfig, target: Target) -> Vec<Note> {
    let mut notes = Vec::new();
    let caps = soft_caps(student);
    if !caps.is_empty() {
        notes.push(Note::SoftCaps { caps, architecture: None });
    }
    if (student.use_bitlinear_ffn || student.use_bitlinear_attn) && target == (Target::Hf { packed: false }) {
        notes.push(Note::BitLinearLost);
    }
    notes
}

/// What the model soft-caps, and the values of the caps.
pub(crate) fn soft_caps(config: &ModelConfig) -> Vec<(&'static str, f64)> {
    let caps =
        [("attention scores", config.attn_logit_soft_cap), ("final logits", config.final_logit_soft_cap)];
    caps.into_iter().filter_map(|(what, cap)| Some((what, cap?))).collect()
}
