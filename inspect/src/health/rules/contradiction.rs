//! Files of one set that say different things: an index that names other tensors or files than there are, a tensor in two
//! shards, shards that no index names, a number that is skipped among files.

use super::{Check, Rule, Ruling};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "contradiction",
    summary: "The index and the shards of a set disagree, or there are files that no index names.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Whole(|network| {
        let notices = network.record.notices.iter();
        notices
            .filter(|notice| notice.is_finding() && !notice.refused)
            .filter_map(|n| {
                Ruling::new(Verdict::Corrupt, Finding::Contradiction { kind: n.kind, what: n.text.clone() })
            })
            .collect()
    }),
};
