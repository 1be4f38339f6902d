//! What one source says about a model: a trainer's configuration, config.json, the keys of a GGUF file, options. With
//! the shapes of tensors it becomes a [`ModelConfig`]; what no source says is assumed, and listed.

use std::fmt;

use serde::Deserialize;

use super::architecture::{Architecture, Biases, Part};
use super::config::{Activation, AttentionBias, ModelConfig, RopePairing, SLIDING, Sizes, SlidingLayers};
use super::elements::Floor;
use super::quantization::Quantization;
use super::rope::{RopeScaling, single};
use crate::metadata::{HashableValue, Value, as_u64, lookup};

/// The settings that a source gives; `None` for those it does not.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // as in `ModelConfig`
#[non_exhaustive]
pub struct Given {
    pub architecture: Option<&'static Architecture>,
    pub vocab_size: Option<usize>,
    pub hidden_dim: Option<usize>,
    pub num_layers: Option<usize>,
    pub num_heads: Option<usize>,
    pub num_kv_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub mlp_hidden_dim: Option<usize>,
    pub max_seq_len: Option<usize>,
    pub rope_base: Option<f64>,
    pub rope_scaling: Option<RopeScaling>,
    pub rope_pairing: Option<RopePairing>,
    pub use_bitlinear_ffn: Option<bool>,
    pub use_bitlinear_attn: Option<bool>,
    pub bitlinear_per_channel: Option<bool>,
    pub quantization_eps: Option<f64>,
    /// Whether `quantization_eps` is the least that scales count as, and not added to them.
    pub quantization_least: Option<bool>,
    pub norm_eps: Option<f64>,
    pub tie_word_embeddings: Option<bool>,
    pub use_qk_norm: Option<bool>,
    /// `Some(None)` is "no cap".
    pub attn_logit_soft_cap: Option<Option<f64>>,
    /// `Some(None)` is "no cap".
    pub final_logit_soft_cap: Option<Option<f64>>,
    pub attention_bias: Option<AttentionBias>,
    pub mlp_bias: Option<bool>,
    pub activation: Option<Activation>,
    pub bitlinear_norm_eps: Option<f64>,
    pub sliding_window: Option<usize>,
    pub sliding_layers: Option<SlidingLayers>,
    /// Whether the matrices of its BitLinears are float weights, and not codes times a scale.
    pub latent: Option<bool>,
    /// `quantization_config` of config.json.
    pub quantization: Option<Quantization>,
}

/// The number that all elements of a list are, as GGUF files have it that give one for each layer.
fn alike(list: &Value) -> Option<usize> {
    let Value::List(items) = list else { return None };
    let first = as_u64(items.first()?)?;
    items.iter().all(|item| as_u64(item) == Some(first)).then(|| usize::try_from(first).ok())?
}

/// Why a source does not describe a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The architecture is not given.
    #[error("its model is not recognised")]
    Unknown,
    /// The architecture is not in the table.
    #[error("its model is {}", .0.escape_debug())]
    Architecture(String),
    /// A value in it is of another type than it should be.
    #[error("its config is invalid: {0}")]
    NotUnderstood(String),
    /// A setting has the wrong type or an impossible value.
    #[error("its configuration has a `{key}` that is not {wanted}")]
    Wrong {
        /// Its name.
        key: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// A setting is missing that nothing else can give.
    #[error("its configuration has no {0}")]
    Missing(&'static str),
}

/// A setting that was assumed, because nothing gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Assumed {
    /// Its name in [`ModelConfig`].
    pub setting: &'static str,
    /// The value that was assumed.
    pub value: Setting,
}

impl fmt::Display for Assumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Setting::Number(x) if x < 1e-3 => write!(f, "{} {x:e}", self.setting),
            value => write!(f, "{} {value}", self.setting),
        }
    }
}

/// What had to be assumed about a model. As text it is a sentence.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Assumption {
    /// The checkpoint's own configuration was not used.
    ConfigNotUsed(ConfigError),
    /// These settings have their usual values, because nothing gives others.
    Settings(Vec<Assumed>),
    /// The lost scales of packed matrices are taken to be 1.
    UnitScales,
}

impl fmt::Display for Assumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Assumption::ConfigNotUsed(error) => write!(f, "the checkpoint's config is not used: {error}"),
            Assumption::Settings(settings) => {
                f.write_str("not given by the checkpoint, so assumed: ")?;
                for (i, setting) in settings.iter().enumerate() {
                    write!(f, "{}{setting}", if i > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Assumption::UnitScales => {
                f.write_str("the scales of packed matrices are lost; 1 is used, so outputs mean little")
            }
        }
    }
}

/// The value of a setting.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Setting {
    /// A size.
    Size(usize),
    /// A number.
    Number(f64),
    /// Yes or no.
    Switch(bool),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Size(n) => n.fmt(f),
            Setting::Number(x) => x.fmt(f),
            Setting::Switch(yes) => yes.fmt(f),
        }
    }
}

/// The config that a trainer may have saved next to the weights. Older ones have two switches instead of
/// `use_bitlinear`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TrainerFile {
    num_heads: Option<usize>,
    max_seq_len: Option<usize>,
    rope_base: Option<f64>,
    use_bitlinear: Option<bool>,
    use_bitlinear_ffn: Option<bool>,
    use_bitlinear_attn: Option<bool>,
    bitlinear_per_channel: Option<bool>,
    quantization_eps: Option<f64>,
    norm_eps: Option<f64>,
    head_dim: Option<usize>,
    #[serde(deserialize_with = "present")]
    attn_logit_soft_cap: Option<Option<f64>>,
    #[serde(deserialize_with = "present")]
    final_logit_soft_cap: Option<Option<f64>>,
}

/// Distinguishes "null" (no cap) from a missing key.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::<f64>::deserialize(deserializer).map(Some)
}

/// config.json.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HuggingFaceFile {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rope_theta: Option<f64>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    rms_norm_eps: Option<f64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    hidden_act: Option<String>,
}

fn typed<T: serde::de::DeserializeOwned>(config: &Value) -> Result<T, ConfigError> {
    serde_pickle::from_value(config.clone()).map_err(|e| ConfigError::NotUnderstood(e.to_string()))
}

/// The rotary scaling in a configuration: transformers 5 has it next to the base.
fn scaling(config: &Value) -> Option<&Value> {
    let value = ["rope_parameters", "rope_scaling"].into_iter().filter_map(|key| lookup(config, key));
    value.into_iter().find(|value| !matches!(value, Value::None))
}

/// The class that config.json names, or else its `model_type`.
pub(super) fn class(config: &Value) -> Option<&str> {
    fn text(value: &Value) -> Option<&str> {
        match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        }
    }
    let first = match lookup(config, "architectures") {
        Some(Value::List(classes)) => classes.first().and_then(text),
        _ => None,
    };
    first.or_else(|| lookup(config, "model_type").and_then(text))
}

impl Given {
    /// These settings, with what `change` changes.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The configuration of bitnet-student's trainer, older names included.
    ///
    /// # Errors
    /// `NotUnderstood` and `Wrong`.
    pub fn of_trainer(config: &Value) -> Result<Given, ConfigError> {
        let file: TrainerFile = typed(config)?;
        let value = |key| lookup(config, key).filter(|value| !matches!(value, Value::None));
        let size = |key| {
            let size = |value| usize::try_from(as_u64(value)?).ok();
            let wrong = ConfigError::Wrong { key, wanted: "a size" };
            value(key).map(|value| size(value).ok_or(wrong)).transpose()
        };
        let switch = |key| match value(key) {
            None => Ok(None),
            Some(Value::Bool(yes)) => Ok(Some(*yes)),
            Some(_) => Err(ConfigError::Wrong { key, wanted: "true or false" }),
        };
        Ok(Given {
            architecture: Some(&super::architecture::STUDENT),
            vocab_size: size("vocab_size")?,
            hidden_dim: size("hidden_dim")?,
            num_layers: size("num_layers")?,
            num_heads: file.num_heads,
            num_kv_heads: size("num_kv_heads")?,
            head_dim: file.head_dim,
            mlp_hidden_dim: size("mlp_hidden_dim")?,
            max_seq_len: file.max_seq_len,
            rope_base: file.rope_base,
            rope_scaling: scaling(config).map(RopeScaling::of_config),
            use_bitlinear_ffn: file.use_bitlinear_ffn.or(file.use_bitlinear),
            use_bitlinear_attn: file.use_bitlinear_attn.or(file.use_bitlinear),
            bitlinear_per_channel: file.bitlinear_per_channel,
            quantization_eps: file.quantization_eps,
            norm_eps: file.norm_eps,
            tie_word_embeddings: switch("tie_word_embeddings")?,
            use_qk_norm: switch("use_qk_norm")?,
            attn_logit_soft_cap: file.attn_logit_soft_cap,
            final_logit_soft_cap: file.final_logit_soft_cap,
            latent: switch("latent")?,
            ..Given::default()
        })
    }

    /// What config.json says.
    ///
    /// # Errors
    /// `Unknown`, `Architecture` and `NotUnderstood`.
    pub fn of_hugging_face(config: &Value) -> Result<Given, ConfigError> {
        let name = class(config).ok_or(ConfigError::Unknown)?;
        let architecture = Architecture::of_hugging_face(name);
        let architecture = architecture.ok_or_else(|| ConfigError::Architecture(name.to_string()))?;
        let file: HuggingFaceFile = typed(config)?;
        let quantization = Quantization::of_config(config);
        let bitnet = quantization.as_ref().is_some_and(Quantization::is_bitnet);
        let value = scaling(config);
        let theta = value.and_then(|value| crate::metadata::as_f64(lookup(value, "rope_theta")?));
        let by_heads = || {
            file.hidden_size.zip(file.num_attention_heads).and_then(|(width, heads)| width.checked_div(heads))
        };
        let types = file.layer_types.unwrap_or_default();
        let slides = |kind: &String| kind == SLIDING;
        let window = file.sliding_window.filter(|_| file.use_sliding_window != Some(false));
        let layers = match (&types[..], file.use_sliding_window, file.max_window_layers) {
            ([], Some(true), Some(first)) if first > 0 => SlidingLayers::From(first),
            ([], ..) => SlidingLayers::All,
            (types, ..) if types.iter().all(slides) => SlidingLayers::All,
            (types, ..) => SlidingLayers::Listed(types.iter().map(slides).collect()),
        };
        let none = match &layers {
            SlidingLayers::From(first) => file.num_hidden_layers.is_some_and(|layers| *first >= layers),
            SlidingLayers::Listed(layers) => !layers.contains(&true),
            SlidingLayers::All => false,
        };
        let window = window.filter(|_| !none);
        let mut given = Given {
            architecture: Some(architecture),
            vocab_size: file.vocab_size,
            hidden_dim: file.hidden_size,
            num_layers: file.num_hidden_layers,
            num_heads: file.num_attention_heads,
            num_kv_heads: file.num_key_value_heads,
            head_dim: file.head_dim.or_else(by_heads),
            mlp_hidden_dim: file.intermediate_size,
            max_seq_len: file.max_position_embeddings,
            rope_base: file.rope_theta.or(theta),
            rope_scaling: value.map(RopeScaling::of_config),
            rope_pairing: None,
            use_bitlinear_ffn: Some(bitnet),
            use_bitlinear_attn: Some(bitnet),
            bitlinear_per_channel: None,
            // The least mean|W| and max|x| in transformers' BitLinear.
            quantization_eps: bitnet.then_some(1e-5),
            quantization_least: bitnet.then_some(true),
            norm_eps: file.rms_norm_eps,
            tie_word_embeddings: file.tie_word_embeddings,
            use_qk_norm: None,
            attn_logit_soft_cap: None,
            final_logit_soft_cap: None,
            attention_bias: (architecture.biases == Biases::Configured).then_some(
                match file.attention_bias {
                    Some(true) => AttentionBias::All,
                    _ => AttentionBias::None,
                },
            ),
            // Others have no such setting, and ignore it.
            mlp_bias: architecture.has(Part::GateBias).then_some(file.mlp_bias.unwrap_or(false)),
            activation: file.hidden_act.as_deref().map(Activation::called),
            bitlinear_norm_eps: quantization.as_ref().filter(|_| bitnet).and_then(|q| q.norm_eps),
            sliding_window: window,
            sliding_layers: window.map(|_| layers),
            latent: None,
            quantization,
        };
        given.architecture = Architecture::meant_in_config(name, &given);
        Ok(given)
    }

    /// What the keys of a GGUF file say. Soft caps, and keys that begin with `ckpt.`, are written by ckpt only.
    ///
    /// # Errors
    /// `Unknown` and `Architecture`.
    pub fn of_gguf(metadata: &Value) -> Result<Given, ConfigError> {
        let own = |key: &str| match metadata {
            // The keys hold dots, so they are not paths.
            Value::Dict(keys) => keys.get(&HashableValue::String(key.into())),
            _ => None,
        };
        let Some(Value::String(name)) = own("general.architecture") else { return Err(ConfigError::Unknown) };
        let of_model = |key: &str| own(&format!("{name}.{key}"));
        let size = |key: &str| usize::try_from(as_u64(of_model(key)?)?).ok();
        let float = |key: &str| of_model(key).and_then(single);
        let switch = |key: &str| match own(key) {
            Some(Value::Bool(yes)) => Some(*yes),
            _ => None,
        };
        let by_heads = || size("embedding_length")?.checked_div(size("attention.head_count")?);
        let mut given = Given {
            vocab_size: size("vocab_size"),
            hidden_dim: size("embedding_length"),
            num_layers: size("block_count"),
            num_heads: size("attention.head_count"),
            num_kv_heads: size("attention.head_count_kv")
                .or_else(|| alike(of_model("attention.head_count_kv")?)),
            head_dim: size("attention.key_length").or_else(by_heads).or_else(|| size("rope.dimension_count")),
            mlp_hidden_dim: size("feed_forward_length"),
            max_seq_len: size("context_length"),
            rope_base: float("rope.freq_base"),
            rope_scaling: RopeScaling::of_gguf(name, &own),
            use_bitlinear_ffn: switch("ckpt.use_bitlinear_ffn"),
            use_bitlinear_attn: switch("ckpt.use_bitlinear_attn"),
            bitlinear_per_channel: switch("ckpt.bitlinear_per_channel"),
            quantization_eps: own("ckpt.quantization_eps").and_then(single),
            norm_eps: float("attention.layer_norm_rms_epsilon"),
            attn_logit_soft_cap: Some(float("attn_logit_softcapping")),
            final_logit_soft_cap: Some(float("final_logit_softcapping")),
            sliding_window: size("attention.sliding_window"),
            latent: switch("ckpt.latent"),
            ..Given::default()
        };
        let unknown = || ConfigError::Architecture(name.clone());
        let host = Architecture::of_gguf(name).ok_or_else(unknown)?;
        given.architecture = Architecture::meant_in_gguf(name, &given);
        given.use_qk_norm = Some(host.has(Part::QNorm));
        given.rope_pairing = host.interleaved.then_some(RopePairing::Neighbours);
        // In files of others no layer is a BitLinear unless its tensors are packed.
        for switch in [&mut given.use_bitlinear_ffn, &mut given.use_bitlinear_attn] {
            switch.get_or_insert(false);
        }
        Ok(given)
    }

    /// The configuration from this alone.
    ///
    /// # Errors
    /// `Missing` and `Unknown`.
    pub fn complete(&self) -> Result<ModelConfig, ConfigError> {
        let architecture = self.architecture.ok_or(ConfigError::Unknown)?;
        let words = |own, theirs| if architecture.classes.is_empty() { own } else { theirs };
        let needed = |setting: Option<usize>, own, theirs| {
            setting.ok_or_else(|| ConfigError::Missing(words(own, theirs)))
        };
        let num_heads = needed(self.num_heads, "num_heads", "num_attention_heads")?;
        let sizes = Sizes {
            vocab_size: needed(self.vocab_size, "vocab_size", "vocab_size")?,
            hidden_dim: needed(self.hidden_dim, "hidden_dim", "hidden_size")?,
            num_layers: needed(self.num_layers, "num_layers", "num_hidden_layers")?,
            num_heads,
            num_kv_heads: self.num_kv_heads.unwrap_or(num_heads),
            head_dim: needed(self.head_dim, "head_dim", "heads")?,
            mlp_hidden_dim: needed(self.mlp_hidden_dim, "mlp_hidden_dim", "intermediate_size")?,
            max_seq_len: needed(self.max_seq_len, "max_seq_len", "max_position_embeddings")?,
        };
        let norm_eps = self.norm_eps.ok_or(ConfigError::Missing(words("norm_eps", "rms_norm_eps")))?;
        let mut config = ModelConfig::new(architecture, sizes);
        config.norm_eps = norm_eps;
        self.put_into(&mut config);
        Ok(config)
    }

    /// Overrides in `config` the settings that are given here and do not follow from shapes.
    pub(super) fn put_into(&self, config: &mut ModelConfig) {
        fn put<T: Clone>(slot: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                slot.clone_from(value);
            }
        }
        put(&mut config.max_seq_len, &self.max_seq_len);
        put(&mut config.rope_base, &self.rope_base);
        put(&mut config.rope_scaling, &self.rope_scaling);
        put(&mut config.rope_pairing, &self.rope_pairing);
        put(&mut config.use_bitlinear_ffn, &self.use_bitlinear_ffn);
        put(&mut config.use_bitlinear_attn, &self.use_bitlinear_attn);
        put(&mut config.bitlinear_per_channel, &self.bitlinear_per_channel);
        let number = self.quantization_eps.unwrap_or(config.quantization_floor.number());
        config.quantization_floor = match self.quantization_least {
            Some(true) => Floor::Least(number),
            Some(false) => Floor::Added(number),
            None => config.quantization_floor.with_number(number),
        };
        put(&mut config.norm_eps, &self.norm_eps);
        put(&mut config.tie_word_embeddings, &self.tie_word_embeddings);
        put(&mut config.use_qk_norm, &self.use_qk_norm);
        put(&mut config.attn_logit_soft_cap, &self.attn_logit_soft_cap);
        put(&mut config.final_logit_soft_cap, &self.final_logit_soft_cap);
        put(&mut config.attention_bias, &self.attention_bias);
        put(&mut config.mlp_bias, &self.mlp_bias);
        put(&mut config.activation, &self.activation);
        if self.bitlinear_norm_eps.is_some() {
            config.bitlinear_norm_eps = self.bitlinear_norm_eps;
        }
        if self.sliding_window.is_some() {
            config.sliding_window = self.sliding_window;
        }
        put(&mut config.sliding_layers, &self.sliding_layers);
    }
}
