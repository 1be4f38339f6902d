//! The one error type of this crate: what is wrong, where, and what to try.

use std::path::PathBuf;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] ckpt_inspect::Error),
    /// The network is not supported by this crate.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The checkpoint.
        path: PathBuf,
        /// What is not supported.
        what: String,
    },
    /// Names, shapes and configuration are inconsistent.
    #[error("{}: {what}", path.display())]
    Inconsistent {
        /// The checkpoint.
        path: PathBuf,
        /// What is inconsistent.
        what: String,
    },
    /// A setting that was given contradicts the checkpoint.
    #[error("{}: {what}", path.display())]
    Setting {
        /// The checkpoint.
        path: PathBuf,
        /// What is inconsistent.
        what: String,
    },
    /// A tokenizer cannot be read or used.
    #[error("{}: {what}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What is wrong with it, or missing from it.
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
    /// The context is full, and sliding was not requested.
    #[error(
        "{wanted} positions do not fit into a context of {limit}; shorten the prompt or let the window slide"
    )]
    ContextFull {
        /// Positions that would be needed.
        wanted: usize,
        /// Positions in the context.
        limit: usize,
    },
    /// The model's logits are NaN, so no token can be chosen.
    #[error(
        "logits are NaN at position {position}: the weights contain NaN or infinity, or intermediate values overflow; `ckpt inspect` shows which weights"
    )]
    NotANumber {
        /// The position in the sequence.
        position: usize,
    },
    /// An invalid call, such as with an empty prompt.
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
