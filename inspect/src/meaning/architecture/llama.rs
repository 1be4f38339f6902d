//! Llama.

use super::tensors::{
    ATTENTION_NORM, DOWN, DOWN_BIAS, DOWN_INPUT_NORM, EMBEDDING, FFN_NORM, FINAL_NORM, GATE, GATE_BIAS,
    GATE_INPUT_NORM, HEAD, K, K_BIAS, K_INPUT_NORM, O, O_BIAS, O_INPUT_NORM, Q, Q_BIAS, Q_INPUT_NORM,
    ROPE_FACTORS, Tensor, UP, UP_BIAS, UP_INPUT_NORM, V, V_BIAS, V_INPUT_NORM,
};
use super::{Architecture, Biases, Defaults, PLAIN, PLAIN_NETWORK, PLAIN_WORDS, WHOLE};

pub(super) static LLAMA: Architecture = Architecture {
    name: "llama",
    label: "Llama",
    classes: &["LlamaForCausalLM"],
    model_types: &["llama"],
    gguf: &["llama"],
    interleaved: true,
    tensors: &TENSORS,
    biases: Biases::Configured,
    graph: WHOLE,
    defaults: Defaults { norm_eps: 1e-6, ..PLAIN },
    network: PLAIN_NETWORK,
    words: PLAIN_WORDS,
    not_in_gguf: |_| None,
    is_meant: |given| given.sliding_window.is_none() && given.experts.is_none(),
    written_as: |_| &LLAMA,
};

/// The tensors of a Llama, with all biases.
pub(super) static TENSORS: [&Tensor; 27] = [
    &EMBEDDING,
    &ATTENTION_NORM,
    &Q,
    &Q_BIAS,
    &Q_INPUT_NORM,
    &K,
    &K_BIAS,
    &K_INPUT_NORM,
    &V,
    &V_BIAS,
    &V_INPUT_NORM,
    &O,
    &O_BIAS,
    &O_INPUT_NORM,
    &FFN_NORM,
    &GATE,
    &GATE_BIAS,
    &GATE_INPUT_NORM,
    &UP,
    &UP_BIAS,
    &UP_INPUT_NORM,
    &DOWN,
    &DOWN_BIAS,
    &DOWN_INPUT_NORM,
    &FINAL_NORM,
    &HEAD,
    &ROPE_FACTORS,
];
