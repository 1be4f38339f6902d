//! The universal checkpoint (`checkpoint/ds_to_universal.py`): a folder for each parameter, with a file for its fp32
//! weights and for each moment, whole.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::zero::{self, Parameter, Rank};
use super::{Part, Saved, dict, find, merge, text};
use crate::layout::tiles::Budget;
use crate::layout::{name, sort};
use crate::metadata::{HashableValue, Value, as_f64};
use crate::tensor::TensorInfo;
use crate::{Error, Result};

/// The folder of the parameters.
pub(super) const FOLDER: &str = "zero";
const WEIGHTS: &str = "fp32";
/// What they have in common: the settings of groups.
const OPTIMIZER: &str = "optimizer_state.pt";

/// Where the settings of groups are among them.
const GROUPS: [&str; 3] =
    ["param_groups", "base_optimizer_state.param_groups", "optimizer_state_dict.param_groups"];

/// Whether `path` is named like a state of a parameter.
pub(super) fn is_state(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "pt") && path.is_file()
}

/// Whether `path` is what the parameters have in common.
pub(super) fn is_common(path: &Path) -> bool {
    name(path) == OPTIMIZER && path.is_file()
}

/// The files of the parameters in the folder of a tag.
pub(super) fn files(tag: &Path) -> Result<Vec<PathBuf>> {
    let zero = tag.join(FOLDER);
    if !zero.is_dir() {
        return Ok(Vec::new());
    }
    let list = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, &e))?;
        Ok(entries.flatten().map(|entry| entry.path()).collect())
    };
    let mut files = Vec::new();
    for path in list(&zero)? {
        if path.is_dir() {
            files.extend(list(&path)?.into_iter().filter(|path| is_state(path)));
        } else if is_common(&path) {
            files.push(path);
        }
    }
    sort(&mut files);
    Ok(files)
}

/// What was saved of every parameter.
#[derive(Default)]
pub(super) struct Parameters {
    /// By name and state.
    states: BTreeMap<String, Vec<(String, TensorInfo)>>,
    plain: BTreeMap<String, Value>,
    optimizer: Option<Value>,
}

impl Parameters {
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Adds what the file at `path` holds.
    pub fn add(&mut self, path: &Path, saved: Saved) {
        if name(path) == OPTIMIZER {
            self.optimizer = Some(saved.metadata);
            return;
        }
        let parameter = path.parent().map(name).unwrap_or_default();
        let state = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // `{"param": tensor, …}`, or a number of steps, which may be a tensor, too.
        let found = saved.tensors.into_iter().find(|t| t.name == "param" || t.name.is_empty());
        match found {
            Some(tensor) => self.states.entry(parameter).or_default().push((state, tensor)),
            None if as_f64(&saved.metadata).is_some() => {
                self.plain.insert(parameter, dict([(state, saved.metadata)]));
            }
            None => {}
        }
    }

    /// The checkpoint of them and of the model states, whose module has the same weights in its own type.
    pub fn joined(&mut self, rank: Rank, budget: &mut Budget) -> Part {
        let mut part = Part::new();
        let mut states = std::mem::take(&mut self.states);
        let first = rank.models.values().next();
        let module = first.map(zero::module).unwrap_or_default();
        let mut parameters = first.map(zero::parameters).unwrap_or_default();
        if let Some(first) = first {
            part.metadata = zero::plain_values(first);
            // Buffers are there as fp32, too: the module has them as they are.
            if let Some(Value::List(buffers)) = find(&first.metadata, "buffer_names") {
                for buffer in buffers {
                    if let Value::String(name) = buffer {
                        states.remove(name);
                    }
                }
            }
        }
        if parameters.is_empty() {
            parameters = states.keys().map(|name| Parameter::named(name.clone())).collect();
        }
        let mut made = HashMap::new();
        let mut steps = BTreeMap::new();
        for (i, parameter) in parameters.iter().enumerate() {
            for (state, tensor) in states.remove(&parameter.name).unwrap_or_default() {
                // From stage 3 they are written as vectors.
                let tensor = parameter.shaped(tensor);
                if state == WEIGHTS {
                    let name = parameter.name.clone();
                    made.insert(name.clone(), TensorInfo { name, ..tensor });
                } else {
                    let name = format!("optimizer.state.{i}.{state}");
                    part.tensors.push(TensorInfo { name, ..tensor });
                }
            }
            if let Some(plain) = self.plain.remove(&parameter.name) {
                steps.insert(HashableValue::I64(i as i64), plain);
            }
        }
        // What is not trained.
        for (name, all) in states {
            let weights = all.into_iter().find(|(state, _)| state == WEIGHTS);
            made.extend(weights.map(|(_, tensor)| (name.clone(), TensorInfo { name, ..tensor })));
        }
        if let Some(first) = first {
            rank.add_frozen(first, budget, &mut made);
            zero::add_aliases(first, &mut made);
        }
        let mut moments = std::mem::take(&mut part.tensors);
        part.tensors = zero::listed(&module, made, &parameters, rank.divided);
        part.tensors.append(&mut moments);
        let groups = self.optimizer.take().and_then(|optimizer| {
            let found = GROUPS.iter().find_map(|groups| find(&optimizer, groups))?;
            match found {
                Value::List(groups) => Some(zero::grouped(groups, &parameters)),
                _ => None,
            }
        });
        let mut optimizer = dict([("state", Value::Dict(steps))]);
        if let (Value::Dict(entries), Some(groups)) = (&mut optimizer, groups) {
            entries.insert(text("param_groups"), groups);
        }
        merge(&mut part.metadata, dict([("optimizer", optimizer)]));
        part
    }
}
