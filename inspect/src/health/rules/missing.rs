//! Layers and weights that the others promise: a layer that is left out in the middle, a matrix that all other layers have.

use std::collections::{BTreeMap, BTreeSet};

use super::gaps::gaps;
use super::missing_parts::missing_parts;
use super::{Check, Network, Rule, Ruling};
use crate::meaning::role::is_essential;
use crate::record::TensorRecord;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Weights that make a block one of the network's layers, and layers that make a promise.
pub(super) const WEIGHTS: usize = 4;
pub(super) const LAYERS: usize = 3;
/// Words of modules that some blocks of a network do without: where the shape stays, nothing changes it.
const OPTIONAL: [&str; 8] =
    ["downsample", "downsamplers", "upsample", "upsamplers", "shortcut", "conv_shortcut", "skip", "resize"];
/// What people call sequences in which layers without weights have numbers too: activations, pools.
pub(super) const SEQUENCES: [&str; 14] = [
    "",
    "net",
    "main",
    "model",
    "module",
    "features",
    "seq",
    "sequential",
    "classifier",
    "fc",
    "mlp",
    "conv",
    "convs",
    "head",
];
/// Names that are told.
pub(super) const NAMED: usize = 5;

pub(super) const RULE: Rule = Rule {
    name: "missing",
    summary: "A layer or a weight is missing that the other layers imply.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Whole(check),
};

/// The names of a block's weights, and their shapes.
type Names<'r> = BTreeSet<&'r str>;
pub(super) type Shapes<'r> = BTreeMap<&'r str, &'r [u64]>;

/// Numbered blocks that stand in one place.
pub(super) struct Stack<'r> {
    /// The names of their weights before the number.
    pub before: &'r str,
    /// By number, what follows it in the names.
    pub blocks: BTreeMap<u64, Shapes<'r>>,
}

impl Stack<'_> {
    /// Whether its blocks are layers rather than single modules.
    pub fn is_of_layers(&self) -> bool {
        self.blocks.values().any(|block| {
            let mut modules = block.keys().map(|after| module(after));
            let first = modules.next();
            block.len() >= WEIGHTS && modules.any(|module| Some(module) != first)
        })
    }

    /// Whether it stands in a module of this name.
    pub fn is_within(&self, module: &str) -> bool {
        self.before.split('.').any(|part| part == module)
    }

    pub fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Numbers that are left out between blocks that are alike. None where layers without weights may have them: in
    /// sequences, at equal distances, between blocks of different shapes.
    fn holes(&self) -> Vec<u64> {
        let numbers: Vec<u64> = self.blocks.keys().copied().collect();
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return Vec::new() };
        // A name may announce any number.
        let holes = (last - first).saturating_sub(self.len() - 1);
        let own = self.before.trim_end_matches('.').rsplit('.').next().unwrap_or("");
        if holes == 0 || holes > self.len() || SEQUENCES.contains(&own) || !self.is_of_layers() {
            return Vec::new();
        }
        let gaps: Vec<(u64, u64)> =
            numbers.windows(2).filter(|pair| pair[1] - pair[0] > 1).map(|pair| (pair[0], pair[1])).collect();
        // Every second number is what a list of layers and activations has.
        if numbers.windows(2).all(|pair| pair[1] - pair[0] == numbers[1] - numbers[0]) {
            return Vec::new();
        }
        let distances: Vec<u64> = gaps.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        if distances.len() >= 2 && distances.iter().all(|d| *d == distances[0]) {
            return Vec::new();
        }
        let mut kinds: BTreeMap<&Shapes<'_>, usize> = BTreeMap::new();
        self.blocks.values().for_each(|block| *kinds.entry(block).or_default() += 1);
        let uniform = kinds.values().any(|times| times * 4 >= self.blocks.len() * 3);
        let alike = gaps.iter().filter(|(a, b)| uniform || self.blocks[a] == self.blocks[b]);
        alike.flat_map(|(a, b)| a + 1..*b).collect()
    }
}

/// The stacks of the network's weights.
pub(super) fn stacks<'r>(network: &Network<'r>) -> Vec<Stack<'r>> {
    let mut stacks: BTreeMap<&str, BTreeMap<u64, Shapes<'r>>> = BTreeMap::new();
    for tensor in network.record.tensors.iter().filter(|t| t.group == Group::Weights) {
        let Some((before, number, after)) = numbered(&tensor.name) else { continue };
        stacks.entry(before).or_default().entry(number).or_default().insert(after, &tensor.shape);
    }
    stacks.into_iter().map(|(before, blocks)| Stack { before, blocks }).collect()
}

fn check(network: &Network<'_>) -> Vec<Ruling> {
    let mut missing = Vec::new();
    for stack in &stacks(network) {
        let Stack { before, blocks } = stack;
        // What most layers are made of. Others are of another kind, and promise nothing.
        let names: BTreeMap<u64, Names<'_>> =
            blocks.iter().map(|(n, block)| (*n, block.keys().copied().collect())).collect();
        let mut kinds: BTreeMap<&Names<'_>, usize> = BTreeMap::new();
        names.values().for_each(|kind| *kinds.entry(kind).or_default() += 1);
        let Some((&usual, &times)) = kinds.iter().max_by_key(|(_, times)| **times) else { continue };
        let (Some((&first, start)), Some((&last, end))) = (names.first_key_value(), names.last_key_value())
        else {
            continue;
        };
        // Of three layers the one between two that are alike is held against them.
        let of_three = blocks.len() == LAYERS && times + 1 == LAYERS && start == end;
        let most = times >= LAYERS && times * 4 >= blocks.len() * 3;
        if !(most || of_three) || usual.len() < WEIGHTS {
            continue;
        }
        missing.extend(stack.holes().into_iter().map(|n| format!("{before}{n}")));
        // How many blocks have each part.
        let mut having: BTreeMap<&str, usize> = BTreeMap::new();
        for block in names.values() {
            let parts: BTreeSet<&str> = block.iter().map(|after| component(after)).collect();
            parts.into_iter().for_each(|part| *having.entry(part).or_default() += 1);
        }
        for (n, block) in &names {
            // A layer with something of its own is of another kind.
            if !block.is_subset(usual) {
                continue;
            }
            let modules: BTreeSet<&str> = block.iter().map(|after| module(after)).collect();
            let components: BTreeSet<&str> = block.iter().map(|after| component(after)).collect();
            let by_design = |after: &str| {
                // Half a module is no design.
                if modules.contains(module(after)) {
                    return false;
                }
                // How many layers are within a stage is its own.
                if is_deeper(after, block, usual) {
                    return true;
                }
                // Nothing of a part of several modules, such as attention to another sequence.
                let part = component(after);
                let whole = part != module(after) && !components.contains(part);
                let several = names.len() > having.get(part).map_or(0, |n| n + 1);
                if *n == first || *n == last {
                    // The first and the last layer may do without a whole module: a norm of what is normalized already,
                    // values that are mixed with those of the layer before; but not without one that all need, nor
                    // without all of attention or of the MLP that every other layer of several has.
                    let part_of_some = several || names.len() <= LAYERS || part.contains("cross");
                    return (whole && part_of_some) || !is_essential(after);
                }
                let optional = after.split('.').any(|part| OPTIONAL.contains(&part));
                optional || (whole && (of_three || several))
            };
            let absent = usual.difference(block).filter(|after| !by_design(after));
            missing.extend(absent.map(|after| format!("{before}{n}.{after}")));
        }
    }
    let parts = gaps(network).into_iter().chain(beside_biases(network)).chain(missing_parts(network));
    for name in parts {
        if !missing.contains(&name) {
            missing.push(name);
        }
    }
    if missing.is_empty() {
        return Vec::new();
    }
    let count = missing.len() as u64;
    missing.truncate(NAMED);
    Ruling::new(Verdict::Corrupt, Finding::Missing { count, names: missing }).into_iter().collect()
}

/// Weights whose bias is there, although all other modules called so have both. Layers of blocks within blocks show so.
fn beside_biases(network: &Network<'_>) -> Vec<String> {
    let weights = || network.record.tensors.iter().filter(|t| t.group == Group::Weights);
    if weights().any(TensorRecord::is_bare_codes) {
        return Vec::new();
    }
    // What else is in each module.
    let mut fields: BTreeMap<&str, (bool, usize)> = BTreeMap::new();
    for tensor in weights() {
        let mut inner = tensor.name.as_str();
        while let Some((module, field)) = inner.rsplit_once('.') {
            let (bias, others) = fields.entry(module).or_default();
            if field == "bias" && inner == tensor.name {
                *bias = true
            } else {
                *others += 1
            }
            inner = module;
        }
    }
    // By what they are called, the modules that have a bias: how many have more, and which have nothing else.
    let mut called: BTreeMap<&str, (usize, Vec<&str>)> = BTreeMap::new();
    for (module, (_, others)) in fields.iter().filter(|(_, (bias, _))| *bias) {
        let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let Some(own) = module.rsplit('.').find(|part| !is_number(part)) else { continue };
        let (both, alone) = called.entry(own).or_default();
        if *others > 0 { *both += 1 } else { alone.push(module) }
    }
    let lone = called.into_values().filter(|(both, alone)| *both >= LAYERS && alone.len() == 1);
    // One that stands in no numbered block may be tied to another weight.
    lone.flat_map(|(_, alone)| alone)
        .filter(|module| numbered(module).is_some())
        .map(|module| format!("{module}.weight"))
        .collect()
}

/// Whether `after` is of a layer within the block that comes after all those that `block` has in that place, and is like
/// one of them.
fn is_deeper(after: &str, block: &Names<'_>, usual: &Names<'_>) -> bool {
    let Some((before, number, _)) = numbered(after) else { return false };
    let child = |names: &Names<'_>, number: u64| -> BTreeSet<String> {
        let start = format!("{before}{number}.");
        names.iter().filter_map(|name| name.strip_prefix(start.as_str()).map(str::to_string)).collect()
    };
    let numbers = block.iter().filter_map(|name| numbered(name)).filter(|(at, ..)| *at == before);
    let Some(last) = numbers.map(|(_, number, _)| number).max() else { return false };
    let own = child(usual, number);
    let modules: BTreeSet<&str> = own.iter().map(|name| module(name)).collect();
    number > last && own.len() >= WEIGHTS && modules.len() > 1 && child(block, last) == own
}

/// The module that a weight belongs to.
pub(super) fn module(name: &str) -> &str {
    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
    module.split(".parametrizations").next().unwrap_or(module)
}

/// The part of the layer that a weight belongs to.
fn component(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// A name before its first number, that number, and what follows.
pub(super) fn numbered(name: &str) -> Option<(&str, u64, &str)> {
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
