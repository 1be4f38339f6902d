//! Why a command stopped.

use std::path::{Path, PathBuf};

use ckpt_inspect::ErrorKind;

use crate::exit;

/// Why a command stopped, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// The message for the user, including what to try.
    pub message: String,
    /// One of [`exit`].
    pub code: u8,
    /// The file that the message names as the wrong one, if any.
    pub file: Option<PathBuf>,
    /// Its kind, if it comes from a checkpoint.
    pub kind: Option<ErrorKind>,
}

impl Failure {
    /// Ends with the exit code `code`.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Failure { message: message.into(), code, file: None, kind: None }
    }

    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(exit::USAGE, message)
    }

    /// A file cannot be read or is damaged.
    pub fn unreadable(message: impl Into<String>) -> Self {
        Failure::new(exit::UNREADABLE, message)
    }

    /// An output cannot be written.
    pub fn unwritable(message: impl Into<String>) -> Self {
        Failure::new(exit::UNWRITABLE, message)
    }

    /// Records that the message names `file`.
    pub fn naming(self, file: &Path) -> Self {
        Failure { file: Some(file.to_path_buf()), ..self }
    }

    /// Whether the message already names `path`, or a file of it.
    pub fn names(&self, path: &Path) -> bool {
        self.file.as_ref().is_some_and(|file| file.starts_with(path))
    }
}

impl From<ckpt_inspect::staged::Error> for Failure {
    fn from(error: ckpt_inspect::staged::Error) -> Self {
        use ckpt_inspect::staged::Error;
        match error {
            Error::Dash => Failure::usage(error.to_string()),
            Error::Exists { .. } => Failure::unwritable(format!("{error}; --force replaces it")),
            other => Failure::unwritable(other.to_string()),
        }
    }
}

impl From<ckpt_inspect::Error> for Failure {
    fn from(error: ckpt_inspect::Error) -> Self {
        let code = match error.kind {
            ErrorKind::NotFound => exit::USAGE,
            _ => exit::UNREADABLE,
        };
        Failure { message: error.to_string(), code, file: error.path, kind: Some(error.kind) }
    }
}

#[cfg(feature = "infer")]
impl From<ckpt_infer::Error> for Failure {
    fn from(error: ckpt_infer::Error) -> Self {
        use ckpt_infer::Error;
        let code = match error {
            Error::Checkpoint(error) => return error.into(),
            Error::Output(error) => return error.into(),
            Error::Token { .. } | Error::ContextFull { .. } | Error::Usage(_) | Error::Setting { .. } => {
                exit::USAGE
            }
            // The checkpoint, a file next to it, or a prompt that they cannot handle.
            _ => exit::UNREADABLE,
        };
        Failure::new(code, error.to_string())
    }
}
