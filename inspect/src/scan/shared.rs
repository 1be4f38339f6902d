//! Objects that the whole process shares and a pickle may get, and classes that do more when they are called than when they are
//! made anew.

use super::calls::cut;
use super::globals::BUILTINS;
use super::uses::{is_getattr, makes_tensor};
use crate::pickle::{Id, Node, Object, Pickle, Trace};

/// What gives one of the objects that are there already: loggers, members of enumerations, singletons, what `typing` keeps.
const GIVES: [(&str, &[&str]); 15] = [
    ("logging", &["getLogger"]),
    ("http", &["HTTPMethod", "HTTPStatus"]),
    ("signal", &["Handlers", "Sigmasks", "Signals"]),
    ("uuid", &["SafeUUID"]),
    ("re", &["RegexFlag", "_compile"]),
    ("operator", &["getitem"]),
    ("_operator", &["getitem"]),
    ("torch.serialization", &["_get_layout"]),
    ("torch.distributed.checkpoint.metadata", &["_MEM_FORMAT_ENCODING"]),
    ("torch.distributed._shard.sharded_tensor.metadata", &["MEM_FORMAT_ENCODING"]),
    ("torch.distributed.checkpoint.planner", &["WriteItemType"]),
    ("deepspeed.runtime.zero.config", &["ZeroStageEnum"]),
    ("builtins", &["type"]),
    ("__builtin__", &["type"]),
    ("__builtins__", &["type"]),
];
/// Functions that may give one of the values that they get, of Python's and of NumPy's.
const PICKS: [&str; 4] = ["max", "min", "next", "sum"];
const NUMPY_PICKS: &str = "all amax amin any max maximum median min minimum nanmax nanmin nansum prod sum";
/// The deepest nesting of calls that hand something back.
const DEEPEST: usize = 64;

/// Arguments that are looked at: many calls may share them.
const MOST_LOOKED_AT: usize = 16;

/// What the object at `id` is, if the process shares it: changes of it are seen by everyone.
pub(super) fn shared(pickle: &Pickle<'_>, id: Id) -> Option<&'static str> {
    let mut id = id;
    for _ in 0..DEEPEST {
        let Node::Object(object) = pickle.node(id) else { return None };
        let (module, name) = pickle.global(object.callable)?;
        if is_getattr(module, name) {
            return Some("what getattr gives");
        }
        let of_numpy = || module == "numpy" && NUMPY_PICKS.split(' ').any(|pick| pick == name);
        if BUILTINS.contains(&module) && PICKS.contains(&name) || of_numpy() {
            return Some("one of the values that a function gets");
        }
        let args = pickle.sequence(object.args).unwrap_or(&[]);
        let hands_back = name == "scalar" && module.ends_with(".multiarray");
        match args.get(1) {
            Some(inner) if hands_back => id = *inner,
            // Or what something else gets by calling it.
            _ => {
                return (gives((module, name))
                    || args.iter().take(MOST_LOOKED_AT).any(|arg| pickle.global(*arg).is_some_and(gives)))
                .then_some("an object that is shared by the process");
            }
        }
    }
    Some("what is handed back again and again")
}

fn gives((module, name): (&str, &str)) -> bool {
    is_getattr(module, name) || GIVES.iter().any(|(of, names)| *of == module && names.contains(&name))
}

/// What the call `object` calls and sets attributes of the result, if it is PyTorch's for tensors of other classes and is given
/// something else to call than what makes a tensor.
pub(super) fn rebuilt(pickle: &Pickle<'_>, object: &Object) -> Option<String> {
    let (module, name) = pickle.global(object.callable)?;
    if module != "torch._tensor" || !name.starts_with("_rebuild_from_type") {
        return None;
    }
    match pickle.global(*pickle.sequence(object.args)?.first()?) {
        Some((module, name)) if makes_tensor(module, name) || name == "_rebuild_njt" => None,
        Some((module, name)) => Some(cut(&format!("{module}.{name}"))),
        None => Some("something that it computes".to_string()),
    }
}

/// Classes whose `__init__` reaches for processes and devices: pickles make them without it.
const MADE: [(&str, &str); 2] = [
    ("torch.distributed.device_mesh", "DeviceMesh"),
    ("torch.distributed._shard.sharded_tensor.api", "ShardedTensor"),
];

/// Those of them with which the pickle does more than to make one without calling it.
pub(super) fn called_classes(trace: &Trace<'_>) -> Vec<(&'static str, &'static str)> {
    let imports = |class: &(&str, &str)| {
        trace.pickle.globals.iter().any(|global| (&*global.module, &*global.name) == *class)
    };
    MADE.into_iter().filter(imports).filter(|class| is_called(trace, *class)).collect()
}

fn is_called(trace: &Trace<'_>, class: (&str, &str)) -> bool {
    let pickle = &trace.pickle;
    let is_class = |id: &Id| pickle.global(*id) == Some(class);
    let called = trace.seen.calls.iter().any(|&(at, id)| match pickle.node(id) {
        Node::Object(object) => is_class(&object.callable) && !matches!(pickle.opcode(at), Some(0x81 | 0x92)),
        _ => false,
    });
    // `_reconstructor(class, object, None)` makes one as well.
    let mut reconstructed = Vec::new();
    for &(_, id) in &trace.seen.calls {
        if let Node::Object(object) = pickle.node(id)
            && matches!(pickle.global(object.callable), Some(("copyreg" | "copy_reg", "_reconstructor")))
            && let Some(&[_, base, _]) = pickle.sequence(object.args)
            && pickle
                .global(base)
                .is_some_and(|(module, name)| name == "object" && BUILTINS.contains(&module))
        {
            reconstructed.push(object.args.index());
        }
    }
    reconstructed.sort_unstable();
    called
        || is_class(&pickle.root)
        || (0..pickle.node_count()).any(|index| match pickle.node(Id::at(index)) {
            Node::Tuple(items) if reconstructed.binary_search(&(index as u32)).is_ok() => {
                items.iter().skip(1).any(is_class)
            }
            Node::Tuple(items) | Node::List(items) | Node::Set(items) => items.iter().any(is_class),
            Node::Dict(entries) => entries.iter().any(|(key, value)| is_class(key) || is_class(value)),
            Node::Object(object) => {
                let entries = object.entries.iter().flat_map(|(key, value)| [key, value]);
                let held = [&object.args].into_iter().chain(&object.kwargs).chain(&object.state);
                held.chain(&object.items).chain(entries).any(is_class)
            }
            _ => false,
        })
}
