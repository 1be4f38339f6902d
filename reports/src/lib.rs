//! Reports on checkpoints from their measurements, and the gate.

mod baseline;
pub mod gate;
pub mod github;
pub mod junit;
mod location;
pub mod policy;
mod printable;
pub mod sarif;

pub use policy::{Policy, PolicyError};
pub use printable::printable;
