//! Train and resume ternary (BitNet b1.58) student models.

mod batch;
mod composite;
mod error;
mod loss;
mod network;
mod object;
pub mod optim;
mod parameters;
mod presets;
mod random;
mod schedule;

pub use batch::{Batch, IGNORE};
pub use composite::Composite;
pub use error::{Error, Result};
pub use loss::Loss;
pub use network::{Estimator, Network};
pub use object::Object;
pub use parameters::{Gradients, Parameter, Parameters, Role};
pub use presets::{PRESETS, preset};
pub use random::Random;
pub use schedule::{Schedule, clip, global_norm};
