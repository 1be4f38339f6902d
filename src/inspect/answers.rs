//! What `ckpt inspect` tells programs: an object for each checkpoint, or a table of checkpoints and tensors.

use ckpt_inspect::stored::Stored;
use std::io;
use std::path::PathBuf;

use ckpt_reports::records::Recorded;
use ckpt_reports::table::{Rows, Tables};
use serde::Serialize;

use super::Format;
use crate::paths::{Found, is_pattern};
use crate::{Failure, terminal};

/// Whether `paths`, at which `found` is, ask for any number of checkpoints: several paths, a pattern, or a folder that
/// holds some and is none itself. It depends on what they are, not on how many there are today.
pub(super) fn asks_for_several(paths: &[PathBuf], found: &[Found]) -> bool {
    match (paths, found) {
        ([one], [Ok(only)]) => is_pattern(one) || only != one && one.is_stored_folder(),
        ([one], [Err(_)]) => is_pattern(one),
        _ => true,
    }
}

/// Answers in a format for programs: told as they come where each is a line, else together at the end.
pub(super) struct Answers {
    format: Format,
    rows: Rows,
    several: bool,
    kept: Vec<Recorded>,
}

impl Answers {
    pub(super) fn new(format: Format, rows: Rows, several: bool) -> Self {
        Answers { format, rows, several, kept: Vec::new() }
    }

    pub(super) fn add(&mut self, answer: Recorded) -> Result<(), Failure> {
        match self.format {
            Format::Ndjson => terminal::print(&line(&answer)?),
            Format::Json | Format::Table(_) => {
                self.kept.push(answer);
                Ok(())
            }
            Format::Human => Ok(()),
        }
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        match (self.format, self.kept.as_slice()) {
            (Format::Json, [one]) if !self.several => terminal::print(&pretty(one)?),
            (Format::Json, many) => terminal::print(&pretty(many)?),
            (Format::Table(format), many) => {
                let mut out = Vec::new();
                let written = table(format, self.rows, many.iter().map(Ok), &mut out);
                written.map_err(|e| Failure::unwritable(format!("standard output: {e}")))?;
                terminal::print_bytes(&out)
            }
            (Format::Human | Format::Ndjson, _) => Ok(()),
        }
    }
}

/// Writes `records` to `out` as a table.
pub(super) fn table<R: std::borrow::Borrow<Recorded>>(
    format: &Tables,
    rows: Rows,
    records: impl Iterator<Item = io::Result<R>>,
    out: &mut (dyn io::Write + Send),
) -> io::Result<()> {
    let mut table = (format.begin)(out)?;
    for record in records {
        for row in record?.borrow().rows(rows) {
            table.add(&row)?;
        }
    }
    table.end()
}

fn pretty<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    written(serde_json::to_string_pretty(value))
}

/// One line.
pub(super) fn line(answer: &Recorded) -> Result<String, Failure> {
    written(serde_json::to_string(answer))
}

fn written(text: serde_json::Result<String>) -> Result<String, Failure> {
    text.map(|text| ckpt_inspect::printable_json(&text) + "\n")
        .map_err(|e| Failure::unwritable(format!("standard output: {e}")))
}
