//! A ternary matrix of hardly any code but zero lets nothing through.

use super::{Check, Rule, Ruling};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "zero-codes",
    summary: "Nearly all codes of a ternary matrix are zero.",
    check: Check::Matrix(|matrix, thresholds| {
        let (share, bound) = (matrix.ternary?.zero, thresholds.dead_zero_share);
        (share >= bound).then(|| Ruling::new(Verdict::Dead, Finding::ZeroCodes { share, bound }))?
    }),
};
