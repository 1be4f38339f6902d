//! Why a command stopped.

use crate::exit;

/// Why a command stopped, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// For the user, complete with what to try.
    pub message: String,
    /// One of [`exit`].
    pub code: u8,
}

impl Failure {
    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure { message: message.into(), code: exit::USAGE }
    }

    /// A file cannot be read or is damaged.
    pub fn unreadable(message: impl Into<String>) -> Self {
        Failure { message: message.into(), code: exit::UNREADABLE }
    }

    /// An output is there already; nothing was written.
    #[cfg(any(feature = "infer", feature = "browse"))]
    pub fn exists(path: &std::path::Path) -> Self {
        Failure::unwritable(format!("{} exists; --force replaces it", path.display()))
    }

    /// An output cannot be written.
    pub fn unwritable(message: impl Into<String>) -> Self {
        Failure { message: message.into(), code: exit::UNWRITABLE }
    }
}

impl From<ckpt_inspect::staged::Error> for Failure {
    fn from(error: ckpt_inspect::staged::Error) -> Self {
        match error {
            ckpt_inspect::staged::Error::Dash => Failure::usage(error.to_string()),
            other => Failure::unwritable(other.to_string()),
        }
    }
}

impl From<ckpt_inspect::Error> for Failure {
    fn from(error: ckpt_inspect::Error) -> Self {
        let code = match error.kind {
            ckpt_inspect::ErrorKind::NotFound => exit::USAGE,
            _ => exit::UNREADABLE,
        };
        Failure { message: error.to_string(), code }
    }
}

#[cfg(feature = "infer")]
impl From<ckpt_infer::Error> for Failure {
    fn from(error: ckpt_infer::Error) -> Self {
        use ckpt_infer::Error;
        let code = match error {
            Error::Checkpoint(error) => return error.into(),
            Error::Output(error) => return error.into(),
            Error::Unsupported { .. }
            | Error::Inconsistent { .. }
            | Error::PromptCache { .. }
            | Error::Input { .. }
            | Error::NotANumber { .. }
            | Error::Tokenizer { .. } => exit::UNREADABLE,
            Error::Token { .. } | Error::ContextFull { .. } | Error::Usage(_) | Error::Setting { .. } => {
                exit::USAGE
            }
        };
        Failure { message: error.to_string(), code }
    }
}
