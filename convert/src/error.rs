//! The error type of this crate: reading, writing, or asking for what a format cannot hold.

use std::path::PathBuf;

use ckpt_inspect::{Checkpoint, printable};

/// Why a conversion stopped. Nothing is left under the output's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source, or what was just written, cannot be read.
    #[error(transparent)]
    Read(#[from] ckpt_inspect::Error),
    /// The output cannot be written, or the caller stopped the work.
    #[error(transparent)]
    Output(#[from] ckpt_inspect::staged::Error),
    /// What was asked for cannot be written in this form; what to try.
    #[error("{0}")]
    Target(String),
    /// What was asked for cannot be made of this source; what to try.
    #[error("{}: {why}", printable(&path.to_string_lossy()))]
    Source {
        /// The source, as it was opened.
        path: PathBuf,
        /// What it lacks, as a phrase that follows its name.
        why: String,
    },
}

impl Error {
    /// `source` is not what is asked for.
    pub(crate) fn of_source(source: &Checkpoint, why: impl Into<String>) -> Self {
        Error::Source { path: source.path.clone(), why: why.into() }
    }
}

/// A result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
