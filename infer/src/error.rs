//! The one error type of this crate: what is wrong, where, and what to try.

use std::path::PathBuf;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] ckpt_inspect::Error),
    /// The network is one that this crate does not run.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The checkpoint.
        path: PathBuf,
        /// What it has that is not run.
        what: String,
    },
    /// Names, shapes and configuration contradict each other.
    #[error("{}: {what}", path.display())]
    Inconsistent {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit what.
        what: String,
    },
    /// A setting that was given contradicts the checkpoint.
    #[error("{}: {what}", path.display())]
    Setting {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit what.
        what: String,
    },
    /// A tokenizer cannot be read or used.
    #[error("{}: {what}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong with it, or missing in it.
        what: String,
    },
    /// A token id is not in the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    Token {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab_size: usize,
    },
    /// The context is full, and was not to slide.
    #[error("{wanted} positions do not fit a context of {limit}; shorten the prompt or let the window slide")]
    ContextFull {
        /// Positions that would be needed.
        wanted: usize,
        /// Positions that there are.
        limit: usize,
    },
    /// The model computes nothing that a token could be chosen by.
    #[error(
        "logits are NaN at position {position}: the weights hold NaN or infinity, or overflow on the way; `ckpt inspect` tells which"
    )]
    NotANumber {
        /// The position in the sequence.
        position: usize,
    },
    /// A call that makes no sense, such as an empty prompt.
    #[error("{0}")]
    Usage(&'static str),
    /// A file of token ids or text cannot be used.
    #[error("{}: {what}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file that a KV cache was to be restored from belongs to something else or is damaged.
    #[error("{}: {what}", path.display())]
    PromptCache {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] ckpt_inspect::staged::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
