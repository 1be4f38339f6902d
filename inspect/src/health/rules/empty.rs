//! A weight without elements: what DeepSpeed leaves of a partitioned parameter when it is saved without being gathered. In
//! e3nn's networks it is none: a module that has paths without weights says so by a mask of its outputs.

use std::collections::HashSet;

use super::{Check, Network, Rule, Ruling, Tell};
use crate::meaning::role::is_field;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "empty",
    summary: "A weight has no elements.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    let tensors = &network.record.tensors;
    let empty = |&i: &usize| {
        let t = &tensors[i];
        t.group == Group::Weights && t.shape.contains(&0) && (is_field(&t.name) || is_called_weight(&t.name))
    };
    let mut masked: Option<HashSet<&str>> = None;
    for i in (0..tensors.len()).filter(empty) {
        let masked = masked.get_or_insert_with(|| {
            tensors.iter().filter_map(|t| t.name.strip_suffix(".output_mask")).collect()
        });
        let module = tensors[i].name.rsplit_once('.').map_or("", |(module, _)| module);
        if !masked.contains(module) {
            found(i, Ruling::new(Verdict::Corrupt, Finding::Empty));
        }
    }
}

/// Whether the last part of `name` has the word for a weight or a bias in it, as `weight_ih_l0` and `in_proj_weight` do.
fn is_called_weight(name: &str) -> bool {
    let own = name.rsplit('.').next().unwrap_or(name);
    own.split('_').any(|word| matches!(word, "weight" | "bias"))
}
