//! Which imports of a pickle are harmless, which are dangerous; all others are unknown.
//!
//! Harmless are the names that PyTorch's own restricted unpickler accepts (`torch/_weights_only_unpickler.py`), those
//! that numpy's arrays and generators need, and plain data types of the standard library: calling them with any
//! arguments builds a value and nothing else, and never gives back an argument, which could be a class that BUILD then
//! changes (those of Python's own functions that do are in `shared.rs`). Each module is listed with exact names; `*` after a prefix is used only
//! where all names with that prefix are of one kind.

mod computing;
mod dangerous;
mod exported;
mod harmless;

use computing::computes;
pub(crate) use dangerous::NATIVE;
use dangerous::{DANGEROUS_MODULES, DANGEROUS_NAMES, DANGEROUS_STEPS, LESSER_NAMES, REACHES};
use exported::reaches_by_name;
use harmless::{HARMLESS, HARMLESS_BUILTINS};

/// What is known about an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Builds data.
    Harmless,
    /// Why it is dangerous.
    Dangerous(&'static str),
    /// Neither.
    Unknown,
}

/// The names of `builtins`, now and earlier.
pub(crate) const BUILTINS: [&str; 3] = ["builtins", "__builtin__", "__builtins__"];

/// What is known about `module.name`.
pub(crate) fn classify(module: &str, name: &str) -> Class {
    let canonical = if BUILTINS.contains(&module) { "builtins" } else { module };
    if canonical == "builtins" && HARMLESS_BUILTINS.contains(&name) {
        return Class::Harmless;
    }
    if HARMLESS.iter().any(|(m, names)| *m == module && names.contains(&name))
        || computes(canonical, name)
        || is_torch_data(module, name)
    {
        return Class::Harmless;
    }
    if let Some((_, _, why)) =
        DANGEROUS_NAMES.iter().find(|(m, names, _)| *m == canonical && names.contains(&first(name)))
    {
        return Class::Dangerous(why);
    }
    if LESSER_NAMES.iter().any(|(m, names)| *m == module && names.contains(&name)) {
        return Class::Unknown;
    }
    // A name may be a path of attributes, through modules that a module imports.
    let path = format!("{module}.{name}");
    let within = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    if let Some((_, why)) = DANGEROUS_MODULES.iter().find(|(prefix, _)| within(prefix)) {
        return Class::Dangerous(why);
    }
    if name.split('.').any(|step| DANGEROUS_STEPS.contains(&step)) {
        return Class::Dangerous(REACHES);
    }
    Class::Unknown
}

/// Whether an attribute called `name` leads out of what has it.
pub(crate) fn leads_out(name: &str) -> bool {
    DANGEROUS_STEPS.contains(&name)
}

fn first(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Types, storages and layers of PyTorch, which come in families.
fn is_torch_data(module: &str, name: &str) -> bool {
    let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let class = word && name.starts_with(|c: char| c.is_ascii_uppercase());
    match module {
        "torch" | "torch.cuda" | "torch.sparse" | "torch.cuda.sparse" if class => {
            name.ends_with("Storage") || (name.ends_with("Tensor") && name != "TensorDict")
        }
        "torch" => {
            let digits = |prefix: &str| {
                name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            };
            word && ["float", "bfloat", "int", "uint", "qint", "quint", "bits"].iter().any(|p| digits(p))
        }
        "numpy" | "numpy.dtypes" if class => module == "numpy.dtypes" && name.ends_with("DType"),
        "numpy" => ["float", "int", "uint", "complex", "bool", "str", "bytes", "void", "longlong"]
            .iter()
            .filter_map(|kind| name.strip_prefix(kind))
            .any(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '_')),
        // Functions on tensors, as `torch.fft.fft` and the like are pickled.
        "torch._C._fft" => word && name.starts_with("fft_"),
        "torch._C._linalg" => word && name.starts_with("linalg_"),
        "torch._C._special" => word && name.starts_with("special_"),
        "torch._C._sparse" => word && name.starts_with("_sparse_"),
        "torch._C._nn" => {
            word && name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.contains("test")
        }
        "pathlib" | "pathlib._local" | "pathlib._abc" => class && name.ends_with("Path"),
        // A layer's state is data and further layers. What these modules import is none: modules (`F`), and the means
        // of annotations.
        _ => {
            let imported =
                ["Any", "Callable", "DeviceLikeType", "Function", "Iterator", "Literal", "Mapping"]
                    .iter()
                    .chain(&["Optional", "Protocol", "Self", "Sequence", "TypeVar", "Union", "TYPE_CHECKING"])
                    .any(|other| *other == name);
            let layer = name.len() > 1 && !imported;
            class && layer && (module.starts_with("torch.nn.modules.") || module == "torch.nn.modules")
        }
    }
}

/// Whether a pattern may admit `name` as one that `module` itself defines: not what is known to be dangerous, not a path of
/// attributes, which leads through what a module imports, and not what is called like something dangerous that the module may
/// have imported.
pub(crate) fn may_be_own(module: &str, name: &str) -> bool {
    !matches!(classify(module, name), Class::Dangerous(_))
        && !name.contains('.')
        && !DANGEROUS_STEPS.contains(&name)
        && !DANGEROUS_NAMES.iter().any(|(_, names, _)| names.contains(&name))
        && !DANGEROUS_MODULES.iter().any(|(module, _)| *module == name)
        && !reaches_by_name(name)
}

/// Whether `module` and `name` could be those of a Python object: what random bytes rarely spell. Any folder on Python's
/// path can be imported, such as its own `lib-dynload`.
pub(crate) fn is_plausible(module: &str, name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
    module.split('.').all(part) && name.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinguished() {
        for (module, name) in [
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("torch", "float8_e4m3fn"),
            ("torch.nn.modules.linear", "Linear"),
            ("__builtin__", "set"),
            ("builtins", "print"),
            ("__builtin__", "max"),
            ("torch._C._linalg", "linalg_norm"),
            ("numpy", "float64"),
            ("pathlib", "PosixPath"),
            ("torch.distributed.checkpoint.metadata", "TensorProperties"),
        ] {
            assert_eq!(classify(module, name), Class::Harmless, "{module}.{name}");
        }
        for (module, name) in [
            ("posix", "system"),
            ("os.path", "join"),
            ("__builtin__", "eval"),
            ("builtins", "getattr"),
            ("builtins", "getattr.__call__"),
            ("torch", "serialization.os.system"),
            ("torch.nn.modules.linear", "Linear.__init__.__globals__"),
            ("torch.serialization", "load"),
            ("collections", "OrderedDict.__class__"),
            ("torch.hub", "load"),
            ("torch._C._linalg", "os"),
            ("torch._C", "_load_for_lite_interpreter"),
            ("torch.distributed.checkpoint.metadata", "Enum"),
            ("functools", "partialmethod"),
        ] {
            assert!(matches!(classify(module, name), Class::Dangerous(_)), "{module}.{name}");
        }
        for (module, name) in [
            ("__main__", "Config"),
            ("os2", "system2"),
            ("torch", "floatish"),
            ("torch.nn.modules.linear", "init"),
            ("torch.nn.modules.activation", "F"),
            ("torch.nn.modules.module", "Union"),
            ("builtins", "format"),
            ("torch.nn.modulesque", "Linear"),
        ] {
            assert_eq!(classify(module, name), Class::Unknown, "{module}.{name}");
        }
    }
}
