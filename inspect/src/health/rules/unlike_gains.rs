//! Gains of a normalization against those of the same one in the other layers: they are of one size, and where those of one
//! layer are a thousand times larger or smaller than the middle, something happened to them. Those of batches have no
//! such size: a branch that is not needed fades.

use super::siblings::{ENOUGH, SPREADS, median};
use super::{Check, Network, Rule, Ruling, Tell};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

/// By what factor a mean magnitude may differ from the median.
const FACTOR: f64 = 1000.0;
/// Where the middle is below this, gains begin at zero.
const LEAST: f64 = 0.05;

pub(super) const RULE: Rule = Rule {
    name: "unlike-gains",
    summary: "The gains of a normalization are a thousand times larger or smaller than in the other layers.",
    levels: &[Verdict::Dying, Verdict::Corrupt],
    roles: &[Role::NormGain],
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    for family in &network.families {
        let of_batches = |i: usize| {
            let module = network.tensor(i).name.rsplit_once('.').map_or("", |(module, _)| module);
            network.named(&format!("{module}.running_var")).is_some()
        };
        let gains = family.iter().copied().filter(|&i| network.tensor(i).role == Role::NormGain);
        let sizes: Vec<(usize, f64)> = gains
            .filter_map(|i| Some((i, network.tensor(i).stats.as_ref().filter(|s| s.count > 1)?.abs_mean?)))
            .filter(|(_, mean)| *mean > 0.0 && mean.is_finite())
            .collect();
        if sizes.len() < ENOUGH || sizes.iter().any(|(i, _)| of_batches(*i)) {
            continue;
        }
        let middle = median(sizes.iter().map(|(_, mean)| mean.ln()).collect());
        let spread = median(sizes.iter().map(|(_, mean)| (mean.ln() - middle).abs()).collect());
        for (i, mean) in sizes {
            let off = mean.ln() - middle;
            if off.abs() < FACTOR.ln().max(SPREADS * spread) || middle.exp() < LEAST {
                continue;
            }
            let verdict = if off > 0.0 { Verdict::Corrupt } else { Verdict::Dying };
            found(i, Ruling::new(verdict, Finding::UnlikeGains { mean, median: middle.exp() }));
        }
    }
}
