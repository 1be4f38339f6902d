//! The native half of the Python package `ckpt_tools`: commands, checkpoints, tensors in memory. What users see is in
//! `python/ckpt_tools`.

mod buffer;
mod checkpoint;
mod command;
mod explain;
mod failure;
mod live;
mod selection;
mod table;
mod work;

use std::io::ErrorKind;
use std::path::PathBuf;

use ckpt_inspect::stored::Stored;
use pyo3::prelude::*;

/// Whether nothing is at `path`, here or at a URL; not where that could not be found out.
#[pyfunction]
fn is_missing(py: Python<'_>, path: PathBuf) -> bool {
    py.detach(|| path.stored().is_err_and(|error| error.kind() == ErrorKind::NotFound))
}

/// Whether `path` stands for any number of paths.
#[pyfunction]
fn is_pattern(path: PathBuf) -> bool {
    ckpt::is_pattern(&path)
}

/// The functions and classes that `ckpt_tools` is made of.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    ckpt::read_remote_files();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<buffer::Borrowed>()?;
    module.add_class::<checkpoint::Checkpoint>()?;
    module.add_class::<checkpoint::Tensor>()?;
    module.add_function(wrap_pyfunction!(command::run, module)?)?;
    module.add_function(wrap_pyfunction!(command::main, module)?)?;
    module.add_function(wrap_pyfunction!(explain::explain, module)?)?;
    module.add_function(wrap_pyfunction!(is_missing, module)?)?;
    module.add_function(wrap_pyfunction!(is_pattern, module)?)?;
    module.add_function(wrap_pyfunction!(live::measure, module)?)?;
    module.add_function(wrap_pyfunction!(table::columns, module)?)?;
    module.add_function(wrap_pyfunction!(table::rows, module)?)?;
    module.add_function(wrap_pyfunction!(table::schema, module)?)
}
