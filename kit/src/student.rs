//! A small student model: layers of attention with normalised queries and keys, and gated MLPs.

use crate::random::Random;
use crate::tensor::Tensor;

/// Its sizes. Rows of the default's matrices fill the blocks of 256 elements that ternary and K types have.
#[derive(Clone, Debug)]
pub struct Student {
    /// Tokens.
    pub vocab: usize,
    /// Of the residual stream.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Of a head.
    pub head_dim: usize,
    /// Of the MLP within.
    pub mlp: usize,
    /// Whether the embedding is the output head too.
    pub tied: bool,
}

impl Default for Student {
    fn default() -> Self {
        let (heads, kv_heads, head_dim) = (4, 2, 64);
        Student { vocab: 1024, width: 256, layers: 2, heads, kv_heads, head_dim, mlp: 512, tied: true }
    }
}

impl Student {
    /// Names and shapes of its tensors.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let Student { vocab, width, head_dim, mlp, .. } = *self;
        let (queries, keys) = (self.heads * head_dim, self.kv_heads * head_dim);
        let mut shapes = vec![("embed_tokens.weight".to_string(), vec![vocab, width])];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![width]),
                ("post_attention_layernorm", vec![width]),
                ("self_attn.q_norm", vec![head_dim]),
                ("self_attn.k_norm", vec![head_dim]),
                ("self_attn.q_proj", vec![queries, width]),
                ("self_attn.k_proj", vec![keys, width]),
                ("self_attn.v_proj", vec![keys, width]),
                ("self_attn.o_proj", vec![width, queries]),
                ("mlp.gate_proj", vec![mlp, width]),
                ("mlp.up_proj", vec![mlp, width]),
                ("mlp.down_proj", vec![width, mlp]),
            ] {
                shapes.push((format!("layers.{layer}.{name}.weight"), shape));
            }
        }
        shapes.push(("norm.weight".into(), vec![width]));
        if !self.tied {
            shapes.push(("lm_head.weight".into(), vec![vocab, width]));
        }
        shapes
    }

    /// Its tensors, whose elements `value` gives by the tensor's name and the element's place.
    pub fn tensors(&self, mut value: impl FnMut(&str, usize) -> f32) -> Vec<Tensor> {
        let of = |(name, shape): (String, Vec<usize>)| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|i| value(&name, i)).collect();
            Tensor::new(name, &shape, values)
        };
        self.shapes().into_iter().map(of).collect()
    }

    /// As at the start of a training: gains of one, and matrices whose elements are even between plus and minus `spread`.
    pub fn drawn(&self, spread: f32) -> Vec<Tensor> {
        let mut random = Random::new(1);
        self.tensors(|name, _| if name.contains("norm") { 1.0 } else { spread * random.even() })
    }
}
