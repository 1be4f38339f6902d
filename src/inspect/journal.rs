//! Records that go to a file. Each is appended to a journal beside it as soon as it is there, and the file is made of the
//! journal at the end, whole or not at all: what a killed process measured is not lost.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ckpt_inspect::staged::StagedFile;
use ckpt_reports::records::{self, Recorded};
use ckpt_reports::table::Rows;

use super::Format;
use super::answers::{line, table};
use crate::{Failure, terminal};

/// What is behind the output's name in the journal's.
const ENDING: &str = ".partial";

/// The records of an output that is being made.
pub(super) struct Journal {
    output: PathBuf,
    path: PathBuf,
    file: Mutex<File>,
    done: HashSet<String>,
    /// Whether the output is there and the journal has nothing besides.
    is_whole: bool,
}

impl Journal {
    /// Begins records that will be at `output`, or goes on with those that are there.
    pub(super) fn begin(output: &Path, resume: bool, force: bool) -> Result<Self, Failure> {
        let mut name = output.as_os_str().to_os_string();
        name.push(ENDING);
        let path = PathBuf::from(name);
        if !resume {
            terminal::may_write(output, force)?;
            if path.exists() && !force {
                return Err(Failure::usage(format!(
                    "{} has what an earlier run measured: --resume goes on with it, --force begins anew",
                    terminal::path(&path)
                )));
            }
        }
        let failed = |e: io::Error| Failure::unwritable(format!("{}: {e}", terminal::path(&path)));
        let is_new = !resume || !path.exists();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(is_new)
            .open(&path)
            .map_err(failed)?;
        let mut done = HashSet::new();
        if resume {
            let mut end = 0;
            for record in lines(&file) {
                let (record, len) = record.map_err(failed)?;
                done.insert(record.path().to_string());
                end += len;
            }
            // A line that was being written when the process ended.
            file.set_len(end).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        }
        // The journal may have been begun with them, and not have got to the last.
        let is_whole = resume && is_new && output.exists();
        if resume && output.exists() {
            for record in records::read(output)? {
                if done.insert(record.path().to_string()) {
                    file.write_all(line(&record)?.as_bytes()).map_err(failed)?;
                }
            }
        }
        Ok(Journal { output: output.to_path_buf(), path, file: Mutex::new(file), done, is_whole })
    }

    /// Whether there is a record of `path`.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.done.contains(&path.display().to_string())
    }

    /// How many records there were at the beginning.
    pub(super) fn found(&self) -> usize {
        self.done.len()
    }

    pub(super) fn add(&self, record: &Recorded) -> Result<(), Failure> {
        let line = line(record)?;
        let mut file = self.file.lock().expect("nothing panics while it is held");
        file.write_all(line.as_bytes())
            .map_err(|e| Failure::unwritable(format!("{}: {e}", terminal::path(&self.path))))
    }

    /// Makes the output of the journal, and returns whether a checkpoint in it is damaged or cannot be read.
    pub(super) fn end(&self, format: Format, rows: Rows, added: bool, force: bool) -> Result<bool, Failure> {
        let file = self.file.lock().expect("nothing panics while it is held");
        let failed = |e: io::Error| Failure::unwritable(format!("{}: {e}", terminal::path(&self.output)));
        let mut damaged = false;
        let records = lines(&file).map(|record| -> io::Result<Recorded> {
            let (record, _) = record?;
            damaged |= record.is_damaged();
            Ok(record)
        });
        if self.is_whole && !added {
            for record in records {
                record.map_err(failed)?;
            }
        } else {
            let mut staged = StagedFile::begin(&self.output, force)?;
            match format {
                Format::Table(format) => table(format, rows, records, &mut staged).map_err(failed)?,
                _ => {
                    let mut out = io::BufWriter::new(&mut staged);
                    for record in records {
                        let text = line(&record.map_err(failed)?)?;
                        out.write_all(text.as_bytes()).map_err(failed)?;
                    }
                    out.flush().map_err(failed)?;
                }
            }
            staged.commit()?;
        }
        drop(file);
        // What stays is told of by the next run into this file.
        let _ = std::fs::remove_file(&self.path);
        Ok(damaged)
    }
}

/// The whole lines of the journal, each with its length in bytes.
fn lines(file: &File) -> impl Iterator<Item = io::Result<(Recorded, u64)>> {
    let mut reader = BufReader::new(file);
    let mut failed = reader.seek(SeekFrom::Start(0)).err();
    std::iter::from_fn(move || {
        if let Some(error) = failed.take() {
            return Some(Err(error));
        }
        let mut text = Vec::new();
        match reader.read_until(b'\n', &mut text) {
            Err(error) => Some(Err(error)),
            Ok(_) if !text.ends_with(b"\n") => None,
            Ok(len) => {
                let record = std::str::from_utf8(&text)
                    .map_err(io::Error::other)
                    .and_then(|text| Recorded::from_json(text).map_err(io::Error::other));
                Some(record.map(|record| (record, len as u64)))
            }
        }
    })
}
