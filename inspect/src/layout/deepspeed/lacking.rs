//! Files of a save that are not there, by what those that are there say.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::kind::Kind;
use super::pipeline;
use super::zero::{self, Rank};
use crate::metadata::{HashableValue, Value, as_u64, lookup};
use crate::torch::PARAM_GROUPS;
use crate::{Damage, DamageKind};

/// How many model-parallel ranks there should be, of which files of those that are `there` were found.
pub(super) fn model_parallel_ranks(there: &BTreeSet<usize>, ranks: &BTreeMap<usize, Rank>) -> usize {
    let last = there.last().map_or(0, |last| last.saturating_add(1));
    let models = ranks.values().flat_map(|rank| rank.models.values());
    let said = models.filter_map(|saved| lookup(&saved.metadata, "mp_world_size").and_then(as_u64)).max();
    said.and_then(|said| usize::try_from(said).ok()).map_or(last, |said| said.max(last))
}

/// Tells of model-parallel ranks of which there is no file.
pub(super) fn missing_ranks(there: &BTreeSet<usize>, world: usize) -> Option<Damage> {
    let gone = world.saturating_sub(there.len());
    let first = (0..world).find(|rank| !there.contains(rank)).filter(|_| !there.is_empty())?;
    let more = if gone > 1 { " and more" } else { "" };
    let what =
        format!("the files of {gone} of {world} model-parallel ranks missing: those of rank {first}{more}");
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// Tells of model-parallel ranks of which there are model states, and of the optimizer's files only those of others.
pub(super) fn missing_optimizers(ranks: &BTreeMap<usize, Rank>) -> Option<Damage> {
    let stated =
        |rank: &Rank| rank.models.values().next().is_some_and(|saved| !zero::parameters(saved).is_empty());
    let mut without = ranks.iter().filter(|(_, rank)| rank.optimizers.is_empty() && stated(rank));
    let (first, _) = without.next().filter(|_| ranks.values().any(|rank| !rank.optimizers.is_empty()))?;
    let more = if without.next().is_some() { " and more" } else { "" };
    let what = format!("the optimizer's files of model-parallel ranks missing: those of rank {first}{more}");
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// Tells of layers of a pipeline that some model-parallel ranks have files of, and others not.
pub(super) fn missing_layers(names: &[String]) -> Option<Damage> {
    let mut layers: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for name in names {
        if let Some(Kind::Layer { layer, mp }) = Kind::of(name) {
            layers.entry(layer).or_default().insert(mp);
        }
    }
    let all: BTreeSet<usize> = layers.values().flatten().copied().collect();
    let mut gone = layers.iter().filter(|(_, ranks)| ranks.len() < all.len());
    let (layer, ranks) = gone.next()?;
    let rank = all.difference(ranks).next()?;
    let more = if gone.next().is_some() { " and more" } else { "" };
    let what = format!("files of layers missing: that of layer {layer} of model-parallel rank {rank}{more}");
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// Experts of a layer, and optimizers of experts, that are believed where no file of them is there.
const MOST_EXPERTS: usize = 1 << 16;

/// Tells of experts of a layer of which there is no file: model states say how many each layer has, and files are
/// numbered.
pub(super) fn missing_experts(
    names: &[String],
    there: &BTreeSet<usize>,
    ranks: &BTreeMap<usize, Rank>,
) -> Option<Damage> {
    type Place = (Option<usize>, usize);
    let mut layers: BTreeMap<Place, BTreeSet<usize>> = BTreeMap::new();
    for name in names {
        if let Some(Kind::Expert { layer, expert, mp }) = Kind::of(name) {
            layers.entry((layer, mp)).or_default().insert(expert);
        }
    }
    let models = ranks.values().flat_map(|rank| rank.models.values());
    let stated = models.filter_map(|saved| match lookup(&saved.metadata, "num_experts")? {
        Value::List(counts) => Some(counts.iter().map(|n| as_u64(n).unwrap_or(0) as usize).collect()),
        _ => None,
    });
    let stated: Vec<usize> = stated.max_by_key(Vec::len).unwrap_or_default();
    // Older versions number the experts of the only layer that has any.
    let numbered = layers.keys().any(|(layer, _)| layer.is_some()) || layers.is_empty();
    for mp in there {
        for layer in 0..stated.len() {
            let layer = numbered.then_some(layer);
            layers.entry((layer, *mp)).or_default();
        }
    }
    let count = |layer: &Option<usize>, experts: &BTreeSet<usize>| {
        let stated = match layer {
            Some(layer) => stated.get(*layer).copied(),
            None => stated.iter().max().copied(),
        };
        let last = experts.last().map_or(0, |last| last.saturating_add(1));
        stated.unwrap_or(0).min(MOST_EXPERTS).max(last)
    };
    let mut gone = layers.iter().filter_map(|((layer, _), experts)| {
        Some((layer, (0..count(layer, experts)).find(|expert| !experts.contains(expert))?))
    });
    let (layer, expert) = gone.next()?;
    let of = layer.map(|layer| format!(" of layer {layer}")).unwrap_or_default();
    let more = if gone.next().is_some() { " and more" } else { "" };
    let what = format!("files of experts missing: that of expert {expert}{of}{more}");
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// Tells of optimizers of experts of which there is no file: the groups of parameters are named after the number of ranks
/// that share the experts.
pub(super) fn missing_expert_optimizers<'v>(
    names: &[String],
    optimizers: impl Iterator<Item = &'v Value>,
) -> Option<Damage> {
    let mut files: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for name in names {
        if let Some(Kind::Experts { rank, mp }) = Kind::of(name) {
            files.entry(mp).or_default().insert(rank);
        }
    }
    let stated = optimizers.filter_map(|value| expert_ranks(value, 0)).max().unwrap_or(0);
    if stated > 0 {
        files.entry(0).or_default();
    }
    let count = |ranks: &BTreeSet<usize>| stated.max(ranks.last().map_or(0, |last| last.saturating_add(1)));
    let mut gone = files.values().filter_map(|ranks| (0..count(ranks)).find(|rank| !ranks.contains(rank)));
    let first = gone.next()?;
    let more = if gone.next().is_some() { " and more" } else { "" };
    let what = format!("files of the optimizers of experts missing: that of rank {first}{more}");
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// How many ranks share the experts, by the names of groups of parameters in an optimizer's state.
fn expert_ranks(value: &Value, depth: usize) -> Option<usize> {
    /// Optimizers are wrapped in one another.
    const DEEPEST: usize = 4;
    let Value::Dict(entries) = value else { return None };
    let size = |group: &Value| match (lookup(group, "moe"), lookup(group, "name")) {
        (Some(Value::Bool(true)), Some(Value::String(name))) => {
            let size: usize = name.strip_prefix("ep_size_")?.parse().ok()?;
            (size <= MOST_EXPERTS).then_some(size)
        }
        _ => None,
    };
    if let Some(Value::List(groups)) = lookup(value, PARAM_GROUPS) {
        return groups.iter().filter_map(size).max();
    }
    let inner = entries.iter().filter(|(key, _)| matches!(key, HashableValue::String(_)));
    let mut inner = inner.filter(|_| depth < DEEPEST).map(|(_, value)| value);
    inner.find_map(|value| expert_ranks(value, depth + 1))
}

/// Tells of layers of a pipeline of which there is no file. With ZeRO model states name the parameters of every layer;
/// without, each stage's optimizer has as many parameters as its layers.
pub(super) fn missing_stages(
    names: &[String],
    tensor: usize,
    ranks: &BTreeMap<usize, Rank>,
) -> Option<Damage> {
    let files: BTreeSet<(usize, usize)> = names
        .iter()
        .filter_map(|name| match Kind::of(name)? {
            Kind::Layer { layer, mp } => Some((layer, mp)),
            _ => None,
        })
        .collect();
    let mut gone = BTreeSet::new();
    for (mp, rank) in ranks {
        let Some(first) = rank.models.values().next().filter(|first| zero::module(first).is_empty()) else {
            continue;
        };
        let parameters = zero::parameters(first);
        let layers = parameters.iter().filter_map(|parameter| pipeline::layer_of(&parameter.name));
        gone.extend(layers.map(|layer| (layer, mp % tensor)).filter(|place| !files.contains(place)));
    }
    let (layer, _) = gone.first()?;
    let more = if gone.len() > 1 { " and more" } else { "" };
    let what = format!("files of layers of the pipeline missing: that of layer {layer}{more}");
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// Tells of layers whose parameters the optimizers of a pipeline's stages keep moments of, and of which no file is there.
pub(super) fn uncounted_layers<'l>(
    names: &[String],
    layers: impl Iterator<Item = &'l [usize]>,
    ranks: &BTreeMap<usize, Rank>,
) -> Option<Damage> {
    let mut there: HashMap<&[usize], usize> = HashMap::new();
    for shape in layers {
        *there.entry(shape).or_default() += 1;
    }
    let mut needed: HashMap<&[usize], usize> = HashMap::new();
    // What several stages share is the same in each.
    let mut seen: HashMap<(&[usize], u32), usize> = HashMap::new();
    let staged = ranks.iter().filter_map(|(mp, rank)| Some((*mp, rank.models.values().next()?)));
    for (mp, saved) in staged.filter(|(_, saved)| zero::module(saved).is_empty()) {
        if !zero::parameters(saved).is_empty() {
            return None;
        }
        for tensor in pipeline::moments(saved) {
            let checksum = tensor.storage.as_ref().and_then(|storage| storage.crc32())?;
            if *seen.entry((&tensor.shape, checksum)).or_insert(mp) == mp {
                *needed.entry(&tensor.shape).or_default() += 1;
            }
        }
    }
    let missing: usize = needed
        .iter()
        .map(|(shape, count)| count.saturating_sub(there.get(shape).copied().unwrap_or(0)))
        .sum();
    if missing == 0 {
        return None;
    }
    let numbers: BTreeSet<usize> = names
        .iter()
        .filter_map(|name| match Kind::of(name)? {
            Kind::Layer { layer, .. } => Some(layer),
            _ => None,
        })
        .collect();
    let skipped = (0..numbers.last().copied().unwrap_or(0)).find(|layer| !numbers.contains(layer));
    let such = skipped.map(|layer| format!(", such as that of layer {layer}")).unwrap_or_default();
    let what = format!(
        "files of layers of the pipeline missing{such}: the optimizers of its stages have moments of {missing} parameters that no layer has"
    );
    Some(Damage::new(DamageKind::MissingShards, what))
}
