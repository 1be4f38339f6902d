//! The table of checkpoints and their tensors: its columns, which CSV and Parquet write and `docs/tables.md` lists.
//!
//! A new column is a line at the end of [`columns`]; none is renamed, moved or removed.

use std::io::Write;

use ckpt_inspect::health::measures::{Form, Measure, Place, Value, shown_in};
use ckpt_inspect::{CheckpointRecord, TensorRecord, Verdict};

use crate::gated::{self, Gated};
use crate::records::{Recorded, Unreadable, Versioned};

/// The version of the columns, which the column `schema` has in every row. It grows when one is added.
pub const SCHEMA: u64 = 2;

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Row<'r> {
    about: About<'r>,
    gated: Option<&'r Gated<'r>>,
}

/// What a row is about.
#[derive(Clone, Copy, Debug)]
enum About<'r> {
    Checkpoint(&'r CheckpointRecord),
    Tensor(&'r CheckpointRecord, &'r TensorRecord),
    /// A tensor that the checkpoint should have, by its name.
    Missing(&'r CheckpointRecord, &'r str),
    Unreadable(&'r Unreadable),
}

/// Which rows there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rows {
    /// One for each checkpoint, and behind it one for each of its tensors.
    #[default]
    All,
    /// One for each checkpoint.
    Checkpoints,
    /// One for each tensor; and one for what cannot be read.
    Tensors,
}

impl Rows {
    /// The rows of a checkpoint.
    pub fn of<'r>(self, record: &'r CheckpointRecord) -> impl Iterator<Item = Row<'r>> {
        let own = (self != Rows::Tensors).then_some(About::Checkpoint(record));
        let tensors = if self == Rows::Checkpoints { &[][..] } else { &record.tensors };
        let about = own.into_iter().chain(tensors.iter().map(|tensor| About::Tensor(record, tensor)));
        about.map(|about| Row { about, gated: None })
    }

    /// The rows of what is known of a checkpoint.
    pub(crate) fn of_recorded(self, recorded: &Recorded) -> Vec<Row<'_>> {
        match recorded {
            Recorded::Record(record) => self.of(record).collect(),
            Recorded::Unreadable(gone) => vec![Row { about: About::Unreadable(gone), gated: None }],
        }
    }

    /// The rows of what is known of a checkpoint that the gate looked at, and one for each tensor that it misses.
    pub(crate) fn of_gated<'r>(self, gated: &'r Gated<'r>) -> Vec<Row<'r>> {
        let mut rows = self.of_recorded(gated.recorded());
        if let Some(record) = gated.recorded().record().filter(|_| self != Rows::Checkpoints) {
            let missing = gated.missing().map(|name| About::Missing(record, name));
            rows.extend(missing.map(|about| Row { about, gated: None }));
        }
        rows.iter_mut().for_each(|row| row.gated = Some(gated));
        rows
    }
}

impl<'r> Row<'r> {
    fn path(&self) -> &'r str {
        match self.about {
            About::Checkpoint(record) | About::Tensor(record, _) | About::Missing(record, _) => &record.path,
            About::Unreadable(gone) => &gone.path,
        }
    }

    fn record(&self) -> Option<&'r CheckpointRecord> {
        match self.about {
            About::Checkpoint(record) | About::Tensor(record, _) | About::Missing(record, _) => Some(record),
            About::Unreadable(_) => None,
        }
    }

    /// The record of a row about a checkpoint.
    fn checkpoint(&self) -> Option<&'r CheckpointRecord> {
        if let About::Checkpoint(record) = self.about { Some(record) } else { None }
    }

    fn tensor(&self) -> Option<&'r TensorRecord> {
        if let About::Tensor(_, tensor) = self.about { Some(tensor) } else { None }
    }

    /// The name of the tensor that it is about.
    pub(crate) fn tensor_name(&self) -> Option<&'r str> {
        match self.about {
            About::Tensor(_, tensor) => Some(&tensor.name),
            About::Missing(_, name) => Some(name),
            About::Checkpoint(_) | About::Unreadable(_) => None,
        }
    }

    /// What the gate found, if it was asked.
    pub(crate) fn gated(&self) -> Option<&'r Gated<'r>> {
        self.gated
    }

    fn verdict(&self) -> Option<Verdict> {
        match self.about {
            About::Checkpoint(record) => record.standing(),
            About::Tensor(_, tensor) => tensor.verdict,
            About::Missing(..) | About::Unreadable(_) => None,
        }
    }

    fn reason(&self) -> Option<String> {
        match self.about {
            About::Checkpoint(record) => (!record.reasons.is_empty()).then(|| record.reasons.join("; ")),
            About::Tensor(_, tensor) => tensor.finding.as_ref().map(ToString::to_string),
            About::Missing(..) => None,
            About::Unreadable(gone) => Some(gone.error.clone()),
        }
    }

    /// The checkpoint's record in JSON, with what the gate found of it.
    fn json(&self) -> Option<String> {
        let record = self.checkpoint()?;
        match self.gated {
            Some(gated) => serde_json::to_string(gated).ok(),
            None => serde_json::to_string(&Versioned::of(record)).ok(),
        }
    }
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Text in UTF-8.
    Text,
    /// A whole number from 0 on.
    Count,
    /// A real number.
    Real,
    /// Yes or no.
    Flag,
}

/// What a cell holds that is not empty.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cell {
    /// Of a column of [`Kind::Text`].
    Text(String),
    /// Of a column of [`Kind::Count`].
    Count(u64),
    /// Of a column of [`Kind::Real`].
    Real(f64),
    /// Of a column of [`Kind::Flag`].
    Flag(bool),
}

/// A column.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What that is, in a phrase.
    pub about: &'static str,
    cell: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Of(fn(&Row<'_>) -> Option<Cell>),
    Measure(&'static Measure),
}

impl Column {
    pub(crate) const fn new(
        name: &'static str,
        kind: Kind,
        about: &'static str,
        cell: fn(&Row<'_>) -> Option<Cell>,
    ) -> Self {
        Column { name, kind, about, cell: Source::Of(cell) }
    }

    fn of(measure: &'static Measure) -> Self {
        let kind = match measure.form {
            Form::Count | Form::Part | Form::Faults | Form::Rows | Form::Columns => Kind::Count,
            _ => Kind::Real,
        };
        Column { name: measure.key, kind, about: measure.explanation, cell: Source::Measure(measure) }
    }

    /// What it holds in `row`; `None` where it is empty.
    pub fn cell(&self, row: &Row<'_>) -> Option<Cell> {
        let measure = match self.cell {
            Source::Of(cell) => return cell(row),
            Source::Measure(measure) => measure,
        };
        Some(match (measure.value(row.tensor()?)?, self.kind) {
            (Value::Count(count), Kind::Count) => Cell::Count(count),
            // What is computed from elements is kept as a real number, counts too.
            (value, Kind::Count) => Cell::Count(value.real() as u64),
            (value, _) => Cell::Real(value.real()),
        })
    }
}

pub(crate) fn text(text: impl Into<String>) -> Option<Cell> {
    Some(Cell::Text(text.into()))
}

/// Columns before the measures that are fields of a record.
static BEFORE: [Column; 6] = [
    Column::new("path", Kind::Text, "the checkpoint", |row| text(row.path())),
    Column::new("step", Kind::Count, "its training step", |row| row.record()?.step.map(Cell::Count)),
    Column::new("tensor", Kind::Text, "the tensor, by its path in the file's object", |row| {
        text(row.tensor_name()?)
    }),
    Column::new("dtype", Kind::Text, "type of its elements, or its packing", |row| {
        text(row.tensor()?.dtype.to_string())
    }),
    Column::new("shape", Kind::Text, "its shape, such as `4096x1024`", |row| {
        let shape: Vec<String> = row.tensor()?.shape.iter().map(u64::to_string).collect();
        text(shape.join("x"))
    }),
    Column::new("group", Kind::Text, "`weights`, `optimizer` or `other`", |row| {
        text(row.tensor()?.group.name())
    }),
];

/// Columns between those measures and the others.
static BETWEEN: [Column; 2] = [
    Column::new("verdict", Kind::Text, "the verdict on the tensor or the checkpoint", |row| {
        text(row.verdict()?.to_string())
    }),
    Column::new("reason", Kind::Text, "why it is not healthy; or why it cannot be read", |row| {
        text(row.reason()?)
    }),
];

/// Columns behind all measures.
static AFTER: [Column; 13] = [
    Column::new(
        "row",
        Kind::Text,
        "what the row is about: `checkpoint`, `tensor`, `missing` (a tensor) or `unreadable`",
        |row| {
            text(match row.about {
                About::Checkpoint(_) => "checkpoint",
                About::Tensor(..) => "tensor",
                About::Missing(..) => "missing",
                About::Unreadable(_) => "unreadable",
            })
        },
    ),
    Column::new("role", Kind::Text, "what the tensor is for in its network", |row| {
        text(row.tensor()?.role.name())
    }),
    Column::new("bytes", Kind::Count, "bytes of the tensor, or of the checkpoint's files", |row| {
        Some(Cell::Count(match row.about {
            About::Checkpoint(record) => record.file_bytes,
            About::Tensor(_, tensor) => tensor.bytes,
            About::Missing(..) | About::Unreadable(_) => return None,
        }))
    }),
    Column::new("damaged", Kind::Flag, "whether bytes are missing or damaged", |row| {
        Some(Cell::Flag(match row.about {
            About::Checkpoint(record) => record.damaged,
            About::Tensor(_, tensor) => tensor.damage.is_some(),
            About::Missing(..) | About::Unreadable(_) => return None,
        }))
    }),
    Column::new("format", Kind::Text, "the checkpoint's format", |row| {
        text(row.checkpoint()?.format.to_string())
    }),
    Column::new("architecture", Kind::Text, "its architecture, or `unknown`", |row| {
        text(&row.checkpoint()?.model.architecture)
    }),
    Column::new("parameters", Kind::Count, "elements of its weights", |row| {
        Some(Cell::Count(row.checkpoint()?.parameters))
    }),
    Column::new("tensors", Kind::Count, "its tensors", |row| {
        Some(Cell::Count(row.checkpoint()?.tensors.len() as u64))
    }),
    Column::new("matrices", Kind::Count, "its weights with two dimensions or more", |row| {
        Some(Cell::Count(row.checkpoint()?.coverage.matrices))
    }),
    Column::new("judged", Kind::Count, "those of them that were judged", |row| {
        Some(Cell::Count(row.checkpoint()?.coverage.judged))
    }),
    Column::new("warnings", Kind::Text, "what else is worth knowing about it", |row| {
        let warnings = &row.checkpoint()?.warnings;
        if warnings.is_empty() { None } else { text(warnings.join("; ")) }
    }),
    Column::new(
        "error",
        Kind::Text,
        "why it cannot be read: `io`, `unrecognised`, `damaged`, `unsupported` or `not-found`",
        |row| if let About::Unreadable(gone) = row.about { text(gone.kind().name()) } else { None },
    ),
    Column::new("schema", Kind::Count, "the version of these columns", |_| Some(Cell::Count(SCHEMA))),
];

/// Every column, in order. Measures without a field in the record come behind the verdict, where a new one does not
/// shift any of the others.
pub fn columns() -> Vec<Column> {
    let measures =
        |computed| shown_in(Place::Csv).filter(move |m| m.is_computed() == computed).map(Column::of);
    BEFORE
        .into_iter()
        .chain(measures(false))
        .chain(BETWEEN)
        .chain(measures(true))
        .chain(AFTER)
        .chain(gated::COLUMNS)
        .collect()
}

/// The column that Parquet has besides: the whole record, from which `ckpt report` makes a page.
pub fn record() -> Column {
    Column::new(
        "record",
        Kind::Text,
        "the checkpoint's record in JSON, as `--format ndjson` writes it",
        |row| text(row.json()?),
    )
}

/// What writes rows.
pub trait Sink: Send {
    /// Takes the next row.
    ///
    /// # Errors
    /// It cannot be written.
    fn add(&mut self, row: &Row<'_>) -> std::io::Result<()>;

    /// Ends the table.
    ///
    /// # Errors
    /// What is left cannot be written.
    fn end(self: Box<Self>) -> std::io::Result<()>;
}

/// A format of tables.
#[derive(Debug)]
#[non_exhaustive]
pub struct Tables {
    /// Its name on the command line.
    pub name: &'static str,
    /// Whether it is text, which a terminal can show.
    pub is_text: bool,
    /// Begins a table.
    pub begin: for<'w> fn(&'w mut (dyn Write + Send)) -> std::io::Result<Box<dyn Sink + 'w>>,
}

/// The formats of tables.
pub static TABLES: &[Tables] = &[
    crate::csv::TABLE,
    #[cfg(feature = "parquet")]
    crate::parquet::TABLE,
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn columns_have_names_of_their_own_and_say_what_they_hold() {
        let columns = columns();
        let names: HashSet<&str> = columns.iter().map(|column| column.name).collect();
        assert_eq!(names.len(), columns.len());
        assert!(columns.iter().all(|column| !column.about.is_empty()));
        let line = |column: &Column| {
            let kind = match column.kind {
                Kind::Text => "text",
                Kind::Count => "count",
                Kind::Real => "real",
                Kind::Flag => "flag",
            };
            format!("| `{}` | {kind} | {} |", column.name, column.about.trim_end_matches('.'))
        };
        let lines: Vec<String> = columns.iter().chain([&record()]).map(line).collect();
        let documented = include_str!("../../docs/tables.md");
        let documented: Vec<&str> = documented.lines().filter(|line| line.starts_with("| `")).collect();
        assert!(documented == lines, "docs/tables.md should have\n{}", lines.join("\n"));
    }
}
