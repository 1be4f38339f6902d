//! The student model that a GGUF file holds: its configuration from the keys that this suite's converter wrote, in the
//! trainer's words again.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ckpt_inspect::metadata::{as_f64, as_u64, from_json};
use ckpt_inspect::{Checkpoint, Format, StudentConfig};
use serde_json::json;
use serde_pickle::{HashableValue, Value};

use crate::rope;

/// The student's configuration, where `source` is one, a GGUF file included that was written from one.
pub(crate) fn of(source: &Checkpoint) -> Option<Cow<'_, StudentConfig>> {
    match &source.model.student {
        Some(student) => Some(Cow::Borrowed(student)),
        None => of_gguf(source).map(Cow::Owned),
    }
}

/// The student's configuration in the keys of a GGUF file. Soft caps in these architectures, and `ckpt.` keys, are what
/// nobody else writes.
pub(crate) fn of_gguf(source: &Checkpoint) -> Option<StudentConfig> {
    let (Format::Gguf { .. }, Value::Dict(keys)) = (source.format, &source.metadata) else { return None };
    let architecture = source.model.architecture.as_str();
    if !matches!(architecture, "llama" | "qwen3") {
        return None;
    }
    let own = |key: &str| keys.get(&HashableValue::String(key.into()));
    let of_model = |key: &str| own(&format!("{architecture}.{key}"));
    let size = |key: &str| usize::try_from(as_u64(of_model(key)?)?).ok();
    // An f32 in the file: its own shortest digits, not those of the f64 it became.
    let float = |value: Option<&Value>| (as_f64(value?)? as f32).to_string().parse::<f64>().ok();
    let switch = |key: &str| match own(key) {
        Some(Value::Bool(yes)) => Some(*yes),
        _ => None,
    };
    let (ffn, attention) = (switch("ckpt.use_bitlinear_ffn"), switch("ckpt.use_bitlinear_attn"));
    let caps = [of_model("attn_logit_softcapping"), of_model("final_logit_softcapping")].map(float);
    if ffn.or(attention).is_none() && caps == [None, None] {
        return None;
    }
    let has = |name: &str| source.tensors.iter().any(|t| t.name == name);
    let embedding = source.tensors.iter().find(|t| t.name == "token_embd.weight")?;
    let (hidden_dim, num_heads) = (size("embedding_length")?, size("attention.head_count")?);
    Some(StudentConfig {
        vocab_size: *embedding.shape.first()?,
        hidden_dim,
        num_layers: size("block_count")?,
        num_heads,
        num_kv_heads: size("attention.head_count_kv").unwrap_or(num_heads),
        head_dim: size("attention.key_length").or_else(|| hidden_dim.checked_div(num_heads))?,
        mlp_hidden_dim: size("feed_forward_length")?,
        max_seq_len: size("context_length")?,
        rope_base: float(of_model("rope.freq_base")).unwrap_or(10_000.0),
        use_bitlinear_ffn: ffn.unwrap_or(false),
        use_bitlinear_attn: attention.unwrap_or(false),
        bitlinear_per_channel: switch("ckpt.bitlinear_per_channel").unwrap_or(false),
        quantization_eps: float(own("ckpt.quantization_eps")).unwrap_or(1e-8),
        norm_eps: float(of_model("attention.layer_norm_rms_epsilon"))?,
        tie_word_embeddings: !has("output.weight"),
        use_qk_norm: has("blk.0.attn_q_norm.weight"),
        attn_logit_soft_cap: caps[0],
        final_logit_soft_cap: caps[1],
    })
}

/// What a trainer puts beside the weights, for the student of a GGUF file; nothing for other models. `latent` is false
/// where the matrices of its BitLinears hold codes times a scale: see [`ckpt_inspect::Model::holds_codes`].
pub(crate) fn metadata(source: &Checkpoint) -> BTreeMap<HashableValue, Value> {
    let config = of_gguf(source).and_then(|student| serde_json::to_value(student).ok());
    let Some(mut config) = config else { return BTreeMap::new() };
    config["rope_scaling"] = rope::scaling(source).unwrap_or_default();
    if source.model.holds_codes() {
        config["latent"] = json!(false);
    }
    BTreeMap::from([(HashableValue::String("config".into()), from_json(json!({"model": config})))])
}
