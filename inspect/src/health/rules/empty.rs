//! A weight without elements: what DeepSpeed leaves of a partitioned parameter when it is saved without being gathered.

use super::{Check, Rule, Ruling};
use crate::meaning::role::is_field;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "empty",
    summary: "A weight has no elements.",
    check: Check::Tensor(|tensor| {
        let empty = tensor.group == Group::Weights && tensor.shape.contains(&0) && is_field(&tensor.name);
        empty.then(|| Ruling::new(Verdict::Corrupt, Finding::Empty))?
    }),
};
