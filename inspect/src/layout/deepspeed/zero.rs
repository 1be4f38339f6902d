//! ZeRO: what model states say of the parameters, and the weights that they and the optimizers' partitions have, as
//! `zero_to_fp32.py` of DeepSpeed joins them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::flat::{self, Flat};
use super::masters::Compared;
use super::partitions::Zero;
use super::{Part, Saved, agreement, dict, experts, text};
use crate::layout::tiles::Budget;
use crate::metadata::{HashableValue, Value, as_u64, lookup, merge};
use crate::storage::Storage;
use crate::tensor::{TensorInfo, contiguous_strides, numel};
use crate::{DType, Damage, DamageKind, Notice, NoticeKind};

/// Entries of the model states that say where things are.
const PLUMBING: [&str; 7] = [
    "module",
    "optimizer",
    "param_shapes",
    "buffer_names",
    "frozen_param_shapes",
    "frozen_param_fragments",
    "shared_params",
];
const PADDINGS: &str = "optimizer_state_dict.param_alignment_paddings";
/// For each file that is there, so many ranks are believed.
pub(super) const MOST_RANKS: usize = 64;

/// The files of one model-parallel rank.
#[derive(Default)]
pub(super) struct Rank {
    /// Whether each data-parallel rank has model states of its own, as in stage 3.
    pub divided: bool,
    /// Model states, by data-parallel rank.
    pub models: BTreeMap<usize, Saved>,
    /// Partitions of the optimizer, by data-parallel rank; those that cannot be read are said why.
    pub optimizers: BTreeMap<usize, Result<Saved, Damage>>,
    /// What of the module is in files of its own, under its names there: experts, layers of a pipeline.
    pub apart: Vec<TensorInfo>,
}

/// A parameter that the optimizer has.
pub(super) struct Parameter {
    pub name: String,
    pub shape: Vec<usize>,
    /// Its elements.
    pub count: usize,
    /// The group of parameters that it belongs to.
    pub group: usize,
    /// Elements of padding that follow it in the group's vector.
    pub padding: usize,
}

impl Parameter {
    /// One of which nothing but the name is needed.
    pub fn named(name: String) -> Self {
        Parameter { name, shape: Vec::new(), count: 0, group: 0, padding: 0 }
    }

    /// `tensor` in the parameter's shape, where it is a vector of its elements.
    pub fn shaped(&self, tensor: TensorInfo) -> TensorInfo {
        if tensor.shape != [self.count] || !tensor.is_contiguous() {
            return tensor;
        }
        TensorInfo { strides: contiguous_strides(&self.shape), shape: self.shape.clone(), ..tensor }
    }

    /// Its fp32 weights, which are not there because of `damage`.
    pub fn missing(&self, damage: Damage) -> TensorInfo {
        lost(self.name.clone(), DType::F32, &self.shape, damage)
    }
}

/// The tensor `name`, whose elements are not there because of `damage`.
fn lost(name: String, dtype: DType, shape: &[usize], damage: Damage) -> TensorInfo {
    let mut tensor = TensorInfo::contiguous(name, dtype, shape.to_vec(), None, 0);
    tensor.storage = Some(Storage::missing(damage.clone(), tensor.byte_len().unwrap_or(0)));
    tensor.damage = Some(damage);
    tensor
}

impl Rank {
    /// The tensors of its module, by their names.
    pub fn module<'a>(&'a self, first: &'a Saved) -> Vec<(&'a str, &'a TensorInfo)> {
        let mut module = module(first);
        let known: HashSet<&str> = module.iter().map(|(name, _)| *name).collect();
        let apart = self.apart.iter().map(|tensor| (tensor.name.as_str(), tensor));
        module.extend(apart.filter(|(name, _)| !known.contains(name)));
        module
    }

    /// The partitions of its optimizer.
    fn partitions(&self) -> BTreeMap<usize, Result<&Saved, Damage>> {
        self.optimizers.iter().map(|(&dp, saved)| (dp, saved.as_ref().map_err(Damage::clone))).collect()
    }

    pub fn joined(self, budget: &mut Budget) -> Part {
        let mut part = Part::new();
        let Some(first) = self.models.values().next() else {
            self.list_partitions(&mut part);
            return part;
        };
        let module = self.module(first);
        part.metadata = plain_values(first);
        part.faults.extend(self.missing_models());
        part.notices.extend(agreement::unlike(&self.models));
        let (mut parameters, mut experts) = (parameters(first), Vec::new());
        let stated = !parameters.is_empty();
        let optimizer = self.optimizers.values().flatten().next();
        if let Some(optimizer) = optimizer {
            add_paddings(optimizer, &mut parameters, &mut part.faults);
            experts = experts::taken(optimizer, &module, &mut parameters);
        }
        let mut made: HashMap<String, TensorInfo> = HashMap::new();
        let mut moments = Vec::new();
        match (parameters.is_empty(), self.optimizers.is_empty()) {
            (false, false) => {
                let zero = Zero::of(&self.partitions(), &parameters, &mut part.faults);
                zero.weights(budget, &mut made);
                zero.moments(0, budget, &mut moments);
                let count = parameters.len();
                let joined = experts::joined(&self, &experts, &module, count, budget, &mut made);
                let all: Vec<&Parameter> = match joined {
                    Some(mut joined) => {
                        moments.append(&mut joined.moments);
                        part.faults.append(&mut joined.faults);
                        experts = joined.parameters;
                        parameters.iter().chain(&experts).collect()
                    }
                    None => {
                        part.notices.extend(experts::left_out(&experts));
                        parameters.iter().collect()
                    }
                };
                merge(&mut part.metadata, dict([("optimizer", zero.plain(&all))]));
                part.numbered = all.len();
                let compared = compared(&parameters, &made, &module);
                part.faults.extend(compared.damage("the optimizer's files"));
                if let Some(counted) = zero.counted().filter(|_| compared.count == 0) {
                    part.notices.extend(agreement::miscounted(counted, zero.vectors(), first));
                }
            }
            (false, true) => without_masters(&module, &parameters, &mut made, &mut part),
            (true, false) => {
                // Whether all of their files are there.
                Zero::of(&self.partitions(), &parameters, &mut part.faults);
                part.notices.extend(experts::left_out(&experts));
                if !stated {
                    let text = "its model states do not say which parameters the optimizer's files hold: the weights shown are the module's own, and the flat vectors of the optimizer are not shown";
                    part.notices.push(Notice::new(NoticeKind::NotShown, text));
                }
            }
            (true, true) => part.notices.extend(unnamed_masters(first)),
        }
        self.add_frozen(first, budget, &mut made, &mut part.faults);
        use_copies(&module, &parameters, &mut made, &mut part.notices);
        add_aliases(first, &mut made);
        part.tensors = listed(&module, made, &parameters, self.divided);
        let own = |t: &&TensorInfo| {
            let first = t.name.split('.').next().unwrap_or("");
            !PLUMBING.contains(&first) || (first == "optimizer" && moments.is_empty())
        };
        part.tensors.extend(first.tensors.iter().filter(own).cloned());
        part.tensors.append(&mut moments);
        if let Some(optimizer) = lookup(&first.metadata, "optimizer").filter(|v| !matches!(v, Value::None)) {
            merge(&mut part.metadata, dict([("optimizer", optimizer.clone())]));
        }
        part
    }

    /// Model states that are missing.
    fn missing_models(&self) -> Option<Damage> {
        let mut gone = (0..self.model_files()).filter(|dp| !self.models.contains_key(dp));
        let first = gone.next()?;
        let what = format!(
            "{} of {} files of model states missing, such as that of rank {first}",
            1 + gone.count(),
            self.model_files()
        );
        Some(Damage::new(DamageKind::MissingShards, what))
    }

    /// How many files of model states there should be, one for each rank in stage 3.
    fn model_files(&self) -> usize {
        let last = self.models.keys().last().map_or(0, |last| last.saturating_add(1));
        let said =
            self.models.values().find_map(|saved| lookup(&saved.metadata, "dp_world_size").and_then(as_u64));
        let ranks =
            said.and_then(|ranks| usize::try_from(ranks).ok()).filter(|_| self.divided).unwrap_or(last);
        ranks.clamp(1, MOST_RANKS.saturating_mul(self.models.len()).max(1))
    }

    /// Shows the partitions of optimizers as they are: nothing says what is in them.
    fn list_partitions(self, part: &mut Part) {
        let what = match self.optimizers.is_empty() {
            true => {
                "the model states are missing: only the parts of the module that have their own files are there"
            }
            false => {
                "the model states, which say what the optimizer's files hold, are missing: the flat vectors of each rank are shown as they are"
            }
        };
        part.faults.push(Damage::new(DamageKind::MissingShards, what));
        part.tensors.extend(self.apart);
        for (rank, saved) in self.optimizers {
            for tensor in saved.map(|saved| saved.tensors).unwrap_or_default() {
                let name = format!("rank_{rank}.{}", tensor.name);
                part.tensors.push(TensorInfo { name, ..tensor });
            }
        }
    }

    /// Adds parameters that are not trained: whole in the first rank's file, or in stage 3 divided over all.
    /// What no rank has is the module's own, or missing.
    pub fn add_frozen(
        &self,
        first: &Saved,
        budget: &mut Budget,
        made: &mut HashMap<String, TensorInfo>,
        faults: &mut Vec<Damage>,
    ) {
        let mut gone: Vec<&str> = Vec::new();
        for (key, shape) in &first.sizes {
            let Some(name) = key.strip_prefix("frozen_param_shapes.") else { continue };
            if made.contains_key(name) {
                continue;
            }
            let key = format!("frozen_param_fragments.{name}");
            let count = numel(shape).and_then(|count| usize::try_from(count).ok());
            let dtype = self.models.values().find_map(|saved| saved.tensor(&key)).map(|tensor| tensor.dtype);
            let (Some(count), Some(dtype)) = (count, dtype) else {
                let copy = first.tensor(&format!("module.{name}"));
                if copy.is_none_or(|copy| copy.shape != *shape) {
                    let damage = Damage::new(DamageKind::StorageLost, "the model states of no rank hold it");
                    made.insert(name.to_string(), lost(name.to_string(), DType::F32, shape, damage));
                    gone.push(name);
                }
                continue;
            };
            let mut all = Flat::default();
            for dp in 0..self.model_files() {
                let fragment = self.models.get(&dp).and_then(|saved| saved.tensor(&key));
                match fragment.filter(|tensor| tensor.is_contiguous()) {
                    Some(tensor) => {
                        let len = tensor.numel() as usize;
                        let flat = TensorInfo { shape: vec![len], strides: vec![1], ..tensor.clone() };
                        all.push(len, Ok(flat));
                    }
                    None => {
                        let what = format!("the model states of rank {dp} do not hold it");
                        let share = count.div_ceil(self.model_files());
                        all.push(share, Err(Damage::new(DamageKind::MissingShards, what)));
                    }
                }
            }
            let mut tiles = Vec::new();
            all.cut(0, count, 0, &mut tiles);
            made.insert(name.to_string(), flat::tensor(name.to_string(), dtype, shape, tiles, budget));
        }
        if let Some(first) = gone.first() {
            let what = format!(
                "the model states hold none of the elements of {} parameters that are not trained, such as `{}`",
                gone.len(),
                first.escape_debug()
            );
            faults.push(Damage::new(DamageKind::StorageLost, what));
        }
    }
}

/// Tells of fp32 masters in the optimizer's state without ZeRO, which have no names: the weights are the module's own.
fn unnamed_masters(saved: &Saved) -> Option<Notice> {
    let mut masters = saved.tensors.iter().filter(|tensor| {
        let mut keys = tensor.name.split('.');
        keys.next() == Some("optimizer") && keys.next().is_some_and(|key| key.starts_with("fp32_groups"))
    });
    let first = masters.next()?;
    let module =
        module(saved).into_iter().find(|(_, tensor)| matches!(tensor.dtype, DType::BF16 | DType::F16));
    let (_, module) = module?;
    let text = format!(
        "the optimizer has fp32 masters of the weights, such as `{}`, without their names: the weights shown are the module's own, in {}",
        first.name.escape_debug(),
        module.dtype
    );
    Some(Notice::new(NoticeKind::NotShown, text))
}

/// The plain values of model states, without those that say where things are.
pub(super) fn plain_values(saved: &Saved) -> Value {
    let Value::Dict(entries) = &saved.metadata else { return Value::Dict(BTreeMap::new()) };
    let own = |key: &HashableValue| !PLUMBING.iter().any(|known| *key == text(*known));
    Value::Dict(
        entries.iter().filter(|(key, _)| own(key)).map(|(key, value)| (key.clone(), value.clone())).collect(),
    )
}

/// The tensors of the module in `saved`, by their names.
pub(super) fn module(saved: &Saved) -> Vec<(&str, &TensorInfo)> {
    saved.tensors.iter().filter_map(|t| Some((t.name.strip_prefix("module.")?, t))).collect()
}

/// The parameters that the optimizer has, in its order.
pub(super) fn parameters(saved: &Saved) -> Vec<Parameter> {
    let grouped = !matches!(lookup(&saved.metadata, "param_shapes"), Some(Value::Dict(_)));
    let parameter = |(key, shape): &(String, Vec<usize>)| {
        let key = key.strip_prefix("param_shapes.")?;
        let (group, name) = if grouped { key.split_once('.')? } else { ("0", key) };
        // One that cannot be counted is refused with its vector.
        let count = numel(shape).and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
        let group = group.parse().ok()?;
        Some(Parameter { name: name.to_string(), shape: shape.clone(), count, group, padding: 0 })
    };
    saved.sizes.iter().filter_map(parameter).collect()
}

/// Compares the weights that were `made` of the optimizers' with the module's own.
pub(super) fn compared(
    parameters: &[Parameter],
    made: &HashMap<String, TensorInfo>,
    module: &[(&str, &TensorInfo)],
) -> Compared {
    let module: HashMap<&str, &TensorInfo> = module.iter().copied().collect();
    let pairs = parameters.iter().filter_map(|p| Some((made.get(&p.name)?, *module.get(p.name.as_str())?)));
    Compared::of(pairs)
}

/// Adds the paddings between parameters, where vectors have any.
fn add_paddings(optimizer: &Saved, parameters: &mut [Parameter], faults: &mut Vec<Damage>) {
    let Some(Value::List(groups)) = lookup(&optimizer.metadata, PADDINGS) else { return };
    let mut places: HashMap<usize, usize> = HashMap::new();
    for parameter in parameters.iter_mut() {
        let place = places.entry(parameter.group).or_default();
        let padding = groups.get(parameter.group).and_then(|group| match group {
            Value::List(paddings) | Value::Tuple(paddings) => as_u64(paddings.get(*place)?),
            _ => None,
        });
        *place += 1;
        match padding.and_then(|padding| usize::try_from(padding).ok()) {
            Some(padding) => parameter.padding = padding,
            None => {
                let what = format!(
                    "the optimizer does not say how far parameter {place} of group {} is padded",
                    parameter.group
                );
                return faults.push(Damage::new(DamageKind::Inconsistent, what));
            }
        }
    }
}

/// What there is without any file of the optimizer: the module's own weights, where it has them.
fn without_masters(
    module: &[(&str, &TensorInfo)],
    parameters: &[Parameter],
    made: &mut HashMap<String, TensorInfo>,
    part: &mut Part,
) {
    let there: HashSet<&str> =
        module.iter().filter(|(_, tensor)| tensor.numel() > 0).map(|(name, _)| *name).collect();
    let lost: Vec<&Parameter> = parameters.iter().filter(|p| !there.contains(p.name.as_str())).collect();
    if lost.len() < parameters.len() {
        let text = "the files of the optimizer, in which the fp32 weights are, are not there, and nor is the folder zero of a universal checkpoint: the weights shown are the module's own, in its type";
        let own = parameters.iter().map(|p| p.name.as_str()).filter(|name| there.contains(name));
        let notice = Notice::new(NoticeKind::Gone, text).about(own.map(str::to_string).collect());
        part.notices.push(notice);
    }
    if lost.is_empty() {
        return;
    }
    let what = "the files of the optimizer, in which the weights are, are missing";
    let damage = Damage::new(DamageKind::MissingShards, what);
    part.faults.push(damage.clone());
    for parameter in lost {
        made.insert(parameter.name.clone(), parameter.missing(damage.clone()));
    }
}

/// The tensors that were `made` and what only the module has, in the module's order. Placeholders vanish.
pub(super) fn listed(
    module: &[(&str, &TensorInfo)],
    mut made: HashMap<String, TensorInfo>,
    parameters: &[Parameter],
    vanish: bool,
) -> Vec<TensorInfo> {
    let order: HashMap<&str, usize> =
        parameters.iter().enumerate().map(|(i, parameter)| (parameter.name.as_str(), i)).collect();
    let mut tensors = Vec::new();
    for (name, tensor) in module {
        if let Some(made) = made.remove(*name) {
            tensors.push(made);
        } else if tensor.numel() > 0 || !(vanish || order.contains_key(name)) {
            tensors.push(TensorInfo { name: name.to_string(), ..(*tensor).clone() });
        }
    }
    let mut rest: Vec<TensorInfo> = made.into_values().collect();
    rest.sort_by(|a, b| {
        let place = |t: &TensorInfo| order.get(t.name.as_str()).copied().unwrap_or(usize::MAX);
        place(a).cmp(&place(b)).then_with(|| a.name.cmp(&b.name))
    });
    tensors.append(&mut rest);
    tensors
}

/// Takes the module's own weights where those of the optimizer are not whole.
pub(super) fn use_copies(
    module: &[(&str, &TensorInfo)],
    parameters: &[Parameter],
    made: &mut HashMap<String, TensorInfo>,
    notices: &mut Vec<Notice>,
) {
    let by_name: HashMap<&str, &TensorInfo> = module.iter().copied().collect();
    let mut used: Vec<(&str, DType)> = Vec::new();
    for parameter in parameters {
        let Some(tensor) = made.get_mut(&parameter.name).filter(|tensor| tensor.damage.is_some()) else {
            continue;
        };
        let copy = by_name.get(parameter.name.as_str()).filter(|copy| copy.shape == parameter.shape);
        if let Some(copy) = copy.filter(|copy| copy.damage.is_none() && copy.storage.is_some()) {
            used.push((&parameter.name, copy.dtype));
            *tensor = TensorInfo { name: parameter.name.clone(), ..(*copy).clone() };
        }
    }
    if let Some((first, dtype)) = used.first() {
        let text = format!(
            "the fp32 weights of {} parameters are not whole, such as `{}`: the module's own, {dtype}, are shown instead",
            used.len(),
            first.escape_debug()
        );
        let names = used.iter().map(|(name, _)| name.to_string()).collect();
        notices.push(Notice::new(NoticeKind::OtherForm, text).about(names));
    }
}

/// Adds parameters that share another's elements.
pub(super) fn add_aliases(saved: &Saved, made: &mut HashMap<String, TensorInfo>) {
    let Some(Value::Dict(shared)) = lookup(&saved.metadata, "shared_params") else { return };
    for (alias, name) in shared {
        if let (HashableValue::String(alias), Value::String(name)) = (alias, name)
            && let Some(tensor) = made.get(name)
        {
            let tensor = TensorInfo { name: alias.clone(), ..tensor.clone() };
            made.insert(alias.clone(), tensor);
        }
    }
}
