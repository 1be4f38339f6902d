//! Whether an optimizer's state can be that of the model beside it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use super::STATE;
use crate::checkpoint::Checkpoint;
use crate::meaning::wrappers::unwrapped;
use crate::tensor::TensorInfo;
use crate::{Group, Notice, NoticeKind};

/// The parameters of an optimizer, by what their state is kept under, and their shapes where a state has them.
type Parameters<'t> = BTreeMap<&'t str, Option<&'t [usize]>>;

/// Tells of an optimizer that cannot be of the model in `checkpoint`: it has more parameters, or most of its parameters
/// have names or shapes that are not the model's. Trained adapters and layers leave weights out, never the other way
/// round.
pub(crate) fn foreign(checkpoint: &Checkpoint) -> Option<Notice> {
    // Flat vectors have no names of parameters.
    if checkpoint.warnings.iter().any(|notice| notice.kind == NoticeKind::Flat) {
        return None;
    }
    // Adapters may be made of other parameters than those that are saved.
    let name = checkpoint.files().next().and_then(|path| path.file_name()?.to_str());
    if name.is_some_and(|name| name.starts_with("adapter_")) {
        return None;
    }
    let mut optimizers: BTreeMap<&str, Parameters<'_>> = BTreeMap::new();
    for tensor in checkpoint.tensors.iter().filter(|tensor| tensor.group == Group::Optimizer) {
        let Some((path, parameter, state)) = parts(&tensor.name) else { continue };
        // Megatron-Core keeps each state under its own name, and the parameters below that.
        let Some(known) = STATE.iter().find(|known| known.name == state) else { continue };
        let shape = optimizers.entry(path).or_default().entry(parameter).or_default();
        if known.whole {
            shape.get_or_insert(&tensor.shape);
        }
    }
    let weights = || checkpoint.tensors.iter().filter(|tensor| tensor.group == Group::Weights);
    let count = weights().count();
    if count == 0 || optimizers.is_empty() {
        return None;
    }
    let model = Model {
        count,
        names: weights().map(|weight| unwrapped(&weight.name)).collect(),
        shapes: weights().map(|weight| weight.shape.as_slice()).collect(),
        sides: weights().flat_map(sides).collect(),
    };
    optimizers.iter().find_map(|(path, parameters)| model.foreign(path, parameters))
}

/// `optimizer.state.3.exp_avg`: the optimizer, the parameter, and what is kept of it.
fn parts(name: &str) -> Option<(&str, &str, &str)> {
    let (path, rest) = match name.strip_prefix("state.") {
        Some(rest) => ("", rest),
        None => name.split_once(".state.")?,
    };
    let (parameter, state) = rest.rsplit_once('.')?;
    Some((path, parameter, state))
}

/// What the weights of a model are called, and their shapes.
struct Model<'t> {
    count: usize,
    names: HashSet<Cow<'t, str>>,
    shapes: HashSet<&'t [usize]>,
    /// Of matrices: how many dimensions, which one, and its size.
    sides: HashSet<(usize, usize, usize)>,
}

fn sides(weight: &TensorInfo) -> impl Iterator<Item = (usize, usize, usize)> {
    sides_of(&weight.shape)
}

fn sides_of(shape: &[usize]) -> impl Iterator<Item = (usize, usize, usize)> {
    let dims = shape.len();
    shape.iter().enumerate().filter(move |_| dims >= 2).map(move |(i, &size)| (dims, i, size))
}

impl Model<'_> {
    fn foreign(&self, path: &str, parameters: &Parameters<'_>) -> Option<Notice> {
        let count = parameters.len();
        let why = if parameters.keys().all(|key| key.bytes().all(|b| b.is_ascii_digit())) {
            let shapes: Vec<&[usize]> = parameters.values().flatten().copied().collect();
            // Flat vectors of many parameters have no shapes of weights.
            let flat = shapes.iter().all(|shape| shape.len() <= 1);
            let unlike = shapes.iter().filter(|shape| !self.fits(shape)).count();
            if count > self.count {
                format!("it has {count} parameters, and the model {} tensors", self.count)
            } else if !flat && unlike * 2 > shapes.len() {
                format!("{unlike} of its {count} parameters have shapes that no weight has")
            } else {
                return None;
            }
        } else {
            let unlike = parameters.keys().filter(|name| !self.knows(name)).count();
            if unlike * 2 <= count {
                return None;
            }
            format!("{unlike} of its {count} parameters have names that no weight has")
        };
        let optimizer = match path {
            "" => "the optimizer".to_string(),
            path => format!("the optimizer `{}`", path.escape_debug()),
        };
        let text = format!("{optimizer} cannot be this model's: {why}");
        Some(Notice::new(NoticeKind::Contradiction, text))
    }

    /// Whether a moment of `shape` can be a weight's: of its shape, or of a matrix of which one side was projected.
    fn fits(&self, shape: &[usize]) -> bool {
        self.shapes.contains(shape) || sides_of(shape).any(|side| self.sides.contains(&side))
    }

    /// Whether a weight is called so, whatever is before it.
    fn knows(&self, name: &str) -> bool {
        let name = unwrapped(name);
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
        starts.map(|start| &name[start..]).any(|end| self.names.contains(end))
    }
}
