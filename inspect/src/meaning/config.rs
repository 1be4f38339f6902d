//! A model's configuration, and how its trainer writes it. The words of Hugging Face's config.json and GGUF's keys are
//! beside it; [`Given`](super::Given) is what a source says.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::architecture::{Architecture, Biases, Kind, Part, Role, STUDENT};
use super::elements::Floor;
use super::rope::RopeScaling;

/// A model's configuration. Together with the weights it determines the computation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Its family.
    #[serde(with = "by_name")]
    pub architecture: &'static Architecture,
    /// The number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_dim: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; each serves `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub mlp_hidden_dim: usize,
    /// The longest sequence, in positions.
    pub max_seq_len: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// How rotary positions are scaled.
    pub rope_scaling: RopeScaling,
    /// Which elements of a head rotate together.
    pub rope_pairing: RopePairing,
    /// Gate, up and down are BitLinear.
    pub use_bitlinear_ffn: bool,
    /// Q, K, V and O are BitLinear.
    pub use_bitlinear_attn: bool,
    /// A BitLinear has one scale per output instead of one per matrix.
    pub bitlinear_per_channel: bool,
    /// What keeps the scales of its BitLinears from zero.
    pub quantization_floor: Floor,
    /// Added to the mean square under the root.
    pub norm_eps: f64,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Queries and keys are normalized per head.
    pub use_qk_norm: bool,
    /// cap * tanh(score / cap) of attention scores.
    pub attn_logit_soft_cap: Option<f64>,
    /// cap * tanh(logit / cap) of the output.
    pub final_logit_soft_cap: Option<f64>,
    /// Which of attention's projections have biases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attention_bias: AttentionBias,
    /// Whether the projections of the feed-forward layer have biases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mlp_bias: bool,
    /// The activation function of the feed-forward layer's gate.
    #[serde(default, skip_serializing_if = "is_default")]
    pub activation: Activation,
    /// What is added to the mean square under the root where each BitLinear normalizes its input.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bitlinear_norm_eps: Option<f64>,
    /// Positions that attention sees in the layers that have a window.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sliding_window: Option<usize>,
    /// Which layers have that window.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sliding_layers: SlidingLayers,
    /// Base of the rotary frequencies in layers that have a window, where positions are not scaled; by default that of all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub local_rope_base: Option<f64>,
    /// Elements of a head that rotate: the first ones. By default all of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rotary_dim: Option<usize>,
    /// Whether a layer rotates queries and keys, for each; by default all do.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rotated_layers: Option<Vec<bool>>,
    /// What embeddings are multiplied by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub embedding_scale: Option<f64>,
    /// What attention scores are multiplied by; by default 1 / sqrt(head_dim).
    #[serde(default, skip_serializing_if = "is_default")]
    pub attention_scale: Option<f64>,
    /// What the outputs of attention and of the feed-forward layer are multiplied by, before they are added to the residual
    /// stream.
    #[serde(default, skip_serializing_if = "is_default")]
    pub residual_scale: Option<f64>,
    /// What logits are divided by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logit_divisor: Option<f64>,
    /// Its experts, where the feed-forward layer consists of such.
    #[serde(default, skip_serializing_if = "is_default")]
    pub experts: Option<Experts>,
}

/// The experts of a model's feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Experts {
    /// How many there are in a layer.
    pub count: usize,
    /// How many of them a token uses.
    pub used: usize,
    /// Width of each.
    pub hidden_dim: usize,
    /// Whether the weights of those that a token uses are divided by their sum.
    pub normalized: bool,
}

/// Sizes of a model, as in [`ModelConfig`]. All are required, so that none is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in `ModelConfig`
pub struct Sizes {
    pub vocab_size: usize,
    pub hidden_dim: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub mlp_hidden_dim: usize,
    pub max_seq_len: usize,
}

/// Which two elements of a head form a rotated pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RopePairing {
    /// i and i + head_dim / 2.
    #[default]
    Halves,
    /// 2i and 2i + 1, as GGUF files of Llama are permuted for.
    Neighbours,
}

/// Which of attention's projections have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AttentionBias {
    /// None.
    #[default]
    None,
    /// Q, K and V.
    Qkv,
    /// Q, K, V and O.
    All,
}

impl AttentionBias {
    /// By whether a layer `has` the biases of Q and of O.
    pub(crate) fn of_parts(has: impl Fn(Part) -> bool) -> Self {
        match [Part::QBias, Part::OBias].map(has) {
            [false, _] => AttentionBias::None,
            [true, false] => AttentionBias::Qkv,
            [true, true] => AttentionBias::All,
        }
    }
}

/// The activation function of the feed-forward layer's gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Activation {
    /// x * sigmoid(x).
    #[default]
    Silu,
    /// max(x, 0)^2.
    Relu2,
    /// x * (1 + erf(x / sqrt(2))) / 2.
    Gelu,
    /// x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2.
    GeluTanh,
    /// Another function, by the name that config.json gives.
    Other(String),
}

impl Activation {
    /// The function that config.json calls `name`.
    pub fn called(name: &str) -> Activation {
        match name {
            "silu" | "swish" => Activation::Silu,
            "relu2" => Activation::Relu2,
            "gelu" => Activation::Gelu,
            // All of them compute this, by transformers' `ACT2FN`.
            "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Activation::GeluTanh,
            other => Activation::Other(other.to_string()),
        }
    }

    /// What config.json calls it.
    pub fn name(&self) -> &str {
        match self {
            Activation::Silu => "silu",
            Activation::Relu2 => "relu2",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
            Activation::Other(name) => name,
        }
    }
}

/// Which layers have the sliding window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SlidingLayers {
    /// All.
    #[default]
    All,
    /// This one and those after it.
    From(usize),
    /// The layers whose entry is true.
    Listed(Vec<bool>),
}

impl SlidingLayers {
    /// Whether `layer` is one of them.
    pub fn include(&self, layer: usize) -> bool {
        match self {
            SlidingLayers::All => true,
            SlidingLayers::From(first) => layer >= *first,
            SlidingLayers::Listed(layers) => layers.get(layer).copied().unwrap_or(false),
        }
    }

    /// All of `layers` layers but each `period`-th.
    pub(crate) fn but_each(period: usize, layers: usize) -> SlidingLayers {
        SlidingLayers::Listed((1..=layers).map(|n| n % period.max(1) != 0).collect()).settled()
    }

    /// The same layers, named as all of them where they are.
    pub(crate) fn settled(self) -> SlidingLayers {
        match self {
            SlidingLayers::From(0) => SlidingLayers::All,
            SlidingLayers::Listed(layers) if layers.iter().all(|slides| *slides) => SlidingLayers::All,
            other => other,
        }
    }
}

impl ModelConfig {
    /// A model of `architecture` with these sizes and the usual settings.
    pub fn new(architecture: &'static Architecture, sizes: Sizes) -> Self {
        let usual = &architecture.defaults;
        ModelConfig {
            architecture,
            vocab_size: sizes.vocab_size,
            hidden_dim: sizes.hidden_dim,
            num_layers: sizes.num_layers,
            num_heads: sizes.num_heads,
            num_kv_heads: sizes.num_kv_heads,
            head_dim: sizes.head_dim,
            mlp_hidden_dim: sizes.mlp_hidden_dim,
            max_seq_len: sizes.max_seq_len,
            rope_base: usual.rope_base,
            rope_scaling: RopeScaling::None,
            rope_pairing: RopePairing::Halves,
            use_bitlinear_ffn: usual.bitlinear,
            use_bitlinear_attn: usual.bitlinear,
            bitlinear_per_channel: false,
            quantization_floor: usual.quantization_floor,
            norm_eps: usual.norm_eps,
            tie_word_embeddings: usual.tied,
            use_qk_norm: architecture.has(Part::QNorm),
            attn_logit_soft_cap: usual.attn_logit_soft_cap,
            final_logit_soft_cap: usual.final_logit_soft_cap,
            attention_bias: match architecture.biases {
                Biases::Fixed(biases) => biases,
                Biases::Configured => AttentionBias::None,
            },
            mlp_bias: false,
            activation: usual.activation.clone(),
            bitlinear_norm_eps: None,
            sliding_window: None,
            sliding_layers: SlidingLayers::All,
            local_rope_base: None,
            rotary_dim: None,
            rotated_layers: None,
            embedding_scale: architecture.network.scaled_embedding.then(|| (sizes.hidden_dim as f64).sqrt()),
            attention_scale: None,
            residual_scale: None,
            logit_divisor: None,
            experts: None,
        }
    }

    /// The positions that attention sees in `layer`, its own included, if there it has a window.
    pub fn window_in(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.sliding_layers.include(layer))
    }

    /// Whether `layer` rotates queries and keys.
    pub fn rotates(&self, layer: usize) -> bool {
        self.rotated_layers.as_ref().is_none_or(|layers| layers.get(layer).copied().unwrap_or(true))
    }

    /// Whether it is bitnet-student's.
    pub fn is_student(&self) -> bool {
        *self.architecture == STUDENT
    }

    /// The settings of a bitnet-student model that records show, under its trainer's names.
    pub fn to_record(&self) -> Map<String, Json> {
        object(json!({
            "vocab_size": self.vocab_size,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "mlp_hidden_dim": self.mlp_hidden_dim,
            "max_seq_len": self.max_seq_len,
            "rope_base": self.rope_base,
            "use_bitlinear_ffn": self.use_bitlinear_ffn,
            "use_bitlinear_attn": self.use_bitlinear_attn,
            "bitlinear_per_channel": self.bitlinear_per_channel,
            "quantization_eps": self.quantization_floor.number(),
            "norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_qk_norm": self.use_qk_norm,
            "attn_logit_soft_cap": self.attn_logit_soft_cap,
            "final_logit_soft_cap": self.final_logit_soft_cap,
        }))
    }

    /// The `config.model` that bitnet-student's trainer saves next to the weights.
    pub fn to_trainer(&self) -> Map<String, Json> {
        let mut config = self.to_record();
        config.insert("dropout".into(), json!(0.0));
        config.insert("rope_scaling".into(), self.rope_scaling.to_json().unwrap_or_default());
        if self.use_bitlinear_ffn == self.use_bitlinear_attn {
            config.retain(|key, _| !matches!(key.as_str(), "use_bitlinear_ffn" | "use_bitlinear_attn"));
            config.insert("use_bitlinear".into(), json!(self.use_bitlinear_ffn));
        }
        config
    }

    /// Whether a tensor of `role` is a matrix that a BitLinear uses.
    pub fn is_bitlinear(&self, role: Role) -> bool {
        match role.kind() {
            Kind::Attention => self.use_bitlinear_attn,
            Kind::Mlp => self.use_bitlinear_ffn,
            _ => false,
        }
    }
}

pub(super) fn object(value: Json) -> Map<String, Json> {
    match value {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

mod by_name {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Architecture;

    pub fn serialize<S: Serializer>(architecture: &Architecture, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(architecture.name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<&'static Architecture, D::Error> {
        let name = String::deserialize(from)?;
        Architecture::called(&name)
            .ok_or_else(|| D::Error::custom(format!("no architecture is called `{name}`")))
    }
}
