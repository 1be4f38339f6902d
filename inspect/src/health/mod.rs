//! Measurements of tensors, and verdicts on them.

pub(crate) mod cache;
pub mod coverage;
pub(crate) mod describe;
mod equal;
pub mod measure;
pub mod measures;
pub(crate) mod off;
pub mod record;
pub(crate) mod rules;
pub mod survey;
pub(crate) mod thresholds;
pub(crate) mod verdict;
