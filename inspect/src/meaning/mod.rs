//! From stored tensors to what they mean: which network they make up, and each one's part in it.

pub mod architecture;
pub mod beginnings;
pub(crate) mod checkpoint;
mod compose;
mod config;
pub(crate) mod config_json;
pub mod elements;
pub(crate) mod gguf_keys;
mod given;
pub(crate) mod group;
pub(crate) mod keys;
pub(crate) mod memory;
mod model;
pub mod names;
pub(crate) mod open;
pub mod optimizer;
mod quantization;
pub mod role;
mod rope;
pub(crate) mod scheme;
mod shapes;
mod state_dicts;
pub(crate) mod ternary;
#[cfg(feature = "vocabulary")]
pub mod vocabulary;
pub mod wrappers;

pub use config::{Activation, AttentionBias, Experts, ModelConfig, RopePairing, Sizes, SlidingLayers};
pub use config_json::model_type;
pub use given::{Assumed, Assumption, ConfigError, Given, Setting};
pub use model::{Model, ModelRecord};
pub use quantization::{Quantization, Rounding};
pub use rope::RopeScaling;
pub use scheme::Coding;
pub use scheme::names::is_of_activations;
pub use shapes::Shapes;
pub use state_dicts::{Averaged, StateDicts};
