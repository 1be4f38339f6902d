//! Models of MLflow, whose `MLmodel` says which module loads them (`mlflow/pyfunc/__init__.py`).

use serde_json::{Map, Value};

use super::calls::cut;
use super::configuration::Named;

/// The name of the file.
pub(super) const FILE: &str = "MLmodel";

/// What the flavour of a model `entries` makes MLflow import.
pub(super) fn object(entries: &Map<String, Value>, found: &mut Vec<Named>) {
    let text = |key: &str| entries.get(key).and_then(Value::as_str);
    let Some(loader) = text("loader_module") else { return };
    if loader != "mlflow" && !loader.starts_with("mlflow.") {
        let key = "loader_module".to_string();
        found.push(Named::Code { module: loader.to_string(), name: "*".into(), key });
    }
    for key in ["code", "model_code_path"] {
        if let Some(path) = text(key).filter(|path| !matches!(*path, "null" | "~" | "")) {
            found.push(Named::Beside(format!("makes MLflow import code next to it: {}", cut(path))));
        }
    }
}
