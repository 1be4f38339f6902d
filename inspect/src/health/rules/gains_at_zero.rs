//! Gains of normalizations at zero shut off what they multiply. The last BatchNorm of a residual branch begins at zero in
//! many networks, in all of its blocks, and where an architecture adds 1 to its gains (Gemma) all begin at zero; the first
//! step of training moves them. So a zero among gains that have moved is none by design, and neither is one among others
//! of the same normalization that are not zero.

use super::{Check, Network, Rule, Ruling, Tell};
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

/// Smaller ones are zero for all purposes; bytes of a 1 in the wrong order are.
const VANISHED: f64 = 1e-30;

pub(super) const RULE: Rule = Rule {
    name: "gains-at-zero",
    summary: "The gains of a normalization are all zero in a trained network, or unlike those of other layers.",
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    let trained = network.gains_moved() == Some(true);
    for family in &network.families {
        let gains = || family.iter().copied().filter(|&i| network.tensor(i).role == Role::NormGain);
        let zero = |i: usize| {
            let stats = network.tensor(i).stats.as_ref();
            stats.is_some_and(|s| s.count > 1 && s.abs_max.is_some_and(|most| most < VANISHED))
        };
        if !trained && gains().all(zero) {
            continue;
        }
        let begins = |i: usize| {
            let name = &network.tensor(i).name;
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            !trained && network.named(&format!("{module}.running_mean")).is_some()
        };
        for i in gains().filter(|&i| zero(i) && !begins(i)) {
            found(i, Ruling::new(Verdict::Dead, Finding::GainsAtZero));
        }
    }
}
