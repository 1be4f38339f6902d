//! What tensors measure, and how they are judged.

pub(crate) mod cache;
pub(crate) mod describe;
pub mod measure;
pub mod measures;
pub mod record;
pub mod survey;
pub(crate) mod verdict;
