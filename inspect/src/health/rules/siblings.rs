//! A matrix against the same one in the other layers: they are of one size, and where one is a hundred times larger or
//! smaller than the middle one, and far out of their spread, something happened to it. So it is with tensors of unknown
//! role that all layers have; where one of these is of one value and the others are not, it is as dead as a matrix.

use super::{Check, Network, Rule, Ruling, Tell};
use crate::meaning::role::{Role, sibling};
use crate::record::TensorRecord;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Layers that make a middle.
pub(super) const ENOUGH: usize = 4;
/// By what factor a std may differ from the median.
const FACTOR: f64 = 100.0;
/// And by how many times the median deviation of ln std.
pub(super) const SPREADS: f64 = 10.0;

/// How many times as many must be alive as are of one value.
const ALIVE: usize = 4;
/// Fewer elements may be of one value by design.
const LARGE: u64 = 256;

pub(super) const RULE: Rule = Rule {
    name: "unlike-siblings",
    summary: "A matrix is a hundred times larger or smaller than the same matrix in the other layers.",
    levels: &[Verdict::Dying, Verdict::Dead, Verdict::Corrupt],
    roles: super::MAYBE_MATRICES,
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    for family in &network.families {
        let sizes: Vec<(usize, f64)> = family
            .iter()
            .filter(|&&i| {
                let tensor = network.tensor(i);
                tensor.shape.len() >= 2 && (tensor.role.is_matrix() || is_unknown(tensor))
            })
            .filter_map(|&i| Some((i, network.tensor(i).stats.as_ref()?.std?)))
            .filter(|(_, std)| *std > 0.0 && std.is_finite())
            .collect();
        if sizes.len() < ENOUGH {
            continue;
        }
        let constant = family.iter().filter(|&&i| is_unknown(network.tensor(i))).filter_map(|&i| {
            let stats = network.tensor(i).stats.as_ref()?;
            (stats.min == stats.max).then_some((i, stats.min?))
        });
        let constant: Vec<(usize, f64)> = constant.collect();
        if ALIVE * constant.len() <= sizes.len() {
            constant
                .into_iter()
                .for_each(|(i, value)| found(i, Ruling::new(Verdict::Dead, Finding::Constant { value })));
        }
        let logs = sizes.iter().map(|(_, std)| std.ln());
        let middle = median(logs.clone().collect());
        let spread = median(logs.map(|log| (log - middle).abs()).collect());
        for (i, std) in &sizes {
            let off = (std.ln() - middle).abs();
            // Children of a sequence are no layers, and the last of them often begins small.
            let is_last = || network.beside(*i).is_some_and(|beside| beside.is_last);
            let ends_small = std.ln() < middle && sibling(&network.tensor(*i).name).is_none() && is_last();
            if off > FACTOR.ln().max(SPREADS * spread) && !ends_small {
                let verdict = if std.ln() > middle { Verdict::Corrupt } else { Verdict::Dying };
                let finding = Finding::UnlikeSiblings { std: *std, median: middle.exp() };
                found(*i, Ruling::new(verdict, finding));
            }
        }
    }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Whether `tensor` is as a matrix, but for what it is called.
fn is_unknown(tensor: &TensorRecord) -> bool {
    let long = tensor.shape.iter().filter(|&&d| d > 1).count() >= 2;
    let large = tensor.stats.as_ref().is_some_and(|s| s.count >= LARGE);
    tensor.role == Role::Unknown && tensor.dtype.is_float() && tensor.group == Group::Weights && long && large
}
