//! A run's folder: its settings, its metrics, its checkpoints.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ckpt_inspect::staged;
use serde_json::Value;

use crate::tensorboard::Events;
use crate::{Error, Result};

/// The folder that a run writes to: `config.toml`, `metrics.jsonl` (one JSON object per line), TensorBoard's event
/// files, `step-N.pt`, `best.pt`.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: File,
    events: Events,
    taken_over: bool,
}

/// Bytes at the end of a metrics file in which an unfinished line is looked for.
const TAIL: u64 = 1 << 16;

impl RunFolder {
    /// Creates the folder, or continues in it.
    ///
    /// # Errors
    /// `Write`, also while another process has it open.
    pub fn open(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|e| Error::write(path, e))?;
        let metrics = path.join("metrics.jsonl");
        end_last_line(&metrics).map_err(|e| Error::write(&metrics, e))?;
        let file = File::options().create(true).append(true).open(&metrics);
        let file = file.map_err(|e| Error::write(&metrics, e))?;
        // Held as long as it is open. Where a file system has no locks, the run goes on without.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let why = "another process is training into this folder";
            return Err(Error::write(&metrics, io::Error::new(io::ErrorKind::ResourceBusy, why)));
        }
        Ok(RunFolder {
            path: path.to_path_buf(),
            taken_over: false,
            metrics: file,
            events: Events::create(path).map_err(|e| Error::write(path, e))?,
        })
    }

    /// Says that what lies in the folder is another run's, whose best.pt may be replaced by any.
    pub fn take_over(&mut self) {
        self.taken_over = true;
    }

    /// Whether what lies in the folder is another run's.
    pub(crate) fn is_taken_over(&self) -> bool {
        self.taken_over
    }

    /// Writes the run's settings, completely or not at all.
    ///
    /// # Errors
    /// `Output`.
    pub fn config(&self, toml: &str) -> Result<()> {
        Ok(staged::write(&self.path.join("config.toml"), toml.as_bytes(), true)?)
    }

    /// Adds a line to the metrics, and its numbers and texts to TensorBoard's: `entry` is an object with the `step`; of
    /// objects with a `name` in its lists, as of `health`, each number is a scalar of its own, and each text of an
    /// object in it, as of `sample`, one of its own.
    ///
    /// # Errors
    /// `Write`.
    pub(crate) fn metric(&mut self, entry: &Value) -> Result<()> {
        let io = |e: std::io::Error| Error::write(&self.path.join("metrics.jsonl"), e);
        let mut line = serde_json::to_vec(entry).map_err(|e| io(e.into()))?;
        line.push(b'\n');
        self.metrics.write_all(&line).map_err(io)?;
        let (step, scalars) = scalars(entry);
        let values: Vec<(&str, f64)> = scalars.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        let objects = entry.as_object().into_iter().flatten().filter_map(|(key, value)| {
            Some(
                value.as_object()?.iter().filter_map(move |(k, v)| Some((format!("{key}/{k}"), v.as_str()?))),
            )
        });
        let texts: Vec<(String, &str)> = objects.flatten().collect();
        let texts: Vec<(&str, &str)> = texts.iter().map(|(tag, text)| (tag.as_str(), *text)).collect();
        let io = |e: std::io::Error| Error::write(&self.path, e);
        if !values.is_empty() {
            self.events.scalars(step, &values).map_err(io)?;
        }
        if !texts.is_empty() {
            self.events.texts(step, &texts).map_err(io)?;
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the checkpoint of `step`.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path.join(format!("step-{step:06}.pt"))
    }

    /// The path of the best checkpoint by validation loss.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.pt")
    }

    /// The path of the batch that made a run stop.
    pub fn bad_batch(&self, step: u64) -> PathBuf {
        self.path.join(format!("bad-batch-{step:06}.pt"))
    }

    /// Removes all but the last `keep` checkpoints up to `step`; those of later steps, from a run that went further,
    /// stay.
    ///
    /// # Errors
    /// `Write` if the folder cannot be listed or a file cannot be removed.
    pub fn prune(&self, keep: usize, step: u64) -> Result<()> {
        let io = |e| Error::write(&self.path, e);
        let mut steps: Vec<u64> = std::fs::read_dir(&self.path)
            .map_err(io)?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                name.to_str()?.strip_prefix("step-")?.strip_suffix(".pt")?.parse().ok()
            })
            .filter(|&s: &u64| s <= step)
            .collect();
        steps.sort_unstable();
        let surplus = steps.len().saturating_sub(keep);
        for &old in &steps[..surplus] {
            std::fs::remove_file(self.checkpoint(old)).map_err(io)?;
        }
        Ok(())
    }
}

/// The step of an entry, and its numbers by tag.
fn scalars(entry: &Value) -> (u64, Vec<(String, f64)>) {
    let step = entry.get("step").and_then(Value::as_u64).unwrap_or(0);
    let mut all = Vec::new();
    for (key, value) in entry.as_object().into_iter().flatten().filter(|(key, _)| *key != "step") {
        match value {
            Value::Array(items) => {
                for item in items {
                    let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
                    let numbers = item.as_object().into_iter().flatten();
                    all.extend(numbers.filter_map(|(k, v)| Some((format!("{key}/{k}/{name}"), v.as_f64()?))));
                }
            }
            value => all.extend(value.as_f64().map(|v| (key.clone(), v))),
        }
    }
    (step, all)
}

/// Ends a line that a killed run left unfinished, so that the next one is a line of its own.
fn end_last_line(path: &Path) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let Ok(mut file) = File::options().read(true).append(true).open(path) else { return Ok(()) };
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    (&file).take(TAIL).read_to_end(&mut tail)?;
    if tail.last().is_some_and(|&b| b != b'\n') {
        file.write_all(b"\n")?;
    }
    Ok(())
}
