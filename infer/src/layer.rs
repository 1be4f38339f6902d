//! One block's weights: x += o(attention(norm x)), x += down(gate(norm x)).

use crate::kernel::Aligned;
use crate::kernel::product::Stack;

/// A norm: its gain, padded, and the number under its root.
#[derive(Debug)]
pub(crate) struct Gain {
    pub weight: Aligned<f32>,
    pub eps: f32,
}

/// Projections of one input, after the norm that they may have of their own.
#[derive(Debug)]
pub(crate) struct Projection {
    pub norm: Option<Gain>,
    pub stack: Stack,
}

/// One block's weights.
#[derive(Debug)]
pub(crate) struct Layer {
    /// `[hidden_dim]`, padded
    pub attention_norm: Aligned<f32>,
    /// [(num_heads + 2 * num_kv_heads) * head_dim, hidden_dim]: one, or three where each normalizes its input.
    pub qkv: Vec<Projection>,
    /// `[head_dim]`, padded
    pub q_norm: Option<Aligned<f32>>,
    /// `[head_dim]`, padded
    pub k_norm: Option<Aligned<f32>>,
    /// `[num_heads * head_dim]`, before O
    pub attention_sub_norm: Option<Gain>,
    /// [hidden_dim, num_heads * head_dim]
    pub o: Projection,
    /// `[hidden_dim]`, padded
    pub ffn_norm: Aligned<f32>,
    /// [2 * mlp_hidden_dim, hidden_dim]: one, or two where each normalizes its input.
    pub gate_up: Vec<Projection>,
    /// `[mlp_hidden_dim]`, before the down projection
    pub ffn_sub_norm: Option<Gain>,
    /// [hidden_dim, mlp_hidden_dim]
    pub down: Projection,
}

impl Layer {
    fn projections(&self) -> impl Iterator<Item = &Projection> {
        let (o, down) = (std::slice::from_ref(&self.o), std::slice::from_ref(&self.down));
        [&self.qkv, o, &self.gate_up, down].into_iter().flatten()
    }

    /// Its matrices, in the order in which an input passes them.
    pub fn stacks(&self) -> impl Iterator<Item = &Stack> {
        self.projections().map(|projection| &projection.stack)
    }

    /// The gains of its norms.
    pub fn gains(&self) -> impl Iterator<Item = &Aligned<f32>> {
        let of_heads = [&self.q_norm, &self.k_norm].into_iter().flatten();
        let within = [&self.attention_sub_norm, &self.ffn_sub_norm].into_iter().flatten();
        let own = self.projections().filter_map(|projection| projection.norm.as_ref());
        let rest = within.chain(own).map(|gain| &gain.weight);
        [&self.attention_norm, &self.ffn_norm].into_iter().chain(of_heads).chain(rest)
    }
}
