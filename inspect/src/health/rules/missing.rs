//! Layers and weights that the others promise: a layer that is left out in the middle, a matrix that all other layers have.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Network, Rule, Ruling};
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Weights that make a block one of the network's layers, and layers that make a promise.
const WEIGHTS: usize = 4;
const LAYERS: usize = 3;
/// Words of modules that some blocks of a network do without: where the shape stays, nothing changes it.
const OPTIONAL: [&str; 7] =
    ["downsample", "downsamplers", "upsample", "upsamplers", "shortcut", "conv_shortcut", "skip"];
/// Names that are told.
pub(super) const NAMED: usize = 5;

pub(super) const RULE: Rule = Rule {
    name: "missing",
    summary: "A layer, or a weight of one, is not there although the others promise it.",
    check: Check::Whole(check),
};

/// Numbered blocks that stand in one place.
pub(super) struct Stack<'r> {
    /// The names of their weights before the number.
    before: &'r str,
    /// By number, what follows it in the names.
    blocks: BTreeMap<u64, BTreeSet<&'r str>>,
}

impl Stack<'_> {
    /// Whether its blocks are layers rather than single modules.
    pub fn is_of_layers(&self) -> bool {
        self.blocks.values().any(|block| block.len() >= WEIGHTS)
    }

    /// Whether it stands in a module of this name.
    pub fn is_within(&self, module: &str) -> bool {
        self.before.split('.').any(|part| part == module)
    }

    pub fn len(&self) -> u64 {
        self.blocks.len() as u64
    }
}

/// The stacks of the network's weights.
pub(super) fn stacks<'r>(network: &Network<'r>) -> Vec<Stack<'r>> {
    let mut stacks: BTreeMap<&str, BTreeMap<u64, BTreeSet<&str>>> = BTreeMap::new();
    for tensor in network.record.tensors.iter().filter(|t| t.group == Group::Weights) {
        let Some((before, number, after)) = numbered(&tensor.name) else { continue };
        stacks.entry(before).or_default().entry(number).or_default().insert(after);
    }
    stacks.into_iter().map(|(before, blocks)| Stack { before, blocks }).collect()
}

fn check(network: &Network<'_>) -> Vec<Ruling> {
    let mut missing = Vec::new();
    for Stack { before, blocks } in &stacks(network) {
        // What most layers are made of. Others are of another kind, and promise nothing.
        let mut kinds: BTreeMap<&BTreeSet<&str>, usize> = BTreeMap::new();
        blocks.values().for_each(|kind| *kinds.entry(kind).or_default() += 1);
        let Some((&usual, &times)) = kinds.iter().max_by_key(|(_, times)| **times) else { continue };
        let (Some((&first, start)), Some((&last, end))) = (blocks.first_key_value(), blocks.last_key_value())
        else {
            continue;
        };
        // Of three layers the one between two that are alike is held against them.
        let of_three = blocks.len() == LAYERS && times + 1 == LAYERS && start == end;
        let most = times >= LAYERS && times * 4 >= blocks.len() * 3;
        if !(most || of_three) || usual.len() < WEIGHTS {
            continue;
        }
        // A name may announce any number, and every second number is what a list of layers and activations has.
        let holes = last - first + 1 - blocks.len() as u64;
        let numbers: Vec<u64> = blocks.keys().copied().collect();
        let even = numbers.windows(2).all(|pair| pair[1] - pair[0] == numbers[1] - numbers[0]);
        if holes > 0 && holes <= blocks.len() as u64 && !even {
            let absent = (first..last).filter(|n| !blocks.contains_key(n));
            missing.extend(absent.map(|n| format!("{before}{n}")));
        }
        for (n, block) in blocks {
            // A layer with something of its own is of another kind.
            if !block.is_subset(usual) {
                continue;
            }
            let modules: BTreeSet<&str> = block.iter().map(|after| module(after)).collect();
            // The first and the last layer may do without a whole module: a norm of what is normalized already, values that
            // are mixed with those of the layer before.
            let at_end = *n == first || *n == last;
            let by_design = |after: &str| {
                let whole = !modules.contains(module(after));
                whole && (at_end || after.split('.').any(|part| OPTIONAL.contains(&part)))
            };
            let absent = usual.difference(block).filter(|after| !by_design(after));
            missing.extend(absent.map(|after| format!("{before}{n}.{after}")));
        }
    }
    if missing.is_empty() {
        return Vec::new();
    }
    let count = missing.len() as u64;
    missing.truncate(NAMED);
    Ruling::new(Verdict::Corrupt, Finding::Missing { count, names: missing }).into_iter().collect()
}

/// The module that a weight belongs to.
fn module(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(module, _)| module)
}

/// A name before its first number, that number, and what follows.
fn numbered(name: &str) -> Option<(&str, u64, &str)> {
    let mut at = 0;
    for part in name.split('.') {
        if part.bytes().all(|b| b.is_ascii_digit())
            && let Ok(number) = part.parse()
        {
            return Some((&name[..at], number, name.get(at + part.len() + 1..)?));
        }
        at += part.len() + 1;
    }
    None
}
