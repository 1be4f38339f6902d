//! What became of weights over a run, and why: made from records alone.

pub mod cause;
pub mod run;
pub mod trend;
