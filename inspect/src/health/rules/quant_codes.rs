//! Codes of quantized weights that say nothing, or too little.

use super::{Check, Rule, Ruling};
use crate::record::TensorRecord;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "quant-codes",
    summary: "The codes of a quantized weight are all equal, or most lie at the ends of their range.",
    levels: &[Verdict::Weak, Verdict::Dead],
    roles: &[],
    check: Check::Tensor(check),
};

/// The share at the ends of their range from which codes of so many bits, at least, are cut off there. Fewer bits have
/// no room for anything else.
const LIMITS: [(u8, f64); 2] = [(8, 0.25), (4, 0.5)];

fn check(tensor: &TensorRecord) -> Option<Ruling> {
    let codes = tensor.quantized.as_ref()?.codes?;
    if let Some(code) = codes.equal {
        return Ruling::new(Verdict::Dead, Finding::EqualCodes { code });
    }
    let (_, limit) = LIMITS.iter().find(|(bits, _)| codes.bits >= *bits)?;
    let saturated = codes.at_limit >= *limit;
    saturated.then(|| Ruling::new(Verdict::Weak, Finding::SaturatedCodes { share: codes.at_limit }))?
}
