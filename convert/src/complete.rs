//! Whether a model that is about to be written has all of its tensors, in the shapes that its layers need.

use std::collections::HashMap;

use crate::names::canonical;
use crate::plan::Plan;
use crate::{gguf, student};

/// More layers than any model has; a configuration may say any number.
const MOST_LAYERS: usize = 1 << 12;
/// Tensors that are named; the rest is counted.
const NAMED: usize = 4;

/// The sizes that shapes follow from.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub layers: usize,
    pub width: usize,
    pub mlp_width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub qk_norm: bool,
}

/// What a runner will miss in the model of `plan`, as a sentence; `None` where nothing is, or no model is recognised.
pub(crate) fn note(plan: &Plan<'_>) -> Option<String> {
    let source = plan.source;
    let sizes = match student::of(source) {
        Some(s) => Sizes {
            layers: s.num_layers,
            width: s.hidden_dim,
            mlp_width: s.mlp_hidden_dim,
            heads: s.num_heads,
            kv_heads: s.num_kv_heads,
            head_dim: s.head_dim,
            qk_norm: s.use_qk_norm,
        },
        None => gguf::sizes(source)?,
    };
    let shapes: HashMap<String, &[usize]> = plan
        .pairs
        .iter()
        .map(|pair| (canonical(&pair.name).into_owned(), pair.elements.tensor.shape.as_slice()))
        .collect();
    // A layer counts as soon as one tensor of it is there, whatever the configuration says.
    let layer_of = |name: &String| name.strip_prefix("layers.")?.split('.').next()?.parse::<usize>().ok();
    let there = shapes.keys().filter_map(layer_of).max().map_or(0, |last| last.saturating_add(1));
    let told = source.model.config.as_ref().map(crate::safetensors::to_json);
    let told = told.and_then(|config| config.get("num_layers")?.as_u64()).unwrap_or(0);
    let layers = sizes.layers.max(there).max(usize::try_from(told).unwrap_or(usize::MAX)).min(MOST_LAYERS);

    let Sizes { width, mlp_width, head_dim, .. } = sizes;
    let (queries, keys) = (sizes.heads.saturating_mul(head_dim), sizes.kv_heads.saturating_mul(head_dim));
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut check = |name: String, wanted: Option<&[usize]>| {
        let fault = match (shapes.get(&name), wanted) {
            (None, _) => "is missing".to_string(),
            (Some(shape), Some(wanted)) if *shape != wanted => {
                format!("has shape {shape:?} where the model needs {wanted:?}")
            }
            _ => return,
        };
        count += 1;
        if wrong.len() < NAMED {
            wrong.push(format!("`{}` {fault}", name.escape_debug()));
        }
    };
    check("embed_tokens.weight".into(), None);
    check("norm.weight".into(), Some(&[width]));
    for layer in 0..layers {
        let mut part = |name: &str, shape: &[usize]| {
            check(format!("layers.{layer}.{name}.weight"), Some(shape));
        };
        part("input_layernorm", &[width]);
        part("self_attn.q_proj", &[queries, width]);
        part("self_attn.k_proj", &[keys, width]);
        part("self_attn.v_proj", &[keys, width]);
        part("self_attn.o_proj", &[width, queries]);
        if sizes.qk_norm {
            part("self_attn.q_norm", &[head_dim]);
            part("self_attn.k_norm", &[head_dim]);
        }
        part("post_attention_layernorm", &[width]);
        part("mlp.gate_proj", &[mlp_width, width]);
        part("mlp.up_proj", &[mlp_width, width]);
        part("mlp.down_proj", &[width, mlp_width]);
    }
    if count == 0 {
        return None;
    }
    let more =
        if count > wrong.len() { format!(", and {} more", count - wrong.len()) } else { String::new() };
    Some(format!("the model is not whole, and no runner will load it: {}{more}", wrong.join("; ")))
}
