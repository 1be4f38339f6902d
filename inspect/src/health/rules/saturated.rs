//! Values at the end of f16's range: what was cast there was larger.

use super::{Check, Matrix, Rule, Ruling};
use crate::DType;
use crate::meaning::role::Role;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// The largest finite f16.
const LARGEST: f64 = 65504.0;

pub(super) const RULE: Rule = Rule {
    name: "saturated",
    summary: "An f16 weight has values at the end of the type's range.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Elements(|tensor, stats| {
        let vector = matches!(
            tensor.role,
            Role::NormGain | Role::LayerScale | Role::Bias | Role::RunningMean | Role::RunningVariance
        );
        let largest = match Matrix::of(tensor, None) {
            Some(_) => stats.abs_max?,
            // The least one is what is written for minus infinity.
            None if vector && tensor.group == Group::Weights => stats.max?,
            None => return None,
        };
        (tensor.dtype == DType::F16 && largest >= LARGEST)
            .then(|| Ruling::new(Verdict::Corrupt, Finding::Saturated { limit: LARGEST }))?
    }),
};
