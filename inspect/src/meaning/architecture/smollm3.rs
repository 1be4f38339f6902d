//! SmolLM3: a Llama in which some layers, usually each fourth, do not rotate queries and keys.

use serde_json::json;

use super::super::config_json::{FULL, SLIDING};
use super::super::gguf_keys;
use super::{
    Architecture, Biases, Defaults, Graph, PLAIN, PLAIN_NETWORK, PLAIN_WORDS, WHOLE, Words, llama, windows,
};
use crate::metadata::{Value, as_u64, lookup};

/// Every how many layers one does not rotate, in llama.cpp always and in config.json if nothing else is said.
const UNROTATED: usize = 4;
/// Lists of layers are not made longer than this.
const MOST_LAYERS: usize = 1 << 12;

pub(super) static SMOLLM3: Architecture = Architecture {
    name: "smollm3",
    label: "SmolLM3",
    classes: &["SmolLM3ForCausalLM"],
    model_types: &["smollm3"],
    gguf: &["smollm3"],
    interleaved: true,
    tensors: &llama::TENSORS,
    biases: Biases::Configured,
    graph: Graph { biased: false, factors: false, unrotated: Some(UNROTATED), ..WHOLE },
    defaults: Defaults { max_seq_len: 32_768, rope_base: 2e6, norm_eps: 1e-6, tied: true, ..PLAIN },
    network: PLAIN_NETWORK,
    words: Words {
        padding: Some(128_004),
        windows: windows::switched_unrotated,
        read: |config, given| {
            let period = lookup(config, "no_rope_layer_interval").and_then(as_u64).map(|n| n as usize);
            let layers = given.num_layers.unwrap_or(0).min(MOST_LAYERS);
            let slides = |kind: &Value| matches!(kind, Value::String(kind) if kind == SLIDING);
            if let (Some(Value::List(kinds)), None) =
                (lookup(config, "layer_types"), lookup(config, "sliding_window").and_then(as_u64))
                && kinds.iter().any(slides)
            {
                given.unread = Some("has `layer_types` with a window, and no `sliding_window`".into());
            }
            given.rotated_layers = match lookup(config, "no_rope_layers") {
                Some(Value::List(items)) => {
                    if items.len() < layers {
                        given.unread = Some("has `no_rope_layers` for fewer layers than it has".into());
                    }
                    let rotates: Vec<bool> =
                        items.iter().take(layers).map(|n| as_u64(n) != Some(0)).collect();
                    Some(rotates).filter(|rotates| rotates.contains(&false))
                }
                _ => gguf_keys::but_each(period.unwrap_or(UNROTATED), layers),
            };
        },
        write: |model, config| {
            let rotates: Vec<u8> = (0..model.num_layers).map(|n| model.rotates(n).into()).collect();
            config.insert("no_rope_layers".into(), json!(rotates));
            config.insert("use_sliding_window".into(), json!(model.sliding_window.is_some()));
            if model.sliding_window.is_some() {
                let kind = |n| if model.window_in(n).is_some() { SLIDING } else { FULL };
                config.insert("layer_types".into(), (0..model.num_layers).map(kind).collect());
            }
        },
        ..PLAIN_WORDS
    },
    not_in_gguf: |model| {
        let usual = |n: usize| model.rotates(n) != (n + 1).is_multiple_of(UNROTATED);
        let differs = !(0..model.num_layers).all(usual);
        differs.then(|| {
            format!("does not rotate queries and keys in other layers than each {UNROTATED}th, which llama.cpp takes for granted")
        })
    },
    is_meant: |_| true,
    written_as: |_| &SMOLLM3,
};
