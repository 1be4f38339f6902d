//! What one source says about a model: a trainer's configuration, config.json, the keys of a GGUF file, options. With
//! the shapes of tensors it becomes a [`ModelConfig`]; what no source says is assumed, and listed.

use std::fmt;

use serde::Deserialize;

use super::architecture::Architecture;
use super::config::{Activation, AttentionBias, Experts, ModelConfig, RopePairing, Sizes, SlidingLayers};
use super::config_json::scaling;
use super::elements::Floor;
use super::quantization::Quantization;
use super::rope::RopeScaling;
use crate::metadata::{Value, as_u64, lookup};

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
    pub local_rope_base: Option<f64>,
    pub rotary_dim: Option<usize>,
    pub rotated_layers: Option<Vec<bool>>,
    pub embedding_scale: Option<f64>,
    pub attention_scale: Option<f64>,
    pub residual_scale: Option<f64>,
    pub logit_divisor: Option<f64>,
    pub experts: Option<Experts>,
    /// Positions up to which the divisors for short texts hold, in GGUF files that have divisors for long ones too.
    pub rope_original: Option<f64>,
    /// What sines and cosines are multiplied by in such files.
    pub rope_attention: Option<f64>,
    /// What it says that no program here computes, in words that follow "it".
    pub unread: Option<String>,
    /// Whether the matrices of its BitLinears are float weights, and not codes times a scale.
    pub latent: Option<bool>,
    /// `quantization_config` of config.json.
    pub quantization: Option<Quantization>,
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
    /// What the checkpoint has for rounding activations or caches is not used.
    PlainActivations,
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
            Assumption::PlainActivations => {
                f.write_str("activations and caches are not rounded, though the checkpoint has scales for it")
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

pub(super) fn typed<T: serde::de::DeserializeOwned>(config: &Value) -> Result<T, ConfigError> {
    serde_pickle::from_value(config.clone()).map_err(|e| ConfigError::NotUnderstood(e.to_string()))
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
        for (slot, value) in [
            (&mut config.local_rope_base, self.local_rope_base),
            (&mut config.embedding_scale, self.embedding_scale),
            (&mut config.attention_scale, self.attention_scale),
            (&mut config.residual_scale, self.residual_scale),
            (&mut config.logit_divisor, self.logit_divisor),
        ] {
            *slot = value.or(*slot);
        }
        config.rotary_dim = self.rotary_dim.or(config.rotary_dim);
        config.experts = self.experts.or(config.experts);
        if self.rotated_layers.is_some() {
            config.rotated_layers.clone_from(&self.rotated_layers);
        }
    }
}
