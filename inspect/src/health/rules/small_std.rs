//! A matrix that a BitLinear uses, by its standard deviation: the levels are those of runs that died.

use super::{Rule, Ruling};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule::Matrix(|matrix, thresholds| {
    matrix.ternary?;
    let (levels, std) = (&thresholds.projection, matrix.std);
    match levels.judge(std) {
        Verdict::Healthy => None,
        worse => Ruling::new(worse, Finding::SmallStd { std, bound: levels.bound(worse) }),
    }
});
