//! A hole: thousands of zeros in a row in a matrix of a network. A lost block of a file, a failed copy. Tables have rows
//! of zeros where a vocabulary is padded.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

/// Shorter runs are no evidence: a page of 4 KiB in f32.
const LONG: f64 = 1024.0;

pub(super) const RULE: Rule = Rule {
    name: "zero-hole",
    summary: "A matrix has a long run of zeros through its rows.",
    check: Check::Matrix(|matrix, _| {
        let run = matrix.stats.computed.get("zero_run")?;
        let cols = *matrix.tensor.shape.last()? as f64;
        let table = matches!(matrix.role(), Role::Head);
        (matrix.is_plain() && !table && run >= LONG.max(2.0 * cols)).then(|| {
            Ruling::new(Verdict::Dead, Finding::ZeroHole { run: run as u64, count: matrix.stats.count })
        })?
    }),
};
