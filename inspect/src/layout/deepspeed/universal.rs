//! The universal checkpoint (`checkpoint/ds_to_universal.py`): a folder for each parameter, with a file for its fp32
//! weights and for each moment, whole.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::zero::Rank;
use super::{Part, Saved, dict, find, merge, text};
use crate::layout::{name, sort};
use crate::metadata::{HashableValue, Value, as_f64};
use crate::tensor::TensorInfo;
use crate::{Error, Result};

/// The folder of the parameters.
pub(super) const FOLDER: &str = "zero";
const WEIGHTS: &str = "fp32";
/// What they have in common: the settings of groups.
const OPTIMIZER: &str = "optimizer_state.pt";

/// Whether `path` is named like a state of a parameter.
pub(super) fn is_state(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "pt") && path.is_file()
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
        } else if name(&path) == OPTIMIZER {
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
    pub fn joined(&mut self, rank: Rank) -> Part {
        let mut part = Part::new();
        let mut states = std::mem::take(&mut self.states);
        let mut names: Vec<String> = Vec::new();
        if let Some(first) = rank.models.values().next() {
            part.metadata = super::zero::plain_values(first);
            for tensor in &first.tensors {
                let Some(name) = tensor.name.strip_prefix("module.") else { continue };
                if states.contains_key(name) {
                    names.push(name.to_string());
                } else if tensor.numel() > 0 {
                    part.tensors.push(TensorInfo { name: name.to_string(), ..tensor.clone() });
                }
            }
        }
        let known: std::collections::HashSet<&String> = names.iter().collect();
        let more: Vec<String> = states.keys().filter(|name| !known.contains(name)).cloned().collect();
        names.extend(more);
        let mut moments = Vec::new();
        let mut steps = BTreeMap::new();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        for (i, name) in names.iter().enumerate() {
            numbers.insert(name, i);
            for (state, tensor) in states.remove(name).unwrap_or_default() {
                match state == WEIGHTS {
                    true => part.tensors.push(TensorInfo { name: name.clone(), ..tensor }),
                    false => {
                        let name = format!("optimizer.state.{i}.{state}");
                        moments.push(TensorInfo { name, ..tensor });
                    }
                }
            }
            if let Some(plain) = self.plain.remove(name) {
                steps.insert(HashableValue::I64(i as i64), plain);
            }
        }
        part.tensors.append(&mut moments);
        let groups = self.optimizer.take().and_then(|optimizer| find(&optimizer, "param_groups").cloned());
        let mut optimizer = dict([("state", Value::Dict(steps))]);
        if let (Value::Dict(entries), Some(groups)) = (&mut optimizer, groups) {
            entries.insert(text("param_groups"), groups);
        }
        merge(&mut part.metadata, dict([("optimizer", optimizer)]));
        part
    }
}
