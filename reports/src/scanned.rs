//! What scans of files found together.

use ckpt_inspect::scan::Scan;
use serde::Serialize;

/// How scans ended together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ScanStatus {
    /// Every file was scanned whole, and nothing found that counts.
    Clean,
    /// Something was found that counts.
    Found,
    /// Nothing was found that counts, but not every file could be scanned whole.
    Unreadable,
}

/// Scans of files, and how they ended together.
#[derive(Clone, Debug, Serialize)]
pub struct Scanned {
    /// How they ended.
    pub status: ScanStatus,
    /// Each file.
    pub files: Vec<Scan>,
}
