//! The partitions of the optimizers: flat vectors of which every rank has a part, and the ranges of them that each
//! parameter's weights and moments are.
//!
//! Up to stage 2 each group of parameters is one vector, of which every rank has an equal part. In stage 3 each parameter
//! is divided by itself: every rank has ⌈n / ranks⌉ of its n elements, one parameter after another.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::flat::{self, Flat};
use super::zero::{MOST_RANKS, Parameter};
use super::{Saved, dict, text};
use crate::format::add_new;
use crate::layout::tiles::Budget;
use crate::metadata::{HashableValue, Value, as_f64, as_u64, lookup};
use crate::storage::Storage;
use crate::tensor::{TensorInfo, numel};
use crate::torch::{PARAM_GROUPS, scalar};
use crate::{DType, Damage, DamageKind};

/// Where the flat vectors of weights are, up to stage 2 and in stage 3.
const MASTERS: [&str; 2] =
    ["optimizer_state_dict.single_partition_of_fp32_groups", "optimizer_state_dict.fp32_flat_groups"];
/// Where the wrapped optimizer keeps what it knows of each vector: as a state dict, in stage 3 one, or bare.
const STATES: [&str; 3] = [
    "optimizer_state_dict.base_optimizer_state.state",
    "optimizer_state_dict.optimizer_state_dict.state",
    "optimizer_state_dict.base_optimizer_state",
];
/// Where its settings are.
const GROUPS: [&str; 2] = [
    "optimizer_state_dict.base_optimizer_state.param_groups",
    "optimizer_state_dict.optimizer_state_dict.param_groups",
];
const PARTITIONS: &str = "optimizer_state_dict.partition_count";
/// States that an optimizer keeps of each parameter, at most.
const MOST_MOMENTS: usize = 16;

/// The states of all parameters, by what they are: `None` for the weights, else the name of a moment.
type Key = Option<String>;

/// The partitions of all ranks.
pub(super) struct Zero<'a> {
    parameters: &'a [Parameter],
    /// What each rank saved, or why it is not there.
    ranks: Vec<Result<&'a Saved, Damage>>,
    /// Whether each parameter is divided by itself.
    stage3: bool,
    /// Where the weights' vectors are.
    masters: &'static str,
    /// Groups that cannot be cut, and why.
    refused: BTreeMap<usize, Damage>,
}

impl<'a> Zero<'a> {
    /// Those that `files` have of `parameters`.
    pub fn of(
        files: &BTreeMap<usize, Result<&'a Saved, Damage>>,
        parameters: &'a [Parameter],
        faults: &mut Vec<Damage>,
    ) -> Self {
        let read: Vec<(usize, &Saved)> =
            files.iter().filter_map(|(&dp, saved)| Some((dp, *saved.as_ref().ok()?))).collect();
        let number = |saved: &Saved, key: &str| {
            let value = lookup(&saved.metadata, key)?;
            // Stages are members of an enumeration.
            as_u64(value).or_else(|| as_u64(lookup(value, "args.0")?))
        };
        let has = |key: &str| {
            let first = format!("{key}.0");
            read.iter().any(|(_, saved)| saved.tensor(&first).is_some())
        };
        let stages: BTreeSet<u64> =
            read.iter().filter_map(|(_, saved)| number(saved, "optimizer_state_dict.zero_stage")).collect();
        if stages.len() > 1 {
            let what = format!("the optimizer's files are of different stages of ZeRO: {stages:?}");
            faults.push(Damage::new(DamageKind::Inconsistent, what));
        }
        let stage3 = match stages.first() {
            Some(stage) => *stage == 3,
            None => !has(MASTERS[0]),
        };
        let count = |saved: &Saved| {
            let groups = parameters.iter().map(|p| group_count(saved, p.group)).max().flatten();
            groups.and_then(|count| usize::try_from(count).ok()).or_else(|| partition_count(saved))
        };
        let counts: BTreeSet<usize> = read.iter().filter_map(|(_, saved)| count(saved)).collect();
        if counts.len() > 1 {
            let what = format!("the optimizer's files say that there are {counts:?} ranks");
            faults.push(Damage::new(DamageKind::Inconsistent, what));
        }
        let last = files.keys().last().map_or(0, |last| last.saturating_add(1));
        // Of many more ranks than there are files, nothing is known.
        let most = files.len().saturating_mul(MOST_RANKS).max(1);
        let world = counts.last().copied().unwrap_or(last).clamp(1, most);
        let gone: Vec<usize> = (0..world).filter(|dp| !files.contains_key(dp)).collect();
        if let Some(first) = gone.first() {
            let what = format!(
                "{} of {world} files of the optimizer missing: that of rank {first}{}",
                gone.len(),
                if gone.len() > 1 { " and more" } else { "" }
            );
            faults.push(Damage::new(DamageKind::MissingShards, what));
        }
        if last > world {
            let what = format!(
                "the optimizer was divided over {world} ranks, and there is a file of rank {}: files of another save are among them",
                last - 1
            );
            faults.push(Damage::new(DamageKind::Inconsistent, what));
        }
        let of_rank = |dp: usize| match files.get(&dp) {
            Some(saved) => saved.clone(),
            None => {
                let what = format!("the optimizer's file of rank {dp} is missing");
                Err(Damage::new(DamageKind::MissingShards, what))
            }
        };
        let ranks: Vec<_> = (0..world).map(of_rank).collect();
        let masters = if stage3 { MASTERS[1] } else { MASTERS[0] };
        let mut zero = Zero { parameters, ranks, stage3, masters, refused: BTreeMap::new() };
        zero.check_steps(faults);
        zero.check_slices(faults);
        zero.check(faults);
        zero
    }

    /// The first rank's file that is there.
    fn first(&self) -> Option<&'a Saved> {
        self.ranks.iter().find_map(|rank| rank.as_ref().ok()).copied()
    }

    /// How many vectors each rank has.
    pub fn vectors(&self) -> usize {
        let there =
            |i: usize| self.first().is_some_and(|s| s.tensor(&format!("{}.{i}", self.masters)).is_some());
        (0..).find(|&i| !there(i)).unwrap_or(0)
    }

    /// Tells of ranks whose optimizers counted different steps: the files come from different saves.
    fn check_steps(&self, faults: &mut Vec<Damage>) {
        let mut steps =
            self.ranks.iter().enumerate().filter_map(|(dp, saved)| Some((dp, step(saved.as_ref().ok()?)?)));
        let Some((one, first)) = steps.next() else { return };
        if let Some((other, second)) = steps.find(|(_, step)| *step != first) {
            let what = format!(
                "the optimizer of rank {other} counted {second} steps, and that of rank {one} {first}: the files come from different saves"
            );
            faults.push(Damage::new(DamageKind::Inconsistent, what));
        }
    }

    /// The steps that the first rank's optimizer counted.
    pub fn counted(&self) -> Option<f64> {
        self.first().and_then(step)
    }

    /// Tells of ranks whose files say that they have the part of another rank: up to stage 2 they list which slice of each
    /// parameter is theirs.
    fn check_slices(&self, faults: &mut Vec<Damage>) {
        let read =
            || self.ranks.iter().enumerate().filter_map(|(dp, saved)| Some((dp, saved.as_ref().ok()?)));
        let stated: Vec<(usize, Slices<'_>)> =
            read().filter_map(|(dp, saved)| Some((dp, slices(saved)?))).collect();
        if self.stage3
            || stated.is_empty()
            || self.parameters.len().saturating_mul(self.ranks.len()) > MOST_SLICES
        {
            return;
        }
        let lens: BTreeMap<usize, usize> = self
            .parameters
            .iter()
            .map(|parameter| parameter.group)
            .collect::<BTreeSet<usize>>()
            .into_iter()
            .map(|group| (group, self.longest(group)))
            .collect();
        let of_rank: Vec<Slices<'_>> = (0..self.ranks.len()).map(|dp| self.slices_of(dp, &lens)).collect();
        for (dp, own) in &stated {
            let fits = |slices: &Slices<'_>| slices == own;
            if fits(&of_rank[*dp]) {
                continue;
            }
            // Which parameters a rank has may be counted in a way that is not known here.
            if let Some(other) = of_rank.iter().position(fits) {
                let what = format!(
                    "the optimizer's file of rank {dp} says that it has the part of rank {other}: files were given each other's names"
                );
                faults.push(Damage::new(DamageKind::Inconsistent, what));
            }
        }
    }

    /// The slices of parameters that rank `dp` has, where each rank's part of a group is as long as `lens` says.
    fn slices_of(&self, dp: usize, lens: &BTreeMap<usize, usize>) -> Slices<'a> {
        let mut offsets: BTreeMap<usize, usize> = BTreeMap::new();
        let mut own = Slices::new();
        for parameter in self.parameters {
            let offset = offsets.entry(parameter.group).or_default();
            let (from, to) = (*offset, offset.saturating_add(parameter.count));
            *offset = to.saturating_add(parameter.padding);
            let len = lens.get(&parameter.group).copied().unwrap_or(0);
            let first = len.saturating_mul(dp);
            let (start, end) = (from.max(first), to.min(first.saturating_add(len)));
            if start < end {
                own.insert((parameter.group, &parameter.name), (start - first, end - start));
            }
        }
        own
    }

    /// How many vectors the groups of all ranks may have, by the tensors that are in their files.
    fn most_vectors(&self) -> usize {
        self.ranks.iter().flatten().map(|saved| saved.tensors.len()).sum::<usize>().saturating_mul(64)
    }

    /// Refuses groups whose vectors are not as long as their parameters need.
    fn check(&mut self, faults: &mut Vec<Damage>) {
        let world = self.ranks.len();
        let groups: BTreeSet<usize> = self.parameters.iter().map(|p| p.group).collect();
        let refused: Vec<(usize, String)> = if groups.len().saturating_mul(world) > self.most_vectors() {
            let what = format!(
                "it has {} groups of parameters, which is out of proportion to its files",
                groups.len()
            );
            groups.into_iter().map(|group| (group, what.clone())).collect()
        } else if let Some(parameter) = self.parameters.iter().find(|p| numel(&p.shape).is_none()) {
            let what = format!(
                "the model states say that `{}` has the shape {:?}, which is more elements than can be counted",
                parameter.name.escape_debug(),
                parameter.shape
            );
            groups.into_iter().map(|group| (group, what.clone())).collect()
        } else if self.stage3 {
            let needed =
                self.parameters.iter().fold(0usize, |n, p| n.saturating_add(p.count.div_ceil(world)));
            let wrong =
                self.ranks.iter().enumerate().filter(|(_, saved)| saved.is_ok()).find_map(|(dp, _)| {
                    let there = self.of_rank(dp, &None).len();
                    (there != needed).then(|| {
                        format!("rank {dp} has {there} elements of the parameters, and {needed} are needed")
                    })
                });
            let all = |what: String| groups.iter().map(move |&group| (group, what.clone()));
            wrong.into_iter().flat_map(all).collect()
        } else {
            let mut needed: BTreeMap<usize, usize> = BTreeMap::new();
            for parameter in self.parameters {
                let sum = needed.entry(parameter.group).or_default();
                *sum = sum.saturating_add(parameter.count).saturating_add(parameter.padding);
            }
            // Vectors are padded so that they can be divided; how far is not said in all versions.
            let align = |n: usize| n.div_ceil(2 * world).saturating_mul(2 * world);
            let wrong = |(group, needed): (usize, usize)| {
                let divided = self.first().and_then(|saved| group_count(saved, group));
                if let Some(count) = divided.filter(|&count| count != world as u64) {
                    return Some((
                        group,
                        format!(
                            "group {group} is divided over {count} of {world} ranks, as experts are, which is not joined"
                        ),
                    ));
                }
                let there = self.of_group(group, &None).len();
                (align(there) != align(needed)).then(|| {
                    (
                        group,
                        format!(
                            "the ranks have {there} elements of group {group}, whose parameters have {needed}"
                        ),
                    )
                })
            };
            needed.into_iter().filter_map(wrong).collect()
        };
        for (group, what) in refused {
            let damage = Damage::new(DamageKind::Inconsistent, what);
            if !faults.contains(&damage) {
                faults.push(damage.clone());
            }
            self.refused.insert(group, damage);
        }
    }

    /// Where vector `i` of state `key` is in a rank's file.
    fn place(&self, saved: &Saved, i: usize, key: &Key) -> Option<String> {
        match key {
            None => Some(format!("{}.{i}", self.masters)),
            Some(key) => {
                let mut places = STATES.iter().map(|states| format!("{states}.{i}.{key}"));
                places.find(|place| saved.tensor(place).is_some())
            }
        }
    }

    fn vector(&self, saved: &Saved, i: usize, key: &Key) -> Option<TensorInfo> {
        saved.tensor(&self.place(saved, i, key)?).cloned()
    }

    /// Up to stage 2: elements of a group that each rank has. All parts are as long, but for what is padding at the end.
    fn longest(&self, group: usize) -> usize {
        let padded = |saved: &Saved| self.weights_of(saved, group)?.checked_add(padding(saved, group));
        self.ranks.iter().filter_map(|saved| padded(saved.as_ref().ok()?)).max().unwrap_or(0)
    }

    /// How many weights of a group are in a rank's file.
    fn weights_of(&self, saved: &Saved, group: usize) -> Option<usize> {
        Some(self.vector(saved, group, &None)?.numel() as usize)
    }

    /// Up to stage 2: what all ranks have of a group, one after another.
    fn of_group(&self, group: usize, key: &Key) -> Flat {
        let longest = self.longest(group);
        let mut flat = Flat::default();
        for (dp, saved) in self.ranks.iter().enumerate() {
            match saved {
                Err(damage) => flat.push(longest, Err(damage.clone())),
                Ok(saved) => match (self.vector(saved, group, key), self.weights_of(saved, group)) {
                    (Some(tensor), Some(len)) => {
                        let last = dp + 1 == self.ranks.len();
                        flat.push(len, Ok(without_padding(tensor, len, padding(saved, group), last)));
                    }
                    (tensor, len) => {
                        let lost = if tensor.is_some() { "the weights next to it" } else { "it" };
                        let what = format!("the optimizer's file of rank {dp} does not hold {lost}");
                        flat.push(len.unwrap_or(longest), Err(Damage::new(DamageKind::StorageLost, what)));
                    }
                },
            }
        }
        flat
    }

    /// In stage 3: all that rank `dp` has, one vector after another.
    fn of_rank(&self, dp: usize, key: &Key) -> Flat {
        let mut flat = Flat::default();
        match &self.ranks[dp] {
            Err(damage) => {
                let needed = self.parameters.iter().map(|p| p.count.div_ceil(self.ranks.len()));
                flat.push(needed.fold(0, usize::saturating_add), Err(damage.clone()));
            }
            Ok(saved) => {
                for i in 0..self.vectors() {
                    let weights = self.vector(saved, i, &None);
                    let len = weights.map_or(0, |tensor| tensor.numel() as usize);
                    let what = || format!("the optimizer's file of rank {dp} does not hold it");
                    let lost = || Damage::new(DamageKind::StorageLost, what());
                    flat.push(len, self.vector(saved, i, key).ok_or_else(lost));
                }
            }
        }
        flat
    }

    /// The state `key` of every parameter.
    fn state(&self, key: &Key, budget: &mut Budget, mut made: impl FnMut(usize, TensorInfo)) {
        // By group, or by rank where each parameter is divided by itself.
        let flats: BTreeMap<usize, Flat> = match self.stage3 {
            true => (0..self.ranks.len()).map(|dp| (dp, self.of_rank(dp, key))).collect(),
            false => {
                let groups: BTreeSet<usize> = self.parameters.iter().map(|p| p.group).collect();
                let whole = groups.into_iter().filter(|group| !self.refused.contains_key(group));
                whole.map(|group| (group, self.of_group(group, key))).collect()
            }
        };
        let dtype = flats.values().find_map(Flat::dtype).unwrap_or(DType::F32);
        let mut offsets: BTreeMap<usize, usize> = BTreeMap::new();
        for (i, parameter) in self.parameters.iter().enumerate() {
            let offset = offsets.entry(if self.stage3 { 0 } else { parameter.group }).or_default();
            let mut tiles = Vec::new();
            let mut refused = self.refused.get(&parameter.group).cloned();
            if self.stage3 {
                if !budget.pay(flats.len() as u64) {
                    let what = "its parameters are divided over ranks out of proportion to their bytes";
                    refused.get_or_insert(Damage::new(DamageKind::Inconsistent, what));
                }
                let share = parameter.count.div_ceil(self.ranks.len());
                for (&dp, flat) in flats.iter().filter(|_| refused.is_none()) {
                    let start = share.saturating_mul(dp).min(parameter.count);
                    flat.cut(*offset, share.min(parameter.count - start), start, &mut tiles);
                }
                *offset = offset.saturating_add(share);
            } else {
                if let Some(flat) = flats.get(&parameter.group) {
                    flat.cut(*offset, parameter.count, 0, &mut tiles);
                }
                *offset = offset.saturating_add(parameter.count).saturating_add(parameter.padding);
            }
            let mut tensor = flat::tensor(String::new(), dtype, &parameter.shape, tiles, budget);
            if let Some(damage) = refused {
                tensor.storage = Some(Storage::missing(damage.clone(), tensor.byte_len().unwrap_or(0)));
                tensor.damage = Some(damage);
            }
            made(i, tensor);
        }
    }

    pub fn weights(&self, budget: &mut Budget, made: &mut HashMap<String, TensorInfo>) {
        self.state(&None, budget, |i, tensor| {
            let name = self.parameters[i].name.clone();
            made.insert(name.clone(), TensorInfo { name, ..tensor });
        });
    }

    /// The moments of every parameter, and what the optimizer counts for each; the first one is of number `from`.
    pub fn moments(&self, from: usize, budget: &mut Budget, out: &mut Vec<TensorInfo>) {
        let Some(saved) = self.first() else { return };
        let mut keys: Vec<String> = Vec::new();
        let mut counters: BTreeMap<(usize, &str), &TensorInfo> = BTreeMap::new();
        for tensor in &saved.tensors {
            let state = |states: &&str| tensor.name.strip_prefix(*states)?.strip_prefix('.')?.split_once('.');
            let numbered = |states| state(states).and_then(|(i, key)| Some((i.parse::<usize>().ok()?, key)));
            match STATES.iter().find_map(numbered) {
                Some((_, key)) if tensor.shape.len() == 1 && !key.contains('.') => {
                    add_new(&mut keys, [key.to_string()]);
                }
                Some((i, key)) if tensor.shape.is_empty() => drop(counters.insert((i, key), tensor)),
                _ => {}
            }
        }
        // No optimizer keeps more of a parameter.
        for key in keys.into_iter().take(MOST_MOMENTS) {
            self.state(&Some(key.clone()), budget, |i, tensor| {
                out.push(TensorInfo { name: format!("optimizer.state.{}.{key}", from + i), ..tensor });
            });
        }
        let counter = |i: usize, parameter: &Parameter| {
            let vector = if self.stage3 { 0 } else { parameter.group };
            let of_vector = counters.range((vector, "")..).take_while(move |((v, _), _)| *v == vector);
            of_vector.take(MOST_MOMENTS).map(move |((_, key), tensor)| TensorInfo {
                name: format!("optimizer.state.{}.{key}", from + i),
                ..(*tensor).clone()
            })
        };
        out.extend(self.parameters.iter().enumerate().flat_map(|(i, parameter)| counter(i, parameter)));
    }

    /// The optimizer's plain values, as one has them that drives `parameters` themselves.
    pub fn plain(&self, parameters: &[&Parameter]) -> Value {
        let Some(saved) = self.first() else { return Value::Dict(BTreeMap::new()) };
        let groups = GROUPS.iter().find_map(|groups| match lookup(&saved.metadata, groups)? {
            Value::List(groups) | Value::Tuple(groups) => Some(groups.as_slice()),
            _ => None,
        });
        let groups = grouped(groups.unwrap_or(&[]), parameters);
        let counted = |(i, parameter): (usize, &&Parameter)| {
            let vector = if self.stage3 { 0 } else { parameter.group };
            let step = STATES
                .iter()
                .find_map(|states| lookup(&saved.metadata, &format!("{states}.{vector}.step")))?;
            as_f64(step)?;
            Some((HashableValue::I64(i as i64), dict([("step", step.clone())])))
        };
        let state = parameters.iter().enumerate().filter_map(counted).collect();
        dict([(PARAM_GROUPS, groups), ("state", Value::Dict(state))])
    }
}

/// The steps that an optimizer counted.
fn step(saved: &Saved) -> Option<f64> {
    STATES.iter().find_map(|states| {
        let key = format!("{states}.0.step");
        let tensor = || scalar(saved.tensor(&key)?.dtype, &saved.tensor(&key)?.bytes().ok()?);
        lookup(&saved.metadata, &key).and_then(as_f64).or_else(|| as_f64(&tensor()?))
    })
}

/// The first `len` elements of a rank's vector `tensor`, if the others are padding, which is at the end of the last
/// rank's: of weights it is not saved, of moments it may be.
fn without_padding(tensor: TensorInfo, len: usize, padding: usize, last: bool) -> TensorInfo {
    match tensor.shape[..] {
        [own] if own > len && (last || Some(own) == len.checked_add(padding)) => {
            TensorInfo { shape: vec![len], ..tensor }
        }
        _ => tensor,
    }
}

/// How many elements of padding end the part of a group that a rank has.
fn padding(saved: &Saved, group: usize) -> usize {
    let padding = lookup(&saved.metadata, &format!("optimizer_state_dict.group_paddings.{group}"));
    padding.and_then(as_u64).and_then(|padding| usize::try_from(padding).ok()).unwrap_or(0)
}

/// The slices of parameters that a rank has, by group and name: the first element in its part, and how many.
type Slices<'s> = BTreeMap<(usize, &'s str), (usize, usize)>;
/// Parameters times ranks whose slices are compared, at most.
const MOST_SLICES: usize = 1 << 22;

/// The slices that a rank's file says it has.
fn slices(saved: &Saved) -> Option<Slices<'_>> {
    let Value::List(groups) = lookup(&saved.metadata, "optimizer_state_dict.param_slice_mappings")? else {
        return None;
    };
    let mut slices = Slices::new();
    for (group, mapping) in groups.iter().enumerate() {
        let Value::Dict(entries) = mapping else { return None };
        for (name, slice) in entries {
            let number = |key: &str| usize::try_from(as_u64(lookup(slice, key)?)?).ok();
            let (HashableValue::String(name), Some(start), Some(count)) =
                (name, number("start"), number("numel"))
            else {
                return None;
            };
            if count > 0 {
                slices.insert((group, name), (start, count));
            }
        }
    }
    (!slices.is_empty()).then_some(slices)
}

/// How many ranks the optimizer in `saved` was divided over.
pub(super) fn partition_count(saved: &Saved) -> Option<usize> {
    let count = match lookup(&saved.metadata, PARTITIONS)? {
        // For each group: experts are divided over fewer.
        Value::List(counts) => counts.iter().filter_map(as_u64).max()?,
        count => as_u64(count)?,
    };
    usize::try_from(count).ok()
}

/// How many ranks group `group` was divided over, where that is said of each.
pub(super) fn group_count(saved: &Saved, group: usize) -> Option<u64> {
    match lookup(&saved.metadata, PARTITIONS)? {
        Value::List(counts) => counts.get(group).and_then(as_u64),
        _ => None,
    }
}

/// The settings of an optimizer's groups, with the parameters whose vectors each has.
pub(super) fn grouped(groups: &[Value], parameters: &[&Parameter]) -> Value {
    let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
    for (i, parameter) in parameters.iter().enumerate() {
        members.entry(parameter.group).or_default().push(i);
    }
    let with_parameters = |(i, group): (usize, &Value)| {
        let mut group = group.clone();
        let vectors: BTreeSet<usize> = match lookup(&group, "params") {
            Some(Value::List(vectors)) => {
                vectors.iter().filter_map(|v| usize::try_from(as_u64(v)?).ok()).collect()
            }
            _ => BTreeSet::from([i]),
        };
        // Each is in one group, whatever several say.
        let own: Vec<usize> = vectors.iter().filter_map(|vector| members.remove(vector)).flatten().collect();
        if let Value::Dict(entries) = &mut group {
            let numbers = own.iter().map(|&i| Value::I64(i as i64)).collect();
            let names = own.iter().map(|&i| Value::String(parameters[i].name.clone())).collect();
            entries.insert(text("params"), Value::List(numbers));
            entries.insert(text("param_names"), Value::List(names));
        }
        group
    };
    Value::List(groups.iter().enumerate().map(with_parameters).collect())
}
