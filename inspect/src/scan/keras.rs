//! What the layers that a Keras model's configuration describes do when it is loaded, besides computing
//! (`keras/src/saving/serialization_lib.py`, `keras/src/models/functional.py`).

use serde_json::{Map, Value};

use super::calls::cut;
use super::configuration::Named;

/// Keras' own modules whose functions compute.
const COMPUTING: [&str; 9] = [
    "keras.activations",
    "keras.initializers",
    "keras.losses",
    "keras.metrics",
    "keras.ops",
    "keras.regularizers",
    "keras.constraints",
    "keras.random",
    "keras",
];
/// Layers of Keras 2 that call an operator of TensorFlow's while a model is put together.
const OPERATORS: [&str; 5] =
    ["TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "TensorFlowOpLayer"];
/// Parts of TensorFlow's names behind which files are read and written, and Python is called.
const REACHING: [&str; 4] = ["saved_model", "numpy_function", "py_function", "load_"];
/// The beginnings of those that compute.
const ARITHMETIC: [&str; 9] = [
    "math.",
    "nn.",
    "linalg.",
    "__operators__.",
    "signal.",
    "random.",
    "keras.backend.",
    "bitwise.",
    "image.",
];
/// Others that do, by their whole names.
const SHAPING: [&str; 12] = [
    "reshape",
    "concat",
    "stack",
    "unstack",
    "transpose",
    "expand_dims",
    "squeeze",
    "cast",
    "shape",
    "split",
    "tile",
    "identity",
];
/// Layers that look words up, by the ends of their names, and the settings that name a file.
const LOOKUPS: [&str; 3] = ["Lookup", "TextVectorization", "Tokenizer"];
const LISTS: [&str; 2] = ["vocabulary", "merges"];

/// What the object `entries`, which has a `class_name`, makes a loader do.
pub(super) fn object(entries: &Map<String, Value>, class: &str, found: &mut Vec<Named>) {
    let text = |key: &str| entries.get(key).and_then(Value::as_str);
    let setting = |key: &str| entries.get("config")?.get(key);
    let code = |module: &str, name: &str, key: &str| {
        let (module, name, key) = (module.to_string(), name.to_string(), key.to_string());
        Named::Code { module, name, key }
    };
    let module = text("module");
    let of_keras = module.is_none_or(|module| module == "keras" || module.starts_with("keras."));
    // Keras takes any name of its own, functions too.
    let is_function = class.starts_with(|c: char| c.is_lowercase()) && class != "function";
    let function = match class {
        "function" => text("config").or(text("registered_name")),
        _ => Some(class).filter(|_| of_keras && is_function),
    };
    match (function, module) {
        // In the place of a layer it is called with what the file says.
        (Some(function), Some(module)) if entries.contains_key("inbound_nodes") => {
            let what = format!("has the function {module}.{function} for a layer, which Keras calls");
            found.push(Named::Source(what));
            return;
        }
        // A name with dots leads into other modules.
        (Some(function), Some(module))
            if of_keras && COMPUTING.contains(&module) && !function.contains('.') => {}
        (Some(function), Some(module)) if of_keras => found.push(code(module, function, "function")),
        // Looked up among what the caller gives and Keras' own losses and the like.
        (Some(function), Some("builtins")) => found.push(Named::Perhaps {
            module: "builtins".into(),
            name: function.to_string(),
            key: "class_name".into(),
        }),
        (Some(function), Some(module)) => found.push(code(module, function, "class_name")),
        (None, Some(module)) if !of_keras => found.push(code(module, class, "class_name")),
        _ => {}
    }
    match class {
        "Lambda" | "__lambda__" => {
            found.push(Named::Source("has a Lambda layer, whose Python code Keras runs".into()));
        }
        "TorchModuleWrapper" => {
            found.push(Named::Source("has a TorchModuleWrapper, whose module PyTorch unpickles".into()));
        }
        "TFSMLayer" => {
            found.push(Named::Beside("has a TFSMLayer, which loads a program of TensorFlow's".into()))
        }
        _ if OPERATORS.contains(&class) => {
            let operator = setting("function").and_then(Value::as_str).unwrap_or(class).to_string();
            let what = format!("calls TensorFlow's {operator} while the model is loaded");
            let reaches = operator.starts_with("io.")
                || operator.contains(".io.")
                || REACHING.iter().any(|part| operator.contains(part));
            let computes = class == "TFOpLambda"
                && (ARITHMETIC.iter().any(|part| operator.starts_with(part))
                    || SHAPING.contains(&operator.as_str()));
            match (reaches, computes) {
                (true, _) => found.push(Named::Source(what)),
                (false, true) => {}
                (false, false) => found.push(Named::Beside(what)),
            }
        }
        _ if LOOKUPS.iter().any(|end| class.ends_with(end)) => {
            if let Some(path) = LISTS.into_iter().find_map(|list| setting(list)?.as_str()) {
                let path = cut(path);
                let what = format!("has a {class} that reads its vocabulary from `{path}` when it is loaded");
                found.push(Named::Source(what));
            }
        }
        _ => {}
    }
}
