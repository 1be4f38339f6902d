//! The tensors of architectures: their names, their shapes, and which models have them.

use super::super::config::{AttentionBias, ModelConfig};
use super::{Part, Role};

/// One tensor of an architecture, or one in each layer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Tensor {
    /// Its part in the model, in layer 0 if it is one of a layer's.
    pub role: Role,
    /// Its module in Hugging Face's names and the student's, within the model or a layer; `None` if they have no name
    /// for it.
    pub module: Option<&'static str>,
    /// What other programs call that module.
    pub also: Option<&'static str>,
    /// The same in GGUF's names.
    pub gguf: &'static str,
    /// The part of the name after the module: `weight` or `bias`.
    pub leaf: &'static str,
    /// Its dimensions, as PyTorch gives them.
    pub shape: &'static [Dim],
    /// The models that have it.
    pub when: When,
}

/// A dimension of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dim {
    /// Token ids.
    Vocab,
    /// The residual stream.
    Hidden,
    /// All query heads.
    Queries,
    /// All key heads, or all value heads.
    Keys,
    /// One head.
    Head,
    /// Pairs of a head that rotate together.
    Pairs,
    /// All query, key and value heads.
    Fused,
    /// The feed-forward layer.
    Mlp,
    /// The feed-forward layer's gate, and as many more.
    MlpTwice,
    /// The experts of a feed-forward layer.
    Experts,
    /// One of them.
    Expert,
}

/// Which models have a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// All.
    Always,
    /// Those whose output head is not the embedding.
    Untied,
    /// Those that normalize queries and keys per head.
    QkNorm,
    /// Those with biases of Q, K and V.
    QkvBias,
    /// Those with a bias of O too.
    OutputBias,
    /// Those with biases in the feed-forward layer.
    MlpBias,
    /// Those whose BitLinears normalize their input.
    InputNorms,
    /// None that a configuration can announce.
    Never,
}

impl When {
    /// Whether a model of this configuration is one of them.
    pub fn holds(self, config: &ModelConfig) -> bool {
        match self {
            When::Always => true,
            When::Untied => !config.tie_word_embeddings,
            When::QkNorm => config.use_qk_norm,
            When::QkvBias => config.attention_bias != AttentionBias::None,
            When::OutputBias => config.attention_bias == AttentionBias::All,
            When::MlpBias => config.mlp_bias,
            When::InputNorms => config.bitlinear_norm_eps.is_some(),
            When::Never => false,
        }
    }
}

impl Tensor {
    /// Whether it has the matrices of all experts. Hugging Face's files have one tensor for each.
    pub fn is_stack(&self) -> bool {
        matches!(self.shape, [Dim::Experts, _, _])
    }

    /// Its shape in a model of this configuration.
    pub fn shape_in(&self, config: &ModelConfig) -> Vec<usize> {
        let size = |dim: &Dim| match dim {
            Dim::Vocab => config.vocab_size,
            Dim::Hidden => config.hidden_dim,
            Dim::Queries => config.num_heads.saturating_mul(config.head_dim),
            Dim::Keys => config.num_kv_heads.saturating_mul(config.head_dim),
            Dim::Head => config.head_dim,
            Dim::Pairs => config.rotary_dim.unwrap_or(config.head_dim) / 2,
            Dim::Fused => {
                let heads = config.num_kv_heads.saturating_mul(2).saturating_add(config.num_heads);
                heads.saturating_mul(config.head_dim)
            }
            Dim::Mlp => config.mlp_hidden_dim,
            Dim::MlpTwice => config.mlp_hidden_dim.saturating_mul(2),
            Dim::Experts => config.experts.map_or(0, |experts| experts.count),
            Dim::Expert => config.experts.map_or(0, |experts| experts.hidden_dim),
        };
        self.shape.iter().map(size).collect()
    }
}

const fn weight(
    role: Role,
    module: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
    when: When,
) -> Tensor {
    Tensor { role, module: Some(module), also: None, gguf, leaf: "weight", shape, when }
}

const fn of_layer(part: Part, module: &'static str, gguf: &'static str, shape: &'static [Dim]) -> Tensor {
    weight(Role::Layer(0, part), module, gguf, shape, When::Always)
}

const fn head_norm(part: Part, module: &'static str, gguf: &'static str) -> Tensor {
    weight(Role::Layer(0, part), module, gguf, &[Dim::Head], When::QkNorm)
}

const fn bias(part: Part, of: &'static Tensor, dim: &'static [Dim], when: When) -> Tensor {
    let role = Role::Layer(0, part);
    Tensor { role, module: of.module, also: None, gguf: of.gguf, leaf: "bias", shape: dim, when }
}

/// A norm of a block's middle, which 1bitLLM calls `also`.
const fn sub_norm(
    part: Part,
    module: &'static str,
    also: &'static str,
    gguf: &'static str,
    dim: &'static [Dim],
) -> Tensor {
    Tensor { also: Some(also), ..of_layer(part, module, gguf, dim) }
}

/// A norm within a BitLinear, of its input. Its name in GGUF is of nobody's files.
const fn input_norm(part: Part, module: &'static str, gguf: &'static str, dim: &'static [Dim]) -> Tensor {
    weight(Role::Layer(0, part), module, gguf, dim, When::InputNorms)
}

/// Divisors of rotary frequencies, which only GGUF has as a tensor.
const fn factors(role: Role, gguf: &'static str) -> Tensor {
    Tensor { role, module: None, also: None, gguf, leaf: "weight", shape: &[Dim::Pairs], when: When::Never }
}

pub(super) static EMBEDDING: Tensor =
    weight(Role::Embedding, "embed_tokens", "token_embd", &[Dim::Vocab, Dim::Hidden], When::Always);
pub(super) static FINAL_NORM: Tensor =
    weight(Role::FinalNorm, "norm", "output_norm", &[Dim::Hidden], When::Always);
pub(super) static HEAD: Tensor =
    weight(Role::Head, "lm_head", "output", &[Dim::Vocab, Dim::Hidden], When::Untied);
pub(super) static ROPE_FACTORS: Tensor = factors(Role::RopeFactors, "rope_freqs");
pub(super) static LONG_FACTORS: Tensor = factors(Role::LongFactors, "rope_factors_long");
pub(super) static SHORT_FACTORS: Tensor = factors(Role::ShortFactors, "rope_factors_short");

pub(super) static ATTENTION_NORM: Tensor =
    of_layer(Part::AttentionNorm, "input_layernorm", "attn_norm", &[Dim::Hidden]);
pub(super) static Q: Tensor = of_layer(Part::Q, "self_attn.q_proj", "attn_q", &[Dim::Queries, Dim::Hidden]);
pub(super) static K: Tensor = of_layer(Part::K, "self_attn.k_proj", "attn_k", &[Dim::Keys, Dim::Hidden]);
pub(super) static V: Tensor = of_layer(Part::V, "self_attn.v_proj", "attn_v", &[Dim::Keys, Dim::Hidden]);
pub(super) static O: Tensor =
    of_layer(Part::O, "self_attn.o_proj", "attn_output", &[Dim::Hidden, Dim::Queries]);
pub(super) static Q_BIAS: Tensor = bias(Part::QBias, &Q, &[Dim::Queries], When::QkvBias);
pub(super) static K_BIAS: Tensor = bias(Part::KBias, &K, &[Dim::Keys], When::QkvBias);
pub(super) static V_BIAS: Tensor = bias(Part::VBias, &V, &[Dim::Keys], When::QkvBias);
pub(super) static O_BIAS: Tensor = bias(Part::OBias, &O, &[Dim::Hidden], When::OutputBias);
pub(super) static Q_NORM: Tensor = head_norm(Part::QNorm, "self_attn.q_norm", "attn_q_norm");
pub(super) static K_NORM: Tensor = head_norm(Part::KNorm, "self_attn.k_norm", "attn_k_norm");
pub(super) static Q_ROW_NORM: Tensor =
    of_layer(Part::QNorm, "self_attn.q_norm", "attn_q_norm", &[Dim::Queries]);
pub(super) static K_ROW_NORM: Tensor = of_layer(Part::KNorm, "self_attn.k_norm", "attn_k_norm", &[Dim::Keys]);
pub(super) static QKV: Tensor =
    of_layer(Part::Qkv, "self_attn.qkv_proj", "attn_qkv", &[Dim::Fused, Dim::Hidden]);
pub(super) static POST_ATTENTION_NORM: Tensor =
    of_layer(Part::PostAttentionNorm, "post_attention_layernorm", "post_attention_norm", &[Dim::Hidden]);
pub(super) static ATTENTION_SUB_NORM: Tensor = sub_norm(
    Part::AttentionSubNorm,
    "self_attn.attn_sub_norm",
    "self_attn.inner_attn_ln",
    "attn_sub_norm",
    &[Dim::Queries],
);
pub(super) static FFN_NORM: Tensor =
    of_layer(Part::FfnNorm, "post_attention_layernorm", "ffn_norm", &[Dim::Hidden]);
pub(super) static PRE_FFN_NORM: Tensor =
    of_layer(Part::FfnNorm, "pre_feedforward_layernorm", "ffn_norm", &[Dim::Hidden]);
pub(super) static POST_FFN_NORM: Tensor =
    of_layer(Part::PostFfnNorm, "post_feedforward_layernorm", "post_ffw_norm", &[Dim::Hidden]);
pub(super) static GATE_UP: Tensor =
    of_layer(Part::GateUp, "mlp.gate_up_proj", "ffn_up", &[Dim::MlpTwice, Dim::Hidden]);
pub(super) static GATE: Tensor = of_layer(Part::Gate, "mlp.gate_proj", "ffn_gate", &[Dim::Mlp, Dim::Hidden]);
pub(super) static UP: Tensor = of_layer(Part::Up, "mlp.up_proj", "ffn_up", &[Dim::Mlp, Dim::Hidden]);
pub(super) static DOWN: Tensor = of_layer(Part::Down, "mlp.down_proj", "ffn_down", &[Dim::Hidden, Dim::Mlp]);
pub(super) static ROUTER: Tensor =
    of_layer(Part::Router, "mlp.gate", "ffn_gate_inp", &[Dim::Experts, Dim::Hidden]);
pub(super) static GATE_EXPERTS: Tensor = experts(
    Part::GateExperts,
    "mlp.experts.gate_proj",
    "mlp.switch_mlp.gate_proj",
    "ffn_gate_exps",
    OF_INPUT,
);
pub(super) static UP_EXPERTS: Tensor =
    experts(Part::UpExperts, "mlp.experts.up_proj", "mlp.switch_mlp.up_proj", "ffn_up_exps", OF_INPUT);
pub(super) static DOWN_EXPERTS: Tensor = experts(
    Part::DownExperts,
    "mlp.experts.down_proj",
    "mlp.switch_mlp.down_proj",
    "ffn_down_exps",
    OF_RESULTS,
);
/// The matrices of all experts, in a tensor that mlx-lm calls `also`.
const fn experts(
    part: Part,
    module: &'static str,
    also: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
) -> Tensor {
    Tensor { also: Some(also), ..of_layer(part, module, gguf, shape) }
}
const OF_INPUT: &[Dim] = &[Dim::Experts, Dim::Expert, Dim::Hidden];
const OF_RESULTS: &[Dim] = &[Dim::Experts, Dim::Hidden, Dim::Expert];
/// What Mixtral calls the same.
pub(super) static W_ROUTER: Tensor =
    of_layer(Part::Router, "block_sparse_moe.gate", "ffn_gate_inp", &[Dim::Experts, Dim::Hidden]);
pub(super) static W1_EXPERTS: Tensor = experts(
    Part::GateExperts,
    "block_sparse_moe.experts.w1",
    "block_sparse_moe.switch_mlp.gate_proj",
    "ffn_gate_exps",
    OF_INPUT,
);
pub(super) static W3_EXPERTS: Tensor = experts(
    Part::UpExperts,
    "block_sparse_moe.experts.w3",
    "block_sparse_moe.switch_mlp.up_proj",
    "ffn_up_exps",
    OF_INPUT,
);
pub(super) static W2_EXPERTS: Tensor = experts(
    Part::DownExperts,
    "block_sparse_moe.experts.w2",
    "block_sparse_moe.switch_mlp.down_proj",
    "ffn_down_exps",
    OF_RESULTS,
);
pub(super) static GATE_BIAS: Tensor = bias(Part::GateBias, &GATE, &[Dim::Mlp], When::MlpBias);
pub(super) static UP_BIAS: Tensor = bias(Part::UpBias, &UP, &[Dim::Mlp], When::MlpBias);
pub(super) static DOWN_BIAS: Tensor = bias(Part::DownBias, &DOWN, &[Dim::Hidden], When::MlpBias);
pub(super) static FFN_SUB_NORM: Tensor =
    sub_norm(Part::FfnSubNorm, "mlp.ffn_sub_norm", "mlp.ffn_layernorm", "ffn_sub_norm", &[Dim::Mlp]);
pub(super) static Q_INPUT_NORM: Tensor =
    input_norm(Part::QInputNorm, "self_attn.q_proj.rms_norm", "attn_q_norm_in", &[Dim::Hidden]);
pub(super) static K_INPUT_NORM: Tensor =
    input_norm(Part::KInputNorm, "self_attn.k_proj.rms_norm", "attn_k_norm_in", &[Dim::Hidden]);
pub(super) static V_INPUT_NORM: Tensor =
    input_norm(Part::VInputNorm, "self_attn.v_proj.rms_norm", "attn_v_norm_in", &[Dim::Hidden]);
pub(super) static O_INPUT_NORM: Tensor =
    input_norm(Part::OInputNorm, "self_attn.o_proj.rms_norm", "attn_output_norm_in", &[Dim::Queries]);
pub(super) static GATE_INPUT_NORM: Tensor =
    input_norm(Part::GateInputNorm, "mlp.gate_proj.rms_norm", "ffn_gate_norm_in", &[Dim::Hidden]);
pub(super) static UP_INPUT_NORM: Tensor =
    input_norm(Part::UpInputNorm, "mlp.up_proj.rms_norm", "ffn_up_norm_in", &[Dim::Hidden]);
pub(super) static DOWN_INPUT_NORM: Tensor =
    input_norm(Part::DownInputNorm, "mlp.down_proj.rms_norm", "ffn_down_norm_in", &[Dim::Mlp]);
