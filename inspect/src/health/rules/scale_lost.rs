//! Codes without their scale: how large they are is not known.

use super::{Check, MATRICES, Rule, Ruling};
use crate::verdict::Finding;

pub(super) const RULE: Rule = Rule {
    name: "scale-lost",
    summary: "A packed matrix has codes but no scale, so its size cannot be judged.",
    levels: &[],
    roles: MATRICES,
    check: Check::Matrix(|matrix, _| {
        let ternary = matrix.ternary?;
        (ternary.scale.is_none() && !matrix.is_constant()).then(|| Ruling::undecided(Finding::ScaleLost))?
    }),
};
