//! How much of a checkpoint was judged, and what was not and why: "healthy" is said of what was looked at.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::record::{CheckpointRecord, TensorRecord};
use crate::tensor::Group;

/// How many matrices and parameters the verdict of a checkpoint covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Coverage {
    /// Weights with two dimensions or more.
    pub matrices: u64,
    /// Those of them that were judged.
    pub judged: u64,
    /// Elements of all weights.
    pub parameters: u64,
    /// Those that were measured: vectors too, of which only NaN and infinity are looked for.
    pub measured_parameters: u64,
    /// What was not judged, by reason, and how many matrices that concerns.
    pub not_judged: Vec<Gap>,
}

/// Matrices that were not judged for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gap {
    /// Why not.
    pub reason: Reason,
    /// Their type.
    pub dtype: String,
    /// How many.
    pub matrices: u64,
    /// The first of them.
    pub example: String,
}

/// Why a matrix was not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// Its elements are of a type that is not decoded, or were not to be measured.
    NotMeasured,
    /// They are codes, or whole numbers of another kind.
    Codes,
    /// Its scale is lost, so that its size is not known.
    ScaleLost,
    /// Its role is unknown.
    Unknown,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NotMeasured => "not measured",
            Reason::Codes => "codes",
            Reason::ScaleLost => "scale lost",
            Reason::Unknown => "role unknown",
        })
    }
}

impl Coverage {
    /// Of a record that has been judged.
    pub fn of(record: &CheckpointRecord) -> Self {
        let mut coverage = Coverage::default();
        let mut gaps: BTreeMap<(Reason, String), Gap> = BTreeMap::new();
        for tensor in record.tensors.iter().filter(|t| t.group == Group::Weights) {
            let elements = tensor.shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
            let read = tensor.stats.is_some() || tensor.damage.is_some();
            coverage.parameters = coverage.parameters.saturating_add(elements);
            if read && reason(tensor) != Some(Reason::Codes) {
                coverage.measured_parameters = coverage.measured_parameters.saturating_add(elements);
            }
            if tensor.shape.iter().filter(|&&d| d > 1).count() < 2 {
                continue;
            }
            coverage.matrices += 1;
            let Some(reason) = reason(tensor) else {
                coverage.judged += 1;
                continue;
            };
            let dtype = tensor.dtype.to_string();
            gaps.entry((reason, dtype.clone()))
                .or_insert(Gap { reason, dtype, matrices: 0, example: tensor.name.clone() })
                .matrices += 1;
        }
        coverage.not_judged = gaps.into_values().collect();
        coverage
    }

    /// Whether everything was judged.
    pub fn is_whole(&self) -> bool {
        self.judged == self.matrices && self.measured_parameters == self.parameters
    }
}

/// Why `tensor` was not judged; `None` if it was.
fn reason(tensor: &TensorRecord) -> Option<Reason> {
    if tensor.verdict.is_some() {
        return None;
    }
    if tensor.stats.is_none() {
        return Some(Reason::NotMeasured);
    }
    if tensor.dtype.is_integer() {
        return Some(Reason::Codes);
    }
    match tensor.ternary.as_ref().is_some_and(|t| t.scale.is_none()) {
        true => Some(Reason::ScaleLost),
        false => Some(Reason::Unknown),
    }
}

/// "36 of 37 matrices, 99.8 % of parameters; 1 not measured: IQ1_S".
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let matrices = if self.matrices == 1 { "matrix" } else { "matrices" };
        match self.judged == self.matrices {
            true => write!(f, "{} {matrices}", self.matrices)?,
            false => write!(f, "{} of {} {matrices}", self.judged, self.matrices)?,
        }
        if self.measured_parameters < self.parameters {
            // Rounded down: 99.99 % are not all.
            let share = (1000.0 * self.measured_parameters as f64 / self.parameters as f64).floor() / 10.0;
            write!(f, ", {share} % of parameters")?;
        }
        for (i, gap) in self.not_judged.iter().enumerate() {
            let lead = if i == 0 { "; " } else { ", " };
            write!(f, "{lead}{} {}: {}", gap.matrices, gap.reason, gap.dtype)?;
        }
        Ok(())
    }
}
