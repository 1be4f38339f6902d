//! Qwen3-MoE: a Qwen3 whose feed-forward layers consist of experts.

use serde_json::json;

use super::super::config::Experts;
use super::tensors::{
    ATTENTION_NORM, DOWN_EXPERTS, EMBEDDING, FFN_NORM, FINAL_NORM, GATE_EXPERTS, HEAD, K, K_BIAS, K_NORM, O,
    O_BIAS, Q, Q_BIAS, Q_NORM, ROUTER, UP_EXPERTS, V, V_BIAS,
};
use super::{
    Architecture, Biases, Defaults, Graph, PLAIN, PLAIN_NETWORK, PLAIN_WORDS, WHOLE, Words, windows,
};
use crate::metadata::{Value, as_u64, lookup};

pub(super) static QWEN3MOE: Architecture = Architecture {
    name: "qwen3moe",
    label: "Qwen3-MoE",
    classes: &["Qwen3MoeForCausalLM"],
    model_types: &["qwen3_moe"],
    gguf: &["qwen3moe"],
    interleaved: false,
    tensors: &[
        &EMBEDDING,
        &ATTENTION_NORM,
        &Q,
        &Q_BIAS,
        &K,
        &K_BIAS,
        &V,
        &V_BIAS,
        &O,
        &O_BIAS,
        &Q_NORM,
        &K_NORM,
        &FFN_NORM,
        &ROUTER,
        &GATE_EXPERTS,
        &UP_EXPERTS,
        &DOWN_EXPERTS,
        &FINAL_NORM,
        &HEAD,
    ],
    biases: Biases::Configured,
    graph: Graph { biased: false, factors: false, ..WHOLE },
    defaults: Defaults { max_seq_len: 32_768, norm_eps: 1e-6, ..PLAIN },
    network: PLAIN_NETWORK,
    words: Words {
        windows: windows::switched_everywhere,
        read: |config, given| {
            let size = |key: &str| lookup(config, key).and_then(as_u64).map(|n| n as usize);
            given.experts = Some(Experts {
                count: size("num_experts").or(size("num_local_experts")).unwrap_or(128),
                used: size("num_experts_per_tok").unwrap_or(8),
                hidden_dim: size("moe_intermediate_size").unwrap_or(768),
                normalized: matches!(lookup(config, "norm_topk_prob"), Some(Value::Bool(true))),
            });
            let dense =
                matches!(lookup(config, "mlp_only_layers"), Some(Value::List(layers)) if !layers.is_empty());
            if dense || size("decoder_sparse_step").is_some_and(|step| step != 1) {
                given.unread =
                    Some("has layers without experts (mlp_only_layers, decoder_sparse_step)".into());
            }
        },
        write: |model, config| {
            if let Some(experts) = model.experts {
                config.insert("num_experts".into(), json!(experts.count));
                config.insert("num_experts_per_tok".into(), json!(experts.used));
                config.insert("moe_intermediate_size".into(), json!(experts.hidden_dim));
                config.insert("norm_topk_prob".into(), json!(experts.normalized));
            }
        },
        // llama.cpp divides the width of dense layers among experts where there is none of theirs, also if they are the same.
        write_keys: |model, architecture, keys| {
            if let Some(experts) = model.experts {
                let width = u32::try_from(experts.hidden_dim).unwrap_or(u32::MAX);
                keys.set(&format!("{architecture}.expert_feed_forward_length"), &width);
            }
        },
        ..PLAIN_WORDS
    },
    not_in_gguf: |model| {
        let differs = model.experts.is_some_and(|experts| !experts.normalized);
        differs.then(|| {
            "does not divide the weights of experts by their sum (norm_topk_prob), and llama.cpp's graph of qwen3moe does"
                .into()
        })
    },
    is_meant: |_| true,
    written_as: |_| &QWEN3MOE,
};
