//! What tensors measure, and how they are judged.

pub mod measures;
pub(crate) mod verdict;
