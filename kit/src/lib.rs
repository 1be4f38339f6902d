//! Shared test code: checkpoint files made by hand, valid or with wrong values in them, runs of the program, and other
//! programs to compare with. One topic per file.
//!
//! Nothing here uses the crates under test, so that expected results are independent of them.

pub mod binary;
pub mod fixtures;
pub mod gguf;
pub mod npy;
pub mod numbers;
pub mod peers;
pub mod pickle;
pub mod random;
pub mod safetensors;
pub mod servers;
pub mod student;
pub mod tar;
pub mod tensor;
pub mod torch;
pub mod zip;
