//! Mistral: a Llama whose attention has a sliding window. GGUF has one name for both, and the window's key
//! distinguishes them; a Mistral without a window is a Llama there. Ministral has a window in some of its layers.

use super::super::config::AttentionBias;
use super::tensors::{
    ATTENTION_NORM, DOWN, EMBEDDING, FFN_NORM, FINAL_NORM, GATE, HEAD, K, O, Q, ROPE_FACTORS, UP, V,
};
use super::{Architecture, Biases, Defaults, PLAIN, PLAIN_NETWORK, PLAIN_WORDS, WHOLE, Words, windows};

pub(super) static MISTRAL: Architecture = Architecture {
    name: "mistral",
    label: "Mistral",
    classes: &["MistralForCausalLM", "MinistralForCausalLM"],
    model_types: &["mistral", "ministral"],
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
        &GATE,
        &UP,
        &DOWN,
        &FINAL_NORM,
        &HEAD,
        &ROPE_FACTORS,
    ],
    biases: Biases::Fixed(AttentionBias::None),
    graph: WHOLE,
    defaults: Defaults { max_seq_len: 131_072, norm_eps: 1e-6, ..PLAIN },
    network: PLAIN_NETWORK,
    words: Words { windows: windows::everywhere_by_default, ..PLAIN_WORDS },
    not_in_gguf: |_| None,
    is_meant: |given| given.sliding_window.is_some() && given.experts.is_none(),
    written_as: |_| &MISTRAL,
};
