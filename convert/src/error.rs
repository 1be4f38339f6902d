//! The error type of this crate: failures to read or write, and requests that a format cannot fulfil.

use std::path::PathBuf;

use ckpt_inspect::{Checkpoint, printable};

use crate::{Lacks, Remedy};

/// Why a conversion stopped. It leaves nothing under the output's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source, or what was just written, cannot be read.
    #[error(transparent)]
    Read(#[from] ckpt_inspect::Error),
    /// The output cannot be written, or the caller stopped the work.
    #[error(transparent)]
    Output(#[from] ckpt_inspect::staged::Error),
    /// The requested output cannot be written in this form.
    #[error("{why}")]
    Target {
        /// Why.
        why: String,
        /// The option that would help, if there is one.
        remedy: Option<Remedy>,
    },
    /// The requested output cannot be made from this source.
    #[error("{}: {why}", printable(&path.to_string_lossy()))]
    Source {
        /// The source, as it was opened.
        path: PathBuf,
        /// What it lacks, as a phrase that follows its name.
        why: String,
        /// The option that would help, if there is one.
        remedy: Option<Remedy>,
    },
    /// The source's model lacks tensors, or has them in shapes that its layers cannot use.
    #[error("{}: the model is incomplete: {lacks}", printable(&path.to_string_lossy()))]
    Incomplete {
        /// The source, as it was opened.
        path: PathBuf,
        /// What it lacks.
        lacks: Lacks,
    },
    /// The source has a tensor that is not read, and would not be in the output.
    #[error("{}: {why}, and would be missing", printable(&path.to_string_lossy()))]
    Unread {
        /// The source, as it was opened.
        path: PathBuf,
        /// Which tensor it is and why it is not read.
        why: String,
    },
}

impl Error {
    /// The form cannot hold the requested output.
    pub(crate) fn target(why: impl Into<String>) -> Self {
        Error::Target { why: why.into(), remedy: None }
    }

    /// `source` is not what was requested.
    pub(crate) fn of_source(source: &Checkpoint, why: impl Into<String>) -> Self {
        Error::Source { path: source.path.clone(), why: why.into(), remedy: None }
    }

    /// Adds the option that would help.
    pub(crate) fn remedied_by(mut self, with: Remedy) -> Self {
        if let Error::Target { remedy, .. } | Error::Source { remedy, .. } = &mut self {
            *remedy = Some(with);
        }
        self
    }

    /// The option that would help, if there is one.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Error::Target { remedy, .. } | Error::Source { remedy, .. } => *remedy,
            Error::Incomplete { .. } | Error::Unread { .. } => Some(Remedy::AllowIncomplete),
            _ => None,
        }
    }
}

/// A result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
