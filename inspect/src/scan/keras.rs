//! What the layers that a Keras model's configuration describes do when it is loaded, besides computing
//! (`keras/src/saving/serialization_lib.py`, `keras/src/models/functional.py`).

use serde_json::{Map, Value};

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
const REACHING: [&str; 5] = ["io.", "saved_model", "numpy_function", "py_function", "load_"];
/// Layers that look words up.
const LOOKUPS: [&str; 3] = ["StringLookup", "IntegerLookup", "TextVectorization"];

/// What the object `entries`, which has a `class_name`, makes a loader do.
pub(super) fn object(entries: &Map<String, Value>, class: &str, found: &mut Vec<Named>) {
    let text = |key: &str| entries.get(key).and_then(Value::as_str);
    let setting = |key: &str| entries.get("config")?.get(key);
    let mut code = |module: &str, name: &str, key: &str| {
        let (module, name, key) = (module.to_string(), name.to_string(), key.to_string());
        found.push(Named::Code { module, name, key });
    };
    let module = text("module");
    let of_keras = module.is_none_or(|module| module == "keras" || module.starts_with("keras."));
    let function = if class == "function" { text("config").or(text("registered_name")) } else { None };
    match (function, module) {
        // In the place of a layer it is called with what the file says.
        (Some(function), Some(module)) if entries.contains_key("inbound_nodes") => {
            let what = format!("has the function {module}.{function} for a layer, which Keras calls");
            found.push(Named::Source(what));
            return;
        }
        (Some(function), Some(module)) if of_keras => {
            // A name with dots leads into other modules.
            if !COMPUTING.contains(&module) || function.contains('.') {
                code(module, function, "function");
            }
        }
        (Some(function), Some(module)) => code(module, function, "class_name"),
        (None, Some(module)) if !of_keras => code(module, class, "class_name"),
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
            found.push(match REACHING.iter().any(|part| operator.contains(part)) {
                true => Named::Source(what),
                false => Named::Beside(what),
            });
        }
        _ if LOOKUPS.contains(&class) => {
            if let Some(path) = setting("vocabulary").and_then(Value::as_str) {
                let what = format!("has a {class} that reads its vocabulary from `{path}` when it is loaded");
                found.push(Named::Source(what));
            }
        }
        _ => {}
    }
}
