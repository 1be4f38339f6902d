//! Students trained, against what PyTorch computes.

mod data;
mod distill;
#[cfg(feature = "candle")]
mod gradients;
mod keys;
mod losses;
mod optimizers;
mod proof;
mod signs;
mod steps;
mod trainer;
mod trajectories;
mod truth;
