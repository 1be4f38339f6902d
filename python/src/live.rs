//! Tensors of a running program, measured and judged as if they had been saved.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ckpt_inspect::{DType, Error, Memory, Options, SharedBytes, Storage, Thresholds, printable_json};
use ckpt_reports::Policy;
use ckpt_reports::records::Recorded;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::buffer::Lent;
use crate::failure;
use crate::work::{interruptible, threads};

/// The record of `tensors` (name, type of elements, object with the buffer protocol, and whether its one element is a
/// scalar, which that protocol has not for all), as JSON. `values` are plain values
/// beside them, `config` is the model's config.json, both as JSON; `policy` is the text of a policy file.
#[pyfunction]
#[pyo3(signature = (name, tensors, *, values, config=None, policy=None, histogram=true, sha256=false))]
#[allow(clippy::too_many_arguments)]
pub fn measure<'py>(
    py: Python<'py>,
    name: &str,
    tensors: Vec<(String, String, Bound<'py, PyAny>, bool)>,
    values: &str,
    config: Option<&str>,
    policy: Option<&str>,
    histogram: bool,
    sha256: bool,
) -> PyResult<String> {
    let parsed = |text: &str| {
        serde_json::from_str::<serde_json::Value>(text).map_err(|e| PyValueError::new_err(e.to_string()))
    };
    let thresholds = match policy {
        Some(text) => Policy::from_toml(text).map_err(|e| failure::usage(py, &e.to_string()))?.thresholds,
        None => Thresholds::default(),
    };
    let mut memory = Memory::new(name);
    // Tied weights have one memory.
    let mut storages: HashMap<(usize, usize), Storage> = HashMap::new();
    for (name, dtype, object, is_scalar) in tensors {
        let dtype: DType = dtype
            .parse()
            .map_err(|e: String| failure::raised(py, &Error::unsupported(e).in_tensor(&name)))?;
        let lent = Lent::of(&object)?;
        let strides = lent.strides().filter(|_| dtype.element_size() == Some(lent.item_size()));
        let strides = strides.ok_or_else(|| {
            let what = format!("its memory does not hold elements of {dtype} as they are");
            failure::raised(py, &Error::unsupported(what).in_tensor(&name))
        })?;
        let place = lent.place();
        let layout = if is_scalar { (Vec::new(), Vec::new()) } else { (lent.shape(), strides) };
        let storage = match storages.get(&place) {
            Some(storage) => storage.clone(),
            None => memory.storage(SharedBytes::of(lent)),
        };
        memory.view(name, dtype, layout, (&storage, 0));
        storages.entry(place).or_insert(storage);
    }
    if let serde_json::Value::Object(values) = parsed(values)? {
        values.into_iter().for_each(|(key, value)| memory.value(key, value));
    }
    if let Some(config) = config {
        memory.config(parsed(config)?);
    }
    let options = Options::default().with(|o| (o.histogram, o.sha256) = (histogram, sha256));
    let stop = Arc::new(AtomicBool::new(false));
    let (threads, stopped) = (threads()?, stop.clone());
    let record = interruptible(py, &stop, move || {
        threads.install(|| {
            let checkpoint = memory.open();
            let mut record = ckpt_inspect::describe_until(&checkpoint, options, &|_| (), &stopped)?;
            ckpt_inspect::judge(&mut record, &thresholds);
            Some(serde_json::to_string(&Recorded::Record(Box::new(record))))
        })
    })?;
    match record {
        Some(Ok(json)) => Ok(printable_json(&json)),
        Some(Err(error)) => Err(PyValueError::new_err(error.to_string())),
        None => Err(pyo3::exceptions::PyKeyboardInterrupt::new_err(())),
    }
}
