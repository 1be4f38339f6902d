//! Which tensor plays which part, whatever the checkpoint calls it: the student's names, Hugging Face's and GGUF's.

use std::collections::HashMap;

use ckpt_inspect::{Checkpoint, Format, Group, TensorInfo, without_state_dict};

/// A tensor's part in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the variants are the field's own names
pub enum Role {
    Embedding,
    FinalNorm,
    Head,
    /// Divisors of the rotary frequencies.
    RopeFactors,
    /// One of a layer's tensors.
    Layer(usize, Part),
}

/// A tensor of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the variants are the field's own names
pub enum Part {
    AttentionNorm,
    Q,
    K,
    V,
    O,
    QNorm,
    KNorm,
    FfnNorm,
    Gate,
    Up,
    Down,
}

/// Name in the student and Hugging Face form, name in GGUF; both without `.weight`.
const MODEL: [(Role, &str, &str); 4] = [
    (Role::Embedding, "embed_tokens", "token_embd"),
    (Role::FinalNorm, "norm", "output_norm"),
    (Role::Head, "lm_head", "output"),
    (Role::RopeFactors, "", "rope_freqs"),
];

/// The same, after `layers.N.` and `blk.N.`.
const LAYER: [(Part, &str, &str); 11] = [
    (Part::AttentionNorm, "input_layernorm", "attn_norm"),
    (Part::Q, "self_attn.q_proj", "attn_q"),
    (Part::K, "self_attn.k_proj", "attn_k"),
    (Part::V, "self_attn.v_proj", "attn_v"),
    (Part::O, "self_attn.o_proj", "attn_output"),
    (Part::QNorm, "self_attn.q_norm", "attn_q_norm"),
    (Part::KNorm, "self_attn.k_norm", "attn_k_norm"),
    (Part::FfnNorm, "post_attention_layernorm", "ffn_norm"),
    (Part::Gate, "mlp.gate_proj", "ffn_gate"),
    (Part::Up, "mlp.up_proj", "ffn_up"),
    (Part::Down, "mlp.down_proj", "ffn_down"),
];

/// The tensors of a checkpoint by their part.
#[derive(Debug)]
pub struct Names<'a> {
    roles: HashMap<Role, &'a TensorInfo>,
    /// Whether they are called as in GGUF.
    gguf: bool,
    /// Weights inside layers that no part of this model uses, such as biases and further norms.
    pub unused: Vec<&'a TensorInfo>,
}

impl<'a> Names<'a> {
    /// Finds the part of every weight. The first tensor of a part counts: a state dict's, before its moving average's.
    pub fn of(checkpoint: &'a Checkpoint) -> Self {
        let mut roles = HashMap::new();
        let mut unused = Vec::new();
        for tensor in checkpoint.tensors.iter().filter(|t| t.group == Group::Weights) {
            let name = without_state_dict(&tensor.name);
            let name = name.strip_prefix("module.").unwrap_or(name);
            let name = name.strip_prefix("model.").unwrap_or(name);
            match role(name) {
                Some(role) => {
                    roles.entry(role).or_insert(tensor);
                }
                // A buffer of older Llama files, computed from the base.
                None if name.ends_with("rotary_emb.inv_freq") => {}
                None if name.starts_with("layers.") || name.starts_with("blk.") => unused.push(tensor),
                None => {}
            }
        }
        Names { roles, gguf: matches!(checkpoint.format, Format::Gguf { .. }), unused }
    }

    /// What a tensor of `role` is called in such a checkpoint, whether it is there or not.
    pub fn called(&self, role: Role) -> String {
        let of_style = |torch: &'static str, gguf: &'static str| if self.gguf { gguf } else { torch };
        let (layer, name) = match role {
            Role::Layer(n, part) => {
                let found = LAYER.iter().find(|(other, ..)| *other == part);
                let layer = format!("{}.{n}.", of_style("layers", "blk"));
                (layer, found.map_or("", |(_, torch, gguf)| of_style(torch, gguf)))
            }
            _ => {
                let found = MODEL.iter().find(|(other, ..)| *other == role);
                (String::new(), found.map_or("", |(_, torch, gguf)| of_style(torch, gguf)))
            }
        };
        format!("{layer}{name}.weight")
    }

    /// The tensor that plays `role`.
    pub fn get(&self, role: Role) -> Option<&'a TensorInfo> {
        self.roles.get(&role).copied()
    }

    /// Layers from the first on, as far as they have an attention norm or a query projection.
    pub fn layers(&self) -> usize {
        let has = |n, part| self.roles.contains_key(&Role::Layer(n, part));
        (0..).take_while(|&n| has(n, Part::AttentionNorm) || has(n, Part::Q)).count()
    }
}

fn role(name: &str) -> Option<Role> {
    let name = name.strip_suffix(".weight")?;
    if let Some((role, ..)) = MODEL.iter().find(|(_, torch, gguf)| name == *torch || name == *gguf) {
        return Some(*role);
    }
    let rest = name.strip_prefix("layers.").or_else(|| name.strip_prefix("blk."))?;
    let (number, rest) = rest.split_once('.')?;
    let (part, ..) = LAYER.iter().find(|(_, torch, gguf)| rest == *torch || rest == *gguf)?;
    Some(Role::Layer(number.parse().ok()?, *part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_of_name() {
        assert_eq!(role("embed_tokens.weight"), Some(Role::Embedding));
        assert_eq!(role("token_embd.weight"), Some(Role::Embedding));
        assert_eq!(role("layers.3.self_attn.q_norm.weight"), Some(Role::Layer(3, Part::QNorm)));
        assert_eq!(role("blk.11.ffn_down.weight"), Some(Role::Layer(11, Part::Down)));
        assert_eq!(role("layers.3.self_attn.q_proj.bias"), None);
        assert_eq!(role("layers.x.self_attn.q_proj.weight"), None);
    }
}
