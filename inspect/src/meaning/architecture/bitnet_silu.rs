//! BitNet b1.58 as 1bitLLM reproduced it: the same tensors as [`bitnet`](super::bitnet), two of them under other names, and
//! silu in the gate. transformers runs it as its own BitNet class with that activation function, llama.cpp as `bitnet`,
//! where the head is the embedding.

use super::super::config::Activation;
use super::{Architecture, Biases, Graph, PLAIN_NETWORK, PLAIN_WORDS, WHOLE, bitnet};

pub(super) static BITNET_SILU: Architecture = Architecture {
    name: "bitnet-silu",
    label: "BitNet with silu",
    classes: &["BitNetForCausalLM", "BitnetForCausalLM"],
    model_types: &["bitnet"],
    gguf: &["bitnet"],
    interleaved: false,
    tensors: &bitnet::TENSORS,
    biases: Biases::Configured,
    graph: Graph { biased: false, untied: false, factors: false, ..WHOLE },
    defaults: bitnet::defaults(Activation::Silu, 1e4),
    network: PLAIN_NETWORK,
    words: PLAIN_WORDS,
    not_in_gguf: |_| None,
    is_meant: |_| true,
    written_as: |config| match config.activation {
        Activation::Relu2 => &bitnet::BITNET,
        _ => &BITNET_SILU,
    },
};
