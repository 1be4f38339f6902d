//! Hugging Face's config.json, read and written. What an architecture says in words of its own is in its file.

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::architecture::{Architecture, Biases, Part, TABLE, WindowWords};
use super::config::{Activation, AttentionBias, ModelConfig, SlidingLayers, object};
use super::given::{ConfigError, Given, typed};
use super::quantization::Quantization;
use super::rope::{ORIGINAL, RopeScaling};
use crate::metadata::{Value, as_f64, as_u64, lookup};

/// The name of a layer with a window.
pub(super) const SLIDING: &str = "sliding_attention";
/// The name of a layer without one.
pub(super) const FULL: &str = "full_attention";

/// What config.json says in the same words for every architecture.
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

/// A word, and whether its value says that something is computed.
type Own = (&'static str, fn(&Value) -> bool);

/// Words that change what is computed, for architectures that know them; the others' files do not have them unless they
/// are of another network than their class says.
const OWN: [Own; 4] = [
    ("partial_rotary_factor", |value| as_f64(value).is_some_and(|share| share != 1.0)),
    (FULL, |value| !matches!(value, Value::None)),
    ("use_bidirectional_attention", |value| matches!(value, Value::Bool(true))),
    // Null too: transformers asks whether it is true (`create_causal_mask`).
    ("is_causal", |value| matches!(value, Value::Bool(false) | Value::None)),
];

/// The rotary scaling in a configuration. transformers 5 writes it as `rope_parameters`, and takes the older `rope_scaling`
/// in place of these as a whole where both are there.
pub(super) fn scaling(config: &Value) -> Option<&Value> {
    older_scaling(config).or_else(|| lookup(config, "rope_parameters"))
}

/// What stands under the older word, if anything does.
pub(super) fn older_scaling(config: &Value) -> Option<&Value> {
    let is_nothing =
        |value: &&Value| matches!(value, Value::None) || matches!(value, Value::Dict(all) if all.is_empty());
    lookup(config, "rope_scaling").filter(|value| !is_nothing(value))
}

/// The key of the type of a model in transformers.
const MODEL_TYPE: &str = "model_type";

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text.as_str()),
        _ => None,
    }
}

/// The type of model that config.json names, such as `qwen2`.
pub fn model_type(config: &Value) -> Option<&str> {
    text(lookup(config, MODEL_TYPE)?)
}

/// The same of a config.json as a record has it.
pub(crate) fn recorded_model_type(config: &Map<String, Json>) -> Option<&str> {
    config.get(MODEL_TYPE)?.as_str()
}

/// The class that config.json names, or else its `model_type`.
pub(super) fn class(config: &Value) -> Option<&str> {
    let first = match lookup(config, "architectures") {
        Some(Value::List(classes)) => classes.first().and_then(text),
        _ => None,
    };
    first.or_else(|| model_type(config))
}

/// Whether the type of model `kind` is that of another architecture of the table than the class `name` has. What transformers
/// has no class for may name the type of one that it is like.
fn is_of_another(architecture: &Architecture, name: &str, kind: &str) -> bool {
    let of_kind = |a: &&Architecture| a.model_types.contains(&kind);
    let has_class = !OUTSIDE.contains(&name);
    has_class
        && !of_kind(&architecture)
        && name != kind
        && TABLE.iter().any(|a| of_kind(a) && !a.classes.contains(&name))
}

/// Classes that their authors publish beside their models.
const OUTSIDE: [&str; 1] = ["BitnetForCausalLM"];

/// A word that stands among the rotary parameters, which come first, or in `config` itself.
pub(super) fn word<'v>(config: &'v Value, key: &str) -> Option<&'v Value> {
    scaling(config).and_then(|scaling| lookup(scaling, key)).or_else(|| lookup(config, key))
}

impl Given {
    /// What config.json says.
    ///
    /// # Errors
    /// `Unknown`, `Architecture`, `NotUnderstood` and `Wrong`.
    pub fn of_hugging_face(config: &Value) -> Result<Given, ConfigError> {
        let name = class(config).ok_or(ConfigError::Unknown)?;
        let architecture = Architecture::of_hugging_face(name);
        let architecture = architecture.ok_or_else(|| ConfigError::Architecture(name.to_string()))?;
        let other = model_type(config).filter(|kind| is_of_another(architecture, name, kind));
        let file: HuggingFaceFile = typed(config)?;
        if let (Some(types), Some(layers)) = (&file.layer_types, file.num_hidden_layers)
            && types.len() != layers
        {
            return Err(ConfigError::Wrong { key: "layer_types", wanted: "a kind for each layer" });
        }
        let quantization = Quantization::of_config(config);
        let bitnet = quantization.as_ref().is_some_and(Quantization::is_bitnet);
        let value = scaling(config);
        let theta = value.and_then(|value| as_f64(lookup(value, "rope_theta")?));
        let by_heads = || {
            file.hidden_size.zip(file.num_attention_heads).and_then(|(width, heads)| width.checked_div(heads))
        };
        let mut given = Given {
            architecture: Some(architecture),
            vocab_size: file.vocab_size,
            hidden_dim: file.hidden_size,
            num_layers: file.num_hidden_layers,
            num_heads: file.num_attention_heads,
            num_kv_heads: file.num_key_value_heads,
            head_dim: file.head_dim.or_else(by_heads),
            mlp_hidden_dim: file.intermediate_size,
            // What is not there has the value of transformers' class.
            max_seq_len: file.max_position_embeddings.or(Some(architecture.defaults.max_seq_len)),
            rope_base: theta.or(file.rope_theta),
            use_bitlinear_ffn: Some(bitnet),
            use_bitlinear_attn: Some(bitnet),
            // The least mean|W| and max|x| in transformers' BitLinear.
            quantization_eps: bitnet.then_some(1e-5),
            quantization_least: bitnet.then_some(true),
            norm_eps: file.rms_norm_eps.or(Some(architecture.defaults.norm_eps)),
            tie_word_embeddings: file.tie_word_embeddings.or(Some(architecture.defaults.tied)),
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
            quantization,
            ..Given::default()
        };
        // Words that are there and not null.
        let unread = OWN.iter().filter(|(word, _)| !architecture.words.own.contains(word));
        given.unread = unread
            .filter_map(|(key, counts)| word(config, key).filter(|value| counts(value)).map(|_| key))
            .next()
            .map(|key| format!("has `{key}`, which models of this class do not have"));
        if let Some(other) = other {
            given.unread = Some(format!(
                "has the class {name} and the model_type `{}`, which is that of another class",
                other.escape_debug()
            ));
        }
        let mut kinds = file.layer_types.iter().flatten();
        if let Some(kind) = kinds.find(|kind| ![FULL, SLIDING].contains(&kind.as_str())) {
            given.unread = Some(format!("has layers of the kind `{}` (`layer_types`)", kind.escape_debug()));
        }
        given.rope_scaling = value.map(RopeScaling::of_config);
        (architecture.words.read)(config, &mut given);
        given.rope_base = given.rope_base.or(Some(architecture.defaults.rope_base));
        if let Some(scaling) = &mut given.rope_scaling {
            // One beside the parameters counts more than theirs (`standardize_rope_params` of transformers).
            let longest = given.max_seq_len.map(|n| n as f64);
            let beside = lookup(config, ORIGINAL).and_then(as_f64).or(architecture.words.original);
            scaling.settle_original(beside, longest);
        }
        let windows = (architecture.words.windows)(&WindowWords {
            window: lookup(config, "sliding_window").map(|_| file.sliding_window),
            switch: file.use_sliding_window,
            first: file.max_window_layers,
            types: file.layer_types.as_deref().unwrap_or_default(),
            period: lookup(config, "sliding_window_pattern").and_then(as_u64).map(|n| n as usize),
            layers: file.num_hidden_layers.unwrap_or(0),
            rotated: given.rotated_layers.as_deref(),
        });
        given.sliding_window = windows.as_ref().map(|(window, _)| *window);
        given.sliding_layers = windows.map(|(_, layers)| layers);
        given.architecture = Architecture::meant_in_config(name, &given);
        Ok(given)
    }
}

impl ModelConfig {
    /// config.json. It cannot express BitLinear, nor bitnet-student's soft caps.
    pub fn to_hugging_face(&self) -> Map<String, Json> {
        let written = self.written_as();
        let mut config = object(json!({
            "architectures": written.classes.first().into_iter().collect::<Vec<_>>(),
            MODEL_TYPE: written.model_types.first(),
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
                    let kind = |slides: &bool| if *slides { SLIDING } else { FULL };
                    ("layer_types", layers.iter().map(kind).collect())
                }
            };
            config.insert("use_sliding_window".into(), json!(true));
            config.insert(key.into(), value);
        }
        if let Some(scaling) = self.rope_scaling.to_json() {
            config.insert("rope_scaling".into(), scaling);
        }
        // A smaller vocabulary does not have it.
        if written.words.padding.is_some_and(|padding| padding >= self.vocab_size) {
            config.insert("pad_token_id".into(), json!(null));
        }
        (written.words.write)(self, &mut config);
        config
    }
}
