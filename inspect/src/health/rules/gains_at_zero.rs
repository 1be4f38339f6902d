//! Gains of normalizations at zero shut off what they multiply. The last BatchNorm of a residual branch begins at zero in
//! many networks, in all of its blocks, and where an architecture adds 1 to its gains (Gemma) all begin at zero; the first
//! step of training moves them. So a zero among gains that have moved is none by design, and neither is one among others
//! of the same normalization that are not zero. Where an architecture adds 1, -1 is zero, and that no network begins with.
//! What weight normalization gives its directions for a size begins at the size of what it normalizes.

use super::network::is_zero;
use super::{Check, Network, Rule, Ruling, Tell};
use crate::meaning::role::{Role, is_size_of_direction};
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Smaller ones are zero for all purposes; bytes of a 1 in the wrong order are.
const VANISHED: f64 = 1e-30;

pub(super) const RULE: Rule = Rule {
    name: "gains-at-zero",
    summary: "The gains of a normalization are all zero in a trained network, or unlike those of other layers.",
    levels: &[Verdict::Dead],
    roles: &[Role::NormGain, Role::LayerScale],
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    of_directions(network, found);
    let trained = network.gains_moved() == Some(true);
    for family in &network.families {
        let gains = || family.iter().copied().filter(|&i| network.tensor(i).role == Role::NormGain);
        let zero = |i: usize| {
            let stats = network.tensor(i).stats.as_ref();
            stats.is_some_and(|s| s.count > 1 && s.abs_max.is_some_and(|most| most < VANISHED))
        };
        let value =
            |i: usize| network.tensor(i).stats.as_ref().filter(|s| s.count > 1 && s.min == s.max)?.min;
        let cancelled: Vec<usize> = gains().filter(|&i| value(i) == Some(-1.0)).collect();
        if 2 * cancelled.len() < gains().count() {
            cancelled
                .into_iter()
                .for_each(|i| found(i, Ruling::new(Verdict::Dead, Finding::GainsAtMinusOne)));
        }
        if (!trained && gains().all(zero)) || network.adds_one() {
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

/// Sizes of directions that are zero, unless all of a network that has not been trained are.
fn of_directions(network: &Network<'_>, found: Tell<'_>) {
    let sizes = || {
        let all = network.record.tensors.iter().enumerate();
        all.filter(|(_, t)| t.group == Group::Weights && is_size_of_direction(&t.name))
            .filter(|(_, t)| t.role == Role::LayerScale)
    };
    let zero: Vec<usize> = sizes().filter(|(_, t)| is_zero(t)).map(|(i, _)| i).collect();
    if zero.len() < sizes().count() || network.trained() != Some(false) {
        zero.into_iter().for_each(|i| found(i, Ruling::new(Verdict::Dead, Finding::GainsAtZero)));
    }
}
