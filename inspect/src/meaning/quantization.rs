//! What config.json says of BitLinears: `quantization_config` of Hugging Face's BitNet.

use super::architecture::Role;
use super::config_json::class;
use super::names::{Style, is_called};
use crate::metadata::{Value, as_u64, lookup};

/// What `quantization_config` of config.json says of a BitLinear.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Quantization {
    /// `quant_method`; empty if it is not text.
    pub method: Option<String>,
    /// Whether a layer's output is multiplied by its `weight_scale` (`autobitlinear`), and not divided by it.
    pub multiplies: bool,
    /// Whether the weights are float masters that every forward pass rounds, and not codes.
    pub online: bool,
    /// What is added to the mean square where each BitLinear normalizes its input (`use_rms_norm`).
    pub norm_eps: Option<f64>,
    /// What is not as in the other models of its kind.
    pub other: Option<Rounding>,
}

/// How a BitLinear model rounds otherwise than those that are known. As text it is what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rounding {
    /// Activations to so many bits, not 8.
    Bits(u64),
    /// Not in the modules of this name (`modules_to_not_convert`), which are plain layers.
    Without(String),
    /// As a setting of `quantization_config` says, whose value is none of those that are known.
    Unknown {
        /// The setting.
        key: &'static str,
        /// Its value, as text or as JSON.
        value: String,
    },
}

impl std::fmt::Display for Rounding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rounding::Bits(bits) => write!(f, "rounds activations to {bits} bits, and not to 8"),
            Rounding::Without(module) => {
                write!(f, "does not round in `{}` (modules_to_not_convert)", module.escape_debug())
            }
            Rounding::Unknown { key, value } => {
                write!(f, "has the {key} `{}` in its quantization_config", value.escape_debug())
            }
        }
    }
}

/// Whether the module called so is the head or the embedding.
fn is_outer(module: &str) -> bool {
    let weight = format!("{}.weight", module.rsplit('.').next().unwrap_or(module));
    [Role::Head, Role::Embedding].into_iter().any(|role| is_called(&weight, role, Style::Student))
}

/// The first module besides the head and the embedding that is left as it is.
fn excluded(quantization: &Value) -> Option<Rounding> {
    let modules = match lookup(quantization, MODULES)? {
        Value::None => return None,
        Value::List(modules) => modules,
        other => return Some(unknown(MODULES, other)),
    };
    modules.iter().find_map(|module| match module {
        Value::String(name) if is_outer(name) => None,
        Value::String(name) => Some(Rounding::Without(name.clone())),
        other => Some(unknown(MODULES, other)),
    })
}

fn unknown(key: &'static str, value: &Value) -> Rounding {
    let value = match value {
        Value::String(text) => text.clone(),
        other => crate::metadata::to_json(other).to_string(),
    };
    Rounding::Unknown { key, value }
}

/// A setting, and whether a value of it is understood.
type Setting = (&'static str, fn(&Value) -> bool);

/// The first setting of a BitNet's `quantization_config` that transformers' `BitNetQuantConfig` does not have so.
fn misunderstood(quantization: &Value) -> Option<Rounding> {
    let known: [Setting; 4] = [
        (
            CLASS,
            |value| matches!(value, Value::String(text) if text == BIT_LINEAR || text == AUTO_BIT_LINEAR),
        ),
        (MODE, |value| matches!(value, Value::String(text) if text == OFFLINE || text == ONLINE)),
        (NORMS, |value| matches!(value, Value::Bool(_))),
        (NORM_EPS, |value| crate::metadata::as_f64(value).is_some_and(f64::is_finite)),
    ];
    let set =
        known.into_iter().filter_map(|(key, is_known)| Some((key, is_known, lookup(quantization, key)?)));
    let mut wrong = set.filter(|(_, is_known, value)| !matches!(value, Value::None) && !is_known(value));
    wrong.next().map(|(key, _, value)| unknown(key, value))
}

impl Quantization {
    /// Its key in config.json.
    pub const KEY: &'static str = "quantization_config";

    /// The keys of config.json that say how weights are quantized.
    pub const KEYS: [&'static str; 4] = [Self::KEY, "compression_config", "quantization", "sparsity_config"];

    /// Whether `key` of a config.json may hold the configuration of a part of the model, such as `text_config`, which may
    /// have such keys of its own.
    pub fn is_of_part(key: &str) -> bool {
        key.ends_with("_config") && !Self::KEYS.contains(&key)
    }

    /// What `config`, a config.json, says; `None` where it says nothing.
    pub fn of_config(config: &Value) -> Option<Quantization> {
        let value = lookup(config, Self::KEY).filter(|value| !matches!(value, Value::None));
        let Some(value) = value else { return Quantization::of_class(config) };
        let text = |key| match lookup(value, key)? {
            Value::None => None,
            Value::String(text) => Some(text.as_str()),
            _ => Some(""),
        };
        Some(Quantization {
            method: text(METHOD).map(str::to_string),
            multiplies: text(CLASS) == Some(AUTO_BIT_LINEAR),
            online: text(MODE) == Some(ONLINE),
            norm_eps: matches!(lookup(value, NORMS), Some(Value::Bool(true)))
                .then(|| lookup(value, NORM_EPS).and_then(crate::metadata::as_f64).unwrap_or(1e-6)),
            other: misunderstood(value).or_else(|| excluded(value)).filter(|_| text(METHOD) == Some(BITNET)),
        })
    }

    /// What the class says without `quantization_config`: 1bitLLM's rounds weights and activations in every forward pass,
    /// activations to as many bits as `input_bits` says.
    fn of_class(config: &Value) -> Option<Quantization> {
        const ROUNDING_CLASS: &str = "BitnetForCausalLM";
        class(config).filter(|name| *name == ROUNDING_CLASS)?;
        let bits = lookup(config, "input_bits").and_then(as_u64).filter(|bits| *bits != 8);
        let other = bits.map(Rounding::Bits);
        let method = Some(BITNET.to_string());
        Some(Quantization { method, multiplies: true, online: true, norm_eps: None, other })
    }

    /// What is written for float masters that every forward pass rounds.
    pub fn of_masters() -> [(&'static str, &'static str); 3] {
        [(METHOD, BITNET), (CLASS, AUTO_BIT_LINEAR), (MODE, ONLINE)]
    }

    /// Whether it is Hugging Face's BitNet.
    pub fn is_bitnet(&self) -> bool {
        self.method.as_deref() == Some(BITNET) && self.other.is_none()
    }

    /// Whether transformers multiplies what comes out of a layer by its `weight_scale`, and with it the bias:
    /// `AutoBitLinear` with codes. `BitLinear` divides before it adds the bias, and masters have no scale
    /// (`integrations/bitnet.py`).
    pub fn scales_outputs(&self) -> bool {
        self.is_bitnet() && self.multiplies && !self.online
    }

    /// What is written for packed matrices. `autobitlinear` multiplies a layer's output by its `weight_scale`, so the
    /// scale is kept to the last bit; `bitlinear` divides by it.
    pub fn packed() -> [(&'static str, &'static str); 3] {
        [(METHOD, BITNET), (CLASS, AUTO_BIT_LINEAR), (MODE, OFFLINE)]
    }
}

const METHOD: &str = "quant_method";
const CLASS: &str = "linear_class";
const MODE: &str = "quantization_mode";
const ONLINE: &str = "online";
const OFFLINE: &str = "offline";
const MODULES: &str = "modules_to_not_convert";
const NORMS: &str = "use_rms_norm";
const NORM_EPS: &str = "rms_norm_eps";
const BITNET: &str = "bitnet";
const BIT_LINEAR: &str = "bitlinear";
const AUTO_BIT_LINEAR: &str = "autobitlinear";
