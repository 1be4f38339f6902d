//! Errors of the libraries as exceptions of `ckpt_tools.errors`.

use std::path::Path;

use ckpt_inspect::Error;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception of `error`.
pub fn raised(py: Python<'_>, error: &Error) -> PyErr {
    let path = error.path.as_deref();
    exception(py, error.kind.name(), &error.to_string(), path, error.tensor.as_deref())
        .unwrap_or_else(|error| error)
}

/// The exception of wrong usage.
pub fn usage(py: Python<'_>, text: &str) -> PyErr {
    exception(py, "usage", text, None, None).unwrap_or_else(|error| error)
}

fn exception(
    py: Python<'_>,
    kind: &str,
    text: &str,
    path: Option<&Path>,
    tensor: Option<&str>,
) -> PyResult<PyErr> {
    let facts = PyDict::new(py);
    facts.set_item("path", path.map(Path::as_os_str))?;
    facts.set_item("tensor", tensor)?;
    let made = py.import("ckpt_tools.errors")?.getattr("of_kind")?.call((kind, text), Some(&facts))?;
    Ok(PyErr::from_value(made))
}
