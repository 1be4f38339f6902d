//! The dicts that tensors of a checkpoint were saved in: where the key of one is no part of their names.

use crate::group::{STATE_DICTS, in_application};
use crate::meaning::role::{Role, is_of_trainer, roles};
use crate::metadata::{HashableValue, Value};
use crate::{Checkpoint, Group, TensorInfo};

/// The state dicts of a checkpoint. Names alone do not tell the key of one (`{"net": {"a.weight": …}}`) from a module of a
/// network (`{"net.a.weight": …}`), whose name is part of its tensors': what was saved does.
#[derive(Clone, Copy, Debug)]
pub struct StateDicts<'c> {
    metadata: &'c Value,
    only: Option<&'c str>,
}

impl<'c> StateDicts<'c> {
    /// Those of `checkpoint`.
    pub fn of(checkpoint: &'c Checkpoint) -> Self {
        let dicts = StateDicts { metadata: &checkpoint.metadata, only: None };
        let first = checkpoint.tensors.iter().filter(|t| t.group == Group::Weights);
        let Some(only) = first.filter_map(|t| dicts.key(&t.name)).next() else { return dicts };
        // What else a program keeps beside its state is no network.
        let is_program = only.contains('.');
        let is_only = networks(&checkpoint.tensors).all(|t| match dicts.key(&t.name) {
            Some(key) => key == only,
            None => is_program,
        });
        StateDicts { only: Some(only).filter(|_| is_only), ..dicts }
    }

    /// What the names of all weights of `checkpoint` begin with, after that key, up to the first dot; `None` where they begin
    /// differently.
    pub fn beginning(&self, checkpoint: &'c Checkpoint) -> Option<&'c str> {
        let mut firsts =
            networks(&checkpoint.tensors).map(|t| self.own(&t.name).split_once('.').map(|(first, _)| first));
        let first = firsts.next()??;
        firsts.all(|other| other == Some(first)).then_some(first)
    }

    /// The key of the state dict that `name` begins with, with that of the program's state around it (`app.model`).
    pub fn key<'n>(&self, name: &'n str) -> Option<&'n str> {
        let inner = in_application(name).or_else(|| name.split_once('.').map(|(_, rest)| rest))?;
        let key = name[..name.len() - inner.len()].strip_suffix('.')?;
        let mut dict = self.metadata;
        for part in key.split('.') {
            let Value::Dict(entries) = dict else { return None };
            dict = entries.get(&HashableValue::String(part.into()))?;
        }
        let is_known = key.contains('.') || STATE_DICTS.contains(&key);
        (is_known && matches!(dict, Value::Dict(_))).then_some(key)
    }

    /// `name` without the key of the dict that all weights are in. Where there are several, their keys tell which tensor is
    /// meant, and stay.
    pub fn own<'n>(&self, name: &'n str) -> &'n str {
        let within = |only: &str| name.strip_prefix(only)?.strip_prefix('.');
        self.only.and_then(within).unwrap_or(name)
    }
}

/// Those of `tensors`, which are all of a checkpoint, that networks compute with: all weights but what trainers keep beside
/// them, such as the lowest loss.
fn networks(tensors: &[TensorInfo]) -> impl Iterator<Item = &TensorInfo> {
    let is_beside = |t: &TensorInfo, role: Role| {
        is_of_trainer(&t.name, role, t.numel()) || (t.shape.is_empty() && !t.name.contains('.'))
    };
    let weights = tensors.iter().zip(roles(tensors)).filter(|(t, _)| t.group == Group::Weights);
    weights.filter(move |(t, role)| !is_beside(t, *role)).map(|(t, _)| t)
}
