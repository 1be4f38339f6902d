//! Whether an optimizer's state can be that of the model beside it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::STATE;
use super::state_dict::parameters;
use crate::checkpoint::Checkpoint;
use crate::meaning::wrappers::unwrapped;
use crate::tensor::TensorInfo;
use crate::{Group, Notice, NoticeKind};

/// The parameters of an optimizer, by what their state is kept under, and the states that have their shapes.
type Parameters<'t> = BTreeMap<&'t str, Vec<&'t TensorInfo>>;

/// Parameters that tell what is usual.
const ENOUGH: usize = 4;
/// One in so many may be unlike.
const FEW: usize = 20;

/// Tells of an optimizer that cannot be of the model in `checkpoint`: it has more parameters, or most of its parameters
/// have names or shapes that are not the model's, or what it keeps of one has another shape than that. Trained adapters and layers leave weights out, never the other way
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
        let states = optimizers.entry(path).or_default().entry(parameter).or_default();
        if known.whole {
            states.push(tensor);
        }
    }
    let weights = || checkpoint.tensors.iter().filter(|tensor| tensor.group == Group::Weights);
    let count = weights().count();
    if count == 0 || optimizers.is_empty() {
        return None;
    }
    let model = Model {
        count,
        names: weights().map(|weight| (unwrapped(&weight.name), weight.shape.as_slice())).collect(),
        parameters: parameters(checkpoint)
            .into_iter()
            .map(|i| checkpoint.tensors[i].shape.as_slice())
            // Counters are single numbers.
            .filter(|shape| !shape.is_empty())
            .collect(),
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
    names: HashMap<Cow<'t, str>, &'t [usize]>,
    /// The shapes of those that optimizers get.
    parameters: Vec<&'t [usize]>,
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
            let shapes: Vec<&[usize]> = shapes(parameters).collect();
            // Flat vectors of many parameters have no shapes of weights.
            let flat = shapes.iter().all(|shape| shape.len() <= 1);
            let unlike = shapes.iter().filter(|shape| !self.fits(shape)).count();
            if count > self.count {
                format!("it has {count} parameters, and the model {} tensors", self.count)
            } else if !flat && unlike * 2 > shapes.len() {
                format!("{unlike} of its {count} parameters have shapes that no weight has")
            } else if let Some((state, usual)) = unlike_others(parameters) {
                said(state, &format!("what else is kept of that parameter has {usual:?}"))
            } else if let Some((state, left)) = self.unlike_weights(parameters) {
                said(state, &format!("the only weight that is left for it has {left:?}"))
            } else {
                return None;
            }
        } else if let Some((state, usual)) = unlike_others(parameters) {
            said(state, &format!("what else is kept of that parameter has {usual:?}"))
        } else if let Some((state, usual)) = self.unlike_named(parameters) {
            said(state, &format!("that weight has {usual:?}"))
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

    /// A state whose shape is not that of the weight by whose name it is kept, and that shape.
    fn unlike_named<'p>(&self, parameters: &Parameters<'p>) -> Option<(&'p TensorInfo, &[usize])> {
        let unlike = |(name, states): (&&'p str, &Vec<&'p TensorInfo>)| {
            let (shape, state) = (*self.names.get(&unwrapped(name))?, *states.first()?);
            // Flat ones are of a rank, or of several parameters.
            (state.shape.len() == shape.len() && shape.len() >= 2 && !spans(&state.shape, shape))
                .then_some((state, shape))
        };
        let mut all = parameters.iter().filter_map(unlike);
        let found = all.next()?;
        (all.count() < parameters.len().div_ceil(FEW)).then_some(found)
    }

    /// The one state whose shape no weight has that no other parameter is of, and the shape of that weight: where an
    /// optimizer has all parameters of the model.
    fn unlike_weights<'p>(&self, parameters: &Parameters<'p>) -> Option<(&'p TensorInfo, Vec<usize>)> {
        let states: Vec<&TensorInfo> = parameters
            .values()
            .filter_map(|states| states.first().copied().filter(|s| !s.shape.is_empty()))
            .collect();
        if states.len() != self.parameters.len() || states.len() < ENOUGH {
            return None;
        }
        let mut left: HashMap<&[usize], usize> = HashMap::new();
        self.parameters.iter().for_each(|shape| *left.entry(shape).or_default() += 1);
        let mut over = Vec::new();
        for state in states {
            match left.get_mut(state.shape.as_slice()).filter(|count| **count > 0) {
                Some(count) => *count -= 1,
                None => over.push(state),
            }
        }
        let (shape, _) = left.into_iter().find(|(_, count)| *count > 0)?;
        match over.as_slice() {
            [state] if !spans(&state.shape, shape) => Some((state, shape.to_vec())),
            _ => None,
        }
    }

    /// Whether a moment of `shape` can be a weight's: of its shape, or of a matrix of which one side was projected.
    fn fits(&self, shape: &[usize]) -> bool {
        self.shapes.contains(shape) || sides_of(shape).any(|side| self.sides.contains(&side))
    }

    /// Whether a weight is called so, whatever is before it.
    fn knows(&self, name: &str) -> bool {
        let name = unwrapped(name);
        let starts = std::iter::once(0).chain(name.match_indices('.').map(|(at, _)| at + 1));
        starts.map(|start| &name[start..]).any(|end| self.names.contains_key(end))
    }
}

/// The shapes that states of `parameters` have.
fn shapes<'p>(parameters: &Parameters<'p>) -> impl Iterator<Item = &'p [usize]> {
    parameters.values().filter_map(|states| Some(states.first()?.shape.as_slice()))
}

/// A state of a parameter of which another state has another shape, and that. Some keep one number for a row, or for all.
fn unlike_others<'p>(parameters: &Parameters<'p>) -> Option<(&'p TensorInfo, &'p [usize])> {
    let unlike = |states: &Vec<&'p TensorInfo>| {
        let (first, rest) = states.split_first()?;
        let other = rest.iter().find(|state| !spans(&state.shape, &first.shape))?;
        Some((*first, other.shape.as_slice()))
    };
    let mut all = parameters.values().filter_map(unlike);
    let found = all.next()?;
    // Of many it is how that optimizer works.
    (all.count() < parameters.len().div_ceil(FEW)).then_some(found)
}

/// Whether two shapes are of as many dimensions, each as long in both or 1 in one of them; or one is of one number.
fn spans(one: &[usize], other: &[usize]) -> bool {
    let number = |shape: &[usize]| shape.iter().all(|&size| size == 1);
    let fits = |(one, other): (&usize, &usize)| one == other || *one == 1 || *other == 1;
    number(one) || number(other) || (one.len() == other.len() && one.iter().zip(other).all(fits))
}

fn said(state: &TensorInfo, other: &str) -> String {
    format!("`{}` has shape {:?}, and {other}", state.name.escape_debug(), state.shape)
}
