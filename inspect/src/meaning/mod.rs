//! From stored tensors to what they mean: which network they make up, and each one's part in it.

pub mod architecture;
mod config;
pub mod elements;
mod given;
mod model;
pub mod names;
mod rope;
#[cfg(feature = "vocabulary")]
pub mod vocabulary;

pub use config::{Activation, AttentionBias, ModelConfig, RopePairing, Sizes, SlidingLayers};
pub use given::{Assumed, ConfigError, Given, Setting, Shapes};
pub use model::Model;
pub use rope::RopeScaling;
