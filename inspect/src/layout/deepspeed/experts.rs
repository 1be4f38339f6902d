//! Experts that not all ranks have. Their weights are in files of their own, under the module's names, with their number among
//! all ranks' experts; in a rank's own files they are numbered from zero. Ranks share the experts evenly and in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::kind::{self, Kind};
use super::partitions::{self, Zero};
use super::zero::{self, Parameter, Rank};
use super::{Saved, text};
use crate::layout::copies;
use crate::layout::tiles::Budget;
use crate::metadata::{Value, as_u64, lookup};
use crate::tensor::TensorInfo;
use crate::torch::PARAM_GROUPS;
use crate::{Damage, Notice, NoticeKind};

/// What stands before the number of an expert in the names of its parameters.
const EXPERTS: &str = ".deepspeed_experts.";

/// The name of a parameter of a rank's expert, taken apart at the expert's number.
fn numbered(name: &str) -> Option<(&str, usize, &str)> {
    let (before, rest) = name.split_once(EXPERTS)?;
    let (number, after) = rest.split_once('.')?;
    Some((before, kind::number(number)?, after))
}

/// Takes the parameters of experts that each rank has others of from `parameters`.
pub(super) fn taken(
    optimizer: &Saved,
    module: &[(&str, &TensorInfo)],
    parameters: &mut Vec<Parameter>,
) -> Vec<Parameter> {
    let known: BTreeSet<&str> = module.iter().map(|(name, _)| *name).collect();
    let Some(all) = partitions::partition_count(optimizer) else { return Vec::new() };
    let divided = |parameter: &mut Parameter| {
        let count = partitions::group_count(optimizer, parameter.group);
        count.is_some_and(|count| count < all as u64) && known.contains(parameter.name.as_str())
    };
    parameters.extract_if(.., divided).collect()
}

/// What is left out where the optimizers of experts, which have `parameters`, cannot be joined.
pub(super) fn left_out(parameters: &[Parameter]) -> Option<Notice> {
    let first = parameters.first()?;
    let text = format!(
        "each rank has the optimizer of some experts, which are not joined: their fp32 weights and moments, those of {} parameters in each rank such as `{}`, are left out, and the weights of experts are the module's own",
        parameters.len(),
        first.name.escape_debug()
    );
    Some(Notice::new(NoticeKind::NotShown, text))
}

/// Which of all files has partition `i` of `count` that ranks of part `part` of `sharing` save: `order(part, i, sharing, count)`.
type Order = fn(usize, usize, usize, usize) -> usize;

/// The optimizers of experts, joined: what each rank's `parameters` are called among those of all ranks.
pub(super) struct Joined {
    pub parameters: Vec<Parameter>,
    pub moments: Vec<TensorInfo>,
    pub faults: Vec<Damage>,
}

/// Joins the partitions that the files of `rank` have of experts, whose parameters are `own` in each rank; they are numbered
/// from `first` on, and their weights added to `made`. Which ranks have the same experts is not said: the `module`'s own
/// copies tell, without which they are not joined.
pub(super) fn joined(
    rank: &Rank,
    own: &[Parameter],
    module: &[(&str, &TensorInfo)],
    first: usize,
    budget: &mut Budget,
    made: &mut HashMap<String, TensorInfo>,
) -> Option<Joined> {
    let saved: Vec<&Saved> =
        rank.optimizers.values().map(|saved| saved.as_ref().ok()).collect::<Option<_>>()?;
    let world = partitions::partition_count(saved.first()?)?;
    let counts: BTreeSet<u64> =
        own.iter().map(|p| partitions::group_count(saved[0], p.group)).collect::<Option<_>>()?;
    let &[count] = &counts.into_iter().collect::<Vec<_>>()[..] else { return None };
    let count = usize::try_from(count).ok().filter(|&count| count > 0 && world.is_multiple_of(count))?;
    if !rank.optimizers.keys().copied().eq(0..world) {
        return None;
    }
    let sharing = world / count;
    let mut held: HashMap<&str, usize> = HashMap::new();
    for parameter in own {
        let (before, number, _) = numbered(&parameter.name)?;
        let held = held.entry(before).or_default();
        *held = (*held).max(number.checked_add(1)?);
    }
    let shapes: HashMap<&str, &[usize]> =
        module.iter().map(|(name, t)| (*name, t.shape.as_slice())).collect();
    let mut of_ranks: Vec<Vec<Parameter>> = Vec::new();
    for part in 0..sharing {
        let called = |parameter: &Parameter| {
            let (before, number, after) = numbered(&parameter.name)?;
            let number = held[before].checked_mul(part)?.checked_add(number)?;
            let name = format!("{before}{EXPERTS}{number}.{after}");
            let known = shapes.get(name.as_str()) == Some(&parameter.shape.as_slice());
            known.then(|| Parameter { name, shape: parameter.shape.clone(), ..*parameter })
        };
        of_ranks.push(own.iter().map(called).collect::<Option<_>>()?);
    }
    // Those with the same experts are as far apart as there are others, or beside each other.
    let orders: [Order; 2] = [|part, i, sharing, _| i * sharing + part, |part, i, _, count| part * count + i];
    orders
        .into_iter()
        .find_map(|order| {
            let (mut weights, mut faults) = (HashMap::new(), Vec::new());
            let zeros: Vec<Zero<'_>> = of_ranks
                .iter()
                .enumerate()
                .map(|(part, parameters)| {
                    let files = (0..count).map(|i| (i, Ok(saved[order(part, i, sharing, count)])));
                    Zero::of(&files.collect(), parameters, &mut faults)
                })
                .collect();
            zeros.iter().for_each(|zero| zero.weights(budget, &mut weights));
            let compared = of_ranks.iter().map(|parameters| zero::compared(parameters, &weights, module));
            if !compared.into_iter().all(|compared| compared.count > 0 && compared.damage("").is_none()) {
                return None;
            }
            let mut moments = Vec::new();
            for (part, zero) in zeros.iter().enumerate() {
                zero.moments(first + part * own.len(), budget, &mut moments);
            }
            made.extend(weights);
            Some((moments, faults))
        })
        .map(|(moments, faults)| Joined {
            parameters: of_ranks.into_iter().flatten().collect(),
            moments,
            faults,
        })
}

/// A layer and one of its experts.
type Place = (Option<usize>, usize);

/// What experts' files hold, by layer and expert: names and shapes in their order.
pub(super) type Files = BTreeMap<Place, Vec<(String, Vec<usize>)>>;

/// The optimizers without ZeRO that files of experts have, by what these are called, joined with that of the model states:
/// each has what all ranks have, and its own experts' states. Those that cannot be joined remain in `optimizers`.
pub(super) fn add_whole(
    optimizers: &mut Vec<(String, Saved)>,
    files: &BTreeMap<usize, Files>,
    ranks: &mut BTreeMap<usize, Rank>,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (mp, files) in files {
        let Some(model) = ranks.get_mut(mp).and_then(|rank| rank.models.values_mut().next()) else {
            continue;
        };
        let place = |stem: &str| match Kind::of(&format!("{stem}.pt")) {
            Some(Kind::Experts { rank, mp: own }) if own == *mp => Some(rank),
            _ => None,
        };
        let own: BTreeMap<usize, &Saved> =
            optimizers.iter().filter_map(|(stem, saved)| Some((place(stem)?, saved))).collect();
        if let Some(whole) = whole(model, &own, files, &mut notices) {
            model.tensors.extend(whole.tensors);
            model.numbers = model.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
            if let Value::Dict(entries) = &mut model.metadata {
                entries.insert(text("optimizer"), whole.values);
            }
            optimizers.retain(|(stem, _)| place(stem).is_none());
        }
    }
    notices
}

/// An optimizer of all experts: the tensors that the first rank's does not have, and its plain values.
struct Whole {
    tensors: Vec<TensorInfo>,
    values: Value,
}

/// An optimizer's numbers of parameters, of experts and others.
struct Numbers {
    experts: Vec<u64>,
    others: Vec<u64>,
}

impl Numbers {
    /// Those that an optimizer with these plain `values` has; nothing if the groups of experts differ in more than their
    /// parameters, so that these need not be in the model's order.
    fn of(values: &Value) -> Option<Self> {
        let Some(Value::List(groups)) = lookup(values, PARAM_GROUPS) else { return None };
        let (mut numbers, mut settings) = (Numbers { experts: Vec::new(), others: Vec::new() }, Vec::new());
        for group in groups {
            let Some(Value::List(own)) = lookup(group, "params") else { return None };
            let own: Vec<u64> = own.iter().map(as_u64).collect::<Option<_>>()?;
            if is_of_experts(group) {
                let Value::Dict(mut entries) = group.clone() else { return None };
                entries.remove(&text("params"));
                settings.push(entries);
                numbers.experts.extend(own);
            } else {
                numbers.others.extend(own);
            }
        }
        settings.windows(2).all(|pair| pair[0] == pair[1]).then_some(numbers)
    }
}

fn is_of_experts(group: &Value) -> bool {
    matches!(lookup(group, "moe"), Some(Value::Bool(true)))
}

/// The states of parameter `number` in `saved`.
fn states(saved: &Saved, number: u64) -> impl Iterator<Item = (&TensorInfo, &str)> {
    let prefix = format!("optimizer.state.{number}.");
    saved.tensors.iter().filter_map(move |tensor| {
        let key = tensor.name.strip_prefix(prefix.as_str())?;
        Some((tensor, key))
    })
}

/// Whether `saved` keeps states of `number` that are of `shape`.
fn is_of_shape(saved: &Saved, number: u64, shape: &[usize]) -> bool {
    let mut any = false;
    states(saved, number).filter(|(tensor, _)| !tensor.shape.is_empty()).all(|(tensor, _)| {
        any = true;
        tensor.shape == shape
    }) && any
}

/// Joins the optimizer in the model states with those of `ranks`, which share the experts in `files`.
fn whole(
    model: &Saved,
    ranks: &BTreeMap<usize, &Saved>,
    files: &Files,
    notices: &mut Vec<Notice>,
) -> Option<Whole> {
    let sharing = ranks.len();
    if sharing < 2 || !ranks.keys().copied().eq(0..sharing) {
        return None;
    }
    let values = lookup(&model.metadata, "optimizer")?;
    let first = Numbers::of(values)?;
    let mut layers: BTreeMap<Option<usize>, usize> = BTreeMap::new();
    for (layer, expert) in files.keys() {
        let count = layers.entry(*layer).or_default();
        *count = (*count).max(expert.checked_add(1)?);
    }
    // In the model's order, and where each rank's begin.
    let all: Vec<(&Place, &(String, Vec<usize>))> =
        files.iter().flat_map(|(place, own)| own.iter().map(move |tensor| (place, tensor))).collect();
    let holder = |(layer, expert): &Place| {
        let held = layers[layer] / sharing;
        (layers[layer].is_multiple_of(sharing) && held > 0).then(|| expert / held)
    };
    let mut of_rank: Vec<Vec<usize>> = vec![Vec::new(); sharing];
    for (at, (place, _)) in all.iter().enumerate() {
        of_rank.get_mut(holder(place)?)?.push(at);
    }
    let mut next = first.experts.iter().chain(&first.others).max()?.checked_add(1)?;
    let (mut numbers, mut tensors) = (vec![0u64; all.len()], Vec::new());
    for (&rank, saved) in ranks {
        let own = Numbers::of(lookup(&saved.metadata, "optimizer")?)?;
        let shapes =
            own.experts.iter().zip(&of_rank[rank]).all(|(&n, &at)| is_of_shape(saved, n, &all[at].1.1));
        if own.experts.len() != of_rank[rank].len() || own.others != first.others || !shapes {
            return None;
        }
        for (&number, &at) in own.experts.iter().zip(&of_rank[rank]) {
            if rank == 0 {
                numbers[at] = number;
                continue;
            }
            numbers[at] = next;
            for (tensor, key) in states(saved, number) {
                tensors.push(TensorInfo { name: format!("optimizer.state.{next}.{key}"), ..tensor.clone() });
            }
            next += 1;
        }
    }
    // What all ranks have, and the first rank's experts, are the same in each file.
    for (&rank, saved) in ranks {
        let both = first.others.iter().chain(first.experts.iter().filter(|_| rank == 0));
        for (tensor, _) in both.flat_map(|&number| states(model, number)) {
            if let Some(other) = saved.tensor(&tensor.name) {
                copies::agreed(&tensor.name, &[(0, tensor), (rank, other)], notices);
            }
        }
    }
    let mut values = values.clone();
    let names = all.iter().map(|(_, (name, _))| name.clone()).collect();
    set_experts(&mut values, &numbers, names, others(model, &first));
    Some(Whole { tensors, values })
}

/// What the parameters that are of no expert are called, where the module has as many of their shapes in that order.
fn others(model: &Saved, numbers: &Numbers) -> Option<Vec<String>> {
    let buffers: BTreeSet<&str> = match lookup(&model.metadata, "buffer_names") {
        Some(Value::List(names)) => names
            .iter()
            .filter_map(|n| if let Value::String(n) = n { Some(n.as_str()) } else { None })
            .collect(),
        _ => BTreeSet::new(),
    };
    let module: Vec<_> =
        zero::module(model).into_iter().filter(|(name, _)| !buffers.contains(name)).collect();
    let fits =
        |(number, (_, tensor)): (&u64, &(&str, &TensorInfo))| is_of_shape(model, *number, &tensor.shape);
    let all = module.len() == numbers.others.len() && numbers.others.iter().zip(&module).all(fits);
    all.then(|| module.iter().map(|(name, _)| name.to_string()).collect())
}

/// Puts the `numbers` of all experts' parameters into the first of their groups in the plain values of an optimizer, with
/// all names where those of the `others` are known too.
fn set_experts(values: &mut Value, numbers: &[u64], names: Vec<String>, others: Option<Vec<String>>) {
    let Value::Dict(entries) = values else { return };
    let Some(Value::List(groups)) = entries.get_mut(&text(PARAM_GROUPS)) else { return };
    let texts = |names: Vec<String>| Value::List(names.into_iter().map(Value::String).collect());
    let mut numbers = Some(numbers.iter().map(|&n| Value::I64(n as i64)).collect::<Vec<_>>());
    let mut names = Some(names).filter(|_| others.is_some());
    let mut others = others.unwrap_or_default().into_iter();
    let named = names.is_some();
    for group in groups {
        let of_experts = is_of_experts(group);
        let count = match lookup(group, "params") {
            Some(Value::List(own)) => own.len(),
            _ => 0,
        };
        let Value::Dict(group) = group else { continue };
        let own: Vec<String> = match of_experts {
            true => {
                group.insert(text("params"), Value::List(numbers.take().unwrap_or_default()));
                names.take().unwrap_or_default()
            }
            false => others.by_ref().take(count).collect(),
        };
        if named {
            group.insert(text("param_names"), texts(own));
        }
    }
}
