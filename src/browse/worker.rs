//! The threads that read files: one opens and measures, the file shown first; one answers what the user asks for.
//! Both stop when they are cancelled, between tensors and within comparisons.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use ckpt_inspect::diff::{self, diff_tensors};
use ckpt_inspect::survey::survey;
use ckpt_inspect::{Checkpoint, CheckpointRecord, ErrorKind, Options, TensorInfo, TensorRecord, describe};
use rayon::prelude::*;

use super::state::{Command, Comparison, Found, Mark, Message, State};
use crate::load::{self, LoadOptions};

/// Tensors are measured in batches of so many bytes or tensors, between which another file may become more urgent.
const BATCH_BYTES: u64 = 64 << 20;
const BATCH: usize = 64;

/// What opening gives: the record of the header, or of everything if the cache has it.
pub type Opened = Result<(CheckpointRecord, bool), String>;

/// Access to the threads.
#[derive(Clone)]
pub struct Workers {
    options: LoadOptions,
    cancelled: Arc<AtomicBool>,
    /// The file to measure before the others.
    preferred: Arc<AtomicUsize>,
    /// Checkpoints that are open, by path. Their bytes are mapped, not read.
    open: Arc<Mutex<HashMap<PathBuf, Arc<Checkpoint>>>>,
    questions: Arc<Mutex<Option<Sender<Question>>>>,
}

/// Requests to the answering thread, with the paths that they concern.
struct Question {
    command: Command,
    paths: Vec<PathBuf>,
}

/// The message about an opened file.
pub fn opened(file: usize, opened: Opened) -> Message {
    let complete = matches!(opened, Ok((_, true)));
    Message::Opened { file, record: opened.map(|(record, _)| Box::new(record)), complete }
}

impl Workers {
    /// Workers that have not started.
    pub fn new(options: LoadOptions) -> Self {
        Workers {
            options,
            cancelled: Arc::default(),
            preferred: Arc::default(),
            open: Arc::default(),
            questions: Arc::default(),
        }
    }

    /// Starts the threads. They open and measure `paths` and send `messages`.
    pub fn start(&self, paths: Vec<PathBuf>, messages: Sender<Message>) {
        let (sender, questions) = mpsc::channel::<Question>();
        *self.questions.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let (workers, answers) = (self.clone(), messages.clone());
        std::thread::spawn(move || {
            while let Ok(mut question) = questions.recv() {
                // Only the last tensor looked at is still wanted.
                let mut rest: Vec<Question> = questions.try_iter().collect();
                rest.insert(0, question);
                let last_look = rest.iter().rposition(|q| matches!(q.command, Command::Look { .. }));
                for (at, next) in rest.into_iter().enumerate() {
                    question = next;
                    if matches!(question.command, Command::Look { .. }) && Some(at) != last_look {
                        continue;
                    }
                    if let Some(message) = workers.reply(&question) {
                        let _ = answers.send(message);
                    }
                }
            }
        });
        let workers = self.clone();
        std::thread::spawn(move || workers.measure_files(&paths, &messages));
    }

    /// Asks everything to stop as soon as it can, without waiting.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Measures `file` before the others.
    pub fn prefer(&self, file: usize) {
        self.preferred.store(file, Ordering::Relaxed);
    }

    fn checkpoint(&self, path: &Path) -> Result<Arc<Checkpoint>, String> {
        let list = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(checkpoint) = list().get(path) {
            return Ok(checkpoint.clone());
        }
        let checkpoint = ckpt_inspect::open_with(path, &self.options.open).map_err(|e| e.to_string())?;
        let checkpoint = Arc::new(checkpoint);
        list().insert(path.to_path_buf(), checkpoint.clone());
        Ok(checkpoint)
    }

    /// Opens a file: its header, or its whole record from the cache.
    pub fn open(&self, path: &Path) -> Opened {
        if let Some(record) = load::cached(path, &self.options) {
            return Ok((record, true));
        }
        let checkpoint = self.checkpoint(path)?;
        let header = Options::default().with(|o| (o.stats, o.histogram) = (false, false));
        let mut record = describe(&checkpoint, header, &|_| ());
        ckpt_inspect::judge(&mut record, &self.options.thresholds);
        let complete = record.tensors.is_empty();
        Ok((record, complete))
    }

    /// Opens every file, then measures them all, the preferred one first.
    fn measure_files(&self, paths: &[PathBuf], messages: &Sender<Message>) {
        // Records as they grow, and how many of their tensors are measured.
        let mut files: Vec<Option<(CheckpointRecord, usize)>> = Vec::new();
        for (at, path) in paths.iter().enumerate() {
            if self.cancelled.load(Ordering::Relaxed) {
                return;
            }
            let opened = self.open(path);
            files.push(match &opened {
                Ok((record, false)) => Some((record.clone(), 0)),
                _ => None,
            });
            // The first one was opened, and shown, before this thread began.
            if at > 0 && messages.send(self::opened(at, opened)).is_err() {
                return;
            }
        }
        loop {
            let preferred = self.preferred.load(Ordering::Relaxed);
            let next = files.get(preferred).is_some_and(Option::is_some).then_some(preferred);
            let Some(at) = next.or_else(|| files.iter().position(Option::is_some)) else { return };
            let Some((record, done)) = &mut files[at] else { return };
            let Ok(checkpoint) = self.checkpoint(&paths[at]) else {
                files[at] = None;
                continue;
            };
            let batch = batch(record, *done);
            for (tensor, measured) in self.measure(&checkpoint, record, batch.clone()) {
                record.damaged |= measured.damage.is_some() && record.tensors[tensor].damage.is_none();
                record.tensors[tensor] = measured.clone();
                if messages.send(Message::Measured { file: at, tensor, record: Box::new(measured) }).is_err()
                {
                    return;
                }
            }
            *done = batch.end;
            if self.cancelled.load(Ordering::Relaxed) {
                return;
            }
            if *done == record.tensors.len() {
                load::keep(&checkpoint, record, &self.options);
                files[at] = None;
                let _ = messages.send(Message::Complete { file: at });
            }
        }
    }

    /// Measures these tensors of `checkpoint`, unless it is cancelled.
    fn measure(
        &self,
        checkpoint: &Checkpoint,
        record: &CheckpointRecord,
        tensors: std::ops::Range<usize>,
    ) -> Vec<(usize, TensorRecord)> {
        tensors
            .into_par_iter()
            .filter(|_| !self.cancelled.load(Ordering::Relaxed))
            .map(|i| (i, measured(checkpoint, &checkpoint.tensors[i], record.tensors[i].clone())))
            .collect()
    }

    /// Measures a whole file before returning.
    pub fn measure_all(&self, file: usize, state: &State) -> Vec<Message> {
        let Some(record) = state.files[file].known().filter(|_| !state.files[file].complete) else {
            return Vec::new();
        };
        let Ok(checkpoint) = self.checkpoint(&state.files[file].path) else { return Vec::new() };
        let all = self.measure(&checkpoint, record, 0..record.tensors.len());
        all.into_iter()
            .map(|(tensor, record)| Message::Measured { file, tensor, record: Box::new(record) })
            .chain([Message::Complete { file }])
            .collect()
    }

    /// Asks the answering thread.
    pub fn ask(&self, state: &State, command: Command) {
        if let Some(sender) = &*self.questions.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = sender.send(Question { paths: paths(state, &command), command });
        }
    }

    /// Answers at once; `None` for commands that have no answer.
    pub fn answer(&self, state: &State, command: &Command) -> Option<Message> {
        self.reply(&Question { command: command.clone(), paths: paths(state, command) })
    }

    fn reply(&self, question: &Question) -> Option<Message> {
        match (&question.command, question.paths.as_slice()) {
            (&Command::Look { file, tensor }, [path]) => {
                let looked = self.checkpoint(path).and_then(|checkpoint| {
                    let info = checkpoint.tensors.get(tensor).ok_or("the file has changed")?;
                    survey(&checkpoint, info).map(Box::new).map_err(|e| e.to_string())
                });
                Some(Message::Looked { file, tensor, survey: looked })
            }
            (Command::Compare(a, b), [path_a, path_b]) => {
                let found = self.compare((a, path_a), (b, path_b)).transpose()?;
                Some(Message::Compared(Box::new(Comparison { a: a.clone(), b: b.clone(), found })))
            }
            _ => None,
        }
    }

    /// `None` when it was cancelled.
    fn compare(&self, a: (&Mark, &Path), b: (&Mark, &Path)) -> Result<Option<Found>, String> {
        let (in_a, in_b) = (self.checkpoint(a.1)?, self.checkpoint(b.1)?);
        let mut options = diff::Options::default();
        (options.canonical, options.rows) = (&crate::diff::canonical, &crate::diff::rows_in_order);
        if let (Mark::Tensor { tensor: x, .. }, Mark::Tensor { tensor: y, .. }) = (a.0, b.0) {
            let (Some(x), Some(y)) = (in_a.tensors.get(*x), in_b.tensors.get(*y)) else {
                return Err("the file has changed".into());
            };
            return Ok(Some(Found::Tensors(diff_tensors((&in_a, x), (&in_b, y), options))));
        }
        let watch = |_| !self.cancelled.load(Ordering::Relaxed);
        Ok(diff::diff(&in_a, &in_b, options, &watch).map(Found::Files))
    }
}

fn paths(state: &State, command: &Command) -> Vec<PathBuf> {
    let file = |mark: &Mark| match mark {
        Mark::File(file) | Mark::Tensor { file, .. } => *file,
    };
    let files = match command {
        Command::Look { file, .. } => vec![*file],
        Command::Compare(a, b) => vec![file(a), file(b)],
        _ => Vec::new(),
    };
    files.into_iter().map(|file| state.files[file].path.clone()).collect()
}

/// The tensors to measure next, after the first `done`.
fn batch(record: &CheckpointRecord, done: usize) -> std::ops::Range<usize> {
    let mut bytes = 0;
    let rest = &record.tensors[done..];
    let more = rest.iter().take(BATCH).take_while(|t| {
        let room = bytes < BATCH_BYTES;
        bytes = t.bytes.saturating_add(bytes);
        room
    });
    done..done + more.count()
}

/// `record` with its measurements, or with the reason that they are missing.
fn measured(checkpoint: &Checkpoint, tensor: &TensorInfo, mut record: TensorRecord) -> TensorRecord {
    if record.damage.is_some() || tensor.dtype.is_complex() {
        return record;
    }
    match checkpoint.measure(tensor, true) {
        Ok((stats, ternary)) => (record.stats, record.ternary) = (Some(stats), ternary.map(Box::new)),
        Err(error) if error.kind == ErrorKind::Damaged => record.set_damage(error),
        Err(_) => {}
    }
    record
}
