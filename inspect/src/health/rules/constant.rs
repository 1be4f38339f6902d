//! A matrix of one value computes the same of every input, whatever the value.

use super::{Rule, Ruling};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule::Matrix(|matrix, _| {
    (matrix.min == matrix.max).then(|| Ruling::new(Verdict::Dead, Finding::Constant { value: matrix.min }))?
});
