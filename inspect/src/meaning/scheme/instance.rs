//! Instances of subclasses of PyTorch's tensors, in pickles: they have no data of their own, and what they wrap is listed
//! below their names. What that is to them only their class knows, so that parts of one that no scheme reads are no
//! weights, whatever they are called.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Stored, is_shell};
use crate::metadata::Value;
use crate::{Group, Instance};

/// Classes whose instances are the one tensor of their own type and shape that they wrap: PyTorch's and torchao's for
/// training and for rounding activations, which compute otherwise with a weight that is stored as it is.
const SAME: [&str; 9] = [
    "AffineFakeQuantizedTensor",
    "AsyncCollectiveTensor",
    "BitNetTrainingLinearWeight",
    "Float8TrainingWeightWrapperTensor",
    "Int8MixedPrecisionTrainingLinearWeight",
    "LinearActivationQuantizedTensor",
    "ScaledGroupedMMTensor",
    "WeightWithDynamicFloat8CastTensor",
    "_FakeQuantizedTensor",
];
/// Where they are from.
const LIBRARIES: [&str; 2] = ["torch.", "torchao."];
/// Dots of a name before which an instance may be: modules are hardly so deep.
const MOST_DOTS: usize = 256;
/// Classes that are named of instances in instances.
const NAMED: usize = 4;

/// The instance that the tensor called `name` is.
pub(super) fn of<'c>(stored: &Stored<'c>, name: &str) -> Option<&'c Instance> {
    stored.at(name).and_then(|at| stored.tensor(at).instance.as_deref())
}

/// The class of that instance, if it is one of torchao's.
pub(super) fn of_torchao<'c>(stored: &Stored<'c>, name: &str) -> Option<(&'c str, &'c Value)> {
    let instance = of(stored, name).filter(|instance| instance.class.starts_with("torchao."))?;
    Some((instance.class_name(), &instance.attributes))
}

/// The name of what a tensor called `name` is a part of, and of which one.
pub(super) fn parent(name: &str) -> Option<(&str, &str)> {
    // The root of a file has no name.
    name.rsplit_once('.').or_else(|| (!name.is_empty()).then_some(("", name)))
}

/// The names of all that may have a part called `name`, outermost first.
pub(super) fn parents(name: &str) -> impl Iterator<Item = &str> {
    let root = (!name.is_empty()).then_some("");
    root.into_iter().chain(name.match_indices('.').take(MOST_DOTS).map(|(dot, _)| &name[..dot]))
}

/// An instance that no scheme reads.
pub(super) struct Unread {
    /// Its place.
    pub at: usize,
    /// Places of all that is below its name.
    pub below: Vec<usize>,
    /// What it is.
    pub what: What,
}

/// What an instance that no scheme reads is.
pub(super) enum What {
    /// The tensor at this place.
    Same(usize),
    /// Something that only this class knows.
    Of(String),
}

/// The outermost instances that wrap tensors with data and are none of those that are `known`.
pub(super) fn unread(stored: &Stored<'_>, known: &HashSet<usize>) -> Vec<Unread> {
    let tensors = &stored.checkpoint.tensors;
    let is_unread = |(at, tensor): &(usize, &crate::TensorInfo)| {
        tensor.instance.is_some()
            && is_shell(tensor)
            && tensor.group != Group::Optimizer
            && !known.contains(at)
    };
    let shells: HashMap<&str, usize> =
        tensors.iter().enumerate().filter(is_unread).map(|(at, tensor)| (tensor.name.as_str(), at)).collect();
    if shells.is_empty() {
        return Vec::new();
    }
    let mut below: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, tensor) in tensors.iter().enumerate() {
        if let Some(&owner) = parents(&tensor.name).find_map(|name| shells.get(name)) {
            below.entry(owner).or_default().push(at);
        }
    }
    below.retain(|_, parts| parts.iter().any(|&part| !is_shell(&tensors[part])));
    // One whose own elements are of a type that is not known wraps nothing.
    let has_data = |at: &&usize| of(stored, &tensors[**at].name).is_some_and(Instance::is_storage);
    for &at in shells.values().filter(has_data) {
        below.entry(at).or_default();
    }
    below.into_iter().map(|(at, below)| Unread { at, what: what(stored, at, &below), below }).collect()
}

fn what(stored: &Stored<'_>, at: usize, below: &[usize]) -> What {
    let whole = stored.tensor(at);
    let instances = std::iter::once(at).chain(below.iter().copied());
    let classes: Vec<&Instance> =
        instances.filter_map(|at| stored.tensor(at).instance.as_deref()).take(NAMED).collect();
    let is_same = |class: &&Instance| {
        SAME.contains(&class.class_name()) && LIBRARIES.iter().any(|from| class.class.starts_with(from))
    };
    let alike = |&&part: &&usize| {
        let part = stored.tensor(part);
        !is_shell(part) && part.dtype == whole.dtype && part.dtype.is_float() && part.shape == whole.shape
    };
    let mut own = below.iter().filter(alike);
    match (own.next(), own.next()) {
        (Some(&own), None) if classes.iter().all(is_same) => What::Same(own),
        _ => {
            let mut names: Vec<&str> = classes.iter().map(|class| class.class_name()).collect();
            names.dedup();
            What::Of(names.join(" of "))
        }
    }
}
