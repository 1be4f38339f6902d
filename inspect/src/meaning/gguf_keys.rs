//! The keys of GGUF files, read and written. Keys are those of `gguf-py/gguf/constants.py` in llama.cpp; those that begin
//! with `ckpt.` are for ckpt's own runner.

use serde_json::{Map, Value as Json};

use super::architecture::{Architecture, Part};
use super::config::{Experts, ModelConfig, RopePairing, SlidingLayers};
use super::given::{ConfigError, Given};
use super::rope::{RopeScaling, single};
use crate::gguf::{ARCHITECTURE, Keys};
use crate::metadata::{HashableValue, Value, as_f64, as_u64};

/// The value of `key`. Keys hold dots, so they are not paths.
fn of_key<'k>(keys: &'k Value, key: &str) -> Option<&'k Value> {
    match keys {
        Value::Dict(keys) => keys.get(&HashableValue::String(key.into())),
        _ => None,
    }
}

/// The architecture that the keys of a GGUF file name.
pub(super) fn architecture(keys: &Value) -> Option<&str> {
    match of_key(keys, ARCHITECTURE) {
        Some(Value::String(name)) => Some(name),
        _ => None,
    }
}

/// The width of the embedding, by the keys of a GGUF file.
pub(super) fn width(keys: &Value) -> Option<u64> {
    as_u64(of_key(keys, &format!("{}.embedding_length", architecture(keys)?))?)
}

/// The architecture that the keys of a GGUF file name, as a record has them.
pub(crate) fn recorded_architecture(keys: &Map<String, Json>) -> Option<&str> {
    keys.get(ARCHITECTURE)?.as_str()
}

/// The keys of the file's architecture among them, without its name.
pub(crate) fn recorded(keys: &Map<String, Json>) -> impl Iterator<Item = (&str, &Json)> {
    let name = recorded_architecture(keys);
    keys.iter().filter_map(move |(key, value)| Some((key.strip_prefix(name?)?.strip_prefix('.')?, value)))
}

/// The number that all elements of a list are, as GGUF files have it that give one for each layer.
fn alike(list: &Value) -> Option<usize> {
    let Value::List(items) = list else { return None };
    let first = as_u64(items.first()?)?;
    items.iter().all(|item| as_u64(item) == Some(first)).then(|| usize::try_from(first).ok())?
}

/// The layers that have a window, by `attention.sliding_window_pattern`: how many there are from one that has none to the
/// next, or whether each has one.
fn windowed(pattern: &Value, layers: usize) -> Option<SlidingLayers> {
    match pattern {
        Value::List(items) => {
            let slides = |item: &Value| match item {
                Value::Bool(slides) => Some(*slides),
                other => as_u64(other).map(|n| n != 0),
            };
            Some(SlidingLayers::Listed(items.iter().map(slides).collect::<Option<_>>()?).settled())
        }
        other => match usize::try_from(as_u64(other)?).ok()? {
            0 => Some(SlidingLayers::All),
            period => Some(SlidingLayers::but_each(period, layers)),
        },
    }
}

/// Lists of layers in files are not believed to be longer than this.
const MOST_LAYERS: usize = 1 << 12;

impl Given {
    /// What the keys of a GGUF file say. Keys that begin with `ckpt.`, and soft caps under architectures that have none, are
    /// written by ckpt only.
    ///
    /// # Errors
    /// `Unknown` and `Architecture`.
    pub fn of_gguf(metadata: &Value) -> Result<Given, ConfigError> {
        let own = |key: &str| of_key(metadata, key);
        let name = architecture(metadata).ok_or(ConfigError::Unknown)?;
        let of_model = |key: &str| own(&format!("{name}.{key}"));
        let size = |key: &str| usize::try_from(as_u64(of_model(key)?)?).ok();
        let float = |key: &str| of_model(key).and_then(single);
        let switch = |key: &str| match own(key) {
            Some(Value::Bool(yes)) => Some(*yes),
            _ => None,
        };
        let by_heads = || size("embedding_length")?.checked_div(size("attention.head_count")?);
        let scale = |key: &str| float(key).filter(|scale| *scale != 1.0);
        let mut given = Given {
            vocab_size: size("vocab_size"),
            hidden_dim: size("embedding_length"),
            num_layers: size("block_count"),
            num_heads: size("attention.head_count"),
            num_kv_heads: size("attention.head_count_kv")
                .or_else(|| alike(of_model("attention.head_count_kv")?)),
            head_dim: size("attention.key_length").or_else(by_heads).or_else(|| size("rope.dimension_count")),
            mlp_hidden_dim: size("feed_forward_length").or_else(|| alike(of_model("feed_forward_length")?)),
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
            sliding_window: size("attention.sliding_window").filter(|window| *window > 0),
            local_rope_base: float("rope.freq_base_swa"),
            embedding_scale: scale("embedding_scale"),
            attention_scale: float("attention.scale"),
            residual_scale: scale("residual_scale"),
            logit_divisor: scale("logit_scale"),
            rope_original: of_model("rope.scaling.original_context_length").and_then(as_f64),
            rope_attention: float("rope.scaling.attn_factor"),
            latent: switch("ckpt.latent"),
            ..Given::default()
        };
        let experts = size("expert_count").filter(|count| *count > 0).zip(size("expert_used_count"));
        given.experts = experts.map(|(count, used)| Experts {
            count,
            used,
            hidden_dim: size("expert_feed_forward_length").or(given.mlp_hidden_dim).unwrap_or(0),
            // llama.cpp does so in all graphs of these architectures.
            normalized: true,
        });
        if let Some(scaling) = &mut given.rope_scaling {
            scaling.settle_original(None, given.max_seq_len.map(|n| n as f64));
        }
        given.rotary_dim =
            size("rope.dimension_count").filter(|n| given.head_dim.is_some_and(|dim| *n != dim));
        let unknown = || ConfigError::Architecture(name.to_string());
        let host = Architecture::of_gguf(name).ok_or_else(unknown)?;
        let layers = given.num_layers.unwrap_or(0).min(MOST_LAYERS);
        (host.words.read_keys)(&mut given);
        if given.sliding_window.is_some() {
            let by_graph = || host.graph.period.map(|period| SlidingLayers::but_each(period, layers));
            let pattern = of_model("attention.sliding_window_pattern");
            given.sliding_layers = pattern.and_then(|pattern| windowed(pattern, layers)).or_else(by_graph);
        }
        given.rotated_layers = host.graph.unrotated.and_then(|period| but_each(period, layers));
        given.architecture = Architecture::meant_in_gguf(name, &given);
        given.use_qk_norm = Some(host.has(Part::QNorm));
        given.rope_pairing = host.interleaved.then_some(RopePairing::Neighbours);
        // In files of others no layer is a BitLinear unless its tensors are packed.
        for switch in [&mut given.use_bitlinear_ffn, &mut given.use_bitlinear_attn] {
            switch.get_or_insert(false);
        }
        Ok(given)
    }
}

/// Which of `layers` layers rotate, where each `period`-th does not; `None` where all do.
pub(super) fn but_each(period: usize, layers: usize) -> Option<Vec<bool>> {
    match SlidingLayers::but_each(period, layers) {
        SlidingLayers::Listed(rotates) => Some(rotates),
        _ => None,
    }
}

impl ModelConfig {
    /// Its architecture in GGUF files.
    pub fn gguf_name(&self) -> &'static str {
        self.written_as().gguf.first().copied().unwrap_or(self.architecture.name)
    }

    /// The keys of a GGUF file. `latent` says whether the matrices of its BitLinears are float weights there, and not
    /// codes times a scale.
    pub fn to_gguf(&self, latent: bool) -> Keys {
        let mut keys = Keys::default();
        let architecture = self.gguf_name();
        keys.set(ARCHITECTURE, architecture);
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
        count("rope.dimension_count", self.rotary_dim.unwrap_or(self.head_dim));
        if self.vocab_size > 0 {
            count("vocab_size", self.vocab_size);
        }
        if let Some(experts) = self.experts {
            count("expert_count", experts.count);
            count("expert_used_count", experts.used);
            if experts.hidden_dim != self.mlp_hidden_dim {
                count("expert_feed_forward_length", experts.hidden_dim);
            }
        }
        let all = self.sliding_layers == SlidingLayers::All || self.written_as().graph.period.is_some();
        if let Some(window) = self.sliding_window.filter(|_| all) {
            count("attention.sliding_window", window);
        }
        keys.set(&name("attention.layer_norm_rms_epsilon"), &(self.norm_eps as f32));
        keys.set(&name("rope.freq_base"), &(self.rope_base as f32));
        self.rope_scaling.to_gguf(architecture, self.max_seq_len as f64, &mut keys);
        // Who scales embeddings by their width needs no key for it.
        let embedding = self.embedding_scale.filter(|_| !self.architecture.network.scaled_embedding);
        for (key, number) in [
            ("attn_logit_softcapping", self.attn_logit_soft_cap),
            ("final_logit_softcapping", self.final_logit_soft_cap),
            ("rope.freq_base_swa", self.local_rope_base),
            ("attention.scale", self.attention_scale),
            ("embedding_scale", embedding),
            ("residual_scale", self.residual_scale),
            ("logit_scale", self.logit_divisor),
        ] {
            if let Some(number) = number {
                keys.set(&name(key), &(number as f32));
            }
        }
        (self.written_as().words.write_keys)(self, architecture, &mut keys);
        if !self.is_student() {
            // What its matrices hold is not always told by their types.
            if self.use_bitlinear_ffn || self.use_bitlinear_attn {
                keys.set("ckpt.latent", &latent);
            }
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
}
