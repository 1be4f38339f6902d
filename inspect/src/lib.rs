//! Open any neural-network checkpoint without executing it, describe it, measure it, judge it.

mod dtype;
mod error;
pub mod ggml;
pub mod record;
mod verdict;

pub use dtype::{DType, TernaryPacking};
pub use error::{Error, ErrorKind, Result};
pub use record::{CheckpointRecord, Group, TensorRecord};
pub use verdict::{Levels, Thresholds, Verdict, judge, judge_tensor};
