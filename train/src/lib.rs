//! Train and resume ternary (BitNet b1.58) student models.

#![warn(clippy::disallowed_macros, clippy::disallowed_methods)]

mod batch;
#[cfg(feature = "candle")]
mod composite;
pub mod data;
pub mod distill;
mod error;
mod health;
mod layout;
mod loss;
mod network;
pub mod optim;
mod parameters;
mod presets;
mod random;
mod run;
mod schedule;
mod start;
mod tensorboard;
mod trainer;

#[cfg(feature = "candle")]
pub use candle_core::Device;

pub use batch::{Batch, IGNORE};
#[cfg(feature = "candle")]
pub use composite::Composite;
pub use error::{Error, Result};
pub use health::{Health, Measured};
pub use loss::Loss;
pub use network::{Estimator, Network};
pub use parameters::{Gradients, Parameter, Parameters, Role};
pub use presets::{PRESETS, preset};
pub use random::Random;
pub use run::RunFolder;
pub use schedule::{Schedule, clip, global_norm};
pub use trainer::{Event, Outcome, ResumeOptions, Settings, Trainer};

/// A plain dict with text keys.
fn plain<'k>(entries: impl IntoIterator<Item = (&'k str, serde_pickle::Value)>) -> serde_pickle::Value {
    let entry = |(key, value): (&'k str, _)| (serde_pickle::HashableValue::String(key.into()), value);
    serde_pickle::Value::Dict(entries.into_iter().map(entry).collect())
}
