//! Columns of one value add the same multiple of an input to every output.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

const MANY: f64 = 0.02;
/// Fewer rows, or columns, are no evidence.
const ENOUGH: u64 = 16;

pub(super) const RULE: Rule = Rule {
    name: "constant-columns",
    summary: "Columns of a matrix have one value throughout.",
    levels: &[Verdict::Dead],
    roles: &[Role::Matrix, Role::Embedding, Role::Head],
    check: Check::Matrix(|matrix, _| {
        let structure = matrix.tensor.structure.as_ref()?;
        let cols: u64 = matrix.tensor.shape[1..].iter().product();
        let judged = matches!(matrix.role(), Role::Matrix | Role::Embedding | Role::Head);
        let share = structure.constant_cols as f64 / cols as f64;
        let enough = structure.sampled_rows - structure.zero_rows >= ENOUGH && cols >= ENOUGH;
        (judged && matrix.ternary.is_none() && enough && share >= MANY)
            .then(|| Ruling::new(Verdict::Dead, Finding::ConstantColumns { share }))?
    }),
};
