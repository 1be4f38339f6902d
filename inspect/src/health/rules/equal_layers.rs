//! Two layers that are the same to the last bit: one was loaded twice, or copied over another. Elements are
//! not compared: measurements that agree in every bit are taken for them.

use std::collections::HashMap;

use super::{Check, Network, Rule, Ruling, Tell};
use crate::meaning::role::Role;
use crate::record::Stats;
use crate::verdict::{Finding, Verdict};

/// Fewer elements may agree by chance.
const ENOUGH: u64 = 256;

pub(super) const RULE: Rule = Rule {
    name: "equal-layers",
    summary: "A matrix measures the same as in another layer, to the last bit.",
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    for family in &network.families {
        let mut known: HashMap<[u64; 6], usize> = HashMap::new();
        for &i in family {
            let tensor = network.tensor(i);
            let judged = matches!(tensor.role, Role::Matrix | Role::Convolution | Role::Codes);
            // Tied on purpose: one storage.
            let Some(stats) = tensor.stats.as_ref().filter(|_| judged && tensor.shared_with.is_empty())
            else {
                continue;
            };
            let Some(key) = key(stats) else { continue };
            match known.get(&key) {
                Some(&first) => {
                    let other = network.tensor(first).name.clone();
                    found(i, Ruling::new(Verdict::Dead, Finding::EqualLayers { other }));
                }
                None => drop(known.insert(key, i)),
            }
        }
    }
}

/// What equal elements have in common; `None` for too few of them, and where all are one value.
fn key(stats: &Stats) -> Option<[u64; 6]> {
    let (mean, std, min, max, abs) = (stats.mean?, stats.std?, stats.min?, stats.max?, stats.abs_mean?);
    (stats.count >= ENOUGH && min < max)
        .then(|| [stats.count, mean.to_bits(), std.to_bits(), min.to_bits(), max.to_bits(), abs.to_bits()])
}
