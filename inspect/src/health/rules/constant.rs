//! A matrix of one value computes the same of every input, whatever the value.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "constant",
    summary: "Every element of a matrix is the same.",
    check: Check::Matrix(|matrix, _| {
        let finding = || Finding::Constant { value: matrix.min };
        match matrix.role() {
            _ if !matrix.is_constant() => None,
            // It may be a state that nothing has come into yet.
            Role::Unknown if matrix.ternary.is_none() => Ruling::undecided(finding()),
            _ => Ruling::new(Verdict::Dead, finding()),
        }
    }),
};
