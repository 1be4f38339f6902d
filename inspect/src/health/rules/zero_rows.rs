//! Rows or columns of zeros: outputs that are always the same, inputs that are ignored. Tables have rows that nothing ever
//! looked up: padding, and vocabularies that are longer than the tokenizer's.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

/// Shares of rows, or columns, from which a matrix is weak and dead.
const SOME: f64 = 0.1;
const MOST: f64 = 0.5;
/// Of tables, rows that may be zero.
const UNUSED: f64 = 0.75;
/// The share of zeros in the other rows or columns from which a matrix is sparse.
const SPARSE: f64 = 0.3;
/// The same from which only as many are dead as leave nothing, because small rows are pruned first.
const PRUNED: f64 = 0.75;
const NEARLY_ALL: f64 = 0.9;
/// How many times what chance leaves empty is no evidence.
const CHANCE: f64 = 1.25;
/// Fewer rows or columns are no evidence.
const ENOUGH: u64 = 16;

pub(super) const RULE: Rule = Rule {
    name: "zero-rows",
    summary: "Many rows or columns of a float matrix are zero.",
    levels: &[Verdict::Weak, Verdict::Dead],
    roles: &[Role::Matrix, Role::Convolution, Role::Head, Role::Router, Role::Embedding, Role::LoraA],
    check: Check::Matrix(|matrix, _| {
        let structure = matrix.tensor.structure.as_ref()?;
        let rows = structure.sampled_rows;
        let cols: u64 = matrix.tensor.shape[1..].iter().product();
        let share = |of: u64, all: u64| if all >= ENOUGH { of as f64 / all as f64 } else { 0.0 };
        let of_rows = share(structure.zero_rows.max(structure.faint_rows), rows);
        // Kernels that take inputs which are not there yet, or interpolate, begin so.
        let begins = matrix.role() == Role::Convolution && matrix.is_untrained();
        let of_cols = if begins { 0.0 } else { share(structure.zero_cols, cols) };
        let worst = of_rows.max(of_cols);
        let (some, most) = match matrix.role() {
            _ if matrix.is_of_experts() || matrix.begins_in_part() => return None,
            Role::Matrix | Role::Router | Role::Convolution if matrix.ternary.is_none() => (SOME, MOST),
            // Every row has the same columns, whether it is used or not.
            Role::Embedding | Role::Head if of_cols > of_rows => (MOST, MOST),
            Role::Embedding | Role::Head => (UNUSED, UNUSED),
            // Tables begin at zero in the first factor, and only what was seen leaves it.
            Role::LoraA if of_cols > of_rows && !matrix.tensor.name.contains("embedding") => (MOST, MOST),
            _ => return None,
        };
        // Of a sparse matrix some are zero by chance, or by its mask.
        let zeros = matrix.stats.zeros as f64 / matrix.stats.count as f64;
        let elsewhere = (zeros - worst) / (1.0 - worst).max(f64::EPSILON);
        // A channel that died in training is no part of the file that was lost.
        let died = matrix.has_faded_channels() && of_rows > of_cols;
        let most = if elsewhere >= PRUNED { most.max(NEARLY_ALL) } else { most };
        let some = if elsewhere >= SPARSE || died { some.max(most) } else { some };
        // As many as a mask that is drawn at random leaves empty.
        let chance = zeros.powf(if of_rows >= of_cols { cols as f64 } else { rows as f64 });
        if worst <= CHANCE * chance {
            return None;
        }
        let verdict = if worst >= most { Verdict::Dead } else { Verdict::Weak };
        (worst >= some)
            .then(|| Ruling::new(verdict, Finding::ZeroRows { rows: of_rows, columns: of_cols }))?
    }),
};
