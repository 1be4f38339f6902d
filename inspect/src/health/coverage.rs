//! How much of a checkpoint was judged, and what was not and why: "healthy" is said of what was looked at.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::meaning::role::{Role, is_of_trainer};
use crate::record::{CheckpointRecord, TensorRecord};
use crate::tensor::Group;
use crate::verdict::Verdict;

/// How many matrices and parameters the verdict of a checkpoint covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Coverage {
    /// Weights with two dimensions or more that are matrices by their role, or of unknown role.
    pub matrices: u64,
    /// Those of them that were judged.
    pub judged: u64,
    /// Elements of all weights; counters, masks, caches and the like are none.
    pub parameters: u64,
    /// Those that were measured: vectors too, of which only NaN and infinity are looked for.
    pub measured_parameters: u64,
    /// What was not judged, by reason, and how many tensors that concerns.
    pub not_judged: Vec<Gap>,
    /// Rules that were switched off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub off: Vec<String>,
}

/// Tensors that were not judged for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gap {
    /// Why not.
    pub reason: Reason,
    /// Their type.
    pub dtype: String,
    /// How many of them are matrices.
    pub matrices: u64,
    /// How many there are, with vectors.
    #[serde(default)]
    pub tensors: u64,
    /// Their elements.
    #[serde(default)]
    pub parameters: u64,
    /// The first of them.
    pub example: String,
}

/// Why a tensor was not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// Its elements are of a type that is not decoded, or were not to be measured.
    NotMeasured,
    /// It holds codes, or whole numbers of another kind.
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
        Coverage::over(record.tensors.iter().map(|tensor| (tensor, tensor.verdict)))
    }

    /// Of tensors that were judged so.
    pub fn over<'t>(tensors: impl Iterator<Item = (&'t TensorRecord, Option<Verdict>)>) -> Self {
        let mut coverage = Coverage::default();
        let mut gaps: BTreeMap<(Reason, String), Gap> = BTreeMap::new();
        for (tensor, verdict) in tensors.filter(|(t, _)| t.group == Group::Weights && is_parameter(t)) {
            let elements = tensor.shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
            let is_matrix = is_matrix(tensor);
            let reason = reason(tensor, verdict, is_matrix);
            coverage.parameters = coverage.parameters.saturating_add(elements);
            coverage.matrices += u64::from(is_matrix);
            if !matches!(reason, Some(Reason::Codes | Reason::NotMeasured)) {
                coverage.measured_parameters = coverage.measured_parameters.saturating_add(elements);
            }
            let Some(reason) = reason else {
                coverage.judged += u64::from(is_matrix);
                continue;
            };
            let dtype = tensor.dtype.to_string();
            let new = || Gap {
                reason,
                dtype: dtype.clone(),
                matrices: 0,
                tensors: 0,
                parameters: 0,
                example: tensor.name.clone(),
            };
            let gap = gaps.entry((reason, dtype.clone())).or_insert_with(new);
            gap.matrices += u64::from(is_matrix);
            gap.tensors += 1;
            gap.parameters = gap.parameters.saturating_add(elements);
        }
        coverage.not_judged = gaps.into_values().collect();
        coverage
    }

    /// Whether everything was judged.
    pub fn is_whole(&self) -> bool {
        self.judged == self.matrices
            && self.measured_parameters == self.parameters
            && self.not_judged.is_empty()
            && self.off.is_empty()
    }
}

/// Whether a network computes with its elements as they were learnt.
fn is_parameter(tensor: &TensorRecord) -> bool {
    use Role::*;
    let elements = tensor.shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
    let of_trainer = is_of_trainer(&tensor.name, tensor.role, elements);
    !of_trainer && !matches!(tensor.role, Count | Index | Mask | Cache | Observer)
}

/// Whether the verdict speaks of it, or should.
fn is_matrix(tensor: &TensorRecord) -> bool {
    let long = tensor.shape.iter().filter(|&&d| d > 1).count();
    match tensor.role {
        // Some are kept as one long row.
        Role::Codes => long >= 1,
        Role::Unknown | Role::TrainerState => long >= 2,
        role => long >= 2 && (role.is_matrix() || tensor.ternary.is_some()),
    }
}

/// Why `tensor` was not judged; `None` if it was, or if it is a vector that was measured, or empty.
fn reason(tensor: &TensorRecord, verdict: Option<Verdict>, is_matrix: bool) -> Option<Reason> {
    if verdict.is_some() || tensor.damage.is_some() || tensor.shape.contains(&0) {
        return None;
    }
    if tensor.stats.is_none() {
        return Some(Reason::NotMeasured);
    }
    let is_unread = tensor.quantized.as_ref().is_some_and(|quantized| quantized.fault.is_some());
    if tensor.dtype.is_integer() || is_unread {
        return Some(Reason::Codes);
    }
    if !is_matrix {
        return None;
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
            let count = if gap.matrices > 0 { gap.matrices } else { gap.tensors };
            write!(f, "{lead}{count} {}: {}", gap.reason, gap.dtype)?;
        }
        match self.off.len() {
            0 => Ok(()),
            1 => write!(f, "; rule off: {}", self.off[0]),
            _ => write!(f, "; rules off: {}", self.off.join(", ")),
        }
    }
}
