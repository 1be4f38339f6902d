//! Values at the end of f16's range: what was cast there was larger.

use super::{Check, Rule, Ruling};
use crate::DType;
use crate::verdict::{Finding, Verdict};

/// The largest finite f16.
const LARGEST: f64 = 65504.0;

pub(super) const RULE: Rule = Rule {
    name: "saturated",
    summary: "An f16 matrix has values at the end of the type's range.",
    check: Check::Matrix(|matrix, _| {
        let saturated = matrix.tensor.dtype == DType::F16 && matrix.stats.abs_max? >= LARGEST;
        saturated.then(|| Ruling::new(Verdict::Corrupt, Finding::Saturated { limit: LARGEST }))?
    }),
};
