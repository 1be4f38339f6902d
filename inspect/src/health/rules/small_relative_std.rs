//! Any other matrix, by its standard deviation against 1 / sqrt(fan_in), which the usual initializations give. Tables of
//! embeddings and positions have no fan-in and may begin far smaller (RWKV: 1e-4, before a LayerNorm); factors of adapters
//! depend on rank, alpha and step; under weight normalization only the direction counts; and convolutions mostly have a
//! normalization behind them, which gives them another scale as long as its epsilon lets it.

use super::{Check, Rule, Ruling};
use crate::meaning::role::{Role, is_weight_normed};
use crate::verdict::{Finding, Levels, Verdict, relative_std};

/// How much smaller what begins small may be.
const TABLES: f64 = 1e-4;

pub(super) const RULE: Rule = Rule {
    name: "small-relative-std",
    summary: "A matrix is smaller than its fan-in lets expect.",
    check: Check::Matrix(|matrix, thresholds| {
        if matrix.ternary.is_some() || is_weight_normed(&matrix.tensor.name) {
            return None;
        }
        let Levels { healthy, weak, dying } = thresholds.relative;
        let levels = match matrix.role() {
            Role::Matrix | Role::Head | Role::Router => thresholds.relative,
            // Nearly all are normalized, so there is no weak.
            Role::Convolution => Levels { healthy: weak, weak, dying },
            Role::Embedding | Role::Positional => {
                Levels { healthy: healthy * TABLES, weak: weak * TABLES, dying: dying * TABLES }
            }
            _ => return None,
        };
        let std = matrix.std;
        let relative = relative_std(matrix.tensor).unwrap_or(std);
        match levels.judge(relative) {
            Verdict::Healthy => None,
            worse => {
                Ruling::new(worse, Finding::SmallRelativeStd { std, relative, bound: levels.bound(worse) })
            }
        }
    }),
};
