//! A model's configuration, and how trainers, Hugging Face and GGUF write it. [`Given`](super::Given) reads these
//! forms.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::architecture::{Architecture, Biases, Kind, Part, Role, STUDENT};
use super::elements::Floor;
use super::rope::RopeScaling;
use crate::gguf::Keys;

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
    /// Another function, by the name that config.json gives.
    Other(String),
}

impl Activation {
    /// The function that config.json calls `name`.
    pub fn called(name: &str) -> Activation {
        match name {
            "silu" | "swish" => Activation::Silu,
            "relu2" => Activation::Relu2,
            other => Activation::Other(other.to_string()),
        }
    }

    /// What config.json calls it.
    pub fn name(&self) -> &str {
        match self {
            Activation::Silu => "silu",
            Activation::Relu2 => "relu2",
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
            tie_word_embeddings: true,
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
        }
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

    /// config.json. It cannot express BitLinear and soft caps.
    pub fn to_hugging_face(&self) -> Map<String, Json> {
        let written = self.written_as();
        let mut config = object(json!({
            "architectures": written.classes.first().into_iter().collect::<Vec<_>>(),
            "model_type": written.model_types.first(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_dim,
            "intermediate_size": self.mlp_hidden_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_seq_len,
            "rope_theta": self.rope_base,
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "hidden_act": self.activation.name(),
            "attention_dropout": 0.0,
            "mlp_bias": self.mlp_bias,
            "use_cache": true,
            "sliding_window": self.sliding_window,
        }));
        if written.biases == Biases::Configured {
            config.insert("attention_bias".into(), json!(self.attention_bias != AttentionBias::None));
        }
        if self.sliding_window.is_some() {
            let (key, value) = match &self.sliding_layers {
                SlidingLayers::All => ("max_window_layers", json!(0)),
                SlidingLayers::From(first) => ("max_window_layers", json!(first)),
                SlidingLayers::Listed(layers) => {
                    let kind = |slides: &bool| if *slides { SLIDING } else { "full_attention" };
                    ("layer_types", layers.iter().map(kind).collect())
                }
            };
            config.insert("use_sliding_window".into(), json!(true));
            config.insert(key.into(), value);
        }
        if let Some(scaling) = self.rope_scaling.to_json() {
            config.insert("rope_scaling".into(), scaling);
        }
        config
    }

    /// Its architecture in GGUF files.
    pub fn gguf_name(&self) -> &'static str {
        self.written_as().gguf.first().copied().unwrap_or(self.architecture.name)
    }

    /// The keys of a GGUF file. `latent` says whether the matrices of its BitLinears are float weights there, and not
    /// codes times a scale.
    pub fn to_gguf(&self, latent: bool) -> Keys {
        let mut keys = Keys::default();
        let architecture = self.gguf_name();
        keys.set("general.architecture", architecture);
        let name = |key: &str| format!("{architecture}.{key}");
        let mut count = |key: &str, n: usize| keys.set(&name(key), &u32::try_from(n).unwrap_or(u32::MAX));
        count("block_count", self.num_layers);
        count("context_length", self.max_seq_len);
        count("embedding_length", self.hidden_dim);
        count("feed_forward_length", self.mlp_hidden_dim);
        count("attention.head_count", self.num_heads);
        count("attention.head_count_kv", self.num_kv_heads);
        count("attention.key_length", self.head_dim);
        count("attention.value_length", self.head_dim);
        count("rope.dimension_count", self.head_dim);
        if self.vocab_size > 0 {
            count("vocab_size", self.vocab_size);
        }
        if let (Some(window), SlidingLayers::All) = (self.sliding_window, &self.sliding_layers) {
            count("attention.sliding_window", window);
        }
        keys.set(&name("attention.layer_norm_rms_epsilon"), &(self.norm_eps as f32));
        keys.set(&name("rope.freq_base"), &(self.rope_base as f32));
        self.rope_scaling.to_gguf(architecture, &mut keys);
        for (key, cap) in [
            ("attn_logit_softcapping", self.attn_logit_soft_cap),
            ("final_logit_softcapping", self.final_logit_soft_cap),
        ] {
            if let Some(cap) = cap {
                keys.set(&name(key), &(cap as f32));
            }
        }
        if !self.is_student() {
            return keys;
        }
        keys.set("ckpt.use_bitlinear_ffn", &self.use_bitlinear_ffn);
        keys.set("ckpt.use_bitlinear_attn", &self.use_bitlinear_attn);
        if self.use_bitlinear_ffn || self.use_bitlinear_attn {
            keys.set("ckpt.quantization_eps", &(self.quantization_floor.number() as f32));
            keys.set("ckpt.latent", &latent);
            if latent {
                keys.set("ckpt.bitlinear_per_channel", &self.bitlinear_per_channel);
            }
        }
        keys
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

/// The name of a layer with a window in config.json.
pub(super) const SLIDING: &str = "sliding_attention";

fn object(value: Json) -> Map<String, Json> {
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
