//! A student whose rows fill the blocks of 256 elements that the ternary and K types have.

use std::path::Path;

use ckpt_convert::{Object, save};
use ckpt_inspect::metadata::HashableValue;

/// Writes it to `path`.
pub fn write(path: &Path) {
    let mut state = 1u64;
    let mut normal = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.05
        });
        Object::Floats { shape: shape.to_vec(), values: values.collect() }
    };
    let ones = |n: usize| Object::Floats { shape: vec![n], values: vec![1.0; n].into() };
    let mut weights = vec![("embed_tokens".to_string(), normal(&[1024, 256])), ("norm".into(), ones(256))];
    for layer in 0..2 {
        for (name, tensor) in [
            ("input_layernorm", ones(256)),
            ("post_attention_layernorm", ones(256)),
            ("self_attn.q_norm", ones(64)),
            ("self_attn.k_norm", ones(64)),
            ("self_attn.q_proj", normal(&[256, 256])),
            ("self_attn.k_proj", normal(&[128, 256])),
            ("self_attn.v_proj", normal(&[128, 256])),
            ("self_attn.o_proj", normal(&[256, 256])),
            ("mlp.gate_proj", normal(&[512, 256])),
            ("mlp.up_proj", normal(&[512, 256])),
            ("mlp.down_proj", normal(&[256, 512])),
        ] {
            weights.push((format!("layers.{layer}.{name}"), tensor));
        }
    }
    let key = |name: String| HashableValue::String(format!("{name}.weight"));
    let weights = weights.into_iter().map(|(name, tensor)| (key(name), tensor)).collect();
    save(&Object::dict([("model_state_dict", Object::Dict(weights))]), path, false).unwrap();
}
