//! Rows that are equal compute the same: symmetry that initialization never broke, or that something restored. Rows of new
//! tokens are often made equal, as a mean of the others.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

const MANY: f64 = 0.25;
const MANY_TOKENS: f64 = 0.9;
/// Fewer rows are no evidence.
const ENOUGH: u64 = 16;

pub(super) const RULE: Rule = Rule {
    name: "equal-rows",
    summary: "Many rows of a matrix are equal to others.",
    levels: &[Verdict::Dead],
    roles: &[
        Role::Matrix,
        Role::Convolution,
        Role::Head,
        Role::Router,
        Role::Embedding,
        Role::Positional,
        Role::LoraA,
    ],
    check: Check::Matrix(|matrix, _| {
        let structure = matrix.tensor.structure.as_ref()?;
        let nonzero = structure.sampled_rows - structure.zero_rows;
        let as_drawn = || matrix.among.is_some_and(|(network, _)| network.is_as_drawn());
        let many = match matrix.role() {
            // Identities above each other are where gates begin.
            _ if matrix.is_of_experts() || matrix.tensor.is_pattern() => return None,
            // Kernels that interpolate begin so.
            Role::Convolution if matrix.is_untrained() || as_drawn() || matrix.is_fixed_filter() => {
                return None;
            }
            // Places that are all alike say nothing of where something is.
            Role::Positional => MANY_TOKENS,
            Role::Matrix | Role::Convolution | Role::Router if matrix.ternary.is_none() => MANY,
            Role::Embedding | Role::Head | Role::LoraA => MANY_TOKENS,
            _ => return None,
        };
        let share = structure.equal_rows as f64 / nonzero as f64;
        (nonzero >= ENOUGH && share >= many)
            .then(|| Ruling::new(Verdict::Dead, Finding::EqualRows { share }))?
    }),
};
