//! Zero where a network's designers let it begin at zero: it has not been trained, which is no disease. Adapters' second
//! factors, adaLN-Zero's modulation, zero convolutions, position tables that begin at zero.

use super::{Check, Rule, Ruling};
use crate::meaning::role::{Role, is_zero_at_first};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "untrained",
    summary: "A matrix that begins at zero by design is still zero.",
    check: Check::Matrix(|matrix, _| {
        let zero = matrix.min == 0.0 && matrix.max == 0.0;
        let by_design = matches!(matrix.role(), Role::LoraB | Role::Positional | Role::Codebook)
            || is_zero_at_first(&matrix.tensor.name);
        (zero && by_design).then(|| Ruling::new(Verdict::Untrained, Finding::Untrained))?
    }),
};
