//! Mixtral: a Mistral whose feed-forward layers consist of experts. GGUF calls it a llama that has experts.

use serde_json::json;

use super::super::config::{AttentionBias, Experts};
use super::tensors::{
    ATTENTION_NORM, EMBEDDING, FFN_NORM, FINAL_NORM, HEAD, K, O, Q, ROPE_FACTORS, V, W_ROUTER, W1_EXPERTS,
    W2_EXPERTS, W3_EXPERTS,
};
use super::{Architecture, Biases, Defaults, PLAIN, PLAIN_NETWORK, PLAIN_WORDS, WHOLE, Words, windows};
use crate::metadata::{as_u64, lookup};

pub(super) static MIXTRAL: Architecture = Architecture {
    name: "mixtral",
    label: "Mixtral",
    classes: &["MixtralForCausalLM"],
    model_types: &["mixtral"],
    gguf: &["llama"],
    interleaved: true,
    tensors: &[
        &EMBEDDING,
        &ATTENTION_NORM,
        &Q,
        &K,
        &V,
        &O,
        &FFN_NORM,
        &W_ROUTER,
        &W1_EXPERTS,
        &W3_EXPERTS,
        &W2_EXPERTS,
        &FINAL_NORM,
        &HEAD,
        &ROPE_FACTORS,
    ],
    biases: Biases::Fixed(AttentionBias::None),
    graph: WHOLE,
    defaults: Defaults { max_seq_len: 131_072, rope_base: 1e6, ..PLAIN },
    network: PLAIN_NETWORK,
    words: Words {
        windows: windows::everywhere,
        read: |config, given| {
            let size = |key: &str| lookup(config, key).and_then(as_u64).map(|n| n as usize);
            given.experts = Some(Experts {
                count: size("num_local_experts").or(size("num_experts")).unwrap_or(8),
                used: size("num_experts_per_tok").unwrap_or(2),
                hidden_dim: given.mlp_hidden_dim.unwrap_or(0),
                normalized: true,
            });
        },
        write: |model, config| {
            if let Some(experts) = model.experts {
                config.insert("num_local_experts".into(), json!(experts.count));
                config.insert("num_experts_per_tok".into(), json!(experts.used));
            }
        },
        ..PLAIN_WORDS
    },
    not_in_gguf: |_| None,
    is_meant: |given| given.experts.is_some(),
    written_as: |_| &MIXTRAL,
};
