//! Matrices of whole numbers: codes of a quantized weight that were stored as floats, without their scale. Signs, ternary
//! values and kernels of a few small numbers are no such codes.

use super::{Check, PLAIN, Rule, Ruling};
use crate::verdict::{Finding, Verdict, relative_std};

/// The least largest magnitude: codes of two bits.
const LEAST: f64 = 3.0;
/// std * sqrt(fan_in). The usual initializations have about 1.
const RELATIVE: f64 = 8.0;
/// Fewer elements are no evidence.
const ENOUGH: u64 = 1024;

pub(super) const RULE: Rule = Rule {
    name: "whole-numbers",
    summary: "All elements of a matrix are whole numbers: codes without their scale.",
    levels: &[Verdict::Corrupt],
    roles: PLAIN,
    check: Check::Matrix(|matrix, _| {
        let whole = matrix.tensor.structure.as_ref().is_some_and(|structure| structure.whole);
        let largest = matrix.stats.abs_max.filter(|largest| *largest >= LEAST)?;
        // All that is not zero is 1 or more.
        let none_below = matrix.stats.histogram.as_ref().is_some_and(|h| h.first >= 0);
        let large = relative_std(matrix.tensor)? >= RELATIVE;
        let codes = whole && none_below && large && !matrix.has_scale();
        (matrix.is_plain() && matrix.stats.count >= ENOUGH && codes)
            .then(|| Ruling::new(Verdict::Corrupt, Finding::WholeNumbers { largest }))?
    }),
};
