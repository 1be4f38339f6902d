//! What stored bytes mean.

pub mod elements;
