//! Networks that begin with matrices at zero: the last projection of every branch, the last layer, the one that moves
//! points or picks experts. Until the first step of training gains of normalizations are of one value each, and so are
//! biases; what stands beside the zero matrix is alive, and the same matrix is zero in every layer. Once the network has been
//! trained, a zero that stayed is no beginning. Where neither shows, a last layer is taken for one that begins at zero if
//! its name says that it is one, or if its bias is zero too, or if all else is as PyTorch draws it; then a bias of zeros and
//! ones begins anywhere.

use super::network::{Beside, is_zero};
use super::untrained::has_codes;
use super::{Check, MATRICES, Network, Rule, Ruling, Tell};
use crate::meaning::role::{Role, is_outlet};
use crate::record::TensorRecord;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "untrained-branches",
    summary: "Matrices that end branches, or networks, are zero in a network that has not been trained.",
    levels: &[Verdict::Untrained],
    roles: MATRICES,
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    for &i in network.families.iter().flatten() {
        let tensor = network.tensor(i);
        let judged = tensor.role.is_matrix()
            && tensor.shape.len() >= 2
            && !matches!(tensor.role, Role::LoraA | Role::Codes)
            && is_zero(tensor)
            && !has_codes(tensor);
        if judged && begins_at_zero(network, i) {
            found(i, Ruling::new(Verdict::Untrained, Finding::Untrained));
        }
    }
}

fn begins_at_zero(network: &Network<'_>, i: usize) -> bool {
    let trained = network.trained();
    // Who lets a last layer begin at zero does not leave its bias as it was drawn.
    if network.tensor(i).role == Role::Head && network.has_drawn_bias(network.tensor(i)) {
        return false;
    }
    let everywhere = network.siblings(i).is_none_or(|siblings| siblings.alive == 0);
    if trained == Some(true) || !everywhere {
        return false;
    }
    let Some(Beside { alive: true, deadlocked: false, is_last }) = network.beside(i) else { return false };
    let name = &network.tensor(i).name;
    let bias = name.strip_suffix("weight").and_then(|module| network.named(&format!("{module}bias")));
    trained == Some(false)
        || is_outlet(name)
        || (is_last && (bias.is_some_and(is_zero) || network.is_as_drawn()))
        || bias.is_some_and(is_identity)
        || (network.is_as_drawn() && bias.is_some_and(TensorRecord::is_pattern))
}

/// Whether a bias is the matrix of a movement that moves nothing, row by row: square, or with a column more. Networks that
/// move their input begin so.
fn is_identity(bias: &TensorRecord) -> bool {
    let Some(stats) = &bias.stats else { return false };
    let (count, ones) = (stats.count, stats.count - stats.zeros.min(stats.count));
    bias.is_pattern() && ones >= 2 && (ones * ones == count || ones * (ones + 1) == count)
}
