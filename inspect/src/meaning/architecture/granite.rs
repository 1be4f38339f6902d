//! Granite: a Llama with multipliers of embeddings, attention scores, what blocks add to the residual stream, and logits.

use serde_json::json;

use super::{Architecture, Biases, Defaults, PLAIN, PLAIN_NETWORK, PLAIN_WORDS, WHOLE, Words, llama};
use crate::metadata::{as_f64, lookup};

pub(super) static GRANITE: Architecture = Architecture {
    name: "granite",
    label: "Granite",
    classes: &["GraniteForCausalLM"],
    model_types: &["granite"],
    gguf: &["granite"],
    interleaved: true,
    tensors: &llama::TENSORS,
    biases: Biases::Configured,
    graph: WHOLE,
    defaults: Defaults { norm_eps: 1e-6, ..PLAIN },
    network: PLAIN_NETWORK,
    words: Words {
        read: |config, given| {
            let number = |key: &str| lookup(config, key).and_then(as_f64);
            let other = |key: &str| number(key).filter(|x| *x != 1.0);
            given.embedding_scale = other("embedding_multiplier");
            given.residual_scale = other("residual_multiplier");
            given.logit_divisor = other("logits_scaling");
            given.attention_scale = Some(number("attention_multiplier").unwrap_or(1.0));
        },
        write: |model, config| {
            let usual = || 1.0 / (model.head_dim as f64).sqrt();
            for (key, number) in [
                ("embedding_multiplier", model.embedding_scale.unwrap_or(1.0)),
                ("residual_multiplier", model.residual_scale.unwrap_or(1.0)),
                ("logits_scaling", model.logit_divisor.unwrap_or(1.0)),
                ("attention_multiplier", model.attention_scale.unwrap_or_else(usual)),
            ] {
                config.insert(key.into(), json!(number));
            }
        },
        write_keys: |model, architecture, keys| {
            // llama.cpp needs this one.
            if model.logit_divisor.is_none() {
                keys.set(&format!("{architecture}.logit_scale"), &1f32);
            }
        },
        ..PLAIN_WORDS
    },
    not_in_gguf: |_| None,
    is_meant: |_| true,
    written_as: |_| &GRANITE,
};
