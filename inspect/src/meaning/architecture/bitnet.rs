//! BitNet b1.58 as Microsoft publishes it: a Llama with two more norms in each layer, one before O and one before the down
//! projection, and the square of a ReLU in the gate. Of the programs that run GGUF only bitnet.cpp has its graph, which
//! multiplies by the embedding whatever the head is.

use super::super::config::Activation;
use super::super::elements::Floor;
use super::tensors::{
    ATTENTION_NORM, ATTENTION_SUB_NORM, DOWN, DOWN_INPUT_NORM, EMBEDDING, FFN_NORM, FFN_SUB_NORM, FINAL_NORM,
    GATE, GATE_INPUT_NORM, HEAD, K, K_BIAS, K_INPUT_NORM, O, O_BIAS, O_INPUT_NORM, Q, Q_BIAS, Q_INPUT_NORM,
    ROPE_FACTORS, Tensor, UP, UP_INPUT_NORM, V, V_BIAS, V_INPUT_NORM,
};
use super::{
    Architecture, Biases, Defaults, Graph, PLAIN_NETWORK, PLAIN_WORDS, Program, WHOLE, Words, bitnet_silu,
};

pub(super) static BITNET: Architecture = Architecture {
    name: "bitnet",
    label: "BitNet",
    classes: &["BitNetForCausalLM"],
    model_types: &["bitnet"],
    gguf: &["bitnet-b1.58", "bitnet-25"],
    interleaved: false,
    tensors: &TENSORS,
    biases: Biases::Configured,
    graph: Graph { program: Program::BitnetCpp, untied: false, ..WHOLE },
    // `default_theta` of transformers' `BitNetConfig`.
    defaults: defaults(Activation::Relu2, 5e5),
    network: PLAIN_NETWORK,
    words: Words {
        // bitnet.cpp.
        read_keys: |given| {
            given.rope_base.get_or_insert(1e4);
        },
        ..PLAIN_WORDS
    },
    not_in_gguf: |_| None,
    is_meant: |given| given.activation != Some(Activation::Silu),
    written_as: |config| match config.activation {
        Activation::Silu => &bitnet_silu::BITNET_SILU,
        _ => &BITNET,
    },
};

/// The tensors of both kinds of BitNet.
pub(super) static TENSORS: [&Tensor; 26] = [
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
    &ATTENTION_SUB_NORM,
    &O,
    &O_BIAS,
    &O_INPUT_NORM,
    &FFN_NORM,
    &GATE,
    &GATE_INPUT_NORM,
    &UP,
    &UP_INPUT_NORM,
    &FFN_SUB_NORM,
    &DOWN,
    &DOWN_INPUT_NORM,
    &FINAL_NORM,
    &HEAD,
    &ROPE_FACTORS,
];

/// What both kinds take for given. Their scales are at least 1e-5.
pub(super) const fn defaults(activation: Activation, rope_base: f64) -> Defaults {
    Defaults {
        max_seq_len: 2048,
        head_dim: 64,
        rope_base,
        norm_eps: 1e-5,
        quantization_floor: Floor::Least(1e-5),
        bitlinear: false,
        attn_logit_soft_cap: None,
        final_logit_soft_cap: None,
        activation,
        tied: false,
    }
}
