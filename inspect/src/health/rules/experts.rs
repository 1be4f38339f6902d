//! Experts that share a tensor, one after the other: some that were never loaded, or all alike, as upcycling a dense network
//! makes them in every layer until they are trained.

use super::{Check, Matrix, Network, Rule, Ruling, Tell};
use crate::meaning::role::Role;
use crate::record::Structure;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "experts",
    summary: "Some of the experts in a tensor are zero, equal, or of a very different size.",
    levels: &[Verdict::Untrained, Verdict::Dead, Verdict::Corrupt],
    roles: &[Role::Matrix],
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    for family in &network.families {
        let structure = |&i: &usize| {
            let matrix = Matrix::of(network.tensor(i), Some((network, i))).filter(Matrix::is_of_experts)?;
            Some((i, matrix.tensor.structure.as_deref()?))
        };
        let of_experts: Vec<(usize, &Structure)> = family.iter().filter_map(structure).collect();
        let all_alike = of_experts.iter().all(|(_, s)| s.equal_rows + 1 == s.sampled_rows);
        of_experts.into_iter().for_each(|(i, structure)| found(i, of_layer(structure, all_alike)));
    }
}

/// What is said of the experts of one layer. `all_alike` is whether in every layer all are equal.
fn of_layer(structure: &Structure, all_alike: bool) -> Option<Ruling> {
    let (all, zero) = (structure.sampled_rows, structure.zero_rows);
    let (equal, loud) = (structure.equal_rows, structure.loud_rows);
    let faint = structure.faint_rows.saturating_sub(zero);
    let verdict = match (zero, faint, loud, equal) {
        (0, 0, 0, 0) => return None,
        (0, 0, 0, _) if all_alike => Verdict::Untrained,
        (_, _, 1.., _) => Verdict::Corrupt,
        _ => Verdict::Dead,
    };
    Ruling::new(verdict, Finding::Experts { all, zero, faint, loud, equal })
}
