//! The error type of this crate: reading, writing, or asking for what a format cannot hold.

use std::io;
use std::path::{Path, PathBuf};

/// Why a conversion stopped. Nothing is left under the output's name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source, or what was just written, cannot be read.
    #[error(transparent)]
    Read(#[from] ckpt_inspect::Error),
    /// The operating system refused a write.
    #[error("{}: cannot be written: {source}; nothing was left there", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The output is there already.
    #[error("{} exists; --force replaces it", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Something that an output does not replace stands there.
    #[error("{} is {by}; name another output", path.display())]
    Occupied {
        /// The output.
        path: PathBuf,
        /// What stands there.
        by: &'static str,
    },
    /// A folder that holds something no conversion writes is not replaced.
    #[error("{} holds `{}`, which no conversion writes, so it is not replaced; choose another folder", path.display(), entry.escape_debug())]
    Foreign {
        /// The output folder.
        path: PathBuf,
        /// What it holds.
        entry: String,
    },
    /// The file system has too little room. Checked before the first byte.
    #[error("{}: needs {needed} bytes and the file system has {available} left; nothing was written", path.display())]
    NoSpace {
        /// The output.
        path: PathBuf,
        /// Bytes to write.
        needed: u64,
        /// Bytes free to this user.
        available: u64,
    },
    /// What was asked for cannot be written in this form; what to try.
    #[error("{0}")]
    Target(String),
    /// The caller stopped the work.
    #[error("stopped; nothing was written to {}", path.display())]
    Stopped {
        /// The output.
        path: PathBuf,
    },
}

/// A result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Error::Write { path: path.to_path_buf(), source }
    }
}
