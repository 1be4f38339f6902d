//! Write checkpoints as PyTorch, SafeTensors, Hugging Face and packed ternary files, and verify what was written.

mod error;
pub mod quant;

pub use error::{Error, Result};
