//! Gemma 3, as far as it is text: a Gemma 2 with norms of queries and keys instead of soft caps of scores, a window in all
//! layers but each sixth, and another base of the rotary frequencies in layers that have it.

use serde_json::json;

use super::super::config::{Activation, AttentionBias};
use super::super::config_json::{FULL, SLIDING, older_scaling};
use super::super::rope::RopeScaling;
use super::gemma2::{read, read_scale, scale_not_in_gguf, write};
use super::tensors::{
    ATTENTION_NORM, DOWN, EMBEDDING, FINAL_NORM, GATE, HEAD, K, K_BIAS, K_NORM, O, O_BIAS,
    POST_ATTENTION_NORM, POST_FFN_NORM, PRE_FFN_NORM, Q, Q_BIAS, Q_NORM, UP, V, V_BIAS,
};
use super::{Architecture, Biases, Defaults, Graph, Network, PLAIN, PLAIN_WORDS, WHOLE, Words, windows};
use crate::metadata::{Value, as_f64, lookup};

/// Every how many layers one has no window.
const PERIOD: usize = 6;
/// The number of layers of the model whose scores llama.cpp scales by another rule.
const LARGEST: usize = 62;
/// The base in layers with a window.
const LOCAL_BASE: f64 = 1e4;

pub(super) static GEMMA3: Architecture = Architecture {
    name: "gemma3",
    label: "Gemma 3",
    classes: &["Gemma3ForCausalLM"],
    model_types: &["gemma3_text"],
    gguf: &["gemma3"],
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
        &POST_ATTENTION_NORM,
        &PRE_FFN_NORM,
        &GATE,
        &UP,
        &DOWN,
        &POST_FFN_NORM,
        &FINAL_NORM,
        &HEAD,
    ],
    biases: Biases::Configured,
    graph: Graph { biased: false, factors: false, period: Some(PERIOD), ..WHOLE },
    defaults: Defaults {
        max_seq_len: 131_072,
        head_dim: 256,
        rope_base: 1e6,
        norm_eps: 1e-6,
        activation: Activation::GeluTanh,
        tied: true,
        ..PLAIN
    },
    network: Network { gains_less_one: true, scaled_embedding: true },
    words: Words {
        own: &[FULL],
        windows: |words| windows::but_each(words, words.period.unwrap_or(PERIOD)),
        read: |config, given| {
            read(config, given);
            let number = |key: &str| lookup(config, key).and_then(as_f64);
            // The older word changes the parameters of layers without a window.
            let older = older_scaling(config);
            let nested = lookup(config, "rope_parameters").or(older);
            let of = |kind: &str| nested.and_then(|all| lookup(all, kind));
            let theta = |own: &Value| as_f64(lookup(own, "rope_theta")?);
            let base = |kind: &str| of(kind).and_then(theta);
            given.rope_base = older.and_then(theta).or(base(FULL)).or(given.rope_base);
            given.local_rope_base =
                Some(base(SLIDING).or(number("rope_local_base_freq")).unwrap_or(LOCAL_BASE));
            let replaced = older.is_some_and(|older| lookup(older, FULL).is_none());
            if let Some(own) = of(FULL).filter(|_| !replaced) {
                given.rope_scaling = Some(RopeScaling::of_config(own));
            }
            let is_flat = older.is_none() && [FULL, SLIDING].iter().all(|kind| of(kind).is_none());
            if is_flat && nested.is_some() {
                // Parameters that name no kind of layers are left aside (`Gemma3TextConfig`).
                given.rope_scaling = Some(RopeScaling::None);
                given.rope_base = number("rope_theta");
            }
            if of(SLIDING).map(RopeScaling::of_config).is_some_and(|own| own != RopeScaling::None) {
                given.unread = Some("scales rotary positions in layers that have a window".into());
            }
        },
        write: |model, config| {
            write(model, config);
            config.insert("rope_local_base_freq".into(), json!(model.local_rope_base.unwrap_or(LOCAL_BASE)));
        },
        read_keys: |given| {
            given.local_rope_base.get_or_insert(LOCAL_BASE);
            read_scale(given, LARGEST);
        },
        ..PLAIN_WORDS
    },
    not_in_gguf: |model| {
        if model.attention_bias != AttentionBias::None {
            return Some(
                "has biases in its attention, which llama.cpp's graph of gemma3 does not add".into(),
            );
        }
        scale_not_in_gguf(model, LARGEST)
    },
    is_meant: |_| true,
    written_as: |_| &GEMMA3,
};
