//! A weight of another shape than the same one in the other layers. A layer of another size is so in several of its weights;
//! one alone fits nothing that stands beside it. The first and the last layer take and give what the others do not.

use std::collections::BTreeMap;

use super::missing::{LAYERS, stacks};
use super::{Check, Network, Rule, Ruling};
use crate::record::TensorRecord;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "unlike-shape",
    summary: "One weight of a layer has another shape than the same one in the other layers.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Whole(check),
};

fn check(network: &Network<'_>) -> Vec<Ruling> {
    if network.record.tensors.iter().any(TensorRecord::is_bare_codes) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for stack in stacks(network).iter().filter(|stack| stack.is_of_layers()) {
        let blocks = &stack.blocks;
        let (Some(first), Some(last)) = (blocks.keys().next(), blocks.keys().next_back()) else { continue };
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
            found.extend(Ruling::new(
                Verdict::Corrupt,
                Finding::UnlikeShape {
                    name: format!("{}{number}.{after}", stack.before),
                    usual: usual.to_vec(),
                    found: shape.to_vec(),
                },
            ));
        }
    }
    found
}
