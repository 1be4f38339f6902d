//! Answers of the gate that have something for each checkpoint: lines of JSON and tables, written as the checkpoints are
//! checked.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ckpt_inspect::staged::{self, StagedFile};
use ckpt_reports::exporter::GATES;
use ckpt_reports::gate::{Checked, Outcome};
use ckpt_reports::records::Recorded;
use ckpt_reports::table::{Rows, Sink, TABLES, Tables};
use ckpt_reports::{Exporter, Gated};
use clap::builder::PossibleValue;

use crate::format::{Choice, name};
use crate::{Failure, terminal};

/// What the gate's answer is written as.
#[derive(Clone, Copy)]
pub(super) enum Format {
    Human,
    /// Of all checkpoints together, at the end.
    Whole(&'static Exporter<Outcome>),
    /// For each checkpoint, as it is checked.
    Each(Each),
}

#[derive(Clone, Copy)]
pub(super) enum Each {
    Lines,
    Table(&'static Tables),
}

pub(super) fn formats() -> Choice<Format> {
    let mut formats = vec![(PossibleValue::new("human"), Format::Human)];
    formats.extend(GATES.iter().map(|exporter| (name(exporter), Format::Whole(exporter))));
    let help = "A line of JSON for each checkpoint, as soon as it is checked: its record, and the answer";
    formats.push((PossibleValue::new("ndjson").help(help), Format::Each(Each::Lines)));
    let table = |table: &'static Tables| {
        let help =
            "A table of checkpoints and tensors, with what was decided and the rules that found something";
        let help = format!("{help}{}", if table.is_text { "" } else { ", for files" });
        (PossibleValue::new(table.name).help(help), Format::Each(Each::Table(table)))
    };
    formats.extend(TABLES.iter().map(table));
    Choice::of(formats)
}

impl Each {
    /// Whether a terminal can show it.
    pub(super) fn is_text(self) -> bool {
        match self {
            Each::Lines => true,
            Each::Table(table) => table.is_text,
        }
    }
}

/// Where one of them goes until it is whole.
pub(super) enum Place {
    Printed(terminal::Output),
    /// A file without a name, in the folder where the output will be.
    Kept {
        file: File,
        output: PathBuf,
    },
}

impl Place {
    pub(super) fn printed() -> Self {
        Place::Printed(terminal::Output::default())
    }

    /// A place for what will be at `output`.
    pub(super) fn kept(output: &Path, force: bool) -> Result<Self, Failure> {
        staged::may_write(output, force)?;
        let folder = output.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let file = tempfile::tempfile_in(folder).map_err(|e| unwritten(Some(output), &e))?;
        Ok(Place::Kept { file, output: output.to_path_buf() })
    }

    fn output(&self) -> Option<&Path> {
        match self {
            Place::Printed(_) => None,
            Place::Kept { output, .. } => Some(output),
        }
    }

    /// Makes the output of it.
    pub(super) fn end(self, force: bool) -> Result<(), Failure> {
        match self {
            Place::Printed(output) => output.end(),
            Place::Kept { mut file, output } => {
                let mut staged = StagedFile::begin(&output, force)?;
                copy(&mut file, &mut staged).map_err(|e| unwritten(Some(&output), &e))?;
                Ok(staged.commit()?)
            }
        }
    }
}

fn copy(file: &mut File, to: &mut impl Write) -> io::Result<()> {
    file.rewind()?;
    let mut part = vec![0; 1 << 20];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(()),
            len => to.write_all(&part[..len])?,
        }
    }
}

fn unwritten(output: Option<&Path>, error: &io::Error) -> Failure {
    let output = output.map_or("standard output".into(), terminal::path);
    Failure::unwritable(format!("{output}: {error}"))
}

enum Writer<'w> {
    Lines(BufWriter<&'w mut (dyn Write + Send)>),
    Table(Box<dyn Sink + 'w>),
}

/// Answers that are being written.
pub(super) struct Answers<'w> {
    rows: Rows,
    writers: Mutex<Vec<(Option<PathBuf>, Writer<'w>)>>,
}

impl<'w> Answers<'w> {
    /// Begins one at each of `places`.
    pub(super) fn begin(places: &'w mut [(Each, Place)], rows: Rows) -> Result<Self, Failure> {
        let begin = |(each, place): &'w mut (Each, Place)| {
            let path = place.output().map(Path::to_path_buf);
            let out: &'w mut (dyn Write + Send) = match place {
                Place::Printed(output) => output,
                Place::Kept { file, .. } => file,
            };
            let writer = match each {
                Each::Lines => Writer::Lines(BufWriter::new(out)),
                Each::Table(table) => {
                    Writer::Table((table.begin)(out).map_err(|e| unwritten(path.as_deref(), &e))?)
                }
            };
            Ok((path, writer))
        };
        let writers = places.iter_mut().map(begin).collect::<Result<Vec<_>, Failure>>()?;
        Ok(Answers { rows, writers: Mutex::new(writers) })
    }

    /// Whether there are any.
    pub(super) fn are_wanted(&self) -> bool {
        !self.writers.lock().expect("nothing panics while it is held").is_empty()
    }

    /// Adds the answer on a checkpoint.
    pub(super) fn add(&self, recorded: &Recorded, checked: &Checked) -> Result<(), Failure> {
        let gated = Gated::new(recorded, checked);
        let mut writers = self.writers.lock().expect("nothing panics while it is held");
        for (path, writer) in writers.iter_mut() {
            let written = match writer {
                // Whoever reads lines wants each at once.
                Writer::Lines(out) => line(&gated, out).and_then(|()| match path {
                    None => out.flush(),
                    Some(_) => Ok(()),
                }),
                Writer::Table(table) => gated.rows(self.rows).iter().try_for_each(|row| table.add(row)),
            };
            written.map_err(|e| unwritten(path.as_deref(), &e))?;
        }
        Ok(())
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        for (path, writer) in self.writers.into_inner().expect("nothing panics while it is held") {
            let ended = match writer {
                Writer::Lines(mut out) => out.flush(),
                Writer::Table(table) => table.end(),
            };
            ended.map_err(|e| unwritten(path.as_deref(), &e))?;
        }
        Ok(())
    }
}

fn line(gated: &Gated<'_>, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(ckpt_inspect::PrintableJson::new(&mut *out), gated)?;
    writeln!(out)
}
