//! Llama.

use super::tensors::{
    ATTENTION_NORM, DOWN, DOWN_BIAS, EMBEDDING, FFN_NORM, FINAL_NORM, GATE, GATE_BIAS, HEAD, K, K_BIAS, O,
    O_BIAS, Q, Q_BIAS, ROPE_FACTORS, UP, UP_BIAS, V, V_BIAS,
};
use super::{Architecture, Biases, PLAIN};

pub(super) static LLAMA: Architecture = Architecture {
    name: "llama",
    label: "Llama",
    classes: &["LlamaForCausalLM"],
    model_types: &["llama"],
    gguf: &["llama"],
    interleaved: true,
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
        &FFN_NORM,
        &GATE,
        &GATE_BIAS,
        &UP,
        &UP_BIAS,
        &DOWN,
        &DOWN_BIAS,
        &FINAL_NORM,
        &HEAD,
        &ROPE_FACTORS,
    ],
    biases: Biases::Configured,
    biased_in_gguf: true,
    defaults: PLAIN,
    is_meant: |given| given.sliding_window.is_none(),
    written_as: |_| &LLAMA,
};
