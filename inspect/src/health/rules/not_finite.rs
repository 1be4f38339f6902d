//! NaN and infinity spread to everything that is computed with them.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "not-finite",
    summary: "A weight or a moment of the optimizer holds NaN or infinity, or a mask NaN. In masks, observers and a \
              trainer's state infinity is meant.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Elements(|tensor, stats| {
        let (nan, inf, count) = (stats.nan, stats.inf, stats.count);
        let judged = tensor.group != Group::Other && !tensor.role.may_be_infinite();
        let is_mask = tensor.group == Group::Weights && tensor.role == Role::Mask;
        ((judged && nan + inf > 0) || (is_mask && nan > 0))
            .then(|| Ruling::new(Verdict::Corrupt, Finding::NotFinite { nan, inf, count }))?
    }),
};
