//! Any other matrix, by its standard deviation against 1 / sqrt(fan_in), which the usual initializations give.

use super::{Check, Rule, Ruling};
use crate::verdict::{Finding, Verdict, relative_std};

/// Matrices of fewer columns take coordinates, not activations; they are usually drawn with a fixed std, which is
/// small against theirs.
const FEW_COLUMNS: u64 = 4;

pub(super) const RULE: Rule = Rule {
    name: "small-relative-std",
    summary: "A matrix is smaller than usual for its fan-in.",
    check: Check::Matrix(|matrix, thresholds| {
        if matrix.ternary.is_some() {
            return None;
        }
        let levels = thresholds.levels(matrix.tensor)?;
        let std = matrix.std;
        let relative = relative_std(matrix.tensor).unwrap_or(std);
        match levels.judge(relative) {
            Verdict::Healthy => None,
            Verdict::Weak if matrix.tensor.shape[1..].iter().product::<u64>() < FEW_COLUMNS => None,
            worse => {
                Ruling::new(worse, Finding::SmallRelativeStd { std, relative, bound: levels.bound(worse) })
            }
        }
    }),
};
