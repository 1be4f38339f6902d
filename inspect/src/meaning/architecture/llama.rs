//! Llama.

use super::tensors::{
    ATTENTION_NORM, DOWN, EMBEDDING, FFN_NORM, FINAL_NORM, GATE, HEAD, K, K_BIAS, O, O_BIAS, Q, Q_BIAS,
    ROPE_FACTORS, UP, V, V_BIAS,
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
        &UP,
        &DOWN,
        &FINAL_NORM,
        &HEAD,
        &ROPE_FACTORS,
    ],
    biases: Biases::Configured,
    defaults: PLAIN,
    is_meant: |given| given.sliding_window.is_none(),
    written_as: |_| &LLAMA,
};
