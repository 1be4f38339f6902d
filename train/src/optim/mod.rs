//! Optimizers on plain f32 slices, one file and one line of the table in `settings.rs` each. All take their
//! hyper-parameters from their settings, a schedule's factor on the learning rate each step, and keep their state so
//! that PyTorch's optimizer of the same name accepts it.

pub mod adamw;
mod groups;
pub mod muon;
mod polarize;
mod settings;
pub mod sgd;
pub mod spin;

use ckpt_convert::Object;
use ckpt_inspect::Checkpoint;

use crate::{Gradients, Parameters, Result};
use groups::{Groups, buffers, each_part};
pub use muon::{Form, orthogonalize};
pub use polarize::{Polarized, Polarizer, Target, Well};
use settings::{Hyperparameters, at_least_zero, below_one, in_range};
pub use settings::{Method, NAMES, Rate, Settings};
/// What [`Settings::from_table`] reads.
pub use toml::Table;

/// Elements per unit of parallel work.
const PART: usize = 1 << 15;

/// An optimizer with its state.
pub trait Optimizer: Send {
    /// One step: `factor` multiplies every learning rate, `step` counts from 0 and is part of the key of random draws.
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, factor: f64, step: u64);

    /// The state in torch's layout; learning rates as of `factor`.
    fn state<'a>(&'a self, parameters: &Parameters, factor: f64) -> Object<'a>;

    /// Takes over the state that `checkpoint` has at `key` (`optimizer_state_dict`). Returns warnings about parts of it
    /// that are not continued.
    ///
    /// # Errors
    /// `Settings` when it belongs to another optimizer or another model; the checkpoint's own.
    fn load(&mut self, checkpoint: &Checkpoint, key: &str, parameters: &Parameters) -> Result<Vec<String>>;

    /// Learning rate and decoupled weight decay of each group that decays ternary weights.
    fn ternary_decay(&self, parameters: &Parameters) -> Vec<(f64, f64)>;
}

/// Steps in which decoupled weight decay alone halves a weight: `ln 2 / (lr * weight_decay)`, from
/// `w(t) = w(0) exp(-lr wd t)`.
pub fn half_life(lr: f64, weight_decay: f64) -> f64 {
    std::f64::consts::LN_2 / (lr * weight_decay)
}
