//! Plain, serializable records of what was read and measured. Verdicts, gates and reports are made from these
//! alone, so a cached record is as good as the file. Their JSON form is the documented schema of
//! `ckpt inspect --format json`; fields are only ever added.

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::damage::{Damage, DamageKind, Notice};
use crate::ggml::OddScales;
use crate::group::without_state_dict;
use crate::health::coverage::Coverage;
pub use crate::health::measure::structure::Structure;
use crate::health::measures::Computed;
pub use crate::meaning::ModelRecord;
use crate::meaning::role::Role;
use crate::optimizer::TrainingRecord;
use crate::quantized::{PartRole, QuantFault};
use crate::step::StepSource;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};
use crate::{DType, Error, ErrorKind, Format};

/// One checkpoint: what it is, the measurements of its tensors, and how it was judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CheckpointRecord {
    /// The path as the user gave it.
    pub path: String,
    /// Container format; in JSON its [`Format::name`], such as `pytorch-zip`, `safetensors`, `gguf-v3`.
    pub format: Format,
    /// Which network this is and how that is known.
    pub model: ModelRecord,
    /// The models that it consists of, if they are several ([`Checkpoint::components`](crate::Checkpoint::components)).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// Training step, if the file or its name contains it.
    pub step: Option<u64>,
    /// Where the step was found: a metadata path such as `training_state.step`, or `file name`.
    pub step_source: Option<StepSource>,
    /// Size of the file or files in bytes.
    pub file_bytes: u64,
    /// Elements of all weights, shared storage counted once, without a moving average of them.
    pub parameters: u64,
    /// Elements of the moving average of the weights, where it is saved beside them.
    #[serde(default, skip_serializing_if = "is_none")]
    pub averaged_parameters: u64,
    /// Whether the container is cut short or any tensor's bytes are missing or damaged.
    #[serde(default)]
    pub damaged: bool,
    /// Damage to the container as a whole, which `warnings` mentions too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
    /// The worst verdict among the tensors; `None` before judging or when nothing could be judged.
    pub verdict: Option<Verdict>,
    /// Why, worst first, in words.
    pub reasons: Vec<String>,
    /// What is wrong with the whole rather than with one tensor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// How much of it the verdict speaks of.
    #[serde(default)]
    pub coverage: Coverage,
    /// How its weights are quantized, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationRecord>,
    /// Every tensor in file order.
    pub tensors: Vec<TensorRecord>,
    /// Training settings: learning rates, weight decay, and the weights that they apply to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingRecord>,
    /// Config, optimizer settings and other plain values of the file. Long arrays are summarised.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `module.name` of every global that the pickle names. None was imported or called.
    pub globals: Vec<String>,
    /// Things the user should know: damage, guesses, lost scales.
    pub warnings: Vec<String>,
    /// Those of them that speak against the checkpoint, or that who trusts it should know, as facts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

impl CheckpointRecord {
    /// How bad it is: its verdict, or corrupt if it is damaged. What checkpoints are sorted by where the worst come first.
    pub fn standing(&self) -> Option<Verdict> {
        self.verdict.max(self.damaged.then_some(Verdict::Corrupt))
    }

    /// Whether it is damaged, or the library of its format refuses it.
    pub fn is_unreadable(&self) -> bool {
        self.damaged || self.findings.iter().any(|finding| matches!(finding, Finding::Refused { .. }))
    }

    /// `name`, that of a tensor, without the key of the state dict that it was saved in
    /// ([`crate::without_state_dict`]). A word that flat names begin with stays: it is part of them.
    pub fn own_name<'n>(&self, name: &'n str) -> &'n str {
        let inner = without_state_dict(name);
        let key = name[..name.len() - inner.len()].trim_end_matches('.');
        let mut keys = key.split('.');
        let outer = keys.next().and_then(|key| self.metadata.get(key));
        let dict = outer.and_then(|outer| keys.try_fold(outer, |dict, key| dict.get(key)));
        if dict.is_some_and(serde_json::Value::is_object) { inner } else { name }
    }

    /// The key of the one state dict that all weights were saved in, with the dot after it.
    pub fn state_dict(&self) -> Option<&str> {
        let mut weights = self.tensors.iter().filter(|t| t.group == Group::Weights).map(|t| t.name.as_str());
        let first = weights.next()?;
        let key = &first[..first.len() - self.own_name(first).len()];
        (!key.is_empty() && weights.all(|name| name.starts_with(key))).then_some(key)
    }
}

/// One tensor.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct TensorRecord {
    /// Path in the object, keys and indices joined by dots.
    pub name: String,
    /// Element type or packing; in JSON its [`DType::name`].
    pub dtype: DType,
    /// Logical shape (for a packed tensor that of its matrix).
    pub shape: Vec<u64>,
    /// Strides in elements; row-major ones for packed tensors.
    pub strides: Vec<u64>,
    /// What it is for.
    pub group: Group,
    /// What it is for in its network.
    #[serde(default)]
    pub role: Role,
    /// Bytes its elements take, without what else its storage holds.
    pub bytes: u64,
    /// Names of other tensors on the same storage (tied weights and views), at most 16.
    pub shared_with: Vec<String>,
    /// The first tensor of another layer or expert whose elements are the same, on a storage of its own.
    #[serde(default)]
    pub equal_to: Option<Box<str>>,
    /// SHA-256 of the contiguous little-endian elements, when asked for.
    #[serde(default)]
    pub sha256: Option<Box<str>>,
    /// Measurements; `None` with `--no-stats`, for types that are not decoded, or if the bytes are missing.
    pub stats: Option<Stats>,
    /// Occupancy after absmean quantization, for matrices that a BitLinear uses or that are packed ternary.
    pub ternary: Option<Box<Ternary>>,
    /// How the rows of a matrix relate to each other, in a sample of them.
    #[serde(default)]
    pub structure: Option<Box<Structure>>,
    /// What a quantized weight is stored in, and what was measured of that.
    #[serde(default)]
    pub quantized: Option<Box<QuantRecord>>,
    /// Why the bytes cannot be read, when they cannot.
    #[serde(default)]
    pub damage: Option<String>,
    /// The kind of damage.
    #[serde(default)]
    pub damage_kind: Option<DamageKind>,
    /// How it was judged; `None` for tensors whose health is not judged.
    pub verdict: Option<Verdict>,
    /// Why it is not healthy, or not judged. In JSON `reason` is the sentence and `finding` the facts.
    #[serde(default)]
    pub finding: Option<Box<Finding>>,
    /// What else is wrong with it.
    #[serde(default)]
    pub also: Vec<Finding>,
}

/// Its fields, with `reason` made from the finding.
impl Serialize for TensorRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let TensorRecord {
            name,
            dtype,
            shape,
            strides,
            group,
            role,
            bytes,
            shared_with,
            equal_to,
            sha256,
            stats,
            ternary,
            structure,
            quantized,
            damage,
            damage_kind,
            verdict,
            finding,
            also,
        } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", name)?;
        map.serialize_entry("dtype", dtype)?;
        map.serialize_entry("shape", shape)?;
        map.serialize_entry("strides", strides)?;
        map.serialize_entry("group", group)?;
        map.serialize_entry("role", role)?;
        map.serialize_entry("bytes", bytes)?;
        map.serialize_entry("shared_with", shared_with)?;
        if let Some(equal_to) = equal_to {
            map.serialize_entry("equal_to", equal_to)?;
        }
        if let Some(sha256) = sha256 {
            map.serialize_entry("sha256", sha256)?;
        }
        map.serialize_entry("stats", stats)?;
        map.serialize_entry("ternary", ternary)?;
        if let Some(structure) = structure {
            map.serialize_entry("structure", structure)?;
        }
        if let Some(quantized) = quantized {
            map.serialize_entry("quantized", quantized)?;
        }
        if let Some(damage) = damage {
            map.serialize_entry("damage", damage)?;
        }
        if let Some(kind) = damage_kind {
            map.serialize_entry("damage_kind", kind)?;
        }
        map.serialize_entry("verdict", verdict)?;
        if let Some(finding) = finding {
            map.serialize_entry("reason", &finding.to_string())?;
            map.serialize_entry("finding", finding)?;
        }
        if !also.is_empty() {
            map.serialize_entry("also", also)?;
        }
        map.end()
    }
}

impl TensorRecord {
    /// Whether all of it is zeros and ones: the identity, a permutation, a choice. Weights begin so by design.
    pub(crate) fn is_pattern(&self) -> bool {
        let Some(stats) = &self.stats else { return false };
        let (count, ones) = (stats.count as f64, stats.count.saturating_sub(stats.zeros) as f64);
        // Ones and zeros alone have this mean.
        (stats.min, stats.max) == (Some(0.0), Some(1.0))
            && stats.mean.is_some_and(|mean| (mean * count - ones).abs() < 1e-6 * count)
    }

    /// Records that its bytes cannot be read because of `error`.
    pub fn set_damage(&mut self, error: Error) {
        let kind = if error.kind == ErrorKind::Io { DamageKind::Unread } else { DamageKind::Other };
        self.damage_kind = Some(error.fault.unwrap_or(kind));
        self.damage = Some(error.what);
    }
}

/// Measurements of a tensor's elements. Moments are over finite elements, accumulated in f64.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// Elements, finite or not. Of complex ones the real and the imaginary parts count, here and below.
    pub count: u64,
    /// Arithmetic mean; `None` without a finite element.
    pub mean: Option<f64>,
    /// Unbiased standard deviation (divisor n - 1), as `torch.std`; `None` below two finite elements.
    pub std: Option<f64>,
    /// Smallest finite element.
    pub min: Option<f64>,
    /// Largest finite element.
    pub max: Option<f64>,
    /// Mean of |w|.
    pub abs_mean: Option<f64>,
    /// Largest finite |w|.
    pub abs_max: Option<f64>,
    /// Elements equal to 0 (of either sign).
    pub zeros: u64,
    /// Elements that are not a number.
    pub nan: u64,
    /// Infinite elements.
    pub inf: u64,
    /// Blocks of GGML's with scales that no encoder writes; `None` for all others. In JSON they are keys among the statistics.
    #[serde(flatten, deserialize_with = "some_odd_scales")]
    pub odd_scales: Option<Box<OddScales>>,
    /// The measures of [`MEASURES`](crate::health::measures::MEASURES) without a field here, each under its key.
    #[serde(flatten)]
    pub computed: Computed,
    /// Log-magnitude histogram; `None` when it was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histogram: Option<Histogram>,
}

impl Stats {
    /// These, of GGML's blocks with `odd` scales.
    pub(crate) fn with_odd(self, odd: OddScales) -> Self {
        Stats { odd_scales: kept(odd), ..self }
    }
}

fn kept(odd: OddScales) -> Option<Box<OddScales>> {
    (odd != OddScales::default()).then(|| Box::new(odd))
}

fn some_odd_scales<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<OddScales>>, D::Error> {
    OddScales::deserialize(from).map(kept)
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What a quantized weight is stored in, or why stored tensors are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QuantRecord {
    /// Its stored tensors, codes first.
    pub parts: Vec<PartRecord>,
    /// Its scales.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scales: Option<ScaleStats>,
    /// Its codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes: Option<CodeStats>,
    /// Why it cannot be read as a weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<QuantFault>,
}

impl TensorRecord {
    /// Whether it is a stored tensor that should be a weight and is none: codes that are not read, under their own name
    /// and of their own shape.
    pub(crate) fn is_bare_codes(&self) -> bool {
        let is_faulty = self.quantized.as_ref().is_some_and(|quantized| quantized.fault.is_some());
        self.role == Role::Codes || is_faulty
    }
}

/// A stored tensor of a quantized weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartRecord {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: PartRole,
    /// The type of its elements as stored.
    pub dtype: DType,
    /// Its shape as stored.
    pub shape: Vec<u64>,
}

/// The scales of a quantized weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScaleStats {
    /// How many there are.
    pub count: u64,
    /// Those that are not a number.
    pub nan: u64,
    /// Infinite ones.
    pub inf: u64,
    /// Those that are zero.
    pub zero: u64,
    /// Elements, or scales that are codes themselves, that such a scale makes zero although their codes are not.
    pub silenced: u64,
    /// Negative ones.
    pub negative: u64,
    /// Zero points that no code can be.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub zero_points_outside: u64,
}

/// The codes of a quantized weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CodeStats {
    /// Bits of a code.
    pub bits: u8,
    /// The one code that all elements have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equal: Option<u8>,
    /// The share of codes at either end of their range, in a sample.
    pub at_limit: f64,
}

/// How a checkpoint is quantized.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QuantizationRecord {
    /// The method that its configuration names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The types of its quantized weights, and how many there are of each.
    pub kinds: Vec<(DType, u64)>,
    /// The scheme that is known by name and not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// Matrices that are not quantized.
    pub left: Vec<String>,
}

/// Counts of nonzero finite elements by magnitude: bin `i` holds 2^(first+i) <= |w| < 2^(first+i+1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Histogram {
    /// Exponent of the first bin; values of `f32` subnormal size share the bin of 2^-127.
    pub first: i32,
    /// Counts, without leading or trailing empty bins.
    pub counts: Vec<u64>,
}

/// A matrix after absmean quantization Wq = clamp(round(W / (mean|W| + eps)), -1, 1)
/// (BitNet b1.58, <https://arxiv.org/abs/2402.17764>), or as packed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ternary {
    /// Share of -1, 0 to 1.
    pub neg: f64,
    /// Share of 0.
    pub zero: f64,
    /// Share of +1.
    pub pos: f64,
    /// Shannon entropy of the three shares in bits, at most log2(3) = 1.585.
    pub entropy_bits: f64,
    /// mean|W| + eps, or the packing's scale (mean of block scales); `None` where the packing lost it.
    pub scale: Option<f64>,
    /// Rows that are all zero after quantization (outputs that never fire).
    pub dead_rows: u64,
    /// Columns that are all zero after quantization (inputs that are ignored).
    pub dead_cols: u64,
}
