//! Hugging Face model folders: config.json, weights under `model.…` names, and the tokenizer's files.

use std::collections::BTreeMap;
use std::path::Path;

use ckpt_inspect::meaning::names::ROPE_FACTORS;
use ckpt_inspect::meaning::{Quantization, RopeScaling};
use ckpt_inspect::metadata::whole_json;
use ckpt_inspect::staged::Control;
use ckpt_inspect::{DType, Error as ReadError, ModelConfig, TernaryPacking};
use serde_json::{Map, Value as Json, json};

use crate::encode::Written;
use crate::names::Style;
use crate::plan::{Options, Plan};
use crate::target::{Form, Target};
use crate::{Error, Result, safetensors};

/// Files that lie beside a model's weights and go where they go.
pub(crate) const BESIDE: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
];
/// Larger ones are no tokenizer's.
const MAX_BESIDE: u64 = 256 << 20;

/// `--to hf`.
pub(crate) const FORM: Form = Form {
    name: "hf",
    about: "A Hugging Face model folder, types as they are",
    extension: "",
    style: Some(Style::Hf),
    is_model: true,
    packing: |target| (target == Target::Hf { packed: true }).then_some(TernaryPacking::HfBitnet),
    write,
    ..safetensors::FORM
};

fn write(
    plan: &mut Plan<'_>,
    options: &Options,
    path: &Path,
    control: Control<'_>,
) -> Result<(u64, Vec<Written>)> {
    let beside = beside(plan)?;
    safetensors::write_folder(plan, path, options.max_shard_bytes, &beside, options.force, control)
}

/// config.json and the files beside the source, by name. Adds to the plan's notes what config.json cannot say.
fn beside(plan: &mut Plan<'_>) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    if let Some(config) = config(plan)? {
        files.push(("config.json".to_string(), config_file(plan, config)));
    }
    let source = &plan.source.path;
    let folder = if source.is_dir() { source.as_path() } else { source.parent().unwrap_or(Path::new("")) };
    for name in BESIDE {
        let path = folder.join(name);
        match std::fs::metadata(&path) {
            Ok(m) if m.is_file() && m.len() <= MAX_BESIDE => {
                let bytes = std::fs::read(&path).map_err(|e| ReadError::io(&path, &e))?;
                if name.ends_with(".json")
                    && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
                {
                    plan.notes.push(format!(
                        "`{name}` beside the source is no JSON ({error}); it is copied as it is, and nothing will load it"
                    ));
                }
                files.push((name.to_string(), bytes));
            }
            Ok(_) => plan.notes.push(format!(
                "`{name}` beside the source is no file, or larger than {MAX_BESIDE} bytes, and is left out"
            )),
            Err(_) => {}
        }
    }
    if !files.iter().any(|(name, _)| name.starts_with("tokenizer") || name == "vocab.json") {
        plan.notes.push("no tokenizer lies beside the source, so the folder has none".into());
    }
    Ok(files)
}

fn config_file(plan: &Plan<'_>, mut config: Map<String, Json>) -> Vec<u8> {
    let told = plan.source.model.quantization.as_ref().filter(|q| q.is_bitnet());
    if plan.target == (Target::Hf { packed: true }) {
        // What else it says, such as of norms in each BitLinear, holds of packed matrices too.
        let own = config.get(Quantization::KEY).filter(|_| told.is_some()).and_then(Json::as_object);
        let mut packed = own.cloned().unwrap_or_default();
        packed.extend(Quantization::packed().map(|(key, word)| (key.to_string(), json!(word))));
        config.insert(Quantization::KEY.into(), Json::Object(packed));
    } else if !told.is_some_and(|q| q.online) {
        // Without it, transformers would multiply with the float masters as they are.
        config.shift_remove(Quantization::KEY);
    }
    config.insert("torch_dtype".into(), json!(main_dtype(plan).name()));
    format!("{:#}\n", Json::Object(config)).into_bytes()
}

/// The type of most of the floating-point weights.
fn main_dtype(plan: &Plan<'_>) -> DType {
    let mut sizes: BTreeMap<&str, (u64, DType)> = BTreeMap::new();
    for tensor in plan.tensors.iter().filter(|t| t.dtype.is_float()) {
        sizes.entry(tensor.dtype.name()).or_insert((0, tensor.dtype)).0 += plan.blobs[tensor.blob].bytes;
    }
    sizes.into_values().max_by_key(|(bytes, _)| *bytes).map_or(DType::F32, |(_, dtype)| dtype)
}

/// What config.json says; `None` where no model is recognised, which is told.
fn config(plan: &mut Plan<'_>) -> Result<Option<Map<String, Json>>> {
    let source = plan.source;
    let model = source.model_config();
    if let Some(student) = model.as_ref().ok().filter(|model| model.is_student()) {
        plan.notes.extend(unsaid(student, plan.target));
        if source.model.assumed.iter().any(|a| !a.is_empty()) {
            plan.notes.extend(source.model.assumed.iter().cloned());
        }
        return Ok(Some(student.to_hugging_face()));
    }
    if let Some(Json::Object(config)) = source.model.config.as_ref().map(whole_json) {
        return Ok(Some(config));
    }
    if let Ok(model) = model {
        if model.rope_scaling == RopeScaling::None && source.tensors.iter().any(|t| t.name == ROPE_FACTORS) {
            plan.notes.push(format!(
                "`{ROPE_FACTORS}` divides the rotary frequencies by what is not Llama 3's rule; config.json has no word for it"
            ));
        }
        return Ok(Some(model.to_hugging_face()));
    }
    if plan.target == (Target::Hf { packed: true }) {
        return Err(Error::of_source(
            source,
            "no model is recognised in it, so there is no config.json to say how it is packed; leave out --packed",
        ));
    }
    plan.notes.push(
        "no model is recognised in it, so the folder has no config.json: put the model's own there".into(),
    );
    Ok(None)
}

/// What the student does and these architectures do not.
fn unsaid(student: &ModelConfig, target: Target) -> Vec<String> {
    let mut notes = Vec::new();
    let caps: Vec<String> =
        [("attention scores", student.attn_logit_soft_cap), ("final logits", student.final_logit_soft_cap)]
            .into_iter()
            .filter_map(|(what, cap)| Some(format!("{what} at {}", cap?)))
            .collect();
    if !caps.is_empty() {
        notes.push(format!(
            "config.json has no word for the soft caps ({}); transformers will not apply them",
            caps.join(", ")
        ));
    }
    if (student.use_bitlinear_ffn || student.use_bitlinear_attn) && target == (Target::Hf { packed: false }) {
        notes.push(
            "config.json has no word for BitLinear: transformers will multiply with the float weights and not quantize activations (--packed keeps the ternary form)"
                .into(),
        );
    }
    notes
}
