//! What a verdict depends on besides measurements: where each level begins, and which rules are asked. The levels come from
//! runs that died: std 4.5e-5 was barely alive, 6.2e-6 dying, 5.1e-7 dead.

use serde::{Deserialize, Serialize};

use super::off::Off;
use super::verdict::Verdict;
use crate::meaning::role::{Role, is_weight_normed};
use crate::record::TensorRecord;

/// Lower bounds of std for each level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Levels {
    /// At or above: healthy.
    pub healthy: f64,
    /// At or above: weak; below `healthy`.
    pub weak: f64,
    /// At or above: dying; below it: dead.
    pub dying: f64,
}

impl Default for Levels {
    fn default() -> Self {
        Levels { healthy: 1e-3, weak: 1e-5, dying: 1e-6 }
    }
}

impl Levels {
    /// The value below which a tensor is of this verdict; `None` for healthy and corrupt.
    pub fn bound(&self, verdict: Verdict) -> Option<f64> {
        match verdict {
            Verdict::Weak => Some(self.healthy),
            Verdict::Dying => Some(self.weak),
            Verdict::Dead => Some(self.dying),
            Verdict::Healthy | Verdict::Untrained | Verdict::Corrupt => None,
        }
    }

    /// The least value of this verdict; `None` for dead and corrupt, which have none.
    pub fn least(&self, verdict: Verdict) -> Option<f64> {
        match verdict {
            Verdict::Healthy | Verdict::Untrained => Some(self.healthy),
            Verdict::Weak => Some(self.weak),
            Verdict::Dying => Some(self.dying),
            Verdict::Dead | Verdict::Corrupt => None,
        }
    }

    /// The verdict on a standard deviation.
    pub fn judge(&self, std: f64) -> Verdict {
        if std >= self.healthy {
            Verdict::Healthy
        } else if std >= self.weak {
            Verdict::Weak
        } else if std >= self.dying {
            Verdict::Dying
        } else {
            Verdict::Dead
        }
    }
}

/// Everything a verdict depends on besides the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Thresholds {
    /// Levels of std for matrices that a BitLinear uses.
    pub projection: Levels,
    /// Levels of std * sqrt(fan_in) for other weight matrices, whose natural size is 1 / sqrt(fan_in).
    pub relative: Levels,
    /// Levels of the same for convolutions: nearly all have a normalization behind them, so there is no weak.
    pub convolutions: Levels,
    /// Levels of the same for tables of embeddings and positions, which have no fan-in: RWKV's begin at 1e-4.
    pub tables: Levels,
    /// Share of zeros after quantization at or above which a ternary matrix is dead.
    pub dead_zero_share: f64,
    /// Rules that are not asked.
    #[serde(skip)]
    pub off: Off,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            projection: Levels::default(),
            relative: Levels { healthy: 3e-2, weak: 3e-4, dying: 3e-5 },
            convolutions: Levels { healthy: 3e-4, weak: 3e-4, dying: 3e-5 },
            tables: Levels { healthy: 3e-6, weak: 3e-8, dying: 3e-9 },
            dead_zero_share: 0.999,
            off: Off::default(),
        }
    }
}

impl Thresholds {
    /// Whether nobody asked for other levels, whatever rules are off.
    pub(crate) fn are_usual(&self) -> bool {
        Thresholds { off: Off::default(), ..*self } == Thresholds::default()
    }

    /// The levels that `tensor` is judged by: of std for a ternary matrix, else of std * sqrt(fan_in). `None` where size
    /// says nothing: factors of adapters depend on rank, alpha and step, under weight normalization only the direction
    /// counts, and what is complex belongs to a transform of any scale.
    pub fn levels(&self, tensor: &TensorRecord) -> Option<&Levels> {
        if tensor.ternary.is_some() {
            return Some(&self.projection);
        }
        match tensor.role {
            _ if is_weight_normed(&tensor.name) || tensor.dtype.is_complex() => None,
            Role::Matrix | Role::Head | Role::Router => Some(&self.relative),
            Role::Convolution => Some(&self.convolutions),
            Role::Embedding | Role::Positional => Some(&self.tables),
            _ => None,
        }
    }
}
