//! The one error type of this crate.

use std::fmt;
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
    /// The checkpoint cannot be continued from as it is asked for.
    #[error("{what}; {remedy}")]
    Resume {
        /// What does not fit.
        what: String,
        /// What would do.
        remedy: Remedy,
    },
    /// There is no step to take.
    #[error("the model is at step {0} already, and `steps` is the step to stop at")]
    NoStep(u64),
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

/// With which of [`ResumeOptions`](crate::ResumeOptions) a checkpoint can be continued from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// `restart_data`.
    RestartData,
    /// `reset_optimizer`.
    ResetOptimizer,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Remedy::RestartData => "restart the data from the beginning (`restart_data`)",
            Remedy::ResetOptimizer => "resume without its optimizer state (`reset_optimizer`)",
        })
    }
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn settings(what: impl Into<String>) -> Self {
        Error::Settings(what.into())
    }

    pub(crate) fn resume(remedy: Remedy, what: impl Into<String>) -> Self {
        Error::Resume { what: what.into(), remedy }
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
