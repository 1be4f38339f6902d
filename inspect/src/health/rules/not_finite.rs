//! NaN and infinity spread to everything that is computed with them.

use super::{Rule, Ruling};
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule::Elements(|stats| {
    let (nan, inf, count) = (stats.nan, stats.inf, stats.count);
    (nan + inf > 0).then(|| Ruling::new(Verdict::Corrupt, Finding::NotFinite { nan, inf, count }))?
});
