//! Networks whose residual branches begin at zero: the last projection of every branch is zero until the first step of
//! training, while gains of normalizations are all 1 and what comes before it in the branch is alive. Once gains have
//! moved, a zero that stayed is no beginning.

use super::{Check, Network, Rule, Ruling, Tell};
use crate::meaning::role::{Role, is_last_of_branch};
use crate::record::TensorRecord;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "untrained-branches",
    summary: "The last projections of all residual branches are zero, in a network that has not been trained.",
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    if network.is_as_initialized() == Some(false) {
        return;
    }
    let is_zero = |t: &TensorRecord| {
        let stats = t.stats.as_ref();
        stats.is_some_and(|s| s.count > 1 && s.min == Some(0.0) && s.max == Some(0.0))
    };
    for family in &network.families {
        let all = || family.iter().map(|&i| network.tensor(i)).filter(|t| t.role.is_matrix());
        if all().next().is_none() || !all().all(|t| is_zero(t) && is_last_of_branch(&t.name)) {
            continue;
        }
        for &i in family {
            let name = &network.tensor(i).name;
            let branch = name.rsplitn(3, '.').nth(2).unwrap_or_default();
            let alive = network.record.tensors.iter().any(|t| {
                let inside = t.name.strip_prefix(branch).is_some_and(|rest| rest.starts_with('.'));
                let multiplies = matches!(t.role, Role::Matrix | Role::Convolution);
                inside && multiplies && !is_zero(t)
            });
            if alive {
                found(i, Ruling::new(Verdict::Untrained, Finding::Untrained));
            }
        }
    }
}
