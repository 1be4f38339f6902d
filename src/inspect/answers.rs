//! What `ckpt inspect` tells programs: an object for each checkpoint, and a table of tensors.

use std::path::{Path, PathBuf};

use ckpt_inspect::CheckpointRecord;
use serde::Serialize;

use super::Format;
use crate::paths::{Found, is_pattern};
use crate::{Failure, terminal};

/// What is said of one checkpoint.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Answer {
    Record(Box<CheckpointRecord>),
    /// It cannot be read.
    Unreadable {
        path: String,
        error: String,
    },
}

impl Answer {
    pub(super) fn unreadable(path: &Path, error: impl Into<String>) -> Self {
        Answer::Unreadable { path: path.display().to_string(), error: error.into() }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &str {
        match self {
            Answer::Record(record) => &record.path,
            Answer::Unreadable { path, .. } => path,
        }
    }

    /// Its record, if it could be read.
    pub(super) fn record(&self) -> Option<&CheckpointRecord> {
        match self {
            Answer::Record(record) => Some(record),
            Answer::Unreadable { .. } => None,
        }
    }
}

/// Whether `paths`, at which `found` is, ask for any number of checkpoints: several paths, a pattern, or a folder that
/// holds some and is none itself. It depends on what they are, not on how many there are today.
pub(super) fn asks_for_several(paths: &[PathBuf], found: &[Found]) -> bool {
    match (paths, found) {
        ([one], [Ok(only)]) => is_pattern(one) || only != one && one.is_dir(),
        ([one], [Err(_)]) => is_pattern(one),
        _ => true,
    }
}

/// Answers in a format for programs: told as they come where each is a line, else together at the end.
pub(super) struct Answers {
    format: Format,
    several: bool,
    kept: Vec<Answer>,
}

impl Answers {
    pub(super) fn new(format: Format, several: bool) -> Self {
        Answers { format, several, kept: Vec::new() }
    }

    pub(super) fn add(&mut self, answer: Answer) -> Result<(), Failure> {
        match self.format {
            Format::Ndjson => terminal::print(&line(&answer)?),
            Format::Json | Format::Csv => {
                self.kept.push(answer);
                Ok(())
            }
            Format::Human => Ok(()),
        }
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        let text = match (self.format, self.kept.as_slice()) {
            (Format::Json, [one]) if !self.several => pretty(one)?,
            (Format::Json, many) => pretty(many)?,
            (Format::Csv, many) => ckpt_reports::csv_of_tensors(many.iter().filter_map(Answer::record))
                .map_err(|e| Failure::unwritable(format!("standard output: {e}")))?,
            (Format::Human | Format::Ndjson, _) => return Ok(()),
        };
        terminal::print(&text)
    }
}

fn pretty<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    written(serde_json::to_string_pretty(value))
}

/// One line.
fn line(answer: &Answer) -> Result<String, Failure> {
    written(serde_json::to_string(answer))
}

fn written(text: serde_json::Result<String>) -> Result<String, Failure> {
    text.map(|text| ckpt_inspect::printable_json(&text) + "\n")
        .map_err(|e| Failure::unwritable(format!("standard output: {e}")))
}
