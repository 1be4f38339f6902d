//! Phi-3 and Phi-4: a Llama whose queries, keys and values are one projection, and the two of the feed-forward layer another.
//! Parts of heads may stay unrotated, and long texts have frequencies of their own.

use serde_json::json;

use super::super::config::AttentionBias;
use super::super::config_json::word;
use super::super::rope::RopeScaling;
use super::tensors::{
    ATTENTION_NORM, DOWN, EMBEDDING, FFN_NORM, FINAL_NORM, GATE_UP, HEAD, LONG_FACTORS, O, QKV, SHORT_FACTORS,
};
use super::{
    Architecture, Biases, Defaults, Graph, PLAIN, PLAIN_NETWORK, PLAIN_WORDS, WHOLE, Words, windows,
};
use crate::metadata::as_f64;

pub(super) static PHI3: Architecture = Architecture {
    name: "phi3",
    label: "Phi-3",
    classes: &["Phi3ForCausalLM"],
    model_types: &["phi3"],
    gguf: &["phi3"],
    interleaved: false,
    tensors: &[
        &EMBEDDING,
        &ATTENTION_NORM,
        &QKV,
        &O,
        &FFN_NORM,
        &GATE_UP,
        &DOWN,
        &FINAL_NORM,
        &HEAD,
        &LONG_FACTORS,
        &SHORT_FACTORS,
    ],
    biases: Biases::Fixed(AttentionBias::None),
    graph: Graph { factors: false, ..WHOLE },
    defaults: Defaults { max_seq_len: 4096, ..PLAIN },
    network: PLAIN_NETWORK,
    words: Words {
        own: &["partial_rotary_factor"],
        padding: Some(32000),
        original: Some(4096.0),
        windows: windows::everywhere,
        read: |config, given| {
            let share = word(config, "partial_rotary_factor").and_then(as_f64);
            let rotary = given.head_dim.zip(share).map(|(dim, share)| (dim as f64 * share) as usize);
            given.rotary_dim = rotary.filter(|n| Some(*n) != given.head_dim);
            // Older names of the same.
            if let Some(scaling) = given.rope_scaling.as_mut().filter(|s| matches!(s.kind(), "su" | "yarn")) {
                *scaling = scaling.called("longrope");
            }
        },
        write: |model, config| {
            if let Some(rotary) = model.rotary_dim {
                let share = rotary as f64 / model.head_dim as f64;
                config.insert("partial_rotary_factor".into(), json!(share));
            }
            // The class has a value of its own, which comes before the scaling's.
            let original = match &model.rope_scaling {
                RopeScaling::Llama3 { original_max_position_embeddings: n, .. } => Some(*n),
                RopeScaling::Yarn { original_max_position_embeddings: n, .. }
                | RopeScaling::LongRope { original_max_position_embeddings: n, .. } => *n,
                _ => None,
            };
            if let Some(n) = original {
                config.insert("original_max_position_embeddings".into(), json!(n as u64));
            }
        },
        write_keys: |model, architecture, keys| {
            // Without it, llama.cpp once took a window for granted.
            if model.sliding_window.is_none() {
                keys.set(&format!("{architecture}.attention.sliding_window"), &0u32);
            }
        },
        ..PLAIN_WORDS
    },
    not_in_gguf: |_| None,
    is_meant: |_| true,
    written_as: |_| &PHI3,
};
