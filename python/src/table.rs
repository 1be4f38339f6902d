//! The tensors of a record as columns: those of `docs/tables.md`.

use ckpt_inspect::CheckpointRecord;
use ckpt_reports::table::{Cell, Kind, Row, Rows, columns as all};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;

/// A column: its name, the kind of its values (`text`, `count`, `real` or `flag`), and a value or `None` for each tensor.
type Column<'py> = (&'static str, &'static str, Bound<'py, PyList>);

/// The columns of the tensors in `record`, JSON as `ckpt inspect` prints it, as `ckpt inspect --format csv` has them.
#[pyfunction]
pub fn columns<'py>(py: Python<'py>, record: &str) -> PyResult<Vec<Column<'py>>> {
    let record: CheckpointRecord =
        serde_json::from_str(record).map_err(|e| PyValueError::new_err(e.to_string()))?;
    let rows: Vec<Row<'_>> = Rows::Tensors.of(&record).collect();
    let column = |column: &ckpt_reports::table::Column| -> PyResult<Column<'py>> {
        let list = PyList::empty(py);
        for row in &rows {
            match column.cell(row) {
                Some(Cell::Text(text)) => list.append(text)?,
                Some(Cell::Count(count)) => list.append(count)?,
                Some(Cell::Real(real)) => list.append(real)?,
                Some(Cell::Flag(flag)) => list.append(flag)?,
                _ => list.append(py.None())?,
            }
        }
        let kind = match column.kind {
            Kind::Count => "count",
            Kind::Real => "real",
            Kind::Flag => "flag",
            _ => "text",
        };
        Ok((column.name, kind, list))
    };
    all().iter().map(column).collect()
}
