//! Parameter groups: which parameters an optimizer updates and how, and their part of torch's state dicts.

use std::collections::HashMap;

use ckpt_convert::Object;
use ckpt_inspect::Checkpoint;
use ckpt_inspect::meaning::names::canonical;
use ckpt_inspect::metadata::{HashableValue, Value, as_u64};
use ckpt_inspect::optimizer::PARAM_GROUPS;
use rayon::prelude::*;

use super::PART;
use crate::plain;
use crate::{Error, Gradients, Parameter, Parameters, Remedy, Result};

/// Parameters with the same learning rate and weight decay.
#[derive(Clone, Debug)]
struct Group {
    lr: f64,
    weight_decay: f64,
    /// Indices in model order.
    members: Vec<usize>,
}

/// The groups of one optimizer.
#[derive(Clone, Debug)]
pub(super) struct Groups(Vec<Group>);

impl Groups {
    /// One group in model order if all have the same weight decay, else ternary weights and the others.
    pub(super) fn new(
        parameters: &Parameters,
        wanted: &dyn Fn(&Parameter) -> bool,
        lr: f64,
        weight_decay: f64,
        ternary_weight_decay: f64,
    ) -> Self {
        let members: Vec<usize> = (0..parameters.0.len()).filter(|&i| wanted(&parameters.0[i])).collect();
        if weight_decay == ternary_weight_decay {
            return Groups(vec![Group { lr, weight_decay, members }]);
        }
        let (ternary, others) = members.into_iter().partition(|&i| parameters.0[i].ternary);
        Groups(vec![
            Group { lr, weight_decay: ternary_weight_decay, members: ternary },
            Group { lr, weight_decay, members: others },
        ])
    }

    pub(super) fn members(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(|g| g.members.iter().copied())
    }

    /// For each parameter its learning rate and weight decay, if it is a member.
    pub(super) fn rates(&self, parameters: &Parameters) -> Vec<Option<(f64, f64)>> {
        let mut rates = vec![None; parameters.0.len()];
        for group in &self.0 {
            group.members.iter().for_each(|&i| rates[i] = Some((group.lr, group.weight_decay)));
        }
        rates
    }

    pub(super) fn ternary_decay(&self, parameters: &Parameters) -> Vec<(f64, f64)> {
        let decays = |g: &&Group| g.weight_decay > 0.0 && g.members.iter().any(|&i| parameters.0[i].ternary);
        self.0.iter().filter(decays).map(|g| (g.lr, g.weight_decay)).collect()
    }

    /// `{state: {i: …}, param_groups: […]}`; `entry` gives a parameter's state, `options` what each group says besides.
    pub(super) fn state<'a>(
        &self,
        parameters: &Parameters,
        factor: f64,
        options: &[(&str, Value)],
        entry: impl Fn(usize) -> Object<'a>,
    ) -> Object<'a> {
        let state = self.members().enumerate().map(|(i, at)| (HashableValue::I64(i as i64), entry(at)));
        let mut first = 0;
        let group = |group: &Group| {
            let numbers = (first..first + group.members.len()).map(|i| Value::I64(i as i64)).collect();
            first += group.members.len();
            let names = group.members.iter().map(|&i| Value::String(parameters.0[i].name.clone())).collect();
            plain(
                [("lr", Value::F64(group.lr * factor)), ("weight_decay", Value::F64(group.weight_decay))]
                    .into_iter()
                    .chain(options.iter().cloned())
                    .chain([
                        ("initial_lr", Value::F64(group.lr)),
                        ("params", Value::List(numbers)),
                        ("param_names", Value::List(names)),
                    ]),
            )
        };
        let groups = self.0.iter().map(group).collect();
        Object::dict([
            ("state", Object::Dict(state.collect())),
            (PARAM_GROUPS, Object::Plain(Value::List(groups))),
        ])
    }

    /// Pairs each member with the number that the state dict at `key` gives it: by `param_names` if present, else
    /// in order.
    pub(super) fn numbers(
        &self,
        checkpoint: &Checkpoint,
        key: &str,
        parameters: &Parameters,
    ) -> Result<Vec<(usize, i64)>> {
        let foreign = |what: String| {
            let what =
                format!("{}: {what}; use the optimizer that it was saved by", checkpoint.path.display());
            Error::resume(Remedy::ResetOptimizer, what)
        };
        let Some(Value::List(groups)) = checkpoint.meta(&format!("{key}.{PARAM_GROUPS}")) else {
            let muon = checkpoint.meta(&format!("{key}.muon")).is_some();
            return Err(foreign(match muon {
                true => "its optimizer state belongs to muon-adamw".into(),
                false => format!(
                    "its optimizer state belongs to another optimizer, and has no {key}.{PARAM_GROUPS}"
                ),
            }));
        };
        let list = |group: &Value, name: &str| match ckpt_inspect::lookup(group, name) {
            Some(Value::List(items)) => items.clone(),
            _ => Vec::new(),
        };
        let (mut numbers, mut names) = (Vec::new(), Vec::new());
        for group in groups {
            numbers.extend(list(group, "params").iter().filter_map(|v| match v {
                Value::I64(i) => Some(*i),
                _ => None,
            }));
            names.extend(list(group, "param_names").into_iter().filter_map(|v| match v {
                Value::String(name) => Some(name),
                _ => None,
            }));
        }
        let members: Vec<usize> = self.members().collect();
        if names.len() == numbers.len() && !names.is_empty() {
            // PyTorch's have what the model is wrapped in before them.
            let exact: HashMap<&str, i64> =
                names.iter().map(String::as_str).zip(numbers.iter().copied()).collect();
            // Where that leaves one name for several, only their own tell them apart.
            let mut by_name = HashMap::new();
            for (name, number) in names.iter().zip(numbers.iter().copied()) {
                let only = by_name.entry(canonical(name)).or_insert(Some(number));
                *only = only.filter(|only| *only == number);
            }
            let number = |&at: &usize| {
                let name = parameters.0[at].name.as_str();
                let found = exact.get(name).copied();
                Some((at, found.or_else(|| by_name.get(&canonical(name)).copied().flatten())?))
            };
            let all: Option<Vec<_>> = members.iter().map(number).collect();
            return all.ok_or_else(|| foreign("its optimizer state belongs to other parameters".into()));
        }
        if numbers.len() != members.len() {
            return Err(foreign(format!(
                "its optimizer state has {} parameters, not {}",
                numbers.len(),
                members.len()
            )));
        }
        let mut members = members;
        members.sort_unstable();
        Ok(members.into_iter().zip(numbers).collect())
    }

    /// Whether the state dict at `key` holds a tensor of any parameter.
    pub(super) fn holds_tensors(checkpoint: &Checkpoint, key: &str) -> bool {
        let state = format!("{key}.state.");
        checkpoint.tensors.iter().any(|t| t.name.starts_with(&state))
    }

    /// Calls `take` with each member and its state tensor `name`, whose length is checked; PyTorch before 1.12 keeps
    /// the `step` as a plain number. A parameter without it (which never had a gradient) is skipped; if no parameter
    /// has it, that is an error.
    pub(super) fn load(
        &self,
        checkpoint: &Checkpoint,
        key: &str,
        parameters: &Parameters,
        name: &str,
        mut take: impl FnMut(usize, Vec<f32>),
    ) -> Result<()> {
        let mut found = false;
        let members = self.numbers(checkpoint, key, parameters)?;
        let index: std::collections::HashMap<&str, usize> =
            checkpoint.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        for &(at, number) in &members {
            let values = match index.get(format!("{key}.state.{number}.{name}").as_str()) {
                Some(&tensor) => checkpoint.values(&checkpoint.tensors[tensor])?,
                None if name == "step" => match plain_step(checkpoint, key, number) {
                    Some(step) => vec![step as f32],
                    None => continue,
                },
                None => continue,
            };
            let wanted = if name == "step" { 1 } else { parameters.0[at].values.len() };
            if values.len() != wanted {
                return Err(Error::settings(format!(
                    "{}: optimizer state {number}.{name} has {} elements, and `{}` needs {wanted}",
                    checkpoint.path.display(),
                    values.len(),
                    parameters.0[at].name
                )));
            }
            take(at, values);
            found = true;
        }
        if found || members.is_empty() {
            return Ok(());
        }
        let path = checkpoint.path.display();
        Err(Error::resume(
            Remedy::ResetOptimizer,
            format!("{path}: its optimizer state has no {name}, so another optimizer saved it; use that one"),
        ))
    }
}

/// The `step` of parameter `number` in the state dict at `key`, where it is a plain number.
fn plain_step(checkpoint: &Checkpoint, key: &str, number: i64) -> Option<u64> {
    let Some(Value::Dict(state)) = checkpoint.meta(&format!("{key}.state")) else { return None };
    let of_parameter = state.get(&HashableValue::I64(number))?;
    ckpt_inspect::lookup(of_parameter, "step").and_then(as_u64)
}

/// Calls `f` with each member's weights, gradients, first state buffer, rates and index, in parallel over parts of them
/// too. Parts depend on lengths alone.
pub(super) fn each_part(
    parameters: &mut Parameters,
    gradients: &Gradients,
    state: &mut [Vec<f32>],
    rates: &[Option<(f64, f64)>],
    f: impl Fn(&mut [f32], &[f32], &mut [f32], (f64, f64), (usize, usize)) + Sync,
) {
    let all = parameters.0.par_iter_mut().zip(gradients).zip(state).zip(rates).enumerate();
    all.for_each(|(at, (((parameter, gradient), state), rates))| {
        let Some(rates) = *rates else { return };
        let parts = parameter.values.par_chunks_mut(PART).zip(gradient.par_chunks(PART));
        parts.zip(state.par_chunks_mut(PART)).enumerate().for_each(|(part, ((w, g), s))| {
            f(w, g, s, rates, (at, part));
        });
    });
}

/// Zeros for the members, nothing for the others.
pub(super) fn buffers(groups: &Groups, parameters: &Parameters) -> Vec<Vec<f32>> {
    let mut buffers = vec![Vec::new(); parameters.0.len()];
    groups.members().for_each(|i| buffers[i] = vec![0.0; parameters.0[i].values.len()]);
    buffers
}
