//! Imports that are judged by what a pickle does with them.

use std::collections::HashSet;

use super::calls::known_at;
use super::executed::class_of;
use super::globals::{BUILTINS, Class, classify, leads_out};
use super::judged::is_judged;
use super::text::reaches_out;
use crate::pickle::{Id, Node, Object, Pickle, Trace};

pub(super) fn is_getattr(module: &str, name: &str) -> bool {
    name == "getattr" && matches!(module, "builtins" | "__builtin__")
}

/// Hooks of lazy layers, which give their tensors a shape when the layer is first used or loaded.
const LAZY: [&str; 3] = ["_infer_parameters", "_lazy_load_hook", "_lazy_save_hook"];
/// Functions of schedules that scale.
const SCALES: [(&str, &str, &[&str]); 2] = [
    (
        "torch.optim.lr_scheduler",
        "CyclicLR",
        &["_triangular_scale_fn", "_triangular2_scale_fn", "_exp_range_scale_fn"],
    ),
    ("torch.optim.swa_utils", "SWALR", &["_cosine_anneal", "_linear_anneal"]),
];

/// What the calls of `getattr` are together, where each gives a plain function of PyTorch's, as `torch.relu` is pickled
/// (`getattr(torch._C._VariableFunctionsClass, 'relu')`), or a method of one of its layers, as the hooks of lazy ones are;
/// which that is, and what it does when it is called, is not known.
pub(super) fn gets_of_torch(trace: &Trace<'_>) -> Option<Class> {
    let pickle = &trace.pickle;
    let mut class = Class::Harmless;
    for &(at, id) in &trace.seen.calls {
        let Node::Object(object) = pickle.node(id) else { continue };
        if !pickle.global(object.callable).is_some_and(|(module, name)| is_getattr(module, name)) {
            continue;
        }
        let args = pickle.sequence(object.args).filter(|_| known_at(trace, object.args, at))?;
        let &[whose, name] = args else { return None };
        let name = pickle.str(name)?;
        // As zones of time are pickled, which reads the system's database of them.
        if pickle.global(whose) == Some(("zoneinfo", "ZoneInfo")) && name == "_unpickle" {
            class = Class::Unknown;
            continue;
        }
        let lazy = LAZY.contains(&name);
        if reaches_out(name) && !lazy {
            return None;
        }
        let of_layer = |id| {
            // The legacy form refers to classes by persistent ids.
            let class = pickle.class(id).or_else(|| match pickle.node(id) {
                Node::Object(object) => match pickle.node(object.callable) {
                    Node::Persistent(pid) => class_of(pickle, *pid),
                    _ => None,
                },
                _ => None,
            });
            class.is_some_and(|(module, name)| {
                module.starts_with("torch.nn.modules.") && classify(module, name) == Class::Harmless
            })
        };
        match pickle.global(whose) {
            Some(("torch._C", "_VariableFunctionsClass" | "TensorBase" | "_TensorBase"))
                if !name.starts_with('_') => {}
            // `str.lower`, and `'a'.split`: a format reaches for attributes.
            Some((module, class))
                if BUILTINS.contains(&module) && PLAIN.contains(&class) && is_plain_method(name) => {}
            None if is_plain_value(pickle, whose) && is_plain_method(name) => {}
            Some(class)
                if SCALES.iter().any(|&(of, is, names)| class == (of, is) && names.contains(&name)) => {}
            None if of_layer(whose) && lazy => {}
            // `numpy.random.normal` is a method of a generator that NumPy has.
            None if is_own(name) && pickle.class(whose).is_some_and(is_generator) => class = Class::Unknown,
            Some((module, of)) if is_own(name) && classify(module, of) == Class::Harmless => {
                class = Class::Unknown;
            }
            None if of_layer(whose) && !name.starts_with("__") => class = Class::Unknown,
            _ => return None,
        }
    }
    Some(class)
}

/// Types of Python's whose methods compute a value of plain ones.
const PLAIN: [&str; 12] = [
    "bool",
    "bytearray",
    "bytes",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "set",
    "str",
    "tuple",
];

/// Whether `name` is that of a method of a plain value: those that format reach for attributes.
fn is_plain_method(name: &str) -> bool {
    is_own(name) && !name.starts_with("format")
}

fn is_plain_value(pickle: &Pickle<'_>, id: Id) -> bool {
    use Node::{Bool, Bytes, Dict, Float, Int, List, Set, Str, Tuple};
    matches!(
        pickle.node(id),
        Bool(_) | Bytes(_) | Dict(_) | Float(_) | Int(_) | List(_) | Set(_) | Str(_) | Tuple(_)
    )
}

/// Whether `name` is one that a class itself has for others, and leads nowhere else.
pub(super) fn is_own(name: &str) -> bool {
    !name.starts_with('_') && !name.contains('.') && !leads_out(name)
}

fn is_generator((module, name): (&str, &str)) -> bool {
    module == "numpy.random._pickle" && classify(module, name) == Class::Harmless
}

/// Whether a call of `module.name` gives a tensor, a parameter or a storage of PyTorch's, or an array of NumPy's.
pub(super) fn makes_tensor(module: &str, name: &str) -> bool {
    match module {
        "torch._utils" | "torch._tensor" => name.starts_with("_rebuild"),
        "torch.nn.parameter" => !name.ends_with("Dict") && !name.ends_with("List"),
        "torch" | "torch.cuda" | "torch.sparse" => name.ends_with("Tensor") || name.ends_with("Storage"),
        "torch.storage" => true,
        "numpy.core._internal" => name == "_reconstruct",
        "numpy" => matches!(name, "ndarray" | "matrix" | "recarray" | "memmap" | "dtype"),
        "numpy.core.multiarray" | "numpy._core.multiarray" => matches!(name, "_reconstruct" | "scalar"),
        "numpy.ma.core" | "numpy.ma" => matches!(name, "_mareconstruct" | "MaskedArray"),
        _ => false,
    }
}

/// Arrays in a file, which are pickled as arrays of this class: `_reconstruct(memmap, (0,), b'b')` opens none, where
/// a call of it would.
pub(super) const MEMMAP: (&str, &str) = ("numpy", "memmap");

/// Whether the pickle only names `class` as that of an array that NumPy builds anew.
pub(super) fn only_reconstructs(trace: &Trace<'_>, class: (&str, &str)) -> bool {
    let pickle = &trace.pickle;
    let is_class = |id: &Id| pickle.global(*id) == Some(class);
    if !trace.seen.imports.iter().any(|(_, id)| is_class(id)) || is_class(&pickle.root) {
        return false;
    }
    let rebuilds = |object: &Object| {
        let of_numpy = ["numpy.core.multiarray", "numpy._core.multiarray"];
        pickle
            .global(object.callable)
            .is_some_and(|(module, name)| name == "_reconstruct" && of_numpy.contains(&module))
    };
    // What only such calls get, each by itself: what else holds it may give it to something that opens the file.
    let mut arguments: HashSet<u32> = HashSet::new();
    for &(at, id) in &trace.seen.calls {
        let Node::Object(object) = pickle.node(id) else { continue };
        if rebuilds(object) && known_at(trace, object.args, at) {
            arguments.insert(object.args.index());
        }
    }
    // joblib's own arrays say which class they were, and it makes none of this one.
    let wraps = |object: &Object| pickle.global(object.callable) == Some(ARRAY_WRAPPER);
    let mut described: HashSet<u32> = HashSet::new();
    for &(_, id) in &trace.seen.builds {
        if let Node::Object(object) = pickle.node(id)
            && wraps(object)
        {
            described.extend(object.state.iter().map(|state| state.index()));
        }
    }
    let is_used =
        |id: &Id| is_class(id) || arguments.contains(&id.index()) || described.contains(&id.index());
    !is_used(&pickle.root)
        && (0..pickle.node_count()).all(|index| {
            let id = Id::at(index);
            let other = |items: &[Id]| !items.iter().any(is_used);
            match pickle.node(id) {
                Node::Tuple(items) if arguments.contains(&id.index()) => other(items.get(1..).unwrap_or(&[])),
                Node::Tuple(items) | Node::List(items) | Node::Set(items) => other(items),
                Node::Dict(entries) => !entries.iter().any(|(key, value)| {
                    let is_subclass = pickle.str(*key) == Some("subclass") && is_class(value);
                    is_used(key) || is_used(value) && !(described.contains(&id.index()) && is_subclass)
                }),
                Node::Object(object) => {
                    let entries = object.entries.iter().flat_map(|(key, value)| [key, value]);
                    let state = if wraps(object) { &[][..] } else { &object.state };
                    let held = [&object.callable].into_iter().chain(&object.kwargs).chain(state);
                    let passed = is_used(&object.args) && !rebuilds(object);
                    !passed && !held.chain(&object.items).chain(entries).any(is_used)
                }
                Node::Persistent(inner) => !is_used(inner),
                _ => true,
            }
        })
}

/// What NumPy's older `scalar(dtype('O'), object)` gives back, where that is an import.
pub(super) fn handed_back<'p>(pickle: &'p Pickle<'_>, id: Id) -> Option<(&'p str, &'p str)> {
    const DEEPEST: usize = 64;
    let mut id = id;
    for _ in 0..DEEPEST {
        let ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") = pickle.class(id)? else {
            return None;
        };
        let Node::Object(object) = pickle.node(id) else { return None };
        // Which may be given back by another one.
        id = *pickle.sequence(object.args)?.get(1)?;
        if let Some(global) = pickle.global(id) {
            return Some(global);
        }
    }
    None
}

const ARRAY_WRAPPER: (&str, &str) = ("joblib.numpy_pickle", "NumpyArrayWrapper");
pub(super) const NDARRAY_WRAPPER: (&str, &str) = ("joblib.numpy_pickle", "NDArrayWrapper");
/// One whose file has the elements alone, compressed.
pub(super) const COMPRESSED_WRAPPER: (&str, &str) = ("joblib.numpy_pickle", "ZNDArrayWrapper");

/// Where a distributed checkpoint's listing has a part, with the name of its file.
pub(super) const STORAGE_INFO: (&str, &str) = ("torch.distributed.checkpoint.filesystem", "_StorageInfo");

/// Imports that are harmless only if their arguments are known, and so only if the pickle itself calls them.
pub(super) const JUDGED_BY_ARGUMENTS: [(&str, &str); 7] = [
    ("builtins", "getattr"),
    ("__builtin__", "getattr"),
    ("torch.storage", "_load_from_bytes"),
    ("_codecs", "encode"),
    NDARRAY_WRAPPER,
    COMPRESSED_WRAPPER,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"),
];

/// The ones among them that unpickle.
pub(super) fn loads(module: &str, name: &str) -> Option<&'static str> {
    ((module, name) != ("_codecs", "encode")).then_some("unpickles data that cannot be inspected here")
}

/// Imports judged by their arguments that are not called directly: passed to something that may call them, such as
/// `torch._tensor._rebuild_from_type_v2(function, type, args, state)`, or kept for later.
pub(super) fn handed_on<'p>(trace: &'p Trace<'_>) -> HashSet<(&'p str, &'p str)> {
    let pickle = &trace.pickle;
    let judged = |id: &Id| {
        pickle.global(*id).filter(|global| JUDGED_BY_ARGUMENTS.contains(global) || is_judged(*global))
    };
    let mut found = HashSet::new();
    if !trace.seen.imports.iter().any(|(_, id)| judged(id).is_some()) {
        return found;
    }
    found.extend(judged(&pickle.root));
    for index in 0..pickle.node_count() {
        match pickle.node(Id::at(index)) {
            Node::Tuple(items) | Node::List(items) | Node::Set(items) => {
                found.extend(items.iter().filter_map(judged));
            }
            Node::Dict(entries) => {
                found.extend(entries.iter().flat_map(|(key, value)| [key, value]).filter_map(judged));
            }
            Node::Object(object) => {
                let parts = [&object.args].into_iter().chain(&object.kwargs);
                found.extend(parts.chain(&object.state).chain(&object.items).filter_map(judged));
                found.extend(object.entries.iter().flat_map(|(key, value)| [key, value]).filter_map(judged));
            }
            Node::Persistent(id) => found.extend(judged(id)),
            _ => {}
        }
    }
    found
}
