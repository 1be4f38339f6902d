//! Gemma 2: norms before and after attention and the feed-forward layer, whose gains are stored less one; embeddings
//! multiplied by the root of their width; soft caps; a window in every other layer; and GELU in the gate.

use serde_json::{Map, Value as Json, json};

use super::super::config::{Activation, ModelConfig};
use super::super::config_json::{FULL, SLIDING};
use super::super::given::Given;
use super::tensors::{
    ATTENTION_NORM, DOWN, EMBEDDING, FINAL_NORM, GATE, HEAD, K, K_BIAS, O, O_BIAS, POST_ATTENTION_NORM,
    POST_FFN_NORM, PRE_FFN_NORM, Q, Q_BIAS, UP, V, V_BIAS,
};
use super::{Architecture, Biases, Defaults, Graph, Network, PLAIN, PLAIN_WORDS, WHOLE, Words, windows};
use crate::metadata::{Value, as_f64, lookup};

/// Every how many layers one has no window.
const PERIOD: usize = 2;
/// The number of layers of the model whose scores llama.cpp scales by another rule.
const LARGEST: usize = 46;

pub(super) static GEMMA2: Architecture = Architecture {
    name: "gemma2",
    label: "Gemma 2",
    classes: &["Gemma2ForCausalLM"],
    model_types: &["gemma2"],
    gguf: &["gemma2"],
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
    graph: Graph { biased: false, untied: false, factors: false, period: Some(PERIOD), ..WHOLE },
    defaults: Defaults {
        max_seq_len: 8192,
        head_dim: 256,
        norm_eps: 1e-6,
        attn_logit_soft_cap: Some(50.0),
        final_logit_soft_cap: Some(30.0),
        activation: Activation::GeluTanh,
        tied: true,
        ..PLAIN
    },
    network: Network { gains_less_one: true, scaled_embedding: true },
    words: Words {
        windows: |words| windows::but_each(words, PERIOD),
        read: |config, given| {
            read(config, given);
            given.attn_logit_soft_cap = cap(config, "attn_logit_softcapping");
        },
        write: |model, config| {
            write(model, config);
            config.insert("attn_logit_softcapping".into(), json!(model.attn_logit_soft_cap));
        },
        read_keys: |given| {
            given.sliding_window.get_or_insert(4096);
            // Both are those of the class where the file has none.
            given.attn_logit_soft_cap = given.attn_logit_soft_cap.filter(Option::is_some);
            given.final_logit_soft_cap = given.final_logit_soft_cap.filter(Option::is_some);
            read_scale(given, LARGEST);
        },
        ..PLAIN_WORDS
    },
    not_in_gguf: |model| {
        if model.attn_logit_soft_cap.is_none() || model.final_logit_soft_cap.is_none() {
            return Some("does without soft caps, and llama.cpp's graph of gemma2 has them".into());
        }
        if model.sliding_window.is_none() {
            return Some("has no windows, and llama.cpp's graph of gemma2 has them".into());
        }
        scale_not_in_gguf(model, LARGEST)
    },
    is_meant: |_| true,
    written_as: |_| &GEMMA2,
};

/// Reads what config.json says in the words of both Gemmas.
pub(super) fn read(config: &Value, given: &mut Given) {
    if lookup(config, "head_dim").is_none() {
        given.head_dim = Some(256);
    }
    // Gemma's older word for it is not looked at.
    given.activation = match lookup(config, "hidden_activation") {
        Some(Value::String(name)) => Some(Activation::called(name)),
        _ => Some(Activation::GeluTanh),
    };
    let scalar = lookup(config, "query_pre_attn_scalar").and_then(as_f64).unwrap_or(256.0);
    given.attention_scale = Some(1.0 / scalar.sqrt());
    given.final_logit_soft_cap = cap(config, "final_logit_softcapping");
}

/// A soft cap: `Some(None)` where it is null, `None` where nothing is said.
fn cap(config: &Value, key: &str) -> Option<Option<f64>> {
    lookup(config, key).map(as_f64)
}

/// Writes it.
pub(super) fn write(model: &ModelConfig, config: &mut Map<String, Json>) {
    config.insert("hidden_activation".into(), json!(model.activation.name()));
    config.insert("final_logit_softcapping".into(), json!(model.final_logit_soft_cap));
    config.insert("query_pre_attn_scalar".into(), json!(scalar(model.attention_scale, model.head_dim)));
    if model.sliding_window.is_none() {
        // transformers makes the mask of a window even where no layer uses it.
        config.insert("sliding_window".into(), json!(4096));
        config.insert("layer_types".into(), vec![FULL; model.num_layers].into());
    } else {
        let kind = |n| if model.window_in(n).is_some() { SLIDING } else { FULL };
        config.insert("layer_types".into(), (0..model.num_layers).map(kind).collect());
    }
}

/// `query_pre_attn_scalar`, which is a whole number: what the scale of scores is the root of the reciprocal of.
fn scalar(scale: Option<f64>, head_dim: usize) -> u64 {
    scale.map_or(head_dim as u64, |scale| (1.0 / (scale * scale)).round() as u64)
}

/// What llama.cpp divides by the root of: the size of heads, or in the model of `largest` layers the width for each head.
fn of_graph(layers: usize, hidden_dim: usize, num_heads: usize, head_dim: usize, largest: usize) -> u64 {
    let dim = if layers == largest { hidden_dim / num_heads.max(1) } else { head_dim };
    dim as u64
}

/// The scale of scores in a GGUF file, whose key only ckpt writes.
pub(super) fn read_scale(given: &mut Given, largest: usize) {
    let sizes = (given.num_layers, given.hidden_dim, given.num_heads, given.head_dim);
    let (Some(layers), Some(hidden), Some(heads), Some(head_dim)) = sizes else { return };
    let scalar = match given.attention_scale {
        Some(scale) => scalar(Some(scale), head_dim),
        None => of_graph(layers, hidden, heads, head_dim, largest),
    };
    given.attention_scale = Some(1.0 / (scalar as f64).sqrt());
}

/// What a GGUF file cannot say of the scale of scores.
pub(super) fn scale_not_in_gguf(model: &ModelConfig, largest: usize) -> Option<String> {
    let own = scalar(model.attention_scale, model.head_dim);
    let theirs = of_graph(model.num_layers, model.hidden_dim, model.num_heads, model.head_dim, largest);
    (own != theirs).then(|| {
        format!("divides attention scores by the root of {own} (query_pre_attn_scalar), and llama.cpp by that of {theirs}")
    })
}
