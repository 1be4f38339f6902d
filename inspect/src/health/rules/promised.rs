//! What config.json promises: how many layers there are, how many tokens, how wide the network is. Of an architecture that
//! is not known nothing else is held against it. A configuration of another model beside the weights shows here too.

use std::collections::{HashMap, HashSet};

use super::missing::{Stack, stacks};
use super::{Check, Network, Rule, Ruling};
use crate::meaning::role::Role;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// What configurations call the number of layers, of tokens, and the width.
const LAYERS: [&str; 4] = ["num_hidden_layers", "n_layer", "num_layers", "n_layers"];
const TOKENS: [&str; 1] = ["vocab_size"];
const WIDTH: [&str; 3] = ["hidden_size", "n_embd", "d_model"];
/// The same of networks of two halves, and the module that each stands in.
const HALVES: [(&str, [&str; 2]); 2] = [
    ("encoder", ["encoder_layers", "num_encoder_layers"]),
    ("decoder", ["decoder_layers", "num_decoder_layers"]),
];
/// Keys of networks in which layers share their weights.
const SHARED: [&str; 3] = ["num_hidden_groups", "num_mem_blocks", "use_shared_attention_adapter"];
/// Modules that hold a row for each token.
const EMBEDDINGS: [&str; 6] =
    ["embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "token_embd"];

pub(super) const RULE: Rule = Rule {
    name: "promised",
    summary: "config.json promises more layers, more tokens or another width than there are.",
    check: Check::Whole(check),
};

fn check(network: &Network<'_>) -> Vec<Ruling> {
    let config = &network.record.model.config;
    let given = |keys: &[&'static str]| {
        keys.iter().find_map(|key| Some((*key, config.get(*key)?.as_u64().filter(|n| *n > 0)?)))
    };
    let weights = || network.record.tensors.iter().filter(|t| t.group == Group::Weights);
    // An adapter holds none of what its base's configuration promises.
    let is_adapter = weights().any(|t| matches!(t.role, Role::LoraA | Role::LoraB));
    if is_adapter || weights().filter(|t| t.role.is_matrix()).count() < 4 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut missed = |key: &str, promised: u64, there: u64| {
        let finding = Finding::Promised { key: key.into(), promised, found: there };
        found.extend(Ruling::new(Verdict::Corrupt, finding));
    };
    // Convolutional networks count their layers in ways of their own.
    let of_role = |role: Role| weights().filter(|t| t.role == role).count();
    if let Some((key, promised)) = given(&LAYERS)
        && of_role(Role::Convolution) <= of_role(Role::Matrix)
        && !SHARED.iter().any(|key| config.contains_key(*key))
        && let Some(most) = stacks(network).iter().filter(|s| s.is_of_layers()).map(Stack::len).max()
        && most < promised
    {
        missed(key, promised, most);
    }
    for (half, keys) in HALVES {
        let of_half = |s: &&Stack<'_>| s.is_of_layers() && s.is_within(half);
        if let Some((key, promised)) = given(&keys)
            && let Some(most) = stacks(network).iter().filter(of_half).map(Stack::len).max()
            && most < promised
        {
            missed(key, promised, most);
        }
    }
    if let Some((key, promised)) = given(&TOKENS) {
        let rows = weights()
            .filter(|t| t.role == Role::Embedding && t.shape.len() == 2)
            .filter(|t| t.name.rsplit('.').nth(1).is_some_and(|module| EMBEDDINGS.contains(&module)))
            .map(|t| t.shape[0])
            .max();
        if let Some(rows) = rows.filter(|rows| *rows < promised) {
            missed(key, promised, rows);
        }
    }
    if let Some((key, promised)) = given(&WIDTH) {
        let sides: HashSet<u64> = weights().flat_map(|t| t.shape.iter().copied()).collect();
        let multiple = |side: &u64| *side > 0 && side.is_multiple_of(promised);
        if !sides.iter().any(multiple) && network.record.tensors.iter().all(|t| t.role != Role::Codes) {
            missed(key, promised, usual_width(weights().map(|t| &t.shape[..])));
        }
    }
    found
}

/// The length of most vectors.
fn usual_width<'s>(shapes: impl Iterator<Item = &'s [u64]>) -> u64 {
    let mut lengths: HashMap<u64, usize> = HashMap::new();
    for shape in shapes.filter(|shape| shape.len() == 1) {
        *lengths.entry(shape[0]).or_default() += 1;
    }
    lengths.into_iter().max_by_key(|&(length, times)| (times, length)).map_or(0, |(length, _)| length)
}
