//! Two layers with the same elements: one was loaded twice, or copied over another. A merge may lay out the same layers
//! more than once, if its own configuration says so. Experts that are all alike in every layer are those of a dense network
//! that was upcycled and has not been trained; in one layer alone they were loaded from one.

use std::collections::HashMap;

use super::{Check, Network, Rule, Ruling, Tell};
use crate::meaning::role::Role;
use crate::meaning::role::expert;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "equal-layers",
    summary: "A matrix has the same elements as in another layer, or in another expert.",
    levels: &[Verdict::Untrained, Verdict::Dead],
    roles: &[Role::Matrix, Role::Convolution, Role::Codes, Role::LoraB],
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    let merged = network.record.model.repeats_layers;
    for family in &network.families {
        let repeats = || {
            let equal = |&i: &usize| Some((i, network.tensor(i).equal_to.as_deref()?));
            family.iter().filter_map(equal)
        };
        if repeats().next().is_none() {
            continue;
        }
        // How many experts each layer has, and how many of them equal each of them.
        let (mut experts, mut copies) = (HashMap::new(), HashMap::new());
        for &i in family {
            let (layer, _) = of_layer(&network.tensor(i).name);
            *experts.entry(layer).or_insert(0) += 1;
        }
        for (_, other) in repeats() {
            *copies.entry(other).or_insert(0) += 1;
        }
        // Whether the experts of every layer are those of one.
        let mut upcycled: HashMap<&str, usize> = HashMap::new();
        for (i, other) in repeats() {
            let (layer, of_experts) = of_layer(&network.tensor(i).name);
            *upcycled.entry(layer).or_default() += usize::from(of_experts && of_layer(other).0 == layer);
        }
        let upcycled =
            experts.iter().all(|(layer, all)| upcycled.get(layer).copied().unwrap_or(0) + 1 == *all);
        for (i, other) in repeats() {
            let (layer, of_experts) = of_layer(&network.tensor(i).name);
            let same_layer = of_experts && of_layer(other).0 == layer;
            // Modules that are copied to make layers are equal until the first step.
            let all_alike = copies[other] + 1 == family.len() && network.trained() == Some(false);
            let verdict = match () {
                () if all_alike => Verdict::Untrained,
                () if same_layer && upcycled => Verdict::Untrained,
                () if merged && !same_layer => continue,
                () => Verdict::Dead,
            };
            found(i, Ruling::new(verdict, Finding::EqualLayers { other: other.into() }));
        }
    }
}

/// `name` up to the number of its expert, and whether it is of one.
fn of_layer(name: &str) -> (&str, bool) {
    match expert(name) {
        Some(_) => (name.split(".expert").next().unwrap_or(name), true),
        None => (name, false),
    }
}
