//! A matrix that its mask leaves nothing of: what is computed with is the product of both, as `torch.nn.utils.prune` and
//! `torch.ao.pruning` keep them.

use super::network::is_zero;
use super::{Check, MAYBE_MATRICES, Network, Rule, Ruling, Tell};
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Parametrizations of one weight, at most.
const DEEPEST: usize = 4;

pub(super) const RULE: Rule = Rule {
    name: "masked-out",
    summary: "The mask of a matrix is zero throughout.",
    levels: &[Verdict::Dead],
    roles: MAYBE_MATRICES,
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    let weights = network.record.tensors.iter().enumerate().filter(|(_, t)| t.group == Group::Weights);
    for (i, tensor) in weights.filter(|(_, t)| t.shape.len() >= 2 && MAYBE_MATRICES.contains(&t.role)) {
        let zero = |mask: String| network.named(&mask).is_some_and(is_zero);
        let masked = match (tensor.name.strip_suffix("_orig"), tensor.name.strip_suffix(".original")) {
            (Some(name), _) => zero(format!("{name}_mask")),
            (_, Some(name)) => (0..DEEPEST).any(|nth| zero(format!("{name}.{nth}.mask"))),
            _ => false,
        };
        if masked {
            found(i, Ruling::new(Verdict::Dead, Finding::MaskedOut));
        }
    }
}
