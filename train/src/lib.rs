//! Train and resume ternary (BitNet b1.58) student models.

mod batch;
mod composite;
mod error;
mod loss;
mod network;
mod parameters;
mod presets;
mod random;

pub use batch::{Batch, IGNORE};
pub use composite::Composite;
pub use error::{Error, Result};
pub use loss::Loss;
pub use network::{Estimator, Network};
pub use parameters::{Gradients, Parameter, Parameters, Role};
pub use presets::{PRESETS, preset};
pub use random::Random;
