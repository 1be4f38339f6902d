//! Students trained, against what PyTorch computes.

mod data;
mod distill;
#[cfg(feature = "candle")]
mod gradients;
mod optimizers;
mod proof;
mod steps;
mod trainer;
mod trajectories;
mod truth;
