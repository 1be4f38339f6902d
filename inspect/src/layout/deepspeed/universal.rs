//! The universal checkpoint (`checkpoint/ds_to_universal.py`): a folder for each parameter, with a file for its fp32
//! weights and for each moment, whole.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::zero::{self, Parameter, Rank};
use super::{Part, Saved, below, dict, partitions, text};
use crate::bytes::stored::Stored;
use crate::layout::tiles::Budget;
use crate::layout::{name, sort};
use crate::metadata::{HashableValue, Value, as_f64, lookup, merge};
use crate::tensor::TensorInfo;
use crate::torch::PARAM_GROUPS;
use crate::{Damage, DamageKind, Error, Notice, NoticeKind, Result};

/// The folder of the parameters.
pub(super) const FOLDER: &str = "zero";
const WEIGHTS: &str = "fp32";
/// What they have in common: the settings of groups.
const OPTIMIZER: &str = "optimizer_state.pt";

/// Where the settings of groups are among them.
const GROUPS: [&str; 3] =
    [PARAM_GROUPS, "base_optimizer_state.param_groups", "optimizer_state_dict.param_groups"];

/// Whether `path` is named like a state of a parameter.
pub(super) fn is_state(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "pt") && path.is_stored_file()
}

/// Whether `path` is what the parameters have in common.
pub(super) fn is_common(path: &Path) -> bool {
    name(path) == OPTIMIZER && path.is_stored_file()
}

/// The files of the parameters in the folder of a tag.
pub(super) fn files(tag: &Path) -> Result<Vec<PathBuf>> {
    let zero = tag.join(FOLDER);
    if !zero.is_stored_folder() {
        return Ok(Vec::new());
    }
    let list = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = folder.stored_entries().map_err(|e| Error::io(folder, &e))?;
        Ok(entries.into_iter().map(|entry| entry.path).collect())
    };
    let mut files = Vec::new();
    for path in list(&zero)? {
        if path.is_stored_folder() {
            files.extend(list(&path)?.into_iter().filter(|path| is_state(path)));
        } else if is_common(&path) {
            files.push(path);
        }
    }
    sort(&mut files);
    Ok(files)
}

/// Whether the folder of a tag has the weights of a parameter.
pub(super) fn has_weights(tag: &Path) -> bool {
    let folders = tag.join(FOLDER).stored_entries().unwrap_or_default();
    let weights = format!("{WEIGHTS}.pt");
    folders.iter().any(|entry| entry.path.join(&weights).is_stored_file())
}

/// What was saved of every parameter.
#[derive(Default)]
pub(super) struct Parameters {
    /// By name and state. A parameter of which a file is there has an entry.
    states: BTreeMap<String, Vec<(String, TensorInfo)>>,
    /// Plain values in place of tensors, by name and state.
    plain: BTreeMap<String, BTreeMap<HashableValue, Value>>,
    /// Files that cannot be read, by name and state.
    unread: BTreeMap<String, BTreeMap<String, Damage>>,
    /// Vocabularies, of which only the rows that are used were kept.
    cut: HashSet<String>,
    optimizer: Option<Value>,
}

/// The parameter and the state whose file is at `path`.
fn named(path: &Path) -> (String, String) {
    let state = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    (path.parent().map(name).unwrap_or_default(), state)
}

impl Parameters {
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Adds what the file at `path` holds; tells if that is nothing.
    pub fn add(&mut self, path: &Path, saved: Saved) -> Option<Damage> {
        if name(path) == OPTIMIZER {
            self.optimizer = Some(saved.metadata);
            return None;
        }
        let (parameter, state) = named(path);
        // `{"param": tensor, …}`, or a number of steps, which may be a tensor, too.
        if matches!(lookup(&saved.metadata, "vocab_tensor"), Some(Value::Bool(true))) {
            self.cut.insert(parameter.clone());
        }
        let found = saved.tensors.into_iter().find(|t| t.name == "param" || t.name.is_empty());
        let states = self.states.entry(parameter.clone()).or_default();
        match found {
            Some(tensor) => states.push((state, tensor)),
            None if as_f64(&saved.metadata).is_some() => {
                self.plain.entry(parameter).or_default().insert(text(state), saved.metadata);
            }
            None => {
                let (parameter, state) = (parameter.escape_debug(), state.escape_debug());
                let what =
                    format!("the file of `{state}` of `{parameter}` holds neither a tensor nor a number");
                let damage = Damage::new(DamageKind::UnreadableEntry, what);
                self.add_unread(path, damage.clone());
                return Some(damage);
            }
        }
        None
    }

    /// Notes that the file at `path` cannot be read because of `damage`.
    pub fn add_unread(&mut self, path: &Path, damage: Damage) {
        if name(path) == OPTIMIZER {
            return;
        }
        let (parameter, state) = named(path);
        self.states.entry(parameter.clone()).or_default();
        self.unread.entry(parameter).or_default().insert(state, damage);
    }

    /// The states that there are files of for `parameter`.
    fn states_of(&self, parameter: &str) -> BTreeSet<&str> {
        let tensors = self.states.get(parameter).into_iter().flatten().map(|(state, _)| state.as_str());
        let plain =
            self.plain.get(parameter).into_iter().flat_map(BTreeMap::keys).filter_map(|key| match key {
                HashableValue::String(state) => Some(state.as_str()),
                _ => None,
            });
        let unread = self.unread.get(parameter).into_iter().flat_map(BTreeMap::keys).map(String::as_str);
        tensors.chain(plain).chain(unread).collect()
    }

    /// Tells of parameters that lack a state: the weights, or what others of their group have. Gives those that lack the
    /// weights, and why.
    fn lacking<'p>(&self, parameters: &'p [Parameter], part: &mut Part) -> Vec<(&'p Parameter, Damage)> {
        let states: Vec<BTreeSet<&str>> = parameters.iter().map(|p| self.states_of(&p.name)).collect();
        let mut of_groups: HashMap<usize, BTreeSet<&str>> = HashMap::new();
        for (parameter, states) in parameters.iter().zip(&states) {
            of_groups.entry(parameter.group).or_insert_with(|| [WEIGHTS].into()).extend(states);
        }
        let lacks = |(parameter, states): (&'p Parameter, &BTreeSet<&str>)| {
            let first = of_groups[&parameter.group].difference(states).next()?;
            Some((parameter, first.to_string()))
        };
        let mut lacking = parameters.iter().zip(&states).filter_map(lacks);
        if let Some((parameter, state)) = lacking.next() {
            let what = format!(
                "files of {} of {} parameters missing, such as that of `{}` of `{}`",
                1 + lacking.count(),
                parameters.len(),
                state.escape_debug(),
                parameter.name.escape_debug()
            );
            part.faults.push(Damage::new(DamageKind::MissingShards, what));
        }
        let without_weights = |parameter: &'p Parameter| {
            let there = |states: &Vec<(String, TensorInfo)>| states.iter().any(|(state, _)| state == WEIGHTS);
            if self.states.get(&parameter.name).is_some_and(there) {
                return None;
            }
            let unread = self.unread.get(&parameter.name).and_then(|states| states.get(WEIGHTS));
            let missing = || Damage::new(DamageKind::MissingShards, "the file of its weights is missing");
            Some((parameter, unread.cloned().unwrap_or_else(missing)))
        };
        parameters.iter().filter_map(without_weights).collect()
    }

    /// The checkpoint of them and of the model states of all ranks, whose modules have the same weights in their own type:
    /// with `several` model-parallel ranks parts of them.
    pub fn joined(mut self, ranks: &BTreeMap<usize, Rank>, several: bool, budget: &mut Budget) -> Part {
        let mut part = Part::new();
        let models: Vec<(usize, &Rank, &Saved)> =
            ranks.iter().filter_map(|(&mp, rank)| Some((mp, rank, rank.models.values().next()?))).collect();
        let mut known = HashSet::new();
        let all = models.iter().flat_map(|(_, _, saved)| zero::parameters(saved));
        let mut parameters: Vec<Parameter> = all.filter(|p| known.insert(p.name.clone())).collect();
        match models.first() {
            Some((_, _, first)) => part.metadata = zero::plain_values(first),
            None => {
                let what = "the model states are missing: the shapes of parameters are those of their files, and what is not trained is not there";
                part.faults.push(Damage::new(DamageKind::MissingShards, what));
            }
        }
        // Buffers are there as fp32, too: the module has them as they are.
        for buffers in models.iter().filter_map(|(_, _, saved)| lookup(&saved.metadata, "buffer_names")) {
            let Value::List(buffers) = buffers else { continue };
            for buffer in buffers {
                if let Value::String(name) = buffer {
                    self.states.remove(name);
                }
            }
        }
        let of_models = !parameters.is_empty();
        if !of_models {
            parameters = self.states.keys().map(|name| Parameter::named(name.clone())).collect();
        }
        let mut made: HashMap<String, TensorInfo> = HashMap::new();
        // Only model states say which shape they had.
        for (parameter, damage) in self.lacking(&parameters, &mut part).into_iter().filter(|_| of_models) {
            made.insert(parameter.name.clone(), parameter.missing(damage));
        }
        let mut states = self.states;
        let mut steps = BTreeMap::new();
        let mut moments = Vec::new();
        for (i, parameter) in parameters.iter().enumerate() {
            for (state, tensor) in states.remove(&parameter.name).unwrap_or_default() {
                // From stage 3 they are written as vectors.
                let mut tensor = parameter.shaped(tensor);
                // Steps are counted beside what has the parameter's shape.
                let shaped = state == WEIGHTS || tensor.numel() > 1;
                let stated = of_models && !several && shaped && !self.cut.contains(&parameter.name);
                if stated && tensor.damage.is_none() && tensor.shape != parameter.shape {
                    let damage = unshaped(parameter, &state, &tensor.shape);
                    part.faults.push(damage.clone());
                    tensor = parameter.missing(damage);
                }
                if state == WEIGHTS {
                    let name = parameter.name.clone();
                    made.insert(name.clone(), TensorInfo { name, ..tensor });
                } else {
                    let name = format!("optimizer.state.{i}.{state}");
                    moments.push(TensorInfo { name, ..tensor });
                }
            }
            if let Some(plain) = self.plain.remove(&parameter.name) {
                steps.insert(HashableValue::I64(i as i64), Value::Dict(plain));
            }
        }
        // What is not trained.
        for (name, all) in states {
            let weights = all.into_iter().find(|(state, _)| state == WEIGHTS);
            made.extend(weights.map(|(_, tensor)| (name.clone(), TensorInfo { name, ..tensor })));
        }
        match several {
            false => {
                let module: Vec<_> = models.iter().flat_map(|(_, rank, saved)| rank.module(saved)).collect();
                part.faults.extend(zero::compared(&parameters, &made, &module).damage("the files of `zero`"));
                for (_, rank, first) in &models {
                    rank.add_frozen(first, budget, &mut made, &mut part.faults);
                    zero::use_copies(&module, &parameters, &mut made, &mut part.notices);
                    zero::add_aliases(first, &mut made);
                }
                let divided = models.iter().any(|(_, rank, _)| rank.divided);
                part.tensors = zero::listed(&module, made, &parameters, divided);
            }
            true => part.add_ranks(&models, made, &parameters, budget),
        }
        part.tensors.append(&mut moments);
        let groups = self.optimizer.take().and_then(|optimizer| {
            let found = GROUPS.iter().find_map(|groups| lookup(&optimizer, groups))?;
            match found {
                Value::List(groups) => {
                    Some(partitions::grouped(groups, &parameters.iter().collect::<Vec<_>>()))
                }
                _ => None,
            }
        });
        let mut optimizer = dict([("state", Value::Dict(steps))]);
        if let (Value::Dict(entries), Some(groups)) = (&mut optimizer, groups) {
            entries.insert(text(PARAM_GROUPS), groups);
        }
        merge(&mut part.metadata, dict([("optimizer", optimizer)]));
        part
    }
}

/// That the file of a state has another shape than its parameter.
fn unshaped(parameter: &Parameter, state: &str, shape: &[usize]) -> Damage {
    let what = format!(
        "the file of `{}` of `{}` has the shape {shape:?}, and the model states say {:?}",
        state.escape_debug(),
        parameter.name.escape_debug(),
        parameter.shape
    );
    Damage::new(DamageKind::Shape, what)
}

impl Part {
    /// Adds the whole weights that were `made`, and under its name what else each model-parallel rank has: of the weights
    /// its module has parts.
    fn add_ranks(
        &mut self,
        models: &[(usize, &Rank, &Saved)],
        mut made: HashMap<String, TensorInfo>,
        parameters: &[Parameter],
        budget: &mut Budget,
    ) {
        let mut own = Vec::new();
        for (mp, rank, saved) in models {
            zero::add_aliases(saved, &mut made);
            let mut frozen = HashMap::new();
            rank.add_frozen(saved, budget, &mut frozen, &mut self.faults);
            frozen.retain(|name, _| !made.contains_key(name));
            let module: Vec<_> =
                rank.module(saved).into_iter().filter(|(name, _)| !made.contains_key(*name)).collect();
            let tensors = zero::listed(&module, frozen, parameters, rank.divided);
            own.extend(tensors.into_iter().map(|t| TensorInfo { name: below(*mp, &t.name), ..t }));
        }
        self.tensors = zero::listed(&[], made, parameters, false);
        if let Some(first) = own.first() {
            let text = format!(
                "what only the files of its model-parallel ranks have, such as buffers, is shown under each rank (`{}`, …)",
                first.name.escape_debug()
            );
            self.notices.push(Notice::new(NoticeKind::NotShown, text));
        }
        self.tensors.append(&mut own);
    }
}
