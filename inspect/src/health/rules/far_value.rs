//! A few values far beyond all others: a flipped bit of the exponent. The largest weights of released language models are
//! some hundred times the mean magnitude.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

/// Times the mean magnitude of the others that are not zero.
const FAR: f64 = 1e4;

pub(super) const RULE: Rule = Rule {
    name: "far-value",
    summary: "A matrix has a value ten thousand times the others, as a flipped bit makes it.",
    check: Check::Matrix(|matrix, _| {
        let stats = matrix.stats;
        let (mean, largest) = (stats.abs_mean?, stats.abs_max?);
        let finite = (stats.count - stats.nan - stats.inf) as f64;
        let others = finite - stats.zeros as f64 - 1.0;
        if matrix.role() == Role::Codes || others < 16.0 {
            return None;
        }
        let typical = ((mean * finite - largest) / others).max(0.0);
        // Others that are not zero and leave no trace in the sum are further below it than f64 can tell.
        (largest > FAR * typical)
            .then(|| Ruling::new(Verdict::Corrupt, Finding::FarValue { value: largest, typical }))?
    }),
};
