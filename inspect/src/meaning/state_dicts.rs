//! The dicts that tensors of a checkpoint were saved in: where the key of one is no part of their names.

use std::collections::{BTreeSet, HashMap};

use crate::group::{STATE_DICTS, in_application, is_average_key};
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

    /// The network and its moving average in `checkpoint`: two dicts, of which one is called an average and the other has every
    /// weight of it, in the same shape.
    pub fn averaged(checkpoint: &'c Checkpoint) -> Option<Averaged<'c>> {
        let dicts = StateDicts { metadata: &checkpoint.metadata, only: None };
        let weights = || checkpoint.tensors.iter().filter(|t| t.group == Group::Weights);
        let keyed = || weights().filter_map(|t| Some((dicts.key(&t.name)?, t)));
        let average = keyed().map(|(key, _)| key).find(|key| is_average_key(key))?;
        let of_average: Vec<&TensorInfo> =
            keyed().filter(|(key, _)| *key == average).map(|(_, tensor)| tensor).collect();
        let networks = keyed().map(|(key, _)| key).filter(|key| !is_average_key(key));
        let networks: Vec<&str> = networks.collect::<BTreeSet<_>>().into_iter().collect();
        let has_all = |network: &&str| {
            let own = keyed().filter(|(key, _)| key == network);
            let own: HashMap<&str, &[usize]> =
                own.map(|(key, t)| (&t.name[key.len()..], t.shape.as_slice())).collect();
            of_average.iter().all(|t| own.get(&t.name[average.len()..]) == Some(&t.shape.as_slice()))
        };
        networks.into_iter().find(has_all).map(|network| Averaged { network, average })
    }

    /// `name` without the key of the dict that all weights are in. Where there are several, their keys tell which tensor is
    /// meant, and stay.
    pub fn own<'n>(&self, name: &'n str) -> &'n str {
        let within = |only: &str| name.strip_prefix(only)?.strip_prefix('.');
        self.only.and_then(within).unwrap_or(name)
    }
}

/// A network's state dict and that of the moving average of its weights, which a checkpoint has both.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Averaged<'c> {
    /// The key of the network's own weights.
    pub network: &'c str,
    /// The key of their average.
    pub average: &'c str,
}

impl<'c> Averaged<'c> {
    /// Whether the tensor called `name` is of the average.
    pub fn is_average(&self, name: &str) -> bool {
        name.strip_prefix(self.average).is_some_and(|rest| rest.starts_with('.'))
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
