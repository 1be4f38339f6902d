//! Values that nothing harmful has to be imported for: arrays and tensors that reach beyond their memory.

use std::collections::HashSet;

use super::globals::BUILTINS;
use super::uses::makes_tensor;
use crate::pickle::{Id, Node, Object, Pickle};

/// Attributes by which NumPy and PyTorch take any object for an array at the address that it names
/// (<https://numpy.org/doc/stable/reference/arrays.interface.html>). No program pickles one.
const INTERFACES: [&str; 5] =
    ["__array_interface__", "__array_struct__", "__cuda_array_interface__", "__array__", "__dlpack__"];

/// The name of such an attribute, if the pickle has it.
pub(super) fn array_interface(pickle: &Pickle<'_>) -> Option<&'static str> {
    (0..pickle.node_count()).find_map(|index| {
        let text = pickle.str(Id::at(index)).filter(|text| text.starts_with("__"))?;
        INTERFACES.into_iter().find(|interface| *interface == text)
    })
}

/// The flag of a NumPy type that has references to objects (`NPY_ITEM_HASOBJECT`).
const HAS_OBJECTS: i64 = 1;
/// The deepest nesting of types within types.
const DEEPEST: usize = 16;

/// What the call `object` makes with arguments by name, if that is a tensor or a storage, which take addresses by them.
/// No program pickles one so.
pub(super) fn named_arguments(pickle: &Pickle<'_>, object: &Object) -> Option<String> {
    let tensor = |id: Id| {
        let (module, name) = pickle.global(id)?;
        makes_tensor(module, name).then(|| format!("{module}.{name}"))
    };
    let has = |id: Id| match pickle.node(id) {
        Node::Dict(entries) => !entries.is_empty(),
        Node::None => false,
        _ => true,
    };
    if object.kwargs.is_some_and(has)
        && let Some(made) = tensor(object.callable)
    {
        return Some(format!("makes {made} with arguments by name"));
    }
    // `functools.partial` keeps (function, arguments, arguments by name, attributes).
    let partial = pickle
        .global(object.callable)
        .is_some_and(|(module, name)| name == "partial" && matches!(module, "functools" | "_functools"));
    let kept = |state: &Id| {
        let parts = pickle.sequence(*state)?;
        let made = tensor(*parts.first()?)?;
        parts.get(2).is_some_and(|named| has(*named)).then(|| format!("keeps {made} with arguments by name"))
    };
    let given = || {
        let made = tensor(*pickle.sequence(object.args)?.first()?)?;
        object.kwargs.is_some_and(has).then(|| format!("keeps {made} with arguments by name"))
    };
    partial.then(|| object.state.iter().find_map(kept).or_else(given)).flatten()
}

/// What is wrong with the state that a type of NumPy gets at `id`, (version, order, subtype, names, fields, size, alignment,
/// flags, …), if it does not agree with itself: references of which its flags do not tell, or parts beyond its end.
pub(super) fn forged_dtype(pickle: &Pickle<'_>, id: Id) -> Option<&'static str> {
    let Node::Object(object) = pickle.node(id) else { return None };
    if !is_dtype(pickle, object) {
        return None;
    }
    for state in object.state.iter().filter_map(|state| pickle.sequence(*state)) {
        let size = state.get(5).and_then(|size| pickle.int(*size)).filter(|size| *size >= 0);
        let flags = state.get(7).and_then(|flags| pickle.int(*flags)).unwrap_or(0);
        let told = flags & HAS_OBJECTS != 0;
        for (kind, offset, count) in parts(pickle, state) {
            let item = plain(pickle, kind, 0);
            if !told && item.is_none() {
                return Some("a type of NumPy has references to objects that it does not declare");
            }
            let end = offset.zip(count).and_then(|(offset, count)| {
                let size = i64::try_from(item.flatten().unwrap_or(0)).ok()?;
                (offset >= 0).then_some(())?;
                offset.checked_add(size.checked_mul(count)?)
            });
            if size.is_some_and(|size| end.is_none_or(|end| end > size)) {
                return Some("a type of NumPy has a field beyond its end");
            }
        }
    }
    None
}

/// What is wrong if there is a state of a type with parts that a type made as usual does not get: whatever else gets it may be one,
/// such as what `copyreg._reconstructor` makes, or what `torch._tensor._rebuild_from_type_v2` calls.
pub(super) fn state_of_other(pickle: &Pickle<'_>) -> Option<&'static str> {
    let ids = || (0..pickle.node_count()).map(Id::at);
    let has_parts = |state: &[Id]| {
        [2, 4].iter().any(|at| state.get(*at).is_some_and(|part| !matches!(pickle.node(*part), Node::None)))
    };
    let mut states = ids()
        .filter(|id| pickle.sequence(*id).is_some_and(|state| is_state(pickle, state) && has_parts(state)));
    let first = states.next()?;
    let mut own = HashSet::new();
    for id in ids() {
        if let Node::Object(object) = pickle.node(id)
            && is_dtype(pickle, object)
        {
            own.extend(object.state.iter().map(|state| state.index()));
        }
    }
    let other = std::iter::once(first).chain(states).any(|state| !own.contains(&state.index()));
    other.then_some("something that is not made as a type of NumPy gets the state of one")
}

/// Whether `state` looks like that of a type: (version, order of bytes, …).
fn is_state(pickle: &Pickle<'_>, state: &[Id]) -> bool {
    let order = state.get(1).and_then(|order| pickle.str(*order));
    state.len() >= 8
        && pickle.int(state[0]).is_some()
        && matches!(order, Some("<" | ">" | "|" | "="))
        && pickle.int(state[5]).is_some()
}

/// The parts of a type with this state: the type of each, where it begins, and how many there are in a row; `None` for what
/// is not known.
fn parts(pickle: &Pickle<'_>, state: &[Id]) -> Vec<(Id, Option<i64>, Option<i64>)> {
    let mut found = Vec::new();
    if let Some(Node::Dict(fields)) = state.get(4).map(|fields| pickle.node(*fields)) {
        found.extend(fields.iter().filter_map(|(_, field)| {
            let [kind, offset, ..] = *pickle.sequence(*field)? else { return None };
            Some((kind, pickle.int(offset), Some(1)))
        }));
    }
    // (type, shape)
    if let Some([kind, shape]) = state.get(2).and_then(|part| pickle.sequence(*part)) {
        let sizes = match pickle.sequence(*shape) {
            Some(sizes) => sizes.iter().map(|size| pickle.int(*size)).collect::<Option<Vec<i64>>>(),
            None => pickle.int(*shape).map(|size| vec![size]),
        };
        let count = sizes.and_then(|sizes| sizes.into_iter().try_fold(1i64, |n, size| n.checked_mul(size)));
        found.push((*kind, Some(0), count.filter(|count| *count >= 0)));
    }
    found
}

fn is_dtype(pickle: &Pickle<'_>, object: &Object) -> bool {
    matches!(
        pickle.global(object.callable),
        Some(("numpy" | "numpy.core.multiarray" | "numpy._core.multiarray", "dtype"))
    )
}

/// The size of an element of the type at `id`, if nothing in it refers to objects: `Some(None)` where the size is not known, `None` where
/// the type may.
fn plain(pickle: &Pickle<'_>, id: Id, depth: usize) -> Option<Option<u64>> {
    let Node::Object(object) = pickle.node(id) else { return None };
    if !is_dtype(pickle, object) || depth > DEEPEST {
        // `numpy.dtypes.Float64DType()`.
        let (module, name) = pickle.global(object.callable)?;
        let known = module == "numpy.dtypes" && !matches!(name, "ObjectDType" | "StringDType" | "VoidDType");
        return known.then_some(None);
    }
    let size = match pickle.sequence(object.args)?.first().copied() {
        Some(kind) => match pickle.str(kind) {
            Some(name) => plain_size(name)?,
            // Types of other libraries, and of NumPy.
            None => match pickle.global(kind)? {
                (module, "object") if BUILTINS.contains(&module) => return None,
                (_, name) if name.starts_with("object") => return None,
                _ => None,
            },
        },
        None => return None,
    };
    for state in object.state.iter().filter_map(|state| pickle.sequence(*state)) {
        for (kind, ..) in parts(pickle, state) {
            plain(pickle, kind, depth + 1)?;
        }
    }
    Some(size)
}

/// The size of an element of the type called `name`, such as `<f8` or `V16`; `None` unless it is one of numbers, texts, times or bytes.
fn plain_size(name: &str) -> Option<Option<u64>> {
    let name = name.trim_start_matches(['|', '<', '>', '=']);
    let kind = name.chars().next().filter(|kind| "?biufcSaUVMm".contains(*kind))?;
    let digits = &name[1..];
    // Times have units: `M8[ns]`.
    let digits = digits.split_once('[').map_or(digits, |(digits, _)| digits);
    if !digits.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse::<u64>().ok();
    Some(if kind == 'U' { count.and_then(|count| count.checked_mul(4)) } else { count })
}
