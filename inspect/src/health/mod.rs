//! What tensors measure.

pub mod measures;
