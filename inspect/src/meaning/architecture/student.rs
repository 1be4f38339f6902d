//! bitnet-student, or "the student" for short: a small BitNet code model with norms of queries and keys and soft caps,
//! which `docs/bitnet.md` describes. Hugging Face and GGUF have no name for it, so it is written as the nearest
//! architecture they have, and in GGUF additional keys (`ckpt.…`) record what differs.

use super::super::config::{Activation, AttentionBias};
use super::super::elements::Floor;
use super::tensors::{
    ATTENTION_NORM, DOWN, EMBEDDING, FFN_NORM, FINAL_NORM, GATE, HEAD, K, K_NORM, O, Q, Q_NORM, ROPE_FACTORS,
    UP, V,
};
use super::{Architecture, Biases, Defaults, Graph, PLAIN_NETWORK, PLAIN_WORDS, WHOLE, llama, qwen3};

/// bitnet-student, the BitNet code model that ckpt trains and whose checkpoints it reads natively.
pub static STUDENT: Architecture = Architecture {
    name: "bitnet-student",
    label: "bitnet-student",
    classes: &[],
    model_types: &[],
    gguf: &["qwen3", "llama"],
    interleaved: false,
    tensors: &[
        &EMBEDDING,
        &ATTENTION_NORM,
        &Q,
        &K,
        &V,
        &O,
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
    biases: Biases::Fixed(AttentionBias::None),
    graph: Graph { biased: false, ..WHOLE },
    defaults: Defaults {
        max_seq_len: 2048,
        head_dim: 64,
        rope_base: 1e6,
        norm_eps: 1e-6,
        quantization_floor: Floor::Added(1e-8),
        bitlinear: true,
        attn_logit_soft_cap: Some(50.0),
        final_logit_soft_cap: Some(30.0),
        activation: Activation::Silu,
        tied: true,
    },
    network: PLAIN_NETWORK,
    words: PLAIN_WORDS,
    not_in_gguf: |_| None,
    is_meant: |given| {
        let has_switch = given.use_bitlinear_ffn.or(given.use_bitlinear_attn).is_some();
        let caps = [given.attn_logit_soft_cap, given.final_logit_soft_cap];
        has_switch || caps.into_iter().flatten().flatten().next().is_some()
    },
    // Per-head norms of queries and keys are Qwen3's; without them it is a Llama.
    written_as: |config| if config.use_qk_norm { &qwen3::QWEN3 } else { &llama::LLAMA },
};
