//! A hole that is filled: hundreds of elements in a row with one value other than zero, as a byte that is repeated makes
//! it, or a part that was never written over. Tables may have rows of one value.

use super::{Check, MATRICES, Rule, Ruling};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

/// Shorter runs are no evidence.
const LONG: f64 = 512.0;

pub(super) const RULE: Rule = Rule {
    name: "constant-hole",
    summary: "A matrix has a long run of one value other than zero.",
    levels: &[Verdict::Dead],
    roles: MATRICES,
    check: Check::Matrix(|matrix, _| {
        let run = matrix.stats.computed.get("constant_run").filter(|run| *run >= LONG)?;
        let cols = *matrix.tensor.shape.last()? as f64;
        let table = matches!(matrix.role(), Role::Embedding | Role::Positional | Role::Codebook);
        if matrix.is_constant() || matrix.ternary.is_some() || (table && run % cols == 0.0) {
            return None;
        }
        Ruling::new(Verdict::Dead, Finding::ConstantHole { run: run as u64, count: matrix.stats.count })
    }),
};
