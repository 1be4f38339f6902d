//! A matrix that goes in one direction, or hardly more: whatever comes in, much the same goes out.

use super::{Check, Matrix, Rule, Ruling};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

/// (Σσ²)² / Σσ⁴ below which one direction outweighs all others.
const ONE: f64 = 1.25;
/// Directions that are few for 32 rows.
const FEW: u64 = 4;
/// Fewer rows, or columns, are no evidence.
const ROWS: u64 = 24;
const COLUMNS: u64 = 48;
/// The same where the rows of a matrix have nothing at all beside one direction.
const COLUMNS_OF_ONE: u64 = 24;
/// The same of a table of which hardly anything is left beside that direction.
const COLUMNS_OF_TABLE: u64 = 16;
/// What is left of a table's rows where they have no more than drawn them together: std, and its share of the root mean
/// square. Tokens that never occur all get the same gradient, so that their rows share a direction, large after some steps,
/// and each keeps beside it what it began with.
const LEFT: f64 = 2e-3;
const SHARE_LEFT: f64 = 2e-2;

pub(super) const RULE: Rule = Rule {
    name: "one-direction",
    summary: "The rows of a matrix all go in one direction, or in hardly more.",
    levels: &[Verdict::Dead],
    roles: &[Role::Matrix, Role::Embedding, Role::Head],
    check: Check::Matrix(|matrix, _| {
        let structure = matrix.tensor.structure.as_ref()?;
        let cols: u64 = matrix.tensor.shape[1..].iter().product();
        let judged = matches!(matrix.role(), Role::Matrix | Role::Embedding | Role::Head);
        if structure.compared_rows < ROWS || !judged || matrix.ternary.is_some() {
            return None;
        }
        let (effective, rank) = (structure.effective_rank?, structure.rank?);
        let least = if matrix.role() == Role::Embedding { COLUMNS_OF_TABLE } else { COLUMNS };
        let one = effective < ONE
            && cols >= least
            && (matrix.role() == Role::Matrix || !keeps_rows_apart(matrix, effective));
        let nothing_else = rank == 1 && matrix.role() == Role::Matrix && cols >= COLUMNS_OF_ONE;
        (one || nothing_else || (rank <= FEW && cols >= COLUMNS)).then(|| {
            Ruling::new(
                Verdict::Dead,
                Finding::OneDirection { effective, rank, rows: structure.compared_rows },
            )
        })?
    }),
};

/// Whether the rows of a table differ as rows do that nothing has collapsed, whatever they have in common.
fn keeps_rows_apart(matrix: &Matrix<'_>, effective: f64) -> bool {
    // Where one direction holds all but this share of the squares, the effective rank is 1 / (1 - share)^2.
    let share = (1.0 - effective.max(1.0).sqrt().recip()).max(0.0).sqrt();
    let size = matrix.std.hypot(matrix.stats.mean.unwrap_or_default());
    share >= SHARE_LEFT && share * size >= LEFT
}
