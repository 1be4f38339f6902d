//! A matrix that a BitLinear uses, by its standard deviation: the levels are those of runs that died.

use super::{Check, MATRICES, Rule, Ruling};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "small-std",
    summary: "A matrix that a BitLinear uses is smaller than trained ones are.",
    levels: &[Verdict::Weak, Verdict::Dying, Verdict::Dead],
    roles: MATRICES,
    check: Check::Matrix(|matrix, thresholds| {
        matrix.ternary?.scale?;
        let (levels, std) = (&thresholds.projection, matrix.std);
        match levels.judge(std) {
            Verdict::Healthy => None,
            worse => Ruling::new(worse, Finding::SmallStd { std, bound: levels.bound(worse) }),
        }
    }),
};
