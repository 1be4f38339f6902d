//! Training data: files become documents, documents are packed into sequences of one length, sequences go through a
//! shuffle buffer into batches. The position of a stream can be saved, and restored as if it had not stopped.

mod chat;
mod contents;
mod documents;
mod encoder;
mod fill_in;
mod npy;
mod packed;
mod parquet;
mod record;
mod shard;
mod source;
mod stream;
mod validation;

use std::collections::HashSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, IGNORE};
use crate::{Error, Result};
pub use chat::Chat;
pub use contents::Contents;
pub(crate) use documents::sequences_of;
pub use stream::Stream;
pub use validation::Validation;

/// The most tokens in a batch: more than a step could hold in any machine's memory.
const LARGEST_BATCH: usize = 1 << 22;

/// The training data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Settings {
    /// Files: text; JSONL or Parquet (`text` or `content`; `prompt` and `response`, `responses` or `completion`; `messages` or `conversations`); or
    /// ready-made token ids (`.npy`, `.safetensors`; sequences x length, or one stream). Text and JSONL may be
    /// compressed (`.gz`, `.zst`).
    pub files: Vec<PathBuf>,
    /// The same by sources with weights, in place of `files`.
    pub sources: Vec<Weighted>,
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

/// Files that are one source among several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Weighted {
    /// Its files.
    pub files: Vec<PathBuf>,
    /// How many of the sequences are of this source, relative to the weights of the others.
    #[serde(default = "one")]
    pub weight: f64,
}

impl Weighted {
    /// A source of these files and this weight.
    pub fn new(files: Vec<PathBuf>, weight: f64) -> Self {
        Weighted { files, weight }
    }
}

fn one() -> f64 {
    1.0
}

impl Settings {
    /// The files to train on, of all sources.
    pub fn all_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().chain(self.sources.iter().flat_map(|source| &source.files))
    }

    /// What kinds of data the files to train and to validate on are.
    ///
    /// # Errors
    /// `Read` and `Data` for files that cannot be read.
    pub fn contents(&self) -> Result<Contents> {
        Contents::of(self.all_files().chain(&self.validation))
    }

    /// The files that are both trained on and validated on.
    pub(crate) fn trained_and_validated(&self) -> Vec<&PathBuf> {
        let whole = |path: &PathBuf| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let trained: HashSet<PathBuf> = match self.validation.is_empty() {
            true => HashSet::new(),
            false => self.all_files().map(whole).collect(),
        };
        self.validation.iter().filter(|path| trained.contains(&whole(path))).collect()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            files: Vec::new(),
            sources: Vec::new(),
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
    /// The position in files that come in another order with this seed; the stream has not moved.
    OtherOrder,
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
