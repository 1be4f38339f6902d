//! Health verdicts, made from measurements alone.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::coverage::Coverage;
use super::off::Off;
use super::rules::judgements;
pub use super::thresholds::{Levels, Thresholds};
use crate::quantized::QuantFault;
use crate::record::{CheckpointRecord, TensorRecord};
use crate::{DamageKind, NoticeKind};

/// How healthy a tensor or checkpoint is, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// Weights have the size of trained weights.
    Healthy,
    /// Zero where the network's design lets it begin at zero.
    Untrained,
    /// Barely alive: far below a trained size, still different from noise.
    Weak,
    /// About to vanish.
    Dying,
    /// Collapsed: constant, zero, or too small to matter.
    Dead,
    /// NaN, infinity, or bytes that are missing or damaged.
    Corrupt,
}

impl Verdict {
    /// All verdicts from best to worst.
    pub const ALL: [Verdict; 6] = [
        Verdict::Healthy,
        Verdict::Untrained,
        Verdict::Weak,
        Verdict::Dying,
        Verdict::Dead,
        Verdict::Corrupt,
    ];

    /// Whether something is wrong: what has not been trained yet is not.
    pub fn is_below_healthy(self) -> bool {
        self > Verdict::Untrained
    }

    /// The lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Healthy => "healthy",
            Verdict::Untrained => "untrained",
            Verdict::Weak => "weak",
            Verdict::Dying => "dying",
            Verdict::Dead => "dead",
            Verdict::Corrupt => "corrupt",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Verdict {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Verdict::ALL.into_iter().find(|v| v.name() == s).ok_or_else(|| {
            format!("`{s}` is not a verdict: healthy, untrained, weak, dying, dead or corrupt")
        })
    }
}

fn plural(values: u64) -> String {
    if values == 1 { "1 value".into() } else { format!("{values} values") }
}

/// The shortest decimal that is the same number, as f32 where it is one.
fn short(value: f64) -> String {
    let narrow = value as f32;
    let plain = value == 0.0 || (1e-4..1e6).contains(&value.abs());
    match (f64::from(narrow) == value, plain) {
        (_, true) if value == 0.0 => "0".into(),
        (true, true) => narrow.to_string(),
        (true, false) => format!("{narrow:e}"),
        (false, true) => value.to_string(),
        (false, false) => format!("{value:e}"),
    }
}

/// std * sqrt(fan_in) that no training leaves where a network normalizes, or where a run grew to it.
pub(crate) const EXPLODED: f64 = 300.0;

/// std * sqrt(fan_in): about 1 for the usual initializations, whatever the layer's size.
pub(crate) fn relative_std(tensor: &TensorRecord) -> Option<f64> {
    let fan_in = tensor.shape.get(1..)?.iter().fold(1u64, |n, &d| n.saturating_mul(d));
    Some(tensor.stats.as_ref()?.std? * (fan_in as f64).sqrt())
}

/// Why a tensor is judged as it is, or not at all. As text it is a phrase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Finding {
    /// Its bytes cannot be read.
    Damaged {
        /// The kind of damage.
        fault: DamageKind,
        /// What is wrong, in words.
        what: String,
    },
    /// Some of its values are not finite.
    NotFinite {
        /// Values that are not a number.
        nan: u64,
        /// Infinite values.
        inf: u64,
        /// All values.
        count: u64,
    },
    /// Every value is the same.
    Constant {
        /// That value.
        value: f64,
    },
    /// Its ternary codes are nearly all zero.
    ZeroCodes {
        /// Share of zeros.
        share: f64,
        /// The share from which it is dead.
        bound: f64,
    },
    /// The scale of its codes is missing.
    ScaleLost,
    /// It is smaller than a matrix that a BitLinear uses should be.
    SmallStd {
        /// Its standard deviation.
        std: f64,
        /// The one below which it is judged so.
        bound: Option<f64>,
    },
    /// It begins at zero by design, and is zero.
    Untrained,
    /// It has no elements.
    Empty,
    /// One of its values is far beyond the others.
    FarValue {
        /// That value's magnitude.
        value: f64,
        /// The mean magnitude of the others that are not zero.
        typical: f64,
    },
    /// Some of its values are the largest that its type can hold.
    Saturated {
        /// That value.
        limit: f64,
    },
    /// Its magnitudes are as if it were read as another type than it was written as.
    Misread {
        /// The share of them within a factor of four.
        share: f64,
    },
    /// All of its elements are whole numbers: codes without their scale.
    WholeNumbers {
        /// The largest magnitude.
        largest: f64,
    },
    /// A value is larger than anything of its role can be.
    BeyondReason {
        /// That value.
        value: f64,
        /// The magnitude from which it is.
        bound: f64,
    },
    /// A stretch of it is one value other than zero.
    ConstantHole {
        /// Elements in the stretch.
        run: u64,
        /// All elements.
        count: u64,
    },
    /// Some of the experts that it holds are zero, faint, far too large, or equal to others.
    Experts {
        /// Experts that were looked at.
        all: u64,
        /// Those that are zero.
        zero: u64,
        /// Those that are far smaller than the others, and not zero.
        faint: u64,
        /// Those that are far larger.
        loud: u64,
        /// Those that equal another one.
        equal: u64,
    },
    /// A stretch of it is zero.
    ZeroHole {
        /// Elements in the stretch.
        run: u64,
        /// All elements.
        count: u64,
    },
    /// Many of its rows or columns are zero.
    ZeroRows {
        /// Share of the rows.
        rows: f64,
        /// Share of the columns.
        columns: f64,
    },
    /// Many of its rows are equal.
    EqualRows {
        /// The share of them that repeat another one.
        share: f64,
    },
    /// Some of its columns have one value throughout.
    ConstantColumns {
        /// Their share.
        share: f64,
    },
    /// Its rows lie in one direction, or in few.
    OneDirection {
        /// (Σσ²)² / Σσ⁴ of some of its rows.
        effective: f64,
        /// The directions that these rows take.
        rank: u64,
        /// How many these rows are.
        rows: u64,
    },
    /// It is far larger or smaller than the same matrix in other layers.
    UnlikeSiblings {
        /// Its standard deviation.
        std: f64,
        /// The median of theirs.
        median: f64,
    },
    /// It equals the same matrix of another layer.
    EqualLayers {
        /// That one's name.
        other: String,
    },
    /// Its gains are all zero, and those of other layers are not.
    GainsAtZero,
    /// Its gains are all -1, which an architecture that adds 1 to them makes zero.
    GainsAtMinusOne,
    /// Its gains are far larger or smaller than those of the same normalization in other layers.
    UnlikeGains {
        /// Their mean magnitude.
        mean: f64,
        /// The median of it in all layers.
        median: f64,
    },
    /// A tensor has another shape than the same one in the other layers, or than its bias.
    UnlikeShape {
        /// The tensor.
        name: String,
        /// That one.
        usual: Vec<u64>,
        /// Its own.
        found: Vec<u64>,
    },
    /// A mean of squares is negative or implausibly large.
    ImpossibleVariance {
        /// That value.
        value: f64,
    },
    /// It is larger than usual for its fan-in.
    LargeRelativeStd {
        /// Its standard deviation.
        std: f64,
        /// std * sqrt(fan_in).
        relative: f64,
    },
    /// The checkpoint contradicts its configuration.
    Promised {
        /// Its key.
        key: String,
        /// What it says.
        promised: u64,
        /// What there is.
        found: u64,
    },
    /// A scale is NaN.
    NanScale,
    /// Some of its blocks have a scale that is NaN by the standard of its type, and a number for GGML's decoder.
    NanScales {
        /// How many.
        blocks: u64,
    },
    /// Stored tensors should be a quantized weight or a part of one, and are none.
    QuantParts {
        /// Why.
        fault: QuantFault,
    },
    /// Scales of a quantized weight are nothing to multiply by.
    QuantScales {
        /// Those that are not a number.
        nan: u64,
        /// Infinite ones.
        inf: u64,
        /// Those that are zero beside codes that are not.
        zero: u64,
        /// Negative ones.
        negative: u64,
        /// All of them.
        count: u64,
    },
    /// Zero points of a quantized weight are outside of the range of its codes.
    ZeroPoints {
        /// How many.
        outside: u64,
    },
    /// The codes of a quantized weight are all the same.
    EqualCodes {
        /// The code.
        code: u8,
    },
    /// Many blocks of a quantized weight repeat one value, which is not zero, or eight.
    FlatBlocks {
        /// The share of its elements in such blocks.
        share: f64,
    },
    /// Blocks of a quantized weight are what those before them are.
    RepeatedBlocks {
        /// The share of its elements in such blocks.
        share: f64,
    },
    /// Many codes of a quantized weight are at the ends of their range.
    SaturatedCodes {
        /// Their share.
        share: f64,
    },
    /// The format's own library refuses the file.
    Refused {
        /// What class of remark it is.
        kind: NoticeKind,
        /// What is wrong, in words.
        what: String,
    },
    /// Files of the set say different things.
    Contradiction {
        /// What class of remark it is.
        kind: NoticeKind,
        /// What is wrong, in words.
        what: String,
    },
    /// A tensor has another shape than the configuration promises.
    PromisedShape {
        /// The tensor.
        name: String,
        /// The shape that the configuration gives it.
        promised: Vec<u64>,
        /// The one it has.
        found: Vec<u64>,
    },
    /// Keys are missing without which programs do not load the file.
    MissingKeys {
        /// The keys.
        names: Vec<String>,
    },
    /// Weights are missing that the other layers imply.
    Missing {
        /// How many.
        count: u64,
        /// The first of them: weights, or layers.
        names: Vec<String>,
    },
    /// Its mask is zero throughout.
    MaskedOut,
    /// It is hardly more than the zero that it begins at by design.
    Begun {
        /// Its standard deviation.
        std: f64,
    },
    /// It is smaller than usual for its fan-in.
    SmallRelativeStd {
        /// Its standard deviation.
        std: f64,
        /// std * sqrt(fan_in).
        relative: f64,
        /// The value of `relative` below which it is judged so.
        bound: Option<f64>,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Damaged { what, .. } | Finding::Contradiction { what, .. } => f.write_str(what),
            Finding::Refused { what, .. } => write!(f, "{what}: the format's own library refuses the file"),
            Finding::NanScale => f.write_str("a scale of 255, which is NaN"),
            Finding::NanScales { blocks: 1 } => f.write_str("the scale of one of its blocks is NaN"),
            Finding::NanScales { blocks } => write!(f, "the scales of {blocks} of its blocks are NaN"),
            Finding::QuantParts { fault } => fault.fmt(f),
            Finding::QuantScales { nan, inf, zero, negative, count } => {
                let kinds = [(nan, "NaN"), (inf, "infinite"), (zero, "zero"), (negative, "negative")];
                let said = kinds.iter().filter(|(n, _)| **n > 0).map(|(n, what)| format!("{n} {what}"));
                let scales = if *count == 1 { "scale" } else { "scales" };
                write!(f, "of {count} {scales}: {}", said.collect::<Vec<_>>().join(", "))
            }
            Finding::ZeroPoints { outside } => {
                let points = if *outside == 1 { "zero point is" } else { "zero points are" };
                write!(f, "{outside} {points} outside of the range of its codes")
            }
            Finding::EqualCodes { code } => write!(f, "every code is {code}"),
            Finding::FlatBlocks { share } => {
                write!(
                    f,
                    "{:.0} % of its blocks repeat one value or eight: their codes are all the same",
                    100.0 * share
                )
            }
            Finding::RepeatedBlocks { share } => {
                let share = 100.0 * share;
                write!(f, "{share:.0} % of its elements are in blocks that repeat the block before")
            }
            Finding::SaturatedCodes { share } => {
                write!(f, "{:.0} % of its codes are at the ends of their range", 100.0 * share)
            }
            Finding::NotFinite { nan, inf: 0, count } => write!(f, "{nan} of {} NaN", plural(*count)),
            Finding::NotFinite { nan: 0, inf, count } => write!(f, "{inf} of {} infinite", plural(*count)),
            Finding::NotFinite { nan, inf, count } => {
                write!(f, "{nan} of {} NaN, {inf} infinite", plural(*count))
            }
            Finding::Constant { value } => write!(f, "every value is {}", short(*value)),
            Finding::ZeroCodes { share, .. } => {
                write!(f, "{:.2} % of its ternary values are zero", 100.0 * share)
            }
            Finding::ScaleLost => f.write_str("its scale is lost"),
            Finding::Untrained => f.write_str("zero, as initialised by design: not trained yet"),
            Finding::MaskedOut => f.write_str("its mask is zero throughout: none of it is used"),
            Finding::Begun { std } => {
                write!(
                    f,
                    "std {std:.1e}, close to the zero that it is initialised to by design: hardly trained yet"
                )
            }
            Finding::Empty => f.write_str("it has no elements"),
            Finding::FarValue { value, typical: 0.0 } => {
                write!(f, "a value of {value:.1e} far above all others: a flipped bit?")
            }
            Finding::FarValue { value, typical } => {
                write!(f, "a value of {value:.1e} where others are about {typical:.1e}: a flipped bit?")
            }
            Finding::Saturated { limit } => write!(f, "values at the type's limit of {limit}"),
            Finding::Misread { share } => write!(
                f,
                "{:.0} % of its magnitudes lie within a factor of four: bytes of another type?",
                100.0 * share
            ),
            Finding::ZeroHole { run, count } => {
                write!(f, "{run} of its {count} values are zero in one stretch")
            }
            Finding::ZeroRows { rows, columns } if rows >= columns => {
                write!(f, "{:.0} % of its rows are zero", 100.0 * rows)
            }
            Finding::ZeroRows { columns, .. } => {
                write!(f, "{:.0} % of its columns are zero", 100.0 * columns)
            }
            Finding::EqualRows { share } => write!(f, "{:.0} % of its rows repeat others", 100.0 * share),
            Finding::ConstantColumns { share } => {
                write!(f, "{:.0} % of its columns have one value throughout", 100.0 * share)
            }
            Finding::OneDirection { effective, rank, rows } => write!(
                f,
                "its rows go in {} (effective rank {effective:.2}, rank {rank} of {rows} rows)",
                if *rank == 1 || *effective < 1.5 { "one direction" } else { "few directions" }
            ),
            Finding::UnlikeSiblings { std, median } => {
                write!(f, "std {std:.1e}, where other layers have {median:.1e}")
            }
            Finding::EqualLayers { other } => write!(f, "equals {other}, element for element"),
            Finding::WholeNumbers { largest } => {
                write!(f, "whole numbers up to {}: codes without their scale?", short(*largest))
            }
            Finding::BeyondReason { value, bound } => {
                write!(f, "a value of {value:.1e}, where {bound:.0e} is beyond reason")
            }
            Finding::ConstantHole { run, count } => {
                write!(f, "{run} of its {count} values are one number in one stretch")
            }
            Finding::Experts { all, zero, faint, loud, equal } => {
                let parts =
                    [(zero, "zero"), (faint, "faint"), (loud, "far too large"), (equal, "equal to others")];
                let told = parts.iter().filter(|(n, _)| **n > 0).map(|(n, what)| format!("{n} {what}"));
                write!(f, "of its {all} experts {}", told.collect::<Vec<_>>().join(", "))
            }
            Finding::GainsAtZero => f.write_str("every gain is zero, unlike in other layers"),
            Finding::GainsAtMinusOne => {
                f.write_str("every gain is -1, unlike in other layers: zero where the architecture adds 1")
            }
            Finding::UnlikeGains { mean, median } => {
                write!(f, "gains of about {mean:.1e}, where other layers have {median:.1e}")
            }
            Finding::UnlikeShape { name, usual, found } => {
                write!(
                    f,
                    "{name} has shape {found:?}, and what stands beside it or in other layers asks for {usual:?}"
                )
            }
            Finding::ImpossibleVariance { value } => write!(f, "a variance of {value:.1e}"),
            Finding::LargeRelativeStd { std, relative } => {
                write!(f, "std {std:.1e}, {relative:.1e} times 1/sqrt(fan_in)")
            }
            Finding::Promised { key, promised, found } => {
                write!(
                    f,
                    "the configuration says {key} {promised}, and there are {found}: incomplete, or another model's?"
                )
            }
            Finding::PromisedShape { name, promised, found } => {
                write!(
                    f,
                    "{name} has shape {found:?}, and the configuration promises {promised:?}: another model's?"
                )
            }
            Finding::MissingKeys { names } => {
                let keys = if names.len() == 1 { "key" } else { "keys" };
                write!(f, "missing the {keys} {}, without which programs do not load it", names.join(", "))
            }
            Finding::Missing { count, names } => {
                write!(f, "missing: {}", names.join(", "))?;
                match *count as usize - names.len() {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Finding::SmallStd { std, .. } => write!(f, "std {std:.1e}"),
            Finding::SmallRelativeStd { std, relative, .. } => {
                write!(f, "std {std:.1e}, {relative:.1e} of 1/sqrt(fan_in)")
            }
        }
    }
}

/// Judges every tensor and the whole: fills `verdict`, `reasons` and `findings`, and the tensors' `verdict`, `finding` and
/// `also`.
pub fn judge(record: &mut CheckpointRecord, thresholds: &Thresholds) {
    judge_each(record, &|_| *thresholds, thresholds.off);
}

/// [`judge`], with the thresholds of each tensor by its name, and without the rules that are `off`.
pub fn judge_each(record: &mut CheckpointRecord, thresholds: &dyn Fn(&str) -> Thresholds, off: Off) {
    let (tensors, whole) = judgements(record, &|tensor| thresholds(&tensor.name), off);
    for (tensor, judgement) in record.tensors.iter_mut().zip(tensors) {
        let mut findings = judgement.findings.into_iter();
        tensor.verdict = judgement.verdict;
        tensor.finding = findings.next().map(Box::new);
        tensor.also = findings.collect();
    }
    // What is not there cannot be well.
    record.verdict = whole.verdict.map(|verdict| if record.damaged { Verdict::Corrupt } else { verdict });
    record.findings = whole.findings;
    record.coverage = Coverage::of(record);
    record.verdict = record.coverage.admitted(record.verdict);
    record.coverage.off = off.names().map(str::to_string).collect();
    let mut worst: Vec<&TensorRecord> =
        record.tensors.iter().filter(|t| t.verdict.is_some_and(Verdict::is_below_healthy)).collect();
    worst.sort_by_key(|t| std::cmp::Reverse(t.verdict));
    const NAMED: usize = 8;
    record.reasons = record.findings.iter().map(ToString::to_string).collect();
    record.reasons.extend(record.coverage.no_layer());
    record.reasons.extend(
        worst
            .iter()
            .take(NAMED)
            .filter_map(|t| Some(format!("{} is {}: {}", t.name, t.verdict?, t.finding.as_ref()?))),
    );
    if worst.len() > NAMED {
        record.reasons.push(match worst.len() - NAMED {
            1 => "and 1 more tensor below healthy".into(),
            more => format!("and {more} more tensors below healthy"),
        });
    }
}
