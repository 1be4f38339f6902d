//! Reports on checkpoints, and the gate, all made from records alone.

#![deny(missing_docs)]
#![warn(clippy::disallowed_macros, clippy::disallowed_methods)]

mod accepted;
mod baseline;
pub mod cause;
mod chart;
mod csv;
mod decline;
pub mod exporter;
pub mod gate;
mod gated;
pub mod github;
mod headline;
mod html;
mod json;
pub mod junit;
mod location;
mod markdown;
#[cfg(feature = "parquet")]
mod parquet;
pub mod policy;
pub mod records;
pub mod sarif;
mod scanned;
pub mod table;
pub mod text;
mod training;
pub mod worst;

use ckpt_inspect::cause::Explanation;
use ckpt_inspect::run::Run;

pub use accepted::{Accepted, AcceptedError, Applied, Known};
pub use ckpt_inspect::printable;
pub use csv::csv;
pub use exporter::Exporter;
pub use gated::Gated;
pub use headline::{Headline, extent, headline, judged_in_part, reason};
pub use html::html;
pub use json::json;
pub use markdown::markdown;
pub use policy::{Policy, PolicyError};
pub use scanned::{ScanStatus, Scanned};
pub use training::Training;

/// The contents of a report.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Heading of the page.
    pub title: String,
    /// The runs.
    pub runs: Vec<Run>,
    /// What happened to each run, in the same order.
    pub explanations: Vec<Explanation>,
    /// Metrics of a run's training, by the run's index.
    pub training: std::collections::BTreeMap<usize, Training>,
    /// Checkpoints that could not be read, and why.
    pub unreadable: Vec<(String, ckpt_inspect::Error)>,
}

impl Report {
    /// A report on `runs` and what happened to them, in the same order.
    pub fn new(title: impl Into<String>, runs: Vec<Run>, explanations: Vec<Explanation>) -> Self {
        let (training, unreadable) = Default::default();
        Report { title: title.into(), runs, explanations, training, unreadable }
    }
}

/// Why a report could not be made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// plotters failed.
    #[error("the chart cannot be drawn: {0}")]
    Chart(String),
    /// A value cannot be written in the format.
    #[error("the report cannot be written as {0}")]
    Format(String),
}
