//! What happened to weights over a run, and why, from records alone.

pub mod cause;
pub mod diff;
pub mod run;
pub mod salvage;
mod series;
pub mod trend;
