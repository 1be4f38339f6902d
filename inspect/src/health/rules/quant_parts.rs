//! Codes without their scale, scales without codes, and parts of quantized weights that do not fit each other.

use super::{Check, Rule, Ruling};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "quant-parts",
    summary: "Stored tensors do not fit together as a quantized weight.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Tensor(|tensor| {
        let fault = tensor.quantized.as_ref()?.fault.clone()?;
        match fault.is_of_reader() {
            true => Ruling::undecided(Finding::QuantParts { fault }),
            false => Ruling::new(Verdict::Corrupt, Finding::QuantParts { fault }),
        }
    }),
};
