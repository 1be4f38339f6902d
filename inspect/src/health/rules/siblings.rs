//! A matrix against the same one in the other layers: they are of one size, and where one is a hundred times larger or
//! smaller than the middle one, and far out of their spread, something happened to it.

use super::{Check, Network, Rule, Ruling, Tell};
use crate::verdict::{Finding, Verdict};

/// Layers that make a middle.
const ENOUGH: usize = 4;
/// By what factor a std may differ from the median.
const FACTOR: f64 = 100.0;
/// And by how many times the median deviation of ln std.
const SPREADS: f64 = 10.0;

pub(super) const RULE: Rule = Rule {
    name: "unlike-siblings",
    summary: "A matrix is a hundred times larger or smaller than the same matrix in the other layers.",
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    for family in &network.families {
        let sizes: Vec<(usize, f64)> = family
            .iter()
            .filter(|&&i| network.tensor(i).role.is_matrix() && network.tensor(i).shape.len() >= 2)
            .filter_map(|&i| Some((i, network.tensor(i).stats.as_ref()?.std?)))
            .filter(|(_, std)| *std > 0.0 && std.is_finite())
            .collect();
        if sizes.len() < ENOUGH {
            continue;
        }
        let logs = sizes.iter().map(|(_, std)| std.ln());
        let middle = median(logs.clone().collect());
        let spread = median(logs.map(|log| (log - middle).abs()).collect());
        for (i, std) in &sizes {
            let off = (std.ln() - middle).abs();
            if off > FACTOR.ln().max(SPREADS * spread) {
                let verdict = if std.ln() > middle { Verdict::Corrupt } else { Verdict::Dying };
                let finding = Finding::UnlikeSiblings { std: *std, median: middle.exp() };
                found(*i, Ruling::new(verdict, finding));
            }
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
