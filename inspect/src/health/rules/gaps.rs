//! A layer that is left out between others, at whatever depth its number stands, and also where the number is part of a word
//! (`b3`, `denselayer9`): one number is skipped between blocks of the same parts. In sequences, activations and pools have
//! numbers too, so that blocks must be layers by what they have, and by what the list is called where few are left.

use std::collections::{BTreeMap, BTreeSet};

use super::Network;
use super::missing::{SEQUENCES, Shapes, WEIGHTS, module};
use crate::meaning::role::Role;
use crate::tensor::Group;

/// Blocks that show by themselves that none is left out on purpose.
const MANY: usize = 4;
/// Weights of blocks of which two are enough.
const WEIGHTS_OF_TWO: usize = 8;

/// Children of a sequence that show that none is without weights.
const LONG: usize = 8;

/// Blocks called alike but for a number.
struct List<'n> {
    /// Their names before the number.
    before: &'n str,
    /// Whether the number is part of a word.
    in_word: bool,
    /// By number, what they have.
    blocks: BTreeMap<u64, Shapes<'n>>,
}

/// The names of what is left out.
pub(super) fn gaps(network: &Network<'_>) -> Vec<String> {
    let told = |role: Role| !matches!(role, Role::Mask | Role::Cache | Role::Index | Role::Count);
    let weights = || network.record.tensors.iter().filter(|t| t.group == Group::Weights && told(t.role));
    // An adapter may be of some layers.
    if weights().any(|t| matches!(t.role, Role::LoraA | Role::LoraB)) {
        return Vec::new();
    }
    let mut lists: BTreeMap<(&str, bool), BTreeMap<u64, Shapes<'_>>> = BTreeMap::new();
    for tensor in weights() {
        let mut at = 0;
        for part in tensor.name.split('.') {
            let word = part.trim_end_matches(|c: char| c.is_ascii_digit());
            if let Ok(number) = part[word.len()..].parse()
                && let Some(after) = tensor.name.get(at + part.len() + 1..)
            {
                let key = (&tensor.name[..at + word.len()], !word.is_empty());
                lists.entry(key).or_default().entry(number).or_default().insert(after, &tensor.shape);
            }
            at += part.len() + 1;
        }
    }
    let lists = lists.into_iter().map(|((before, in_word), blocks)| List { before, in_word, blocks });
    lists.filter_map(|list| Some(format!("{}{}", list.before, list.gap()?))).collect()
}

impl List<'_> {
    /// The number that is left out, if it is one alone.
    fn gap(&self) -> Option<u64> {
        let (first, last) = (*self.blocks.first_key_value()?.0, *self.blocks.last_key_value()?.0);
        if last.checked_sub(first)? != self.blocks.len() as u64 {
            return None;
        }
        let gap = (first..last).find(|number| !self.blocks.contains_key(number))?;
        let (one, other) = (&self.blocks[&(gap - 1)], self.blocks.get(&(gap + 1))?);
        let like = self.blocks.values().filter(|block| alike(block, one)).count();
        let all_alike = like == self.blocks.len();
        let is_layer = (is_layer(one) || is_block_of_sequences(one))
            && alike(one, other)
            && 4 * like >= 3 * self.blocks.len();
        let known = match self.blocks.len() {
            MANY.. => all_alike || one == other,
            _ if self.in_word => false,
            3 => one == other,
            _ => one == other && one.len() >= WEIGHTS_OF_TWO && self.is_of_layers() && normalizes(one),
        };
        // A long sequence of which all else has weights, between blocks of the same shapes.
        let of_blocks = self.blocks.len() >= LONG && one == other && one.len() >= WEIGHTS_OF_TWO;
        (is_layer && known && (of_blocks || !SEQUENCES.contains(&self.own()))).then_some(gap)
    }

    /// What it is called.
    fn own(&self) -> &str {
        let is_word = |part: &&str| !part.is_empty() && !part.bytes().all(|b| b.is_ascii_digit());
        self.before.rsplit('.').find(is_word).unwrap_or("")
    }

    /// Whether it is called as lists are that hold layers alone.
    fn is_of_layers(&self) -> bool {
        self.own() == "h" || ["layer", "block"].iter().any(|word| self.own().contains(word))
    }
}

/// Whether a block has several modules, each of a name of its own.
fn is_layer(block: &Shapes<'_>) -> bool {
    let modules: BTreeSet<&str> = block.keys().map(|after| module(after)).collect();
    let named = modules.iter().filter(|module| {
        let own = module.rsplit('.').next().unwrap_or("");
        !own.is_empty() && !own.bytes().all(|b| b.is_ascii_digit())
    });
    block.len() >= WEIGHTS && named.count() > 1
}

/// Whether a block is made of sequences, whose modules have numbers alone: `conv.0.0`, `conv.0.1`, `conv.1`.
fn is_block_of_sequences(block: &Shapes<'_>) -> bool {
    let modules: BTreeSet<&str> = block.keys().map(|after| module(after)).collect();
    let nested = modules.iter().any(|module| module.matches('.').count() >= 2);
    block.len() >= WEIGHTS_OF_TWO && modules.len() > 2 && nested
}

/// Whether a block has a normalization: what maps a signal to itself and back, with something of no weights between, has none.
fn normalizes(block: &Shapes<'_>) -> bool {
    block.keys().any(|after| module(after).to_ascii_lowercase().contains("norm"))
}

/// Whether two blocks have the same weights, of whatever shapes.
fn alike(one: &Shapes<'_>, other: &Shapes<'_>) -> bool {
    one.keys().eq(other.keys())
}
