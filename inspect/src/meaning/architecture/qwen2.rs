//! Qwen2 and Qwen2.5: a Llama with biases of Q, K and V.

use super::super::config::AttentionBias;
use super::tensors::{
    ATTENTION_NORM, DOWN, EMBEDDING, FFN_NORM, FINAL_NORM, GATE, HEAD, K, K_BIAS, O, Q, Q_BIAS, ROPE_FACTORS,
    UP, V, V_BIAS,
};
use super::{Architecture, Biases, Defaults, PLAIN, PLAIN_NETWORK, PLAIN_WORDS, WHOLE, Words, windows};

pub(super) static QWEN2: Architecture = Architecture {
    name: "qwen2",
    label: "Qwen2",
    classes: &["Qwen2ForCausalLM"],
    model_types: &["qwen2"],
    gguf: &["qwen2"],
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
        &FFN_NORM,
        &GATE,
        &UP,
        &DOWN,
        &FINAL_NORM,
        &HEAD,
        &ROPE_FACTORS,
    ],
    biases: Biases::Fixed(AttentionBias::Qkv),
    graph: WHOLE,
    defaults: Defaults { max_seq_len: 32_768, norm_eps: 1e-6, ..PLAIN },
    network: PLAIN_NETWORK,
    words: Words { windows: windows::switched_from, ..PLAIN_WORDS },
    not_in_gguf: |_| None,
    is_meant: |_| true,
    written_as: |_| &QWEN2,
};
