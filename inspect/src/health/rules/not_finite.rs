//! NaN and infinity spread to everything that is computed with them.

use super::{Check, Rule, Ruling};
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "not-finite",
    summary: "A weight or a moment of the optimizer holds NaN or infinity. In masks, observers and a trainer's state \
              infinity is meant.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Elements(|tensor, stats| {
        let (nan, inf, count) = (stats.nan, stats.inf, stats.count);
        let judged = tensor.group != Group::Other && !tensor.role.may_be_infinite();
        (judged && nan + inf > 0)
            .then(|| Ruling::new(Verdict::Corrupt, Finding::NotFinite { nan, inf, count }))?
    }),
};
