//! A ternary matrix of hardly any code but zero lets nothing through.

use super::{Check, MATRICES, Rule, Ruling};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "zero-codes",
    summary: "Nearly all codes of a ternary matrix are zero.",
    levels: &[Verdict::Dead],
    roles: MATRICES,
    check: Check::Matrix(|matrix, thresholds| {
        let (share, bound) = (matrix.ternary?.zero, thresholds.dead_zero_share);
        (share >= bound).then(|| Ruling::new(Verdict::Dead, Finding::ZeroCodes { share, bound }))?
    }),
};
