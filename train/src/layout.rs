//! Configurations as the seed's trainer writes them into its checkpoints.

use ckpt_inspect::StudentConfig;
use serde_pickle::Value;

use crate::{Settings, plain};

/// The configuration under the seed's names.
pub(crate) fn model_config(c: &StudentConfig) -> Value {
    let number = |n: usize| Value::I64(n as i64);
    let cap = |cap: Option<f64>| cap.map_or(Value::None, Value::F64);
    let mut entries = vec![
        ("vocab_size", number(c.vocab_size)),
        ("hidden_dim", number(c.hidden_dim)),
        ("num_layers", number(c.num_layers)),
        ("num_heads", number(c.num_heads)),
        ("num_kv_heads", number(c.num_kv_heads)),
        ("head_dim", number(c.head_dim)),
        ("mlp_hidden_dim", number(c.mlp_hidden_dim)),
        ("max_seq_len", number(c.max_seq_len)),
        ("dropout", Value::F64(0.0)),
        ("rope_base", Value::F64(c.rope_base)),
        ("rope_scaling", Value::None),
        ("bitlinear_per_channel", Value::Bool(c.bitlinear_per_channel)),
        ("quantization_eps", Value::F64(c.quantization_eps)),
        ("norm_eps", Value::F64(c.norm_eps)),
        ("tie_word_embeddings", Value::Bool(c.tie_word_embeddings)),
        ("use_qk_norm", Value::Bool(c.use_qk_norm)),
        ("attn_logit_soft_cap", cap(c.attn_logit_soft_cap)),
        ("final_logit_soft_cap", cap(c.final_logit_soft_cap)),
    ];
    match c.use_bitlinear_ffn == c.use_bitlinear_attn {
        true => entries.push(("use_bitlinear", Value::Bool(c.use_bitlinear_ffn))),
        false => entries.extend([
            ("use_bitlinear_ffn", Value::Bool(c.use_bitlinear_ffn)),
            ("use_bitlinear_attn", Value::Bool(c.use_bitlinear_attn)),
        ]),
    }
    plain(entries)
}

/// What `ckpt report` compares a decline with, under the seed's names.
pub(crate) fn training_config(settings: &Settings) -> Value {
    let o = &settings.optimizer;
    let (weight_decay, ternary_weight_decay) = o.weight_decay();
    let mut entries = vec![
        ("optimizer", Value::String(settings.optimizer.name())),
        ("weight_decay", Value::F64(weight_decay)),
        ("ternary_weight_decay", Value::F64(ternary_weight_decay)),
        ("gradient_accumulation_steps", Value::I64(settings.accumulate as i64)),
    ];
    entries.extend(o.rates().iter().map(|rate| (rate.setting, Value::F64(rate.lr))));
    plain(entries)
}
