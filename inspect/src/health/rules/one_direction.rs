//! A matrix that goes in one direction, or hardly more: whatever comes in, much the same goes out.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

/// (Σσ²)² / Σσ⁴ below which one direction outweighs all others.
const ONE: f64 = 1.25;
/// Directions that are few for 32 rows.
const FEW: u64 = 4;
/// Fewer rows, or columns, are no evidence.
const ROWS: u64 = 24;
const COLUMNS: u64 = 48;

pub(super) const RULE: Rule = Rule {
    name: "one-direction",
    summary: "The rows of a matrix all go in one direction, or in hardly more.",
    levels: &[Verdict::Dead],
    roles: &[Role::Matrix, Role::Embedding, Role::Head],
    check: Check::Matrix(|matrix, _| {
        let structure = matrix.tensor.structure.as_ref()?;
        let cols: u64 = matrix.tensor.shape[1..].iter().product();
        let enough = structure.compared_rows >= ROWS && cols >= COLUMNS;
        let judged = matches!(matrix.role(), Role::Matrix | Role::Embedding | Role::Head);
        if !enough || !judged || matrix.ternary.is_some() {
            return None;
        }
        let (effective, rank) = (structure.effective_rank?, structure.rank?);
        (effective < ONE || rank <= FEW).then(|| {
            Ruling::new(
                Verdict::Dead,
                Finding::OneDirection { effective, rank, rows: structure.compared_rows },
            )
        })?
    }),
};
