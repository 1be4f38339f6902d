//! Bytes that cannot be read are no weights.

use super::{Check, Rule, Ruling};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "damaged",
    summary: "The tensor's bytes are missing, or differ from their checksum.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Tensor(|tensor| {
        let what = tensor.damage.clone()?;
        Ruling::new(
            Verdict::Corrupt,
            Finding::Damaged { fault: tensor.damage_kind.unwrap_or_default(), what },
        )
    }),
};
