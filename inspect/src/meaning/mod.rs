//! What stored bytes mean.

#[cfg(feature = "vocabulary")]
pub mod vocabulary;
