//! Records that go to a file. Each is appended to a journal beside it as soon as it is there, and the file is made of the
//! journal at the end, whole or not at all: what a killed process measured is not lost.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use ckpt_inspect::staged::StagedFile;
use ckpt_inspect::{ErrorKind, path_text};
use ckpt_reports::records::{self, Recorded};
use ckpt_reports::table::Rows;

use super::Format;
use super::answers::{line, table};
use crate::paths::Found;
use crate::{Failure, terminal};

/// What is behind the output's name in the journal's.
const ENDING: &str = ".partial";

/// The records of an output that is being made.
pub(super) struct Journal {
    output: PathBuf,
    path: PathBuf,
    file: Mutex<File>,
    /// Those that there were at the beginning, by their paths.
    earlier: HashMap<String, Earlier>,
    /// Whether the output is there and the journal has nothing besides.
    is_whole: bool,
    /// Whether something that is not in the output was added or is to be left out.
    has_changed: AtomicBool,
    left_out: HashSet<String>,
}

/// A record of an earlier run.
enum Earlier {
    /// It could be read, whole.
    Read,
    /// It is damaged or cannot be read, and is tried again: its line.
    Again(String),
    /// The same, of what could not even be opened: it may have been a folder.
    Unreadable(String),
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
                    "{} has what an earlier run measured: --resume continues it, --force starts over",
                    terminal::path(&path)
                )));
            }
        }
        let written = match resume && output.exists() {
            true => written(output)?,
            false => Vec::new(),
        };
        let failed = |e: io::Error| Failure::unwritable(format!("{}: {e}", terminal::path(&path)));
        let is_new = !resume || !path.exists();
        let mut open = OpenOptions::new();
        let mut file =
            open.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        // A job that was begun again while the one before still runs. File systems without locks cannot tell.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Failure::unwritable(format!(
                "{}: another process is writing it; start again when that has ended",
                terminal::path(&path)
            )));
        }
        if is_new {
            file.set_len(0).map_err(failed)?;
        }
        let mut earlier = HashMap::new();
        if resume {
            let mut end = 0;
            for record in lines(&file) {
                let (record, len) = record.map_err(|e| {
                    Failure::unwritable(format!(
                        "{}: --resume cannot continue it: {e}; --force instead of --resume starts over",
                        terminal::path(&path)
                    ))
                })?;
                earlier.insert(record.path().to_string(), Earlier::of(&record)?);
                end += len;
            }
            // A line that was being written when the process ended.
            file.set_len(end).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        }
        // The journal may have been begun with them, and not have got to the last.
        let is_whole = resume && is_new && output.exists();
        for record in written {
            if !earlier.contains_key(record.path()) {
                earlier.insert(record.path().to_string(), Earlier::of(&record)?);
                file.write_all(line(&record)?.as_bytes()).map_err(failed)?;
            }
        }
        let (file, output) = (Mutex::new(file), output.to_path_buf());
        let (has_changed, left_out) = Default::default();
        Ok(Journal { output, path, file, earlier, is_whole, has_changed, left_out })
    }

    /// Leaves out what could not be read and is not there any more as it was: a folder or pattern of `asked` under which
    /// `found` are the checkpoints now.
    pub(super) fn leave_out_what_became(&mut self, asked: &[PathBuf], found: &[Found]) {
        let shown = |path: &Path| path_text(path);
        let unread = |(path, earlier): (&String, &Earlier)| {
            matches!(earlier, Earlier::Unreadable(_)).then(|| path.clone())
        };
        let mut gone: HashSet<String> = self.earlier.iter().filter_map(unread).collect();
        for path in found {
            gone.remove(&shown(path.as_ref().unwrap_or_else(|(path, _)| path)));
        }
        if gone.is_empty() {
            return;
        }
        let folders = found.iter().flatten().flat_map(|path| path.ancestors().skip(1)).map(shown);
        let asked: HashSet<String> = asked.iter().map(|path| shown(path)).chain(folders).collect();
        gone.retain(|path| asked.contains(path));
        if !gone.is_empty() {
            self.has_changed.store(true, Ordering::Relaxed);
        }
        self.left_out = gone;
    }

    /// Whether there is a record of `path` that stays.
    pub(super) fn has(&self, path: &Path) -> bool {
        matches!(self.earlier.get(&path_text(path)), Some(Earlier::Read))
    }

    /// How many checkpoints of earlier runs there are that `tried` are not among and that are not left out.
    pub(super) fn kept(&self, tried: &[Found]) -> usize {
        let again = tried.iter().map(|found| found.as_ref().unwrap_or_else(|(path, _)| path));
        let again = again.filter(|path| self.earlier.contains_key(&path_text(path))).count();
        self.earlier.len() - self.left_out.len() - again
    }

    pub(super) fn add(&self, record: &Recorded) -> Result<(), Failure> {
        let line = line(record)?;
        if let Some(Earlier::Again(same) | Earlier::Unreadable(same)) = self.earlier.get(record.path())
            && *same == line
        {
            return Ok(());
        }
        self.has_changed.store(true, Ordering::Relaxed);
        let mut file = self.file.lock().expect("nothing panics while it is held");
        let end = file.metadata().map(|metadata| metadata.len());
        file.write_all(line.as_bytes())
            .inspect_err(|_| {
                // A part of a line in the middle could not be read later.
                if let Ok(end) = end {
                    let _ = file.set_len(end);
                }
            })
            .map_err(|e| Failure::unwritable(format!("{}: {e}", terminal::path(&self.path))))
    }

    /// Makes the output of the journal, and returns whether a checkpoint in it is damaged or cannot be read. Of a checkpoint
    /// that was tried again, the last record counts.
    pub(super) fn end(&self, format: Format, rows: Rows, force: bool) -> Result<bool, Failure> {
        let file = self.file.lock().expect("nothing panics while it is held");
        let failed = |e: io::Error| Failure::unwritable(format!("{}: {e}", terminal::path(&self.output)));
        let mut last: HashMap<String, usize> = HashMap::new();
        for (at, record) in lines(&file).enumerate() {
            last.insert(record.map_err(failed)?.0.path().to_string(), at);
        }
        let mut damaged = false;
        let counts = |at: usize, path: &str| last.get(path) == Some(&at) && !self.left_out.contains(path);
        let records = lines(&file).enumerate().filter_map(|(at, record)| match record {
            Ok((record, _)) if counts(at, record.path()) => {
                damaged |= record.is_damaged();
                Some(Ok(record))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        if self.is_whole && !self.has_changed.load(Ordering::Relaxed) {
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

impl Earlier {
    fn of(record: &Recorded) -> Result<Self, Failure> {
        Ok(match record {
            Recorded::Record(whole) if !whole.damaged => Earlier::Read,
            Recorded::Record(_) => Earlier::Again(line(record)?),
            _ => Earlier::Unreadable(line(record)?),
        })
    }
}

/// The records in `output`. Rows of tensors alone and CSV cannot be gone on with: what they lack would be lost.
fn written(output: &Path) -> Result<Vec<Recorded>, Failure> {
    records::read(output).map_err(|error| match error.kind {
        ErrorKind::Io => error.into(),
        _ => Failure::usage(format!(
            "{}: a finished file can only be resumed if it has whole records (NDJSON, or Parquet with `--rows all` or \
             `--rows checkpoints`), and this has none ({error}); --force instead of --resume measures everything again",
            terminal::path(output)
        )),
    })
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
