//! Records as the tables of `docs/tables.md`: rows, and columns.

use ckpt_inspect::CheckpointRecord;
use ckpt_reports::records::Recorded;
use ckpt_reports::table::{Cell, Column as Described, Kind, Row, Rows, columns as all, record as whole};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// A column: its name, the kind of its values (`text`, `count`, `real` or `flag`), and a value or `None` for each tensor.
type Column<'py> = (&'static str, &'static str, Bound<'py, PyList>);

/// The columns of the tensors in `record`, JSON as `ckpt inspect` prints it, as `ckpt inspect --format csv` has them.
#[pyfunction]
pub fn columns<'py>(py: Python<'py>, record: &str) -> PyResult<Vec<Column<'py>>> {
    let record: CheckpointRecord =
        serde_json::from_str(record).map_err(|e| PyValueError::new_err(e.to_string()))?;
    let rows: Vec<Row<'_>> = Rows::Tensors.of(&record).collect();
    let column = |column: &Described| -> PyResult<Column<'py>> {
        let list = PyList::empty(py);
        for row in &rows {
            list.append(value(py, column.cell(row))?)?;
        }
        Ok((column.name, kind(column), list))
    };
    all().iter().map(column).collect()
}

/// The rows of a checkpoint, which `line` is about, JSON as `ckpt inspect --format ndjson` prints it; a dictionary each, of all
/// columns of Parquet. `which` are `all`, `checkpoints` or `tensors`.
#[pyfunction]
pub fn rows<'py>(py: Python<'py>, line: &str, which: &str) -> PyResult<Bound<'py, PyList>> {
    let wrong = |what: String| PyValueError::new_err(what);
    let recorded = Recorded::from_json(line).map_err(|e| wrong(e.to_string()))?;
    let which = match which {
        "all" => Rows::All,
        "checkpoints" => Rows::Checkpoints,
        "tensors" => Rows::Tensors,
        other => return Err(wrong(format!("which rows: all, checkpoints or tensors, not {other}"))),
    };
    let columns: Vec<Described> = all().into_iter().chain([whole()]).collect();
    let rows = PyList::empty(py);
    for row in recorded.rows(which) {
        let cells = PyDict::new(py);
        for column in &columns {
            // As Parquet has them.
            let cell = match column.cell(&row) {
                Some(Cell::Count(count)) => Some(Cell::Count(count.min(i64::MAX as u64))),
                other => other,
            };
            cells.set_item(column.name, value(py, cell)?)?;
        }
        rows.append(cells)?;
    }
    Ok(rows)
}

/// Name, kind and meaning of each column of Parquet.
#[pyfunction]
pub fn schema() -> Vec<(&'static str, &'static str, &'static str)> {
    all().iter().chain([&whole()]).map(|column| (column.name, kind(column), column.about)).collect()
}

fn kind(column: &Described) -> &'static str {
    match column.kind {
        Kind::Count => "count",
        Kind::Real => "real",
        Kind::Flag => "flag",
        _ => "text",
    }
}

fn value(py: Python<'_>, cell: Option<Cell>) -> PyResult<Bound<'_, PyAny>> {
    Ok(match cell {
        Some(Cell::Text(text)) => text.into_pyobject(py)?.into_any(),
        Some(Cell::Count(count)) => count.into_pyobject(py)?.into_any(),
        Some(Cell::Real(real)) => real.into_pyobject(py)?.into_any(),
        Some(Cell::Flag(flag)) => flag.into_pyobject(py)?.to_owned().into_any(),
        _ => py.None().into_bound(py),
    })
}
