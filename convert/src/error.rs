//! The error type of this crate: reading, writing, or asking for what a format cannot hold.

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
}

/// A result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
