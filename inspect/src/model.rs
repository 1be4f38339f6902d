//! Which network a checkpoint holds: the BitNet student model from names and shapes, else what config.json or GGUF
//! keys say, else unknown. Whatever had to be assumed is said.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_pickle::Value;

use crate::checkpoint::lookup;
use crate::names::without_state_dict;
use crate::record::ModelRecord;
use crate::tensor::TensorInfo;
use crate::{DType, Group};

/// Configuration of the student model. Defaults are the "125m" preset's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StudentConfig {
    pub vocab_size: usize,
    pub hidden_dim: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub mlp_hidden_dim: usize,
    pub max_seq_len: usize,
    pub rope_base: f64,
    pub use_bitlinear_ffn: bool,
    pub use_bitlinear_attn: bool,
    pub bitlinear_per_channel: bool,
    pub quantization_eps: f64,
    pub norm_eps: f64,
    pub tie_word_embeddings: bool,
    pub use_qk_norm: bool,
    pub attn_logit_soft_cap: Option<f64>,
    pub final_logit_soft_cap: Option<f64>,
}

/// What is known of the network.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// `bitnet-student`, an architecture named by config.json or GGUF, or `unknown`.
    pub architecture: String,
    /// The student's configuration, when it is one.
    pub student: Option<StudentConfig>,
    /// The configuration that a file beside or inside the checkpoint gives.
    pub config: Option<Value>,
    /// What GGUF keys say of its layers, when this suite wrote them.
    bitlinear: Option<BitLinearKeys>,
    /// Sentences on what was assumed.
    pub assumed: Vec<String>,
}

/// `ckpt.use_bitlinear_attn`, `ckpt.use_bitlinear_ffn`, `ckpt.quantization_eps` and `ckpt.latent` of a GGUF file.
#[derive(Clone, Copy, Debug)]
struct BitLinearKeys {
    attention: bool,
    ffn: bool,
    eps: Option<f64>,
    holds_codes: bool,
}

impl BitLinearKeys {
    fn of(metadata: &Value) -> Option<Self> {
        let yes = |key| matches!(lookup_gguf(metadata, key), Some(Value::Bool(true)));
        let (attention, ffn) = (yes("ckpt.use_bitlinear_attn"), yes("ckpt.use_bitlinear_ffn"));
        let eps = match lookup_gguf(metadata, "ckpt.quantization_eps") {
            Some(Value::F64(eps)) => Some(*eps),
            _ => None,
        };
        let holds_codes = lookup_gguf(metadata, "ckpt.latent") == Some(&Value::Bool(false));
        (attention || ffn).then_some(BitLinearKeys { attention, ffn, eps, holds_codes })
    }

    fn use_it(self, name: &str) -> bool {
        let part = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(_, part)| part);
        match part {
            Some("attn_q.weight" | "attn_k.weight" | "attn_v.weight" | "attn_output.weight") => {
                self.attention
            }
            Some("ffn_gate.weight" | "ffn_up.weight" | "ffn_down.weight") => self.ffn,
            _ => false,
        }
    }
}

impl Model {
    /// Recognises the network from its tensors, the checkpoint's plain values, and config.json if there is one.
    pub(crate) fn recognise(tensors: &[TensorInfo], metadata: &Value, hf_config: Option<&Value>) -> Model {
        if let Some(Value::String(architecture)) = lookup_gguf(metadata, "general.architecture") {
            let bitlinear = BitLinearKeys::of(metadata);
            return Model { architecture: architecture.clone(), bitlinear, ..Model::default() };
        }
        // A trainer's own config says more than the config.json that a conversion put beside the weights.
        let own =
            hf_config.filter(|_| given_config(metadata).is_some()).and_then(|_| student(tensors, metadata));
        if let Some(model) = own {
            return model;
        }
        if let Some(config) = hf_config {
            let first = lookup(config, "architectures").and_then(|a| lookup_first(a));
            let name = first.or_else(|| lookup(config, "model_type").and_then(text));
            if let Some(name) = name {
                return Model {
                    architecture: name.to_string(),
                    config: Some(config.clone()),
                    ..Model::default()
                };
            }
        }
        if let Some(model) = student(tensors, metadata) {
            return model;
        }
        Model { architecture: "unknown".into(), ..Model::default() }
    }

    /// Whether a BitLinear uses the matrix `tensor`, so that it is judged by its ternary form.
    pub fn is_ternary(&self, tensor: &TensorInfo) -> bool {
        if tensor.dtype.is_ternary() {
            return true;
        }
        if tensor.group != Group::Weights || tensor.shape.len() != 2 || !tensor.dtype.is_float() {
            return false;
        }
        if let Some(keys) = self.bitlinear {
            return keys.use_it(&tensor.name);
        }
        let Some(layer) = tensor.name.strip_suffix("_proj.weight") else { return false };
        if let Some(student) = &self.student {
            let attention = layer.contains("self_attn.");
            return if attention { student.use_bitlinear_attn } else { student.use_bitlinear_ffn };
        }
        self.is_bitnet()
    }

    /// Hugging Face's BitNet, by its architecture or its quantization.
    fn is_bitnet(&self) -> bool {
        let method =
            self.config.as_ref().and_then(|c| lookup(c, "quantization_config.quant_method")).and_then(text);
        self.architecture.to_ascii_lowercase().contains("bitnet") || method == Some("bitnet")
    }

    /// What a BitLinear of it adds to mean|W|: what its configuration says, else 1e-5 for Hugging Face's BitNet, as
    /// transformers' `BitLinear` has it, and the student's 1e-8 for others.
    pub fn quantization_eps(&self) -> f64 {
        let student = self.student.as_ref().map(|s| s.quantization_eps);
        let usual = if self.is_bitnet() { 1e-5 } else { 1e-8 };
        student.or(self.bitlinear.and_then(|keys| keys.eps)).unwrap_or(usual)
    }

    /// Whether the matrices of its BitLinears hold codes times a scale already, in whatever type, and not the float
    /// weights: `latent` is false in the student's configuration, or `ckpt.latent` in a GGUF file. They are not to be
    /// rounded a second time, since mean|W| is another scale.
    pub fn holds_codes(&self) -> bool {
        let config = self.config.as_ref().filter(|_| self.student.is_some());
        let told = config.and_then(|c| lookup(c, "latent")) == Some(&Value::Bool(false));
        told || self.bitlinear.is_some_and(|keys| keys.holds_codes)
    }

    /// How rotary positions are stretched, as the trainer's configuration or config.json says it; `None` for not at
    /// all, and for GGUF files, which have keys of their own.
    pub fn rope_scaling(&self) -> Option<&Value> {
        let config = self.config.as_ref()?;
        let told = ["rope_parameters", "rope_scaling"].into_iter().find_map(|key| lookup(config, key));
        told.filter(|value| !matches!(value, Value::None))
    }

    /// The plain record of it.
    pub fn record(&self) -> ModelRecord {
        let config = match (&self.student, &self.config) {
            (Some(student), _) => serde_json::to_value(student).ok(),
            (None, Some(config)) => Some(crate::metadata::to_json(config)),
            (None, None) => None,
        };
        ModelRecord {
            architecture: self.architecture.clone(),
            config: match config {
                Some(serde_json::Value::Object(map)) => map,
                _ => Default::default(),
            },
            assumed: self.assumed.clone(),
        }
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(s) => Some(s),
        _ => None,
    }
}

fn lookup_first(value: &Value) -> Option<&str> {
    match value {
        Value::List(items) => items.first().and_then(text),
        _ => None,
    }
}

/// GGUF keys hold dots, so they are not paths.
fn lookup_gguf<'v>(metadata: &'v Value, key: &str) -> Option<&'v Value> {
    match metadata {
        Value::Dict(entries) => entries.get(&serde_pickle::HashableValue::String(key.into())),
        _ => None,
    }
}

/// The config a trainer may have put beside the weights. Older ones have two switches instead of `use_bitlinear`.
#[derive(Debug, Default, Deserialize)]
struct GivenConfig {
    num_heads: Option<usize>,
    max_seq_len: Option<usize>,
    rope_base: Option<f64>,
    use_bitlinear: Option<bool>,
    use_bitlinear_ffn: Option<bool>,
    use_bitlinear_attn: Option<bool>,
    bitlinear_per_channel: Option<bool>,
    quantization_eps: Option<f64>,
    norm_eps: Option<f64>,
    head_dim: Option<usize>,
    #[serde(default, deserialize_with = "present")]
    attn_logit_soft_cap: Option<Option<f64>>,
    #[serde(default, deserialize_with = "present")]
    final_logit_soft_cap: Option<Option<f64>>,
}

/// The student's config among the plain values, where a trainer put it.
fn given_config(metadata: &Value) -> Option<&Value> {
    let config = lookup(metadata, "config.model").or_else(|| lookup(metadata, "config"))?;
    lookup(config, "hidden_dim").map(|_| config)
}

/// Keeps "null" (no cap) apart from "not said".
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::<f64>::deserialize(deserializer).map(Some)
}

fn student(tensors: &[TensorInfo], metadata: &Value) -> Option<Model> {
    let mut by_name: HashMap<&str, &TensorInfo> = HashMap::new();
    for tensor in tensors.iter().filter(|t| t.group == Group::Weights) {
        let short = without_state_dict(&tensor.name);
        by_name.entry(short.strip_prefix("model.").unwrap_or(short)).or_insert(tensor);
    }
    let find = |wanted: &str| by_name.get(wanted).copied();
    let matrix = |name: &str| match find(name)?.shape.as_slice() {
        &[rows, cols] => Some((rows, cols)),
        _ => None,
    };
    // Names that begin with `model.` are Hugging Face's unless the trainer's own config stands beside them.
    let given_model = lookup(metadata, "config.model").or_else(|| lookup(metadata, "config"));
    let hf_style = tensors.iter().any(|t| t.name == "model.embed_tokens.weight");
    if hf_style && given_config(metadata).is_none() {
        return None;
    }
    let (vocab_size, hidden_dim) = matrix("embed_tokens.weight")?;
    let (q_rows, _) = matrix("layers.0.self_attn.q_proj.weight")?;
    let (kv_rows, _) = matrix("layers.0.self_attn.k_proj.weight")?;
    let (mlp_hidden_dim, _) = matrix("layers.0.mlp.gate_proj.weight")?;
    let num_layers = (0..tensors.len())
        .take_while(|n| find(&format!("layers.{n}.mlp.gate_proj.weight")).is_some())
        .count();

    let mut said = Vec::new();
    let mut given = GivenConfig::default();
    match given_model.map(|config| serde_pickle::from_value(config.clone())) {
        Some(Ok(config)) => given = config,
        Some(Err(error)) => {
            said.push(format!("the checkpoint's config is not understood and not used: {error}"))
        }
        None => {}
    }
    let mut assumed = Vec::new();
    let qk_norm = find("layers.0.self_attn.q_norm.weight");
    let head_dim = match (qk_norm.map(|t| t.shape.as_slice()), given.head_dim, given.num_heads) {
        (Some(&[dim]), _, _) if dim > 0 => dim,
        (_, Some(dim), _) if dim > 0 => dim,
        (_, _, Some(heads)) if heads > 0 && q_rows % heads == 0 => q_rows / heads,
        _ => {
            assumed.push("head_dim 64".to_string());
            64
        }
    };
    let mut or_default = |name: &str, given: Option<f64>, default: f64| {
        given.unwrap_or_else(|| {
            let small = default < 1e-3;
            assumed.push(if small { format!("{name} {default:e}") } else { format!("{name} {default}") });
            default
        })
    };
    let max_seq_len = or_default("max_seq_len", given.max_seq_len.map(|n| n as f64), 2048.0) as usize;
    let rope_base = or_default("rope_base", given.rope_base, 1e6);
    let quantization_eps = or_default("quantization_eps", given.quantization_eps, 1e-8);
    let norm_eps = or_default("norm_eps", given.norm_eps, 1e-6);
    let mut cap = |name: &str, given: Option<Option<f64>>, default: f64| {
        given.unwrap_or_else(|| {
            assumed.push(format!("{name} {default}"));
            Some(default)
        })
    };
    let attn_logit_soft_cap = cap("attn_logit_soft_cap", given.attn_logit_soft_cap, 50.0);
    let final_logit_soft_cap = cap("final_logit_soft_cap", given.final_logit_soft_cap, 30.0);
    let packed = |name: &str| find(name).is_some_and(|t| matches!(t.dtype, DType::Ternary(_)));
    let mut bitlinear = |switch: Option<bool>, name: &str, example: &str| {
        switch.or(given.use_bitlinear).unwrap_or_else(|| {
            if !packed(example) {
                assumed.push(format!("{name} true"));
            }
            true
        })
    };
    let use_bitlinear_ffn =
        bitlinear(given.use_bitlinear_ffn, "use_bitlinear_ffn", "layers.0.mlp.gate_proj.weight");
    let use_bitlinear_attn =
        bitlinear(given.use_bitlinear_attn, "use_bitlinear_attn", "layers.0.self_attn.q_proj.weight");
    let head = find("lm_head.weight");
    let embedding = find("embed_tokens.weight");
    let same_place =
        |a: &TensorInfo, b: &TensorInfo| a.storage == b.storage && a.byte_offset == b.byte_offset;
    let config = StudentConfig {
        vocab_size,
        hidden_dim,
        num_layers,
        num_heads: q_rows / head_dim,
        num_kv_heads: kv_rows / head_dim,
        head_dim,
        mlp_hidden_dim,
        max_seq_len,
        rope_base,
        use_bitlinear_ffn,
        use_bitlinear_attn,
        bitlinear_per_channel: given.bitlinear_per_channel.unwrap_or(false),
        quantization_eps,
        norm_eps,
        tie_word_embeddings: head.is_none_or(|h| embedding.is_some_and(|e| same_place(h, e))),
        use_qk_norm: qk_norm.is_some(),
        attn_logit_soft_cap,
        final_logit_soft_cap,
    };
    if !assumed.is_empty() {
        said.push(format!("not told by names, shapes or config, so assumed: {}", assumed.join(", ")));
    }
    Some(Model {
        bitlinear: None,
        architecture: "bitnet-student".into(),
        student: Some(config),
        config: given_model.cloned(),
        assumed: said,
    })
}
