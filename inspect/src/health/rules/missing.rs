//! Layers and weights that the others promise: a layer that is left out in the middle, a matrix that all other layers have.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Network, Rule, Ruling};
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Weights that make a block one of the network's layers, and layers that make a promise.
const WEIGHTS: usize = 4;
const LAYERS: usize = 3;
/// Names that are told.
const NAMED: usize = 5;

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
        if times < LAYERS || times * 4 < blocks.len() * 3 || usual.len() < WEIGHTS {
            continue;
        }
        let (Some((&first, _)), Some((&last, _))) = (blocks.first_key_value(), blocks.last_key_value())
        else {
            continue;
        };
        // A name may announce any number.
        let holes = last - first + 1 - blocks.len() as u64;
        if holes > 0 && holes <= blocks.len() as u64 {
            let absent = (first..last).filter(|n| !blocks.contains_key(n));
            missing.extend(absent.map(|n| format!("{before}{n}")));
        }
        for (n, block) in blocks {
            // A layer with something of its own is of another kind.
            if block.is_subset(usual) {
                missing.extend(usual.difference(block).map(|after| format!("{before}{n}.{after}")));
            }
        }
    }
    if missing.is_empty() {
        return Vec::new();
    }
    let count = missing.len() as u64;
    missing.truncate(NAMED);
    Ruling::new(Verdict::Corrupt, Finding::Missing { count, names: missing }).into_iter().collect()
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
