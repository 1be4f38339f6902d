//! Experts that share a tensor, one after the other: some that were never loaded, or all alike, as upcycling a dense layer
//! makes them until they are trained.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "experts",
    summary: "Some of the experts in a tensor are zero, equal, or of another size by far.",
    levels: &[Verdict::Untrained, Verdict::Dead, Verdict::Corrupt],
    roles: &[Role::Matrix],
    check: Check::Matrix(|matrix, _| {
        let structure = matrix.tensor.structure.as_ref().filter(|_| matrix.is_of_experts())?;
        let (all, zero) = (structure.sampled_rows, structure.zero_rows);
        let (equal, loud) = (structure.equal_rows, structure.loud_rows);
        let faint = structure.faint_rows.saturating_sub(zero);
        let verdict = match (zero, faint, loud, equal) {
            (0, 0, 0, 0) => return None,
            (0, 0, 0, equal) if equal + 1 == all => Verdict::Untrained,
            (_, _, 1.., _) => Verdict::Corrupt,
            _ => Verdict::Dead,
        };
        Ruling::new(verdict, Finding::Experts { all, zero, faint, loud, equal })
    }),
};
