//! A weight of another shape than the same one in the other layers. A layer of another size is so in several of its weights;
//! one alone fits nothing that stands beside it. The first and the last layer take and give what the others do not, but not
//! the same with rows for columns. That one matrix lies so also shows in its bias, which is as long as its columns
//! where those of the matrices beside it are as long as their rows, or the other way round.

use std::collections::BTreeMap;

use super::missing::{LAYERS, Stack, WEIGHTS, numbered, stacks};
use super::{Check, Network, Rule, Ruling};
use crate::meaning::role::Role;
use crate::record::TensorRecord;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Matrices with biases that show how the others of their layer lie.
const LYING_ALIKE: usize = 2;

pub(super) const RULE: Rule = Rule {
    name: "unlike-shape",
    summary: "One weight of a layer has another shape than the same one in the other layers, or than its bias.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Whole(check),
};

fn check(network: &Network<'_>) -> Vec<Ruling> {
    if network.record.tensors.iter().any(TensorRecord::is_bare_codes) {
        return Vec::new();
    }
    let mut found: Vec<(String, Vec<u64>, Vec<u64>)> = Vec::new();
    let mut tell = |name: String, usual: &[u64], shape: &[u64]| {
        let (usual, found_as) = (usual.to_vec(), shape.to_vec());
        if !found.iter().any(|(told, ..)| *told == name) {
            found.push((name, usual, found_as));
        }
    };
    let by_bias = beside_biases(network);
    by_bias.iter().for_each(|t| tell(t.name.clone(), &turned(&t.shape), &t.shape));
    for stack in stacks(network).iter().filter(|stack| stack.is_of_layers()) {
        let blocks = &stack.blocks;
        let (Some(first), Some(last)) = (blocks.keys().next(), blocks.keys().next_back()) else { continue };
        let is_told = by_bias.iter().any(|t| t.name.starts_with(stack.before));
        if !is_told && let Some((name, shape)) = turned_at_end(stack) {
            tell(name, &turned(shape), shape);
        }
        if blocks.len() < LAYERS {
            continue;
        }
        // Of three layers the ends agree; kernels may be of a size for each.
        let of_three = blocks.len() == LAYERS;
        // Of each weight, the shape that all layers but one have.
        let mut shapes: BTreeMap<&str, BTreeMap<&[u64], usize>> = BTreeMap::new();
        for (after, shape) in blocks.values().flatten() {
            *shapes.entry(after).or_default().entry(shape).or_default() += 1;
        }
        let usual = |after: &str| {
            let (shape, times) = shapes[after].iter().max_by_key(|(_, times)| **times)?;
            (times + 1 == blocks.len()).then_some(*shape)
        };
        for (number, block) in blocks.iter().filter(|(n, _)| *n != first && *n != last) {
            let mut others = block.iter().filter_map(|(after, shape)| {
                let usual = usual(after)?;
                (usual != *shape).then_some((after, usual, shape))
            });
            let (Some((after, usual, shape)), None) = (others.next(), others.next()) else { continue };
            let dims = shape.len();
            if shape.contains(&0) || dims != usual.len() || dims < 2 || (of_three && dims != 2) {
                continue;
            }
            tell(format!("{}{number}.{after}", stack.before), usual, shape);
        }
    }
    let told = found.into_iter().filter_map(|(name, usual, found)| {
        Ruling::new(Verdict::Corrupt, Finding::UnlikeShape { name, usual, found })
    });
    told.collect()
}

fn turned(shape: &[u64]) -> Vec<u64> {
    shape.iter().rev().copied().collect()
}

/// The one matrix of the first or of the last layer that has rows for columns, while all else of that layer is as in the
/// others. Of two layers, the last is taken for the one that has.
fn turned_at_end<'r>(stack: &Stack<'r>) -> Option<(String, &'r [u64])> {
    let blocks = &stack.blocks;
    let ends = [blocks.last_key_value()?, blocks.first_key_value()?];
    ends.into_iter().find_map(|(number, block)| {
        let others = || blocks.iter().filter(|(n, _)| *n != number).map(|(_, other)| other);
        let unlike = |after: &&str| {
            let mut shapes = others().map(|other| other.get(*after));
            shapes.any(|shape| shape != block.get(*after))
        };
        let mut all = block.keys().filter(|after| unlike(after));
        let (Some(after), None) = (all.next(), all.next()) else { return None };
        let shape = block[*after];
        let reversed = turned(shape);
        let is_turned = others().all(|other| other.get(*after).is_some_and(|shape| **shape == reversed));
        (others().next().is_some() && block.len() >= WEIGHTS && shape.len() == 2 && is_turned)
            .then(|| (format!("{}{number}.{after}", stack.before), shape))
    })
}

/// Matrices that lie otherwise than all others of their layer, or of what stands in no layer, by the length of their bias.
fn beside_biases<'r>(network: &Network<'r>) -> Vec<&'r TensorRecord> {
    let mut layers: BTreeMap<(&str, Option<u64>), [Vec<&TensorRecord>; 2]> = BTreeMap::new();
    for matrix in network.record.tensors.iter().filter(|t| t.group == Group::Weights) {
        let [rows, cols] = matrix.shape[..] else { continue };
        if !matches!(matrix.role, Role::Matrix | Role::Head) || rows == cols || matrix.quantized.is_some() {
            continue;
        }
        let Some(module) = matrix.name.strip_suffix("weight") else { continue };
        let bias = network.named(&format!("{module}bias")).map(|bias| &bias.shape[..]);
        let Some([length]) = bias else { continue };
        let Some(lies) = [rows, cols].iter().position(|side| side == length) else { continue };
        let layer = numbered(&matrix.name).map_or(("", None), |(before, number, _)| (before, Some(number)));
        layers.entry(layer).or_default()[lies].push(matrix);
    }
    let odd = layers.into_values().filter_map(|[by_rows, by_cols]| match (&by_rows[..], &by_cols[..]) {
        (most, [one]) | ([one], most) if most.len() >= LYING_ALIKE => Some(*one),
        _ => None,
    });
    odd.collect()
}
