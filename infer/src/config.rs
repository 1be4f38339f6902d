//! What the model computes: sizes from the tensors' shapes; the rest from flags, else from the checkpoint's own
//! configuration (a trainer's `config`, config.json, GGUF keys), else from defaults, which are told.

use std::fmt::Display;

use ckpt_inspect::{Checkpoint, DType, TensorInfo};
use serde::{Deserialize, Serialize};
use serde_pickle::{HashableValue, Value};

use crate::names::{Names, Part, Role};
use crate::{Error, Result};

/// A model's configuration. It determines the computation together with the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `bitnet-student`, or the name that config.json or GGUF gives.
    pub architecture: String,
    /// Token ids are below this.
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
    /// Positions that attention sees at most.
    pub max_seq_len: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// How rotary positions are stretched.
    pub rope_scaling: RopeScaling,
    /// Which elements of a head rotate together.
    pub rope_pairing: RopePairing,
    /// Gate, up and down are BitLinear.
    pub use_bitlinear_ffn: bool,
    /// Q, K, V and O are BitLinear.
    pub use_bitlinear_attn: bool,
    /// A BitLinear has a scale for each output instead of one.
    pub bitlinear_per_channel: bool,
    /// Added to mean|W| and max|x|.
    pub quantization_eps: f64,
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
}

/// How rotary positions are stretched beyond the length that the model was trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided, short ones kept, a smooth passage between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above original / low_freq_factor are long.
        low_freq_factor: f64,
        /// Wavelengths below original / high_freq_factor are short.
        high_freq_factor: f64,
        /// Length that the model was trained with.
        original_max_position_embeddings: f64,
    },
}

/// Which two elements of a head form a rotated pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum RopePairing {
    /// i and i + head_dim / 2.
    #[default]
    Halves,
    /// 2i and 2i + 1, as GGUF files of Llama are permuted for.
    Neighbours,
}

/// What names and shapes do not tell; whatever is `None` is left to the next source.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // as in `Config`
pub struct Settings {
    pub head_dim: Option<usize>,
    pub num_heads: Option<usize>,
    pub max_seq_len: Option<usize>,
    pub rope_base: Option<f64>,
    pub rope_scaling: Option<RopeScaling>,
    pub use_bitlinear_ffn: Option<bool>,
    pub use_bitlinear_attn: Option<bool>,
    pub bitlinear_per_channel: Option<bool>,
    pub quantization_eps: Option<f64>,
    pub norm_eps: Option<f64>,
    /// `Some(None)` is "no cap".
    pub attn_logit_soft_cap: Option<Option<f64>>,
    /// `Some(None)` is "no cap".
    pub final_logit_soft_cap: Option<Option<f64>>,
}

/// Hugging Face architectures whose computation is this crate's.
const HUGGING_FACE: [&str; 3] = ["LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"];
/// GGUF architectures whose computation is this crate's.
const GGUF: [&str; 2] = ["llama", "qwen3"];
/// Sizes of a model stay below this, so that no sum of int8 products leaves i32 and no product of sizes overflows.
const LARGEST: usize = 1 << 16;

impl Config {
    /// The configuration of the model in `checkpoint`, and sentences on what had to be assumed. `flags` come first.
    ///
    /// # Errors
    /// `Unsupported` for another network, `Inconsistent` when tensors are missing or do not fit each other.
    pub fn of(checkpoint: &Checkpoint, names: &Names<'_>, flags: &Settings) -> Result<(Config, Vec<String>)> {
        let path = || checkpoint.path.clone();
        let unsupported = |what: String| Error::Unsupported { path: path(), what };
        let inconsistent = |what: String| Error::Inconsistent { path: path(), what };
        let architecture = checkpoint.model.architecture.clone();
        let source = Source::of(checkpoint, names).map_err(unsupported)?;
        let given = source.settings(checkpoint).map_err(unsupported)?;
        if let Some(tensor) = names.unused.first() {
            return Err(unsupported(format!(
                "tensor `{}` has no part in this network; biases, experts and further norms are not run",
                tensor.name.escape_debug()
            )));
        }
        let matrix = |role: Role| match names.get(role).map(|t| t.shape.as_slice()) {
            Some(&[rows, cols]) if (1..=LARGEST).contains(&cols) && rows >= 1 => Ok((rows, cols)),
            Some(shape) => {
                let name = names.called(role);
                Err(inconsistent(format!(
                    "tensor `{name}` has shape {shape:?}, which no matrix here may have"
                )))
            }
            None => Err(inconsistent(format!("tensor `{}` is missing", names.called(role)))),
        };
        let (vocab_size, hidden_dim) = matrix(Role::Embedding)?;
        let (q_rows, _) = matrix(Role::Layer(0, Part::Q))?;
        let (kv_rows, _) = matrix(Role::Layer(0, Part::K))?;
        let (mlp_hidden_dim, _) = matrix(Role::Layer(0, Part::Gate))?;
        if vocab_size > u32::MAX as usize || q_rows > LARGEST || mlp_hidden_dim > LARGEST {
            return Err(inconsistent(format!("a matrix has more than {LARGEST} rows")));
        }

        let mut assumed = Vec::new();
        let q_norm = names.get(Role::Layer(0, Part::QNorm));
        let by_heads = |heads: usize| (heads > 0 && q_rows.is_multiple_of(heads)).then(|| q_rows / heads);
        let head_dim = q_norm
            .and_then(|t| t.shape.first().copied())
            .or(flags.head_dim)
            .or(flags.num_heads.and_then(by_heads))
            .or(given.head_dim)
            .or(given.num_heads.and_then(by_heads));
        let head_dim = or_assume(&mut assumed, "head_dim", None, head_dim, 64);
        let divides = head_dim >= 2 && q_rows.is_multiple_of(head_dim) && kv_rows.is_multiple_of(head_dim);
        let (num_heads, num_kv_heads) = match divides {
            true => (q_rows / head_dim, kv_rows / head_dim),
            false => {
                return Err(inconsistent(format!(
                    "{q_rows} and {kv_rows} rows of Q and K are no heads of {head_dim}"
                )));
            }
        };
        for (name, flag, found) in
            [("head_dim", flags.head_dim, head_dim), ("num_heads", flags.num_heads, num_heads)]
        {
            if let Some(flag) = flag.filter(|flag| *flag != found) {
                return Err(inconsistent(format!("{name} is {found} by its tensors' shapes, not {flag}")));
            }
        }
        if head_dim % 2 != 0 || !num_heads.is_multiple_of(num_kv_heads) {
            return Err(inconsistent(format!(
                "{num_heads} query heads of {head_dim} do not share {num_kv_heads} KV heads"
            )));
        }
        let student = matches!(source, Source::Student | Source::SeedGguf(_));
        let default = |student_value: f64, other: f64| if student { student_value } else { other };
        let cap = |value: f64| if student { Some(value) } else { None };
        let a = &mut assumed;
        let max_seq_len = or_assume(a, "max_seq_len", flags.max_seq_len, given.max_seq_len, 2048);
        let rope_base = or_assume(a, "rope_base", flags.rope_base, given.rope_base, default(1e6, 1e4));
        let norm_eps = or_assume(a, "norm_eps", flags.norm_eps, given.norm_eps, default(1e-6, 1e-5));
        let is_packed =
            |part| names.get(Role::Layer(0, part)).is_some_and(|t: &TensorInfo| t.dtype.is_ternary());
        let mut bitlinear = |name, flag, given, part| match is_packed(part) {
            true => true,
            false => or_assume(a, name, flag, given, student),
        };
        let use_bitlinear_ffn =
            bitlinear("use_bitlinear_ffn", flags.use_bitlinear_ffn, given.use_bitlinear_ffn, Part::Gate);
        let use_bitlinear_attn =
            bitlinear("use_bitlinear_attn", flags.use_bitlinear_attn, given.use_bitlinear_attn, Part::Q);
        let ternary = use_bitlinear_attn || use_bitlinear_ffn;
        let quantization_eps = match ternary {
            true => or_assume(a, "quantization_eps", flags.quantization_eps, given.quantization_eps, 1e-8),
            false => 1e-8,
        };
        let caps = (
            or_assume_cap(
                a,
                "attn_logit_soft_cap",
                flags.attn_logit_soft_cap,
                given.attn_logit_soft_cap,
                cap(50.0),
            ),
            or_assume_cap(
                a,
                "final_logit_soft_cap",
                flags.final_logit_soft_cap,
                given.final_logit_soft_cap,
                cap(30.0),
            ),
        );
        let place = |t: &TensorInfo| (t.storage.clone(), t.byte_offset);
        let tied = match (names.get(Role::Head), names.get(Role::Embedding)) {
            (Some(head), Some(embedding)) => place(head) == place(embedding),
            _ => true,
        };
        let config = Config {
            architecture,
            vocab_size,
            hidden_dim,
            num_layers: names.layers(),
            num_heads,
            num_kv_heads,
            head_dim,
            mlp_hidden_dim,
            max_seq_len,
            rope_base,
            rope_scaling: flags.rope_scaling.or(given.rope_scaling).unwrap_or_default(),
            rope_pairing: match &source {
                Source::Gguf("llama") => RopePairing::Neighbours,
                _ => RopePairing::Halves,
            },
            use_bitlinear_ffn,
            use_bitlinear_attn,
            bitlinear_per_channel: flags
                .bitlinear_per_channel
                .or(given.bitlinear_per_channel)
                .unwrap_or(false),
            quantization_eps,
            norm_eps,
            tie_word_embeddings: tied,
            use_qk_norm: q_norm.is_some(),
            attn_logit_soft_cap: caps.0,
            final_logit_soft_cap: caps.1,
        };
        config.check().map_err(inconsistent)?;
        let assumed = match assumed.as_slice() {
            [] => Vec::new(),
            list => {
                vec![format!("not told by names, shapes, config or flags, so assumed: {}", list.join(", "))]
            }
        };
        Ok((config, assumed))
    }

    fn check(&self) -> Result<(), String> {
        let positive = |name: &str, x: f64| match x.is_finite() && x > 0.0 {
            true => Ok(()),
            false => Err(format!("{name} is {x}, which makes no sense")),
        };
        positive("max_seq_len", self.max_seq_len as f64)?;
        positive("rope_base", self.rope_base)?;
        positive("norm_eps", self.norm_eps + f64::MIN_POSITIVE)?;
        positive("quantization_eps", self.quantization_eps + f64::MIN_POSITIVE)?;
        for cap in [self.attn_logit_soft_cap, self.final_logit_soft_cap].into_iter().flatten() {
            positive("a soft cap", cap)?;
        }
        match self.rope_scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope_scaling.factor", factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                positive("rope_scaling.factor", factor)?;
                positive("rope_scaling.low_freq_factor", low_freq_factor)?;
                positive("rope_scaling.high_freq_factor", high_freq_factor - low_freq_factor)?;
                positive("rope_scaling.original_max_position_embeddings", original_max_position_embeddings)
            }
        }
    }
}

/// A flag, else what is given, else the default, which is noted.
fn or_assume<T: Display>(
    assumed: &mut Vec<String>,
    name: &str,
    flag: Option<T>,
    given: Option<T>,
    default: T,
) -> T {
    flag.or(given).unwrap_or_else(|| {
        assumed.push(format!("{name} {default}"));
        default
    })
}

/// As [`or_assume`] for a cap. No cap is what most networks have, and not worth a word.
fn or_assume_cap(
    assumed: &mut Vec<String>,
    name: &str,
    flag: Option<Option<f64>>,
    given: Option<Option<f64>>,
    default: Option<f64>,
) -> Option<f64> {
    flag.or(given).unwrap_or_else(|| {
        if let Some(cap) = default {
            assumed.push(format!("{name} {cap}"));
        }
        default
    })
}

/// Where the configuration comes from.
enum Source<'a> {
    Student,
    HuggingFace,
    Gguf(&'a str),
    /// The seed's exporter wrote norms as F16, as nobody else does, and nothing on what the student computes.
    SeedGguf(&'a str),
}

impl<'a> Source<'a> {
    fn of(checkpoint: &'a Checkpoint, names: &Names<'_>) -> Result<Self, String> {
        let model = &checkpoint.model;
        let name = model.architecture.as_str();
        if model.student.is_some() {
            Ok(Source::Student)
        } else if matches!(checkpoint.format, ckpt_inspect::Format::Gguf { .. }) && GGUF.contains(&name) {
            match names.get(Role::FinalNorm).is_some_and(|t| t.dtype == DType::F16) {
                true => Ok(Source::SeedGguf(name)),
                false => Ok(Source::Gguf(name)),
            }
        } else if model.config.is_some() && HUGGING_FACE.contains(&name) {
            Ok(Source::HuggingFace)
        } else if name == "unknown" {
            Err("is not recognised as a model: neither the student's tensor names, nor a config.json beside it, \
                 nor GGUF keys"
                .into())
        } else {
            let known = [&HUGGING_FACE[..], &GGUF].concat().join(", ");
            Err(format!("is a {}; the student model and {known} are run", name.escape_debug()))
        }
    }

    fn settings(&self, checkpoint: &Checkpoint) -> Result<Settings, String> {
        match self {
            Source::Student => match &checkpoint.model.config {
                Some(config) => student(config),
                None => Ok(Settings::default()),
            },
            Source::HuggingFace => match &checkpoint.model.config {
                Some(config) => hugging_face(config),
                None => Ok(Settings::default()),
            },
            Source::Gguf(architecture) => gguf(&checkpoint.metadata, architecture),
            Source::SeedGguf(architecture) => Ok(Settings {
                use_bitlinear_ffn: None,
                use_bitlinear_attn: None,
                ..gguf(&checkpoint.metadata, architecture)?
            }),
        }
    }
}

/// The config a trainer puts beside the weights.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StudentFile {
    num_heads: Option<usize>,
    head_dim: Option<usize>,
    max_seq_len: Option<usize>,
    rope_base: Option<f64>,
    rope_scaling: Option<ScalingFile>,
    use_bitlinear: Option<bool>,
    use_bitlinear_ffn: Option<bool>,
    use_bitlinear_attn: Option<bool>,
    bitlinear_per_channel: Option<bool>,
    quantization_eps: Option<f64>,
    norm_eps: Option<f64>,
    #[serde(deserialize_with = "present")]
    attn_logit_soft_cap: Option<Option<f64>>,
    #[serde(deserialize_with = "present")]
    final_logit_soft_cap: Option<Option<f64>>,
}

/// Keeps "null" (no cap) apart from "not said".
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::<f64>::deserialize(deserializer).map(Some)
}

fn student(config: &Value) -> Result<Settings, String> {
    let file: StudentFile = typed(config)?;
    Ok(Settings {
        head_dim: file.head_dim,
        num_heads: file.num_heads,
        max_seq_len: file.max_seq_len,
        rope_base: file.rope_base,
        rope_scaling: file.rope_scaling.map(ScalingFile::scaling).transpose()?,
        use_bitlinear_ffn: file.use_bitlinear_ffn.or(file.use_bitlinear),
        use_bitlinear_attn: file.use_bitlinear_attn.or(file.use_bitlinear),
        bitlinear_per_channel: file.bitlinear_per_channel,
        quantization_eps: file.quantization_eps,
        norm_eps: file.norm_eps,
        attn_logit_soft_cap: file.attn_logit_soft_cap,
        final_logit_soft_cap: file.final_logit_soft_cap,
    })
}

fn typed<T: serde::de::DeserializeOwned>(config: &Value) -> Result<T, String> {
    serde_pickle::from_value(config.clone()).map_err(|e| format!("has a config that is not understood: {e}"))
}

/// `rope_scaling` or `rope_parameters` of a config.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ScalingFile {
    rope_type: Option<String>,
    /// Its older name, which many files have beside it.
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl ScalingFile {
    fn scaling(self) -> Result<RopeScaling, String> {
        let need =
            |name: &str, value: Option<f64>| value.ok_or_else(|| format!("has rope_scaling without {name}"));
        match self.rope_type.as_deref().or(self.kind.as_deref()) {
            None | Some("default" | "none") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: need("factor", self.factor)? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: need("factor", self.factor)?,
                low_freq_factor: need("low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: need("high_freq_factor", self.high_freq_factor)?,
                original_max_position_embeddings: need(
                    "original_max_position_embeddings",
                    self.original_max_position_embeddings,
                )?,
            }),
            Some(other) => Err(format!(
                "has rope_scaling `{}`; linear and llama3 are run (or give --rope-scaling)",
                other.escape_debug()
            )),
        }
    }
}

/// config.json.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HuggingFaceFile {
    num_attention_heads: Option<usize>,
    hidden_size: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rope_theta: Option<f64>,
    rope_scaling: Option<ScalingFile>,
    rope_parameters: Option<ScalingFile>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    quantization_config: Option<QuantizationFile>,
}

#[derive(Debug, Deserialize)]
struct QuantizationFile {
    quant_method: Option<String>,
}

fn hugging_face(config: &Value) -> Result<Settings, String> {
    let file: HuggingFaceFile = typed(config)?;
    if let Some(act) = file.hidden_act.as_deref().filter(|&act| act != "silu" && act != "swish") {
        return Err(format!("has hidden_act `{}`; silu is run", act.escape_debug()));
    }
    let bitnet = match file.quantization_config.as_ref().map(|q| q.quant_method.as_deref().unwrap_or("")) {
        None => false,
        Some("bitnet") => true,
        Some(other) => return Err(format!("is quantized by `{}`, which is not run", other.escape_debug())),
    };
    let window = file.sliding_window.filter(|_| file.use_sliding_window != Some(false));
    let types = file.layer_types.unwrap_or_default();
    if window.is_some() && types.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err("has layers that see windows of different lengths, which are not run".into());
    }
    let window = window.filter(|_| types.first().is_none_or(|kind| kind == "sliding_attention"));
    let scaling = file.rope_parameters.or(file.rope_scaling);
    let theta = scaling.as_ref().and_then(|s| s.rope_theta);
    let by_heads = file.hidden_size.zip(file.num_attention_heads.filter(|&n| n > 0)).map(|(d, n)| d / n);
    Ok(Settings {
        head_dim: file.head_dim.or(by_heads),
        num_heads: file.num_attention_heads,
        // A window that slides is what is seen at most.
        max_seq_len: file.max_position_embeddings.into_iter().chain(window).min(),
        rope_base: file.rope_theta.or(theta),
        rope_scaling: scaling.map(ScalingFile::scaling).transpose()?,
        use_bitlinear_ffn: Some(bitnet),
        use_bitlinear_attn: Some(bitnet),
        bitlinear_per_channel: None,
        // What transformers' BitLinear has as the least max|x|.
        quantization_eps: bitnet.then_some(1e-5),
        norm_eps: file.rms_norm_eps,
        attn_logit_soft_cap: None,
        final_logit_soft_cap: None,
    })
}

fn gguf(metadata: &Value, architecture: &str) -> Result<Settings, String> {
    let own = |key: String| match metadata {
        Value::Dict(entries) => entries.get(&HashableValue::String(key)),
        _ => None,
    };
    let get = |key: &str| own(format!("{architecture}.{key}"));
    let as_number = |value: Option<&Value>| match value {
        Some(&Value::I64(n)) => Some(n as f64),
        Some(&Value::F64(x)) => Some(x),
        _ => None,
    };
    let number = |key: &str| as_number(get(key));
    // Keys of this suite's converter; in files of others no layer is a BitLinear unless its tensors are packed.
    let yes = |key: &str| Some(matches!(own(format!("ckpt.{key}")), Some(&Value::Bool(true))));
    let size = |key: &str| number(key).filter(|&n| n >= 0.0).map(|n| n as usize);
    // This suite's converter says here what the format has no keys for.
    let scaling = match (own("ckpt.rope_scaling".into()), get("rope.scaling.type")) {
        (Some(Value::String(told)), _) => {
            let file: ScalingFile = serde_json::from_str(told)
                .map_err(|e| format!("has a ckpt.rope_scaling that is not understood: {e}"))?;
            Some(file.scaling()?)
        }
        (Some(_), _) => return Err("has a ckpt.rope_scaling that is no text".into()),
        (None, None) => None,
        (None, Some(Value::String(kind))) => {
            let rope_type = Some(kind.clone());
            let factor = number("rope.scaling.factor");
            Some(ScalingFile { rope_type, factor, ..ScalingFile::default() }.scaling()?)
        }
        (None, Some(_)) => return Err("has a rope.scaling.type that is no text".into()),
    };
    Ok(Settings {
        head_dim: size("attention.key_length").or(size("rope.dimension_count")),
        num_heads: size("attention.head_count"),
        max_seq_len: size("context_length"),
        rope_base: number("rope.freq_base"),
        rope_scaling: scaling,
        use_bitlinear_ffn: yes("use_bitlinear_ffn"),
        use_bitlinear_attn: yes("use_bitlinear_attn"),
        bitlinear_per_channel: yes("bitlinear_per_channel"),
        quantization_eps: as_number(own("ckpt.quantization_eps".into())),
        norm_eps: number("attention.layer_norm_rms_epsilon"),
        attn_logit_soft_cap: number("attn_logit_softcapping").map(Some),
        final_logit_soft_cap: number("final_logit_softcapping").map(Some),
    })
}
