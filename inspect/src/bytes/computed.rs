//! Bytes that are in no file: computed from others, piece by piece, when they are asked for.

use std::fmt;
use std::ops::Range;

use crate::Result;

/// Bytes that are computed when they are asked for, such as those of the mean of several tensors. A
/// [`Storage`](crate::Storage) of them is read like any other, so that nothing above needs to know.
pub trait Compute: fmt::Debug + Send + Sync {
    /// The bytes of `range`, which lies within the storage: little-endian elements, the same at every call.
    ///
    /// # Errors
    /// Those of reading what they are computed from.
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>>;

    /// Whether a range takes no more than its own bytes: not where all have to be made for it.
    fn gives_ranges(&self) -> bool {
        true
    }

    /// Whether `bytes` are those from `start` on, where that is known without computing them again; else `None`.
    fn gave(&self, _start: u64, _bytes: &[u8]) -> Option<bool> {
        None
    }
}
