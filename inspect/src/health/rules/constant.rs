//! A matrix of one value computes the same of every input, whatever the value. Codes of a quantized one too, whatever
//! their scale.

use super::{Check, MATRICES, Matrix, Rule, Ruling};
use crate::meaning::role::{Role, is_zero_at_first};
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Fewer codes may be one by chance.
const ENOUGH: u64 = 256;

pub(super) const RULE: Rule = Rule {
    name: "constant",
    summary: "Every element of a matrix, or every code of one, is the same.",
    levels: &[Verdict::Dead],
    roles: MATRICES,
    check: Check::Elements(|tensor, stats| {
        let (min, max) = (stats.min?, stats.max?);
        let codes = tensor.role == Role::Codes && stats.count >= ENOUGH && !is_zero_at_first(&tensor.name);
        let matrix = Matrix::of(tensor, None).is_some_and(|matrix| !matrix.is_average());
        (min == max && (matrix || (codes && tensor.group == Group::Weights)))
            .then(|| Ruling::new(Verdict::Dead, Finding::Constant { value: min }))?
    }),
};
