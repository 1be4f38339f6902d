//! The values of `--format`: for the commands that write results in several formats for machines, the names and help
//! are in the tables of those formats.

use std::ffi::OsStr;
use std::path::Path;

use ckpt_reports::Exporter;
use ckpt_reports::table::Rows;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Command, ValueEnum};

use crate::Failure;

/// For people or programs: `inspect`, `diff`, `verify`, `recover`, `bench`.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Plain {
    Human,
    Json,
}

/// The rows of tables.
#[derive(Clone, Copy, ValueEnum)]
pub enum RowsArg {
    /// Each checkpoint, followed by its tensors.
    All,
    Checkpoints,
    Tensors,
}

impl From<RowsArg> for Rows {
    fn from(rows: RowsArg) -> Rows {
        match rows {
            RowsArg::All => Rows::All,
            RowsArg::Checkpoints => Rows::Checkpoints,
            RowsArg::Tensors => Rows::Tensors,
        }
    }
}

/// The extension of `path` as a format's name, lower-case.
pub fn extension(path: &Path) -> String {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if extension == "jsonl" { "ndjson".into() } else { extension }
}

/// For people, or in a format of a table.
pub enum Format<T: 'static> {
    Human,
    Written(&'static Exporter<T>),
}

impl<T> Copy for Format<T> {}

impl<T> Clone for Format<T> {
    fn clone(&self) -> Self {
        *self
    }
}

/// Accepts one of the names and gives the value paired with it.
#[derive(Clone)]
pub struct Choice<V>(Vec<(PossibleValue, V)>);

/// The formats of `table`.
pub fn one_of<T>(table: &'static [Exporter<T>]) -> Choice<&'static Exporter<T>> {
    Choice(table.iter().map(|exporter| (name(exporter), exporter)).collect())
}

/// `human`, and the formats of `table`.
pub fn human_or<T>(table: &'static [Exporter<T>]) -> Choice<Format<T>> {
    let human = (PossibleValue::new("human"), Format::Human);
    let others = table.iter().map(|exporter| (name(exporter), Format::Written(exporter)));
    Choice(std::iter::once(human).chain(others).collect())
}

/// The name and help of `exporter`.
pub fn name<T>(exporter: &Exporter<T>) -> PossibleValue {
    let name = PossibleValue::new(exporter.name);
    match exporter.summary {
        Some(summary) => name.help(summary),
        None => name,
    }
}

impl<V: Clone> Choice<V> {
    /// One of `values`, by their names.
    pub fn of(values: Vec<(PossibleValue, V)>) -> Self {
        Choice(values)
    }

    /// The value of `name`.
    pub fn named(&self, name: &str) -> Option<V> {
        let found = self.0.iter().find(|(known, _)| known.matches(name, false));
        found.map(|(_, value)| value.clone())
    }
}

impl<V: Clone + Send + Sync + 'static> TypedValueParser for Choice<V> {
    type Value = V;

    fn parse_ref(&self, cmd: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<V, clap::Error> {
        let names = PossibleValuesParser::new(self.0.iter().map(|(name, _)| name.clone()));
        // What is not UTF-8 is an unknown name like any other.
        let name = names.parse(cmd, arg, value.to_string_lossy().into_owned().into())?;
        Ok(self.named(&name).expect("it is one of the names"))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(|(name, _)| name.clone())))
    }
}

/// The names of the formats of `table`, as in `a, b or c`.
pub fn names<T>(table: &[Exporter<T>]) -> String {
    let names: Vec<&str> = table.iter().map(|exporter| exporter.name).collect();
    match names.split_last() {
        Some((last, [])) => (*last).into(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// `value` in `format`, with files as seen from the working directory.
pub fn written<T>(format: &Exporter<T>, value: &T) -> Result<String, Failure> {
    let root = std::env::current_dir().ok();
    (format.write)(value, root.as_deref()).map_err(|e| Failure::unwritable(e.to_string()))
}
