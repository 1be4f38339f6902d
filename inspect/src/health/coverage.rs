//! How much of a checkpoint was judged, and what was not and why: "healthy" is said of what was looked at.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::meaning::role::{Role, is_of_trainer};
use crate::meaning::scheme::names::is_of_activations;
use crate::quantized::QuantFault;
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
    /// Whether no matrix of its layers was judged, because they are not read or not measured: embeddings, heads and
    /// adapters alone say nothing of a model.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub layers_unjudged: bool,
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
    /// Their type, or the scheme by which they are quantized where that is why.
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
    /// It is quantized in a way that is not read.
    NotRead,
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
            Reason::NotRead => "not read",
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
        let (mut of_layers, mut judged_of_layers) = (0u64, 0u64);
        for (tensor, verdict) in tensors.filter(|(t, _)| t.group == Group::Weights && is_parameter(t)) {
            let elements = tensor.shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
            let is_matrix = is_matrix(tensor);
            let reason = reason(tensor, verdict, is_matrix);
            coverage.parameters = coverage.parameters.saturating_add(elements);
            coverage.matrices += u64::from(is_matrix);
            let is_blind = matches!(reason, Some(Reason::NotRead | Reason::Codes | Reason::NotMeasured));
            if is_matrix && is_of_layer(tensor) {
                of_layers += 1;
                judged_of_layers += u64::from(!is_blind);
            }
            if !is_blind {
                coverage.measured_parameters = coverage.measured_parameters.saturating_add(elements);
            }
            let Some(reason) = reason else {
                coverage.judged += u64::from(is_matrix);
                continue;
            };
            let dtype = match unread(tensor) {
                Some(fault) => unread_kind(fault, tensor),
                None => tensor.dtype.to_string(),
            };
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
        coverage.layers_unjudged = of_layers > 0 && judged_of_layers == 0;
        coverage
    }

    /// `verdict`, where what was judged lets one say it: no model is healthy of whose layers nothing was judged.
    pub fn admitted(&self, verdict: Option<Verdict>) -> Option<Verdict> {
        verdict.filter(|verdict| !self.layers_unjudged || *verdict > Verdict::Untrained)
    }

    /// That no matrix of its layers was judged and why, where that is so.
    pub fn no_layer(&self) -> Option<String> {
        let what = || format!("none of the matrices of its layers was judged ({})", self.gaps());
        self.layers_unjudged.then(what)
    }

    /// What was not judged, such as `4 not read: HQQ`.
    fn gaps(&self) -> String {
        let counted = |gap: &Gap| {
            let count = if gap.matrices > 0 { gap.matrices } else { gap.tensors };
            format!("{count} {}: {}", gap.reason, gap.dtype)
        };
        self.not_judged.iter().map(counted).collect::<Vec<_>>().join(", ")
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
    !of_trainer
        && !is_of_activations(&tensor.name)
        && (unread(tensor).is_some() || !matches!(tensor.role, Count | Index | Mask | Cache | Observer))
}

/// Why its codes are not read, though they may be a healthy weight's.
fn unread(tensor: &TensorRecord) -> Option<&QuantFault> {
    tensor.quantized.as_ref()?.fault.as_ref().filter(|fault| fault.is_of_reader())
}

/// What it is that is not read.
fn unread_kind(fault: &QuantFault, tensor: &TensorRecord) -> String {
    match fault {
        QuantFault::Unread { scheme } => scheme.clone(),
        QuantFault::Class { class } => class.rsplit('.').next().unwrap_or_default().to_string(),
        _ => tensor.dtype.to_string(),
    }
}

/// Whether it is one of the matrices between embedding and head.
fn is_of_layer(tensor: &TensorRecord) -> bool {
    matches!(tensor.role, Role::Matrix | Role::Convolution | Role::Codes) || unread(tensor).is_some()
}

/// Whether the verdict speaks of it, or should.
fn is_matrix(tensor: &TensorRecord) -> bool {
    let long = tensor.shape.iter().filter(|&&d| d > 1).count();
    match tensor.role {
        _ if unread(tensor).is_some() => true,
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
    if unread(tensor).is_some() {
        return Some(Reason::NotRead);
    }
    if tensor.stats.is_none() {
        return Some(Reason::NotMeasured);
    }
    let is_faulty = tensor.quantized.as_ref().is_some_and(|quantized| quantized.fault.is_some());
    if tensor.dtype.is_integer() || is_faulty {
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
        // How many weights codes stand for is not known where they are not read.
        let is_known = !self.not_judged.iter().any(|gap| gap.reason == Reason::NotRead);
        if self.measured_parameters < self.parameters && is_known {
            // Rounded down: 99.99 % are not all.
            let share = (1000.0 * self.measured_parameters as f64 / self.parameters as f64).floor() / 10.0;
            write!(f, ", {share} % of parameters")?;
        }
        if !self.not_judged.is_empty() {
            write!(f, "; {}", self.gaps())?;
        }
        match self.off.len() {
            0 => Ok(()),
            1 => write!(f, "; rule off: {}", self.off[0]),
            _ => write!(f, "; rules off: {}", self.off.join(", ")),
        }
    }
}
