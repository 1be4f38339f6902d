//! The combined result of scans of several files.

use ckpt_inspect::scan::{Scan, Severity};
use serde::Serialize;

/// The combined outcome of scans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ScanStatus {
    /// Every file was fully scanned, without findings that count.
    Clean,
    /// There are findings that count.
    Found,
    /// There are no findings that count, but not every file could be fully scanned.
    Unreadable,
}

/// Scans of files, and their combined outcome.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Scanned {
    /// The combined outcome.
    pub status: ScanStatus,
    /// Each file.
    pub files: Vec<Scan>,
    /// Paths of files in folders that hold no pickle, no archive and no tensors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    /// Paths of files in folders that were to be left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
}

impl Scanned {
    /// Scans, in which findings count that are at least as bad as `least`.
    pub fn new(files: Vec<Scan>, least: Severity) -> Self {
        let status = if files.iter().any(|s| s.severity().is_some_and(|severity| severity >= least)) {
            ScanStatus::Found
        } else if files.iter().any(|s| s.unreadable.is_some()) {
            ScanStatus::Unreadable
        } else {
            ScanStatus::Clean
        };
        Scanned { status, files, others: Vec::new(), skipped: Vec::new() }
    }

    /// With the files of other kinds that lay in the same folders.
    pub fn beside(self, others: Vec<String>) -> Self {
        Scanned { others, ..self }
    }

    /// Without files of the same folders that were left out.
    pub fn without(self, skipped: Vec<String>) -> Self {
        Scanned { skipped, ..self }
    }
}
