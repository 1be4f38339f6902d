//! Students trained, against what PyTorch computes.

mod average;
mod conversations;
mod data;
mod distill;
mod documents;
#[cfg(feature = "candle")]
mod gradients;
mod keys;
mod losses;
mod optimizers;
mod proof;
mod resumes;
mod samples;
mod signs;
mod sources;
mod steps;
mod trainer;
mod trajectories;
mod truth;
