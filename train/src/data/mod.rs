//! Training data: files become documents, documents are packed into sequences of one length, sequences go through a
//! shuffle buffer into batches. The position of a stream can be saved, and restored as if it had not stopped.

mod chat;
mod documents;
mod encoder;
mod fill_in;
mod npy;
mod parquet;
mod shard;
mod validation;

use std::borrow::Cow;
use std::path::PathBuf;

use ckpt_convert::Object;
use ckpt_inspect::Checkpoint;
use ckpt_inspect::metadata::{Value, as_u64};
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, IGNORE};
use crate::{Error, Random, Result, plain};
pub use chat::Chat;
use documents::{Document, Documents, NOT_TEXT};
use encoder::Encoder;
use fill_in::FillIn;
use shard::Place;
pub use validation::Validation;

/// The most tokens in a batch: more than a step could hold in any machine's memory.
const LARGEST_BATCH: usize = 1 << 22;

/// The training data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Settings {
    /// Files: text; JSONL or Parquet (`text` or `content`, `prompt` and `response` or `responses`, or `messages`); or
    /// ready-made token ids (`.npy`, `.safetensors`; sequences x length, or one stream).
    pub files: Vec<PathBuf>,
    /// Files to validate on; if there are any, nothing of `files` is held out.
    pub validation: Vec<PathBuf>,
    /// A `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// The column of JSONL and Parquet files that holds the text; `text` or `content` when not given.
    pub text_column: Option<String>,
    /// How `messages` are written.
    pub template: Chat,
    /// Positions in a sequence. Ready-made sequences keep their own length.
    pub length: usize,
    /// Sequences in a batch.
    pub batch: usize,
    /// Whether sequences, and each pass's files, are shuffled.
    pub shuffle: bool,
    /// Sequences in the shuffle buffer.
    pub buffer: usize,
    /// Share of documents that is held out for validation.
    pub holdout: f64,
    /// Learnt tokens to validate on: whole sequences, the first of the validation data, until they have this many.
    pub validation_tokens: usize,
    /// Whether prompts are context only, and do not count in the loss.
    pub mask_prompts: bool,
    /// Share of documents that are rearranged for filling in the middle.
    pub fill_in_rate: f64,
    /// Folder in which tokenized files are cached; `None` for no cache.
    #[serde(skip)]
    pub token_cache: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            files: Vec::new(),
            validation: Vec::new(),
            tokenizer: None,
            text_column: None,
            template: Chat::default(),
            length: 128,
            batch: 16,
            shuffle: true,
            buffer: 1024,
            holdout: 0.01,
            validation_tokens: 32_768,
            mask_prompts: true,
            fill_in_rate: 0.0,
            token_cache: None,
        }
    }
}

/// A token, and whether it counts in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    id: u32,
    learn: bool,
}

/// One sequence.
#[derive(Clone, Debug)]
struct Window {
    /// Tokens, one more than it has positions.
    tokens: Vec<Token>,
    /// Index of the file and row, for a ready-made one.
    source: Option<(usize, usize)>,
}

/// Bad lines that are kept to be shown.
const SHOWN: u64 = 5;
/// Documents in a row that yield no sequence before a stream is given up.
const MAX_FRUITLESS: u64 = 1 << 22;

/// Batches of training data, without end.
pub struct Stream {
    settings: Settings,
    encoder: Encoder,
    seed: u64,
    fill_in: Option<FillIn>,
    open: Option<Documents>,
    /// Place of the current file in this pass's order.
    file: usize,
    /// This pass's order of the files.
    order: Vec<usize>,
    /// How often all files have been read.
    pub epoch: u64,
    /// Sequences handed out, part of the key of random draws.
    drawn: u64,
    pending: Vec<Token>,
    buffer: Vec<Window>,
    /// Whether a pass is over and its last sequences are still to be handed out.
    emptying: bool,
    /// The pass that the stream began with.
    first_epoch: u64,
    /// Lines of that pass that were not documents.
    pub bad: u64,
    /// The first of them, and why.
    pub shown: Vec<String>,
    /// Whether this stream reads the held-out documents.
    held_out: bool,
}

impl Stream {
    /// The stream from its beginning. `seed` decides what is held out and in which order sequences come.
    ///
    /// # Errors
    /// `Settings` for sizes of zero or no files; `Data` and `Read` for a tokenizer that cannot be read.
    pub fn new(settings: &Settings, seed: u64) -> Result<Self> {
        if settings.files.is_empty() {
            return Err(Error::settings("there is no data to train on: give at least one file"));
        }
        let tokens = settings.length.saturating_mul(settings.batch);
        for (sound, what) in [
            (settings.length > 0, "length must be above 0".to_string()),
            (settings.batch > 0, "batch must be above 0".into()),
            (
                tokens <= LARGEST_BATCH,
                format!(
                    "a batch of {} x {} tokens is larger than {LARGEST_BATCH}; use smaller batches, and `accumulate` to average the gradients of several",
                    settings.batch, settings.length
                ),
            ),
            ((0.0..1.0).contains(&settings.holdout), "holdout must be at least 0 and below 1".into()),
            (
                (0.0..=1.0).contains(&settings.fill_in_rate),
                "the fill-in-the-middle rate must be from 0 to 1".into(),
            ),
        ] {
            if !sound {
                return Err(Error::settings(what));
            }
        }
        let encoder = Encoder::new(settings)?;
        let fill_in = match settings.fill_in_rate {
            0.0 => None,
            rate => {
                let marks = encoder.fill_in().ok_or_else(|| {
                    Error::settings(
                        "fill-in-the-middle training needs a tokenizer with tokens for it, such as <|fim_prefix|>, <|fim_middle|> and <|fim_suffix|>",
                    )
                })?;
                Some(FillIn { rate, marks, end: encoder.end_token() })
            }
        };
        let mut settings = settings.clone();
        if !settings.validation.is_empty() {
            settings.holdout = 0.0;
        }
        let mut stream = Stream {
            encoder,
            fill_in,
            order: Vec::new(),
            settings,
            seed,
            open: None,
            file: 0,
            epoch: 0,
            drawn: 0,
            pending: Vec::new(),
            buffer: Vec::new(),
            emptying: false,
            first_epoch: 0,
            bad: 0,
            shown: Vec::new(),
            held_out: false,
        };
        stream.begin_pass();
        Ok(stream)
    }

    /// Begins with pass `epoch`.
    pub fn begin_at(&mut self, epoch: u64) {
        (self.epoch, self.first_epoch) = (epoch, epoch);
        self.begin_pass();
    }

    /// Chooses the order of the files.
    fn begin_pass(&mut self) {
        self.order = (0..self.settings.files.len()).collect();
        if self.settings.shuffle {
            let mut random = Random::new(&[self.seed, 4, self.epoch]);
            for i in (1..self.order.len()).rev() {
                self.order.swap(i, random.below(i + 1));
            }
        }
    }

    fn open_at(&self, file: usize, offset: u64) -> Result<Documents> {
        let path = &self.settings.files[file];
        let shard = self.settings.token_cache.as_deref().zip(self.encoder.fingerprint());
        let place = shard.and_then(|(folder, fingerprint)| Place::of(folder, path, fingerprint));
        Documents::open(path, offset, place, !self.held_out, &self.encoder)
    }

    /// The next batch.
    ///
    /// # Errors
    /// `Read` and `Data` for files that cannot be read, `Settings` if a whole pass yields no sequence.
    pub fn batch(&mut self) -> Result<Batch> {
        let mut windows = Vec::with_capacity(self.settings.batch);
        while windows.len() < self.settings.batch {
            windows.push(self.draw()?);
        }
        batch_of(&windows)
    }

    fn draw(&mut self) -> Result<Window> {
        let wanted = if self.settings.shuffle { self.settings.buffer.max(1) } else { 1 };
        let (mut fruitless, start) = (0, self.epoch);
        // At the end of a pass the buffer empties before the next one begins: a pass hands out each sequence once.
        while self.buffer.is_empty() || (self.buffer.len() < wanted && !self.emptying) {
            self.emptying = !self.read()?;
            fruitless = if self.buffer.is_empty() { fruitless + 1 } else { 0 };
            if self.epoch > start + 1 && self.buffer.is_empty() || fruitless > MAX_FRUITLESS {
                return Err(Error::settings(format!(
                    "the data contains no sequence of {} tokens to train on{}",
                    self.settings.length + 1,
                    self.shown.first().map(|s| format!("; {s}")).unwrap_or_default()
                )));
            }
        }
        let at = match self.settings.shuffle {
            true => Random::new(&[self.seed, 1, self.drawn]).below(self.buffer.len()),
            false => 0,
        };
        // The rest keeps its order, so that it does not depend on earlier draws.
        let mut window = self.buffer.remove(at);
        if let Some(fill_in) = &self.fill_in {
            fill_in.apply(&mut window.tokens, &mut Random::new(&[self.seed, 3, self.drawn]));
        }
        self.drawn += 1;
        Ok(window)
    }

    /// Reads one document into the buffer; at the end of all files begins again. False when a pass is over.
    fn read(&mut self) -> Result<bool> {
        let file = self.order[self.file];
        let mut documents = match self.open.take() {
            Some(open) => open,
            None => self.open_at(file, 0)?,
        };
        let offset = documents.offset;
        let share = Random::new(&[self.seed, 2, file as u64, offset]).uniform();
        let wanted = (share < self.settings.holdout) == self.held_out;
        let Some(document) = documents.next(&self.encoder, wanted)? else {
            self.file += 1;
            if self.file < self.order.len() {
                return Ok(true);
            }
            self.file = 0;
            self.epoch += 1;
            self.begin_pass();
            return Ok(false);
        };
        self.open = Some(documents);
        if !wanted {
            return Ok(true);
        }
        let path = &self.settings.files[file];
        match document {
            Document::Bad(why) => self.note_bad(file, offset, &why),
            Document::Mended { tokens, bad } => {
                bad.iter().for_each(|at| self.note_bad(file, offset + u64::from(*at), NOT_TEXT));
                self.pack(&tokens);
            }
            Document::Window(tokens) if tokens.len() < 2 => {
                return Err(Error::data(path, "contains sequences of fewer than 2 tokens"));
            }
            Document::Window(tokens) => {
                self.buffer.push(Window { tokens, source: Some((file, offset as usize)) });
            }
            Document::Tokens(tokens) => self.pack(&tokens),
            Document::Skipped => {}
        }
        Ok(true)
    }

    /// Cuts the next sequences from what is pending and `tokens`.
    fn pack(&mut self, tokens: &[Token]) {
        self.pending.extend_from_slice(tokens);
        // The last token of a sequence is the first of the next: each is predicted once.
        let length = self.settings.length;
        let mut start = 0;
        while self.pending.len() - start > length {
            let tokens = self.pending[start..=start + length].to_vec();
            self.buffer.push(Window { tokens, source: None });
            start += length;
        }
        self.pending.drain(..start);
    }

    /// Counts the line or row at `offset` of a file, which is no document: in the first pass, since others read the same.
    fn note_bad(&mut self, file: usize, offset: u64, why: &str) {
        if self.epoch != self.first_epoch {
            return;
        }
        self.bad += 1;
        if self.bad <= SHOWN {
            let path = &self.settings.files[file];
            let place = documents::place(path, offset);
            self.shown.push(format!("{}: {place} {why}", path.display()));
        }
    }

    /// The first sequence to come, as pieces of text of which each is learnt or only context; `None` without a
    /// tokenizer, or where a sequence is ready-made.
    pub fn example(&self) -> Option<Vec<(bool, String)>> {
        let window = self.buffer.first().filter(|window| window.source.is_none())?;
        let pieces = window.tokens.chunk_by(|a, b| a.learn == b.learn);
        pieces.map(|piece| Some((piece[0].learn, self.encoder.decode(piece)?))).collect()
    }

    /// The position of the stream.
    pub fn state(&self) -> Object<'static> {
        let number = |n: u64| Value::I64(n as i64);
        let offset = self.open.as_ref().map_or(0, |d| d.offset);
        let lengths: Vec<i32> = self.buffer.iter().map(|w| w.tokens.len() as i32).collect();
        // Two numbers per sequence; -1 for packed ones.
        let source = |w: &Window| w.source.map_or([-1, -1], |(file, row)| [file as i32, row as i32]);
        let sources: Vec<i32> = self.buffer.iter().flat_map(source).collect();
        let integers =
            |values: Vec<i32>| Object::Integers { shape: vec![values.len()], values: Cow::Owned(values) };
        let place = plain([
            ("epoch", number(self.epoch)),
            ("file", number(self.file as u64)),
            ("open", Value::Bool(self.open.is_some())),
            ("emptying", Value::Bool(self.emptying)),
            ("offset", number(offset)),
            ("drawn", number(self.drawn)),
            ("length", number(self.settings.length as u64)),
            ("first_epoch", number(self.first_epoch)),
            ("bad", number(self.bad)),
            ("files", number(self.order.len() as u64)),
            ("name", Value::String(self.file_name(self.order[self.file]))),
        ]);
        Object::dict([
            ("place", Object::Plain(place)),
            ("pending", integers(encode(&self.pending))),
            ("buffer", integers(self.buffer.iter().flat_map(|w| encode(&w.tokens)).collect())),
            ("buffer_lengths", integers(lengths)),
            ("buffer_sources", integers(sources)),
        ])
    }

    /// What identifies a file in a saved position: its name, since folders may be renamed before a run is resumed.
    fn file_name(&self, file: usize) -> String {
        let name = self.settings.files[file].file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Moves to the position that `checkpoint` has under `key`, unless it has none, or of sequences of another length.
    ///
    /// # Errors
    /// `Settings` when the position does not exist in these files; the checkpoint's and the files' own.
    pub fn restore(&mut self, checkpoint: &Checkpoint, key: &str) -> Result<Restored> {
        if checkpoint.meta(&format!("{key}.place")).is_none() {
            return Ok(Restored::Nothing);
        }
        let foreign = || {
            Error::settings(format!(
                "{}: its position in the data does not exist in these files; restart the data from the beginning (`restart_data`)",
                checkpoint.path.display()
            ))
        };
        let number =
            |name: &str| checkpoint.meta(&format!("{key}.place.{name}")).and_then(as_u64).ok_or_else(foreign);
        let tokens = |name: &str| -> Result<Vec<i32>> {
            let tensor = checkpoint.tensor(&format!("{key}.{name}"))?;
            Ok(checkpoint.view::<i32>(tensor)?.iter().copied().collect())
        };
        let (lengths, sources) = (tokens("buffer_lengths")?, tokens("buffer_sources")?);
        if sources.len() != 2 * lengths.len() {
            return Err(foreign());
        }
        // Ready-made sequences have a source, and their own length.
        let packed = lengths.iter().zip(sources.chunks(2)).find(|(_, source)| source[0] < 0);
        let packed = packed.map(|(&tokens, _)| usize::try_from(tokens).unwrap_or(0).saturating_sub(1));
        let pending = decode(&tokens("pending")?);
        let recorded = || number("length").ok().filter(|_| !pending.is_empty()).map(|n| n as usize);
        if let Some(length) = packed.or_else(recorded).filter(|length| *length != self.settings.length) {
            return Ok(Restored::OtherLength(length));
        }
        self.epoch = number("epoch")?;
        self.file = number("file")? as usize;
        self.drawn = number("drawn")?;
        self.bad = number("bad")?;
        self.first_epoch = number("first_epoch").unwrap_or(0);
        self.begin_pass();
        let file = *self.order.get(self.file).ok_or_else(foreign)?;
        let name = checkpoint.meta(&format!("{key}.place.name"));
        if number("files")? != self.order.len() as u64 || name != Some(&Value::String(self.file_name(file))) {
            return Err(foreign());
        }
        let flag =
            |name: &str| matches!(checkpoint.meta(&format!("{key}.place.{name}")), Some(Value::Bool(true)));
        self.emptying = flag("emptying");
        let offset = number("offset")?;
        self.open = flag("open").then(|| self.open_at(file, offset)).transpose()?;
        if self.open.as_ref().is_some_and(|d| d.end.is_some_and(|end| offset > end)) {
            return Err(foreign());
        }
        self.pending = pending;
        let all = decode(&tokens("buffer")?);
        let mut rest = all.as_slice();
        self.buffer.clear();
        for (&length, source) in lengths.iter().zip(sources.chunks(2)) {
            let (tokens, next) = rest.split_at_checked(length.max(0) as usize).ok_or_else(foreign)?;
            let source = usize::try_from(source[0]).ok().zip(usize::try_from(source[1]).ok());
            if tokens.len() < 2 || source.is_some_and(|(file, _)| file >= self.order.len()) {
                return Err(foreign());
            }
            self.buffer.push(Window { tokens: tokens.to_vec(), source });
            rest = next;
        }
        Ok(Restored::Position)
    }
}

/// What [`Stream::restore`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restored {
    /// A position, where the stream is now.
    Position,
    /// No position; the stream has not moved.
    Nothing,
    /// The position among sequences of this many positions, which are not those of the settings; the stream has not
    /// moved.
    OtherLength(usize),
}

/// Tokens as integers: those that do not count in the loss are negative.
fn encode(tokens: &[Token]) -> Vec<i32> {
    tokens.iter().map(|t| if t.learn { t.id as i32 } else { -(t.id as i32) - 1 }).collect()
}

fn decode(values: &[i32]) -> Vec<Token> {
    values
        .iter()
        .map(
            |&v| {
                if v >= 0 {
                    Token { id: v as u32, learn: true }
                } else {
                    Token { id: !v as u32, learn: false }
                }
            },
        )
        .collect()
}

fn batch_of(windows: &[Window]) -> Result<Batch> {
    let len = windows.first().map_or(0, |w| w.tokens.len());
    if windows.iter().any(|w| w.tokens.len() != len) {
        return Err(Error::settings("ready-made sequences of different lengths cannot share a batch"));
    }
    let target = |t: &Token| if t.learn { t.id as i32 } else { IGNORE };
    Ok(Batch {
        rows: windows.len(),
        len: len - 1,
        ids: windows.iter().flat_map(|w| w.tokens[..len - 1].iter().map(|t| t.id)).collect(),
        targets: windows.iter().flat_map(|w| w.tokens[1..].iter().map(target)).collect(),
        sources: windows.iter().map(|w| w.source).collect(),
    })
}
