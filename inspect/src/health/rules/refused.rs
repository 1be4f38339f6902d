//! Files that the format's own library does not load, though everything in them can be read: bytes after the last tensor,
//! holes between tensors, metadata that are no text.

use super::{Check, Rule, Ruling};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "refused",
    summary: "The format's own library refuses the file: bytes that belong to no tensor, metadata that is not text.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Whole(|network| {
        let refused = network.record.notices.iter().filter(|notice| notice.refused);
        refused
            .filter_map(|n| {
                Ruling::new(Verdict::Corrupt, Finding::Refused { kind: n.kind, what: n.text.clone() })
            })
            .collect()
    }),
};
