//! What the tests have in common: checkpoint files made by hand, whole or with a lie in them, runs of the program, and
//! others who are asked what they make of a file. One idea, one file.
//!
//! Nothing here uses the crates under test: what a test compares them with is not made by them.

pub mod binary;
pub mod fixtures;
pub mod gguf;
pub mod npy;
pub mod numbers;
pub mod peers;
pub mod pickle;
pub mod random;
pub mod safetensors;
pub mod student;
pub mod tar;
pub mod tensor;
pub mod torch;
pub mod zip;
