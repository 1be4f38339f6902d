//! Values that nothing harmful has to be imported for: arrays that reach beyond their memory, and calls that never end.

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

/// What is wrong with the state that `numpy.dtype` gets at `id`, (version, order, subtype, names, fields, size, alignment,
/// flags, …), if it does not agree with itself: references of which its flags do not tell, or fields beyond its end.
pub(super) fn forged_dtype(pickle: &Pickle<'_>, id: Id) -> Option<&'static str> {
    let Node::Object(object) = pickle.node(id) else { return None };
    if !is_dtype(pickle, object) {
        return None;
    }
    for state in object.state.iter().filter_map(|state| pickle.sequence(*state)) {
        let fields = state.get(4).and_then(|fields| match pickle.node(*fields) {
            Node::Dict(fields) => Some(fields),
            _ => None,
        });
        let size = state.get(5).and_then(|size| pickle.int(*size));
        let flags = state.get(7).and_then(|flags| pickle.int(*flags)).unwrap_or(0);
        for (_, field) in fields.into_iter().flatten() {
            let Some(&[kind, offset, ..]) = pickle.sequence(*field) else { continue };
            if flags & HAS_OBJECTS == 0 && has_objects(pickle, kind, 0) {
                return Some("a type of NumPy has references to objects that it does not tell of");
            }
            let ends =
                pickle.int(offset).zip(size).is_some_and(|(offset, size)| (0..=size).contains(&offset));
            if size.is_some_and(|size| size >= 0) && !ends {
                return Some("a type of NumPy has a field beyond its end");
            }
        }
    }
    None
}

fn is_dtype(pickle: &Pickle<'_>, object: &Object) -> bool {
    matches!(
        pickle.global(object.callable),
        Some(("numpy" | "numpy.core.multiarray" | "numpy._core.multiarray", "dtype"))
    )
}

/// Whether the type at `id` has references to objects.
fn has_objects(pickle: &Pickle<'_>, id: Id, depth: usize) -> bool {
    let object = match pickle.node(id) {
        Node::Object(object) if depth < DEEPEST && is_dtype(pickle, object) => object,
        _ => return false,
    };
    let named = pickle.sequence(object.args).and_then(|args| pickle.str(*args.first()?));
    if named.is_some_and(|name| name.trim_start_matches(['|', '<', '>', '=']).starts_with('O')) {
        return true;
    }
    object.state.iter().filter_map(|state| pickle.sequence(*state)).any(|state| {
        let inner =
            state.get(2).map(|part| pickle.sequence(*part).and_then(|p| p.first()).copied().unwrap_or(*part));
        let fields = state.get(4).and_then(|fields| match pickle.node(*fields) {
            Node::Dict(fields) => Some(fields),
            _ => None,
        });
        let of_field = |(_, field): &(Id, Id)| {
            pickle
                .sequence(*field)
                .and_then(|field| field.first())
                .is_some_and(|kind| has_objects(pickle, *kind, depth + 1))
        };
        inner.is_some_and(|inner| has_objects(pickle, inner, depth + 1))
            || fields.is_some_and(|fields| fields.iter().any(of_field))
    })
}

/// Bytes that a call may ask for by a number alone.
const MOST_BYTES: i64 = 1 << 30;

/// What makes the call `object` endless, or immense: an argument that never ends, or a number of bytes.
pub(super) fn endless(pickle: &Pickle<'_>, object: &Object) -> Option<&'static str> {
    let args = pickle.sequence(object.args)?;
    let counts = |id: &Id| match pickle.node(*id) {
        Node::Object(inner) => match pickle.global(inner.callable) {
            Some(("itertools", "count" | "cycle")) => true,
            Some(("itertools", "repeat")) => pickle.sequence(inner.args).is_some_and(|args| args.len() < 2),
            _ => false,
        },
        _ => false,
    };
    if args.iter().any(counts) {
        return Some("reads an iterator that never ends");
    }
    let is_bytes =
        matches!(pickle.global(object.callable), Some(("builtins" | "__builtin__", "bytes" | "bytearray")));
    match args {
        [only] if is_bytes && pickle.int(*only).is_some_and(|count| count > MOST_BYTES) => {
            Some("makes more than 1 GiB of zeros")
        }
        _ => None,
    }
}
