//! Train and resume small ternary (BitNet b1.58) code models, "student models" for short: the architecture
//! `bitnet-student`, which `docs/bitnet.md` in the repository describes.

#![warn(clippy::disallowed_macros, clippy::disallowed_methods)]

mod batch;
#[cfg(feature = "candle")]
mod composite;
pub mod data;
pub mod distill;
mod error;
mod health;
pub mod keys;
mod layout;
mod loss;
mod network;
pub mod optim;
mod parameters;
mod presets;
mod random;
mod run;
mod schedule;
mod settings;
mod start;
mod tensorboard;
mod trainer;

#[cfg(feature = "candle")]
pub use candle_core::{self, Device};
use ckpt_inspect::metadata::{HashableValue, Value};

pub use batch::{Batch, IGNORE};
#[cfg(feature = "candle")]
pub use composite::Composite;
pub use error::{Error, Remedy, Result};
pub use health::{Health, Measured};
pub use loss::{Loss, Losses};
pub use network::{Estimator, Network};
pub use parameters::{Gradients, Parameter, Parameters, Role};
pub use presets::{FORMER, PRESETS, preset};
pub use random::Random;
pub use run::RunFolder;
pub use schedule::{Schedule, clip, global_norm};
pub use settings::{ResumeOptions, Settings};
pub use start::{configuration_of, trainable};
pub use trainer::{Event, Outcome, Sample, SampleSettings, Trainer};

macro_rules! changed_where_made {
    ($($settings:ty),*) => {
        $(impl $settings {
            /// These settings, with what `change` changes: `Settings::default().with(|s| …)`.
            pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
                change(&mut self);
                self
            }
        })*
    };
}

changed_where_made! {
    Settings, ResumeOptions, Loss, data::Settings, distill::Settings, optim::Settings, optim::Polarizer,
    optim::adamw::Settings, optim::muon::Settings, optim::sgd::Settings, optim::spin::Settings
}

/// A plain dict with text keys.
fn plain<'k>(entries: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    let entry = |(key, value): (&'k str, _)| (HashableValue::String(key.into()), value);
    Value::Dict(entries.into_iter().map(entry).collect())
}
