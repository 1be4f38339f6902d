//! Qwen3: a Llama that normalizes queries and keys per head.

use super::tensors::{
    ATTENTION_NORM, DOWN, EMBEDDING, FFN_NORM, FINAL_NORM, GATE, HEAD, K, K_BIAS, K_NORM, O, O_BIAS, Q,
    Q_BIAS, Q_NORM, ROPE_FACTORS, UP, V, V_BIAS,
};
use super::{
    Architecture, Biases, Defaults, Graph, PLAIN, PLAIN_NETWORK, PLAIN_WORDS, WHOLE, Words, windows,
};

pub(super) static QWEN3: Architecture = Architecture {
    name: "qwen3",
    label: "Qwen3",
    classes: &["Qwen3ForCausalLM"],
    model_types: &["qwen3"],
    gguf: &["qwen3"],
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
        &GATE,
        &UP,
        &DOWN,
        &FINAL_NORM,
        &HEAD,
        &ROPE_FACTORS,
    ],
    biases: Biases::Configured,
    graph: Graph { biased: false, ..WHOLE },
    defaults: Defaults { max_seq_len: 32_768, norm_eps: 1e-6, ..PLAIN },
    network: PLAIN_NETWORK,
    words: Words { windows: windows::switched_from, ..PLAIN_WORDS },
    not_in_gguf: |_| None,
    is_meant: |_| true,
    written_as: |_| &QWEN3,
};
