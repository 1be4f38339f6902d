//! Imports that could reach anything, and are harmless with the arguments that a pickle gives them.

use std::collections::{HashMap, HashSet};

use super::calls::known_at;
use super::globals::{BUILTINS, Class, classify};
use super::uses::is_own;
use crate::pickle::{Id, Node, Pickle, Trace};

/// The most parts of an annotation.
const MOST_TYPES: usize = 1000;

type Judge = fn(&Pickle<'_>, &[Id]) -> bool;

/// Each with what its arguments have to be.
const JUDGED: [(&str, &str, Judge); 15] = [
    ("builtins", "type", is_singleton),
    ("__builtin__", "type", is_singleton),
    ("operator", "itemgetter", are_plain),
    ("_operator", "itemgetter", are_plain),
    ("operator", "attrgetter", get_own),
    ("_operator", "attrgetter", get_own),
    ("logging", "getLogger", are_plain),
    ("dill._dill", "_create_array", rebuild_an_array),
    ("dill._dill", "_load_type", name_a_type),
    ("operator", "getitem", is_annotation),
    ("_operator", "getitem", is_annotation),
    ("builtins", "map", apply_a_type),
    ("__builtin__", "map", apply_a_type),
    ("builtins", "filter", apply_a_type),
    ("__builtin__", "filter", apply_a_type),
];

fn judge((module, name): (&str, &str)) -> Option<Judge> {
    JUDGED.iter().find(|judged| (judged.0, judged.1) == (module, name)).map(|judged| judged.2)
}

/// Whether `global` is harmless with some arguments and not with others.
pub(super) fn is_judged(global: (&str, &str)) -> bool {
    judge(global).is_some()
}

/// Those that are called, and only with arguments with which they are harmless.
pub(super) fn harmless_calls<'p>(trace: &'p Trace<'_>) -> HashSet<(&'p str, &'p str)> {
    let pickle = &trace.pickle;
    let mut calls: HashMap<(&str, &str), bool> = HashMap::new();
    for &(at, id) in &trace.seen.calls {
        let Node::Object(object) = pickle.node(id) else { continue };
        let Some((global, judge)) = pickle.global(object.callable).and_then(|g| Some((g, judge(g)?))) else {
            continue;
        };
        let known = object.kwargs.is_none() && known_at(trace, object.args, at);
        let args = pickle.sequence(object.args).filter(|_| known);
        *calls.entry(global).or_insert(true) &= args.is_some_and(|args| judge(pickle, args));
    }
    calls.into_iter().filter(|(_, harmless)| *harmless).map(|(global, _)| global).collect()
}

/// `type(None)` and the like, which is how types without a name are pickled.
fn is_singleton(pickle: &Pickle<'_>, args: &[Id]) -> bool {
    let &[only] = args else { return false };
    let named = |(module, name)| {
        matches!(module, "builtins" | "__builtin__") && matches!(name, "Ellipsis" | "NotImplemented")
    };
    matches!(pickle.node(only), Node::None) || pickle.global(only).is_some_and(named)
}

fn are_plain(pickle: &Pickle<'_>, args: &[Id]) -> bool {
    args.iter().all(|&id| matches!(pickle.node(id), Node::None | Node::Bool(_) | Node::Int(_) | Node::Str(_)))
}

/// `attrgetter('x')`, of attributes that lead nowhere.
fn get_own(pickle: &Pickle<'_>, args: &[Id]) -> bool {
    !args.is_empty() && args.iter().all(|&id| pickle.str(id).is_some_and(is_own))
}

/// `getitem(Optional, int)`: annotations as `typing` pickles them.
fn is_annotation(pickle: &Pickle<'_>, args: &[Id]) -> bool {
    let [of, types] = *args else { return false };
    let (mut rest, mut left) = (vec![types], MOST_TYPES);
    while let Some(id) = rest.pop() {
        left -= 1;
        if left == 0 {
            return false;
        }
        match pickle.node(id) {
            Node::None | Node::Str(_) | Node::Int(_) | Node::Bool(_) => {}
            Node::Global(global) => {
                let data = classify(&global.module, &global.name) == Class::Harmless;
                if global.module.as_ref() != "typing" && !data {
                    return false;
                }
            }
            Node::Tuple(items) | Node::List(items) if items.len() < left => rest.extend(items),
            // Further ones are judged where they are made.
            Node::Object(object) => match pickle.global(object.callable) {
                Some(("builtins" | "__builtin__", "type") | ("operator" | "_operator", "getitem")) => {}
                _ => return false,
            },
            _ => return false,
        }
    }
    pickle.global(of).is_some_and(|(module, _)| module == "typing")
}

/// `map(int, values)` and `filter(None, values)`, whose function makes a small value of each.
fn apply_a_type(pickle: &Pickle<'_>, args: &[Id]) -> bool {
    let [function, ..] = *args else { return false };
    match pickle.node(function) {
        Node::None => true,
        Node::Global(global) => {
            BUILTINS.contains(&global.module.as_ref())
                && matches!(
                    global.name.as_ref(),
                    "int" | "float" | "bool" | "str" | "complex" | "abs" | "len" | "tuple" | "list"
                )
        }
        _ => false,
    }
}

/// `_load_type('int')`, as dill pickles Python's own types.
fn name_a_type(pickle: &Pickle<'_>, args: &[Id]) -> bool {
    const TYPES: &str = "NoneType bool bytearray bytes complex dict ellipsis float frozenset int list object range set slice str tuple";
    let &[only] = args else { return false };
    pickle.str(only).is_some_and(|name| TYPES.split(' ').any(|known| known == name))
}

/// `_create_array(_reconstruct, (ndarray, …), state)`: what NumPy does for the same arguments.
fn rebuild_an_array(pickle: &Pickle<'_>, args: &[Id]) -> bool {
    let [make, of, ..] = *args else { return false };
    let Node::Tuple(of) = pickle.node(of) else { return false };
    matches!(pickle.global(make), Some(("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct")))
        && of.first().and_then(|&class| pickle.global(class)) == Some(("numpy", "ndarray"))
}
