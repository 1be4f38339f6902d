//! One block's weights: x += o(attention(norm x)), x += down(gate(norm x)); where there are norms of what is added, x +=
//! norm(o(…)).

use crate::experts::Experts;
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

/// A feed-forward layer.
#[derive(Debug)]
pub(crate) enum Mlp {
    Dense(FeedForward),
    Experts(Experts),
}

/// A feed-forward layer that all tokens use.
#[derive(Debug)]
pub(crate) struct FeedForward {
    /// [2 * mlp_hidden_dim, hidden_dim]: one, or two where each normalizes its input.
    pub gate_up: Vec<Projection>,
    /// `[mlp_hidden_dim]`, before the down projection
    pub sub_norm: Option<Gain>,
    /// [hidden_dim, mlp_hidden_dim]
    pub down: Projection,
}

/// One block's weights.
#[derive(Debug)]
pub(crate) struct Layer {
    /// `[hidden_dim]`, padded; `None` where attention takes the residual stream as it is.
    pub attention_norm: Option<Aligned<f32>>,
    /// [(num_heads + 2 * num_kv_heads) * head_dim, hidden_dim]: one, or three where each normalizes its input.
    pub qkv: Vec<Projection>,
    /// `[head_dim]`, padded
    pub q_norm: Option<Aligned<f32>>,
    /// `[head_dim]`, padded
    pub k_norm: Option<Aligned<f32>>,
    /// `[num_heads * head_dim]` and `[num_kv_heads * head_dim]`, padded, where all heads are normalized together.
    pub row_norms: Option<[Aligned<f32>; 2]>,
    /// The rotation of its queries and keys, if they rotate.
    pub rope: Option<usize>,
    /// The positions that attention sees, the query's own included.
    pub window: usize,
    /// `[num_heads * head_dim]`, before O
    pub attention_sub_norm: Option<Gain>,
    /// [hidden_dim, num_heads * head_dim]
    pub o: Projection,
    /// `[hidden_dim]`, padded, after O
    pub post_attention_norm: Option<Gain>,
    /// `[hidden_dim]`, padded; `None` where the feed-forward layer takes the residual stream as it is.
    pub ffn_norm: Option<Aligned<f32>>,
    pub mlp: Mlp,
    /// `[hidden_dim]`, padded, after the down projection
    pub post_ffn_norm: Option<Gain>,
}

impl Layer {
    fn projections(&self) -> impl Iterator<Item = &Projection> {
        let dense = if let Mlp::Dense(dense) = &self.mlp { Some(dense) } else { None };
        let of_mlp = dense.into_iter().flat_map(|dense| dense.gate_up.iter().chain([&dense.down]));
        self.qkv.iter().chain([&self.o]).chain(of_mlp)
    }

    /// Bytes of weights that one token reads.
    pub fn bytes_read(&self) -> usize {
        let dense: usize = self.projections().map(|projection| projection.stack.bytes()).sum();
        dense + if let Mlp::Experts(experts) = &self.mlp { experts.bytes_read() } else { 0 }
    }

    /// Its matrices, in the order in which an input passes them.
    pub fn stacks(&self) -> impl Iterator<Item = &Stack> {
        let experts = if let Mlp::Experts(experts) = &self.mlp { Some(experts) } else { None };
        self.projections()
            .map(|projection| &projection.stack)
            .chain(experts.into_iter().flat_map(Experts::stacks))
    }

    /// The gains of its norms.
    pub fn gains(&self) -> impl Iterator<Item = &Aligned<f32>> {
        let of_input = [&self.attention_norm, &self.ffn_norm].into_iter().flatten();
        let of_heads = [&self.q_norm, &self.k_norm].into_iter().flatten();
        let of_rows = self.row_norms.iter().flatten();
        let dense = if let Mlp::Dense(dense) = &self.mlp { Some(dense) } else { None };
        let within = [&self.attention_sub_norm, &self.post_attention_norm, &self.post_ffn_norm];
        let within = within.into_iter().chain(dense.map(|dense| &dense.sub_norm));
        let own = self.projections().filter_map(|projection| projection.norm.as_ref());
        let rest = within.flatten().chain(own).map(|gain| &gain.weight);
        of_input.chain(of_heads).chain(of_rows).chain(rest)
    }
}
