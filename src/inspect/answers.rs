//! What `ckpt inspect` tells programs: an object for each checkpoint, or a table of checkpoints and tensors.

use ckpt_inspect::PrintableJson;
use ckpt_inspect::stored::Stored;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use ckpt_reports::records::Recorded;
use ckpt_reports::table::{Rows, Tables};

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
            Format::Ndjson => print(|out| serde_json::to_writer(out, &answer)),
            Format::Json | Format::Table(_) => {
                self.kept.push(answer);
                Ok(())
            }
            Format::Human => Ok(()),
        }
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        match (self.format, self.kept.as_slice()) {
            (Format::Json, [one]) if !self.several => print(|out| serde_json::to_writer_pretty(out, one)),
            (Format::Json, many) => print(|out| serde_json::to_writer_pretty(out, many)),
            (Format::Table(format), many) => {
                let mut out = terminal::Output::default();
                table(format, self.rows, many.iter().map(Ok), &mut out)
                    .and_then(|()| out.flush())
                    .map_err(unprinted)?;
                out.end()
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

/// Prints the JSON that `write` writes, and the end of its last line, as it comes: records may be of a million tensors.
fn print(
    write: impl FnOnce(&mut PrintableJson<BufWriter<terminal::Output>>) -> serde_json::Result<()>,
) -> Result<(), Failure> {
    let mut out = PrintableJson::new(BufWriter::new(terminal::Output::default()));
    write(&mut out).map_err(|e| unprinted(e.into()))?;
    out.write_all(b"\n").map_err(unprinted)?;
    let mut out = out.into_inner().into_inner().map_err(|e| unprinted(e.into_error()))?;
    out.flush().map_err(unprinted)?;
    out.end()
}

fn unprinted(error: io::Error) -> Failure {
    Failure::unwritable(format!("standard output: {error}"))
}

/// One line.
pub(super) fn line(answer: &Recorded) -> Result<String, Failure> {
    serde_json::to_string(answer)
        .map(|text| ckpt_inspect::printable_json(&text) + "\n")
        .map_err(|e| unprinted(e.into()))
}
