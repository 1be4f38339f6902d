//! Hugging Face model folders: config.json, weights under `model.…` names, and the tokenizer's files.

use std::collections::BTreeMap;
use std::path::Path;

use ckpt_inspect::{Checkpoint, DType, Error as ReadError, Format, StudentConfig};
use serde_json::{Map, Value as Json, json};
use serde_pickle::{HashableValue, Value};

use crate::plan::{Plan, Target};
use crate::safetensors::to_json;
use crate::{Error, Result, rope, student};

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

/// config.json and the files beside the source, by name. Adds to the plan's notes what config.json cannot say.
pub(crate) fn beside(plan: &mut Plan<'_>) -> Result<Vec<(String, Vec<u8>)>> {
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
    if plan.target == (Target::Hf { packed: true }) {
        // `autobitlinear` multiplies a layer's output by its weight_scale, so the scale is kept to the last bit;
        // `bitlinear` divides by it.
        config.insert(
            "quantization_config".into(),
            json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}),
        );
    } else {
        config.remove("quantization_config");
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
    let scaling = rope::scaling(source).map(rope::for_transformers);
    if let Some(student) = student::of(source) {
        plan.notes.extend(unsaid(&student, plan.target));
        if source.model.assumed.iter().any(|a| !a.is_empty()) {
            plan.notes.extend(source.model.assumed.iter().cloned());
        }
        return Ok(Some(of_student(&student, scaling)));
    }
    if let Some(Json::Object(config)) = source.model.config.as_ref().map(to_json) {
        return Ok(Some(config));
    }
    let mut config = of_gguf(source);
    if let (Some(config), Some(scaling)) = (&mut config, scaling) {
        config.insert("rope_scaling".into(), scaling);
    } else if config.is_some() && source.tensors.iter().any(|t| t.name == rope::FACTORS) {
        plan.notes.push(format!(
            "`{}` divides the rotary frequencies by what is not Llama 3's rule; config.json has no word for it",
            rope::FACTORS
        ));
    }
    if config.is_none() && plan.target == (Target::Hf { packed: true }) {
        return Err(Error::Target(format!(
            "{}: no model is recognised in it, so there is no config.json to say how it is packed; leave out --packed",
            source.path.display()
        )));
    }
    if config.is_none() {
        let what =
            "no model is recognised in it, so the folder has no config.json: put the model's own there";
        plan.notes.push(what.into());
    }
    Ok(config)
}

/// The student in the words of Qwen3 (per-head norm of queries and keys), or of Llama without that norm.
fn of_student(student: &StudentConfig, rope_scaling: Option<Json>) -> Map<String, Json> {
    let (architecture, model_type) = match student.use_qk_norm {
        true => ("Qwen3ForCausalLM", "qwen3"),
        false => ("LlamaForCausalLM", "llama"),
    };
    let config = json!({
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": student.vocab_size,
        "hidden_size": student.hidden_dim,
        "intermediate_size": student.mlp_hidden_dim,
        "num_hidden_layers": student.num_layers,
        "num_attention_heads": student.num_heads,
        "num_key_value_heads": student.num_kv_heads,
        "head_dim": student.head_dim,
        "max_position_embeddings": student.max_seq_len,
        "rope_theta": student.rope_base,
        "rms_norm_eps": student.norm_eps,
        "tie_word_embeddings": student.tie_word_embeddings,
        "hidden_act": "silu",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "mlp_bias": false,
        "use_cache": true,
    });
    let Json::Object(mut config) = config else { return Map::new() };
    if let Some(scaling) = rope_scaling {
        config.insert("rope_scaling".into(), scaling);
    }
    config
}

/// What the student does and these architectures do not.
fn unsaid(student: &StudentConfig, target: Target) -> Vec<String> {
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

/// The config of Llama and Qwen3 GGUF files, from their keys.
fn of_gguf(source: &Checkpoint) -> Option<Map<String, Json>> {
    let Value::Dict(keys) = &source.metadata else { return None };
    let architecture = source.model.architecture.as_str();
    let class = match (source.format, architecture) {
        (Format::Gguf { .. }, "llama") => "LlamaForCausalLM",
        (Format::Gguf { .. }, "qwen3") => "Qwen3ForCausalLM",
        _ => return None,
    };
    let key = |name: &str| keys.get(&HashableValue::String(format!("{architecture}.{name}")));
    let integer = |name: &str| key(name).and_then(ckpt_inspect::metadata::as_u64);
    // An f32 in the file: its own shortest digits, not those of the f64 it became.
    let number = |name: &str| {
        let wide = ckpt_inspect::metadata::as_f64(key(name)?)?;
        (wide as f32).to_string().parse::<f64>().ok()
    };
    let embedding = source.tensors.iter().find(|t| t.name == "token_embd.weight")?;
    let (hidden, heads) = (integer("embedding_length")?, integer("attention.head_count")?);
    let untied = source.tensors.iter().any(|t| t.name == "output.weight");
    let config = json!({
        "architectures": [class],
        "model_type": architecture,
        "vocab_size": embedding.shape.first()?,
        "hidden_size": hidden,
        "intermediate_size": integer("feed_forward_length")?,
        "num_hidden_layers": integer("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": integer("attention.head_count_kv").unwrap_or(heads),
        "head_dim": integer("attention.key_length").or_else(|| hidden.checked_div(heads))?,
        "max_position_embeddings": integer("context_length")?,
        "rope_theta": number("rope.freq_base").unwrap_or(10_000.0),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon")?,
        "tie_word_embeddings": !untied,
        "hidden_act": "silu",
    });
    match config {
        Json::Object(map) => Some(map),
        _ => None,
    }
}
