//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// Why a model cannot be built, data cannot be read, or a run cannot continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] ckpt_inspect::Error),
    /// The model, the run's settings and the data do not fit together; the message says what to change.
    #[error("{0}")]
    Settings(String),
    /// A data file is invalid.
    #[error("{}: {what}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what to try.
        what: String,
    },
    /// The operating system refused to read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system refused to write.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The checkpoint to start from has layers that have collapsed.
    #[error("{0}")]
    Collapsed(String),
    /// A checkpoint cannot be written.
    #[error(transparent)]
    Save(#[from] ckpt_convert::Error),
    /// A file of the run's own cannot be written.
    #[error(transparent)]
    Output(#[from] ckpt_inspect::staged::Error),
    /// A run cannot continue: losses or gradients stay NaN or infinite, or a layer has collapsed and the run was to
    /// stop then.
    #[error("{0}")]
    Stopped(String),
    /// A teacher cannot be loaded or run.
    #[error("teacher: {0}")]
    Teacher(#[from] ckpt_infer::Error),
    /// A tensor operation of the composite model failed.
    #[cfg(feature = "candle")]
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn settings(what: impl Into<String>) -> Self {
        Error::Settings(what.into())
    }

    pub(crate) fn data(path: &Path, what: impl Into<String>) -> Self {
        Error::Data { path: path.to_path_buf(), what: what.into() }
    }

    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Error::Read { path: path.to_path_buf(), source }
    }

    pub(crate) fn write(path: &Path, source: std::io::Error) -> Self {
        Error::Write { path: path.to_path_buf(), source }
    }
}
