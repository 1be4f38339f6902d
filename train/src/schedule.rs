//! The learning rate over steps, and clipping by global norm.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Gradients;

/// Linear warm-up from 0, then a cosine to a share of the full rate; or a constant rate after the warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Schedule {
    /// Steps until the full rate is reached.
    pub warmup: u64,
    /// Step at which the cosine ends; constant when not given.
    pub cosine_steps: Option<u64>,
    /// Share of the full rate that it ends at.
    pub min_factor: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { warmup: 0, cosine_steps: None, min_factor: 0.1 }
    }
}

impl Schedule {
    /// A warm-up of this many steps, then a cosine that ends at step `cosine_steps`.
    pub fn cosine(warmup: u64, cosine_steps: u64) -> Self {
        Schedule { warmup, cosine_steps: Some(cosine_steps), ..Schedule::default() }
    }

    /// The factor of the learning rate at `step`, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let Some(end) = self.cosine_steps else { return 1.0 };
        let length = end.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / length).min(1.0);
        self.min_factor + (1.0 - self.min_factor) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// The norm of all gradients together.
pub fn global_norm(gradients: &Gradients) -> f64 {
    let squares = |g: &Vec<f32>| -> f64 {
        g.par_chunks(1 << 15)
            .map(|part| part.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>())
            .collect::<Vec<_>>()
            .iter()
            .sum()
    };
    gradients.iter().map(squares).sum::<f64>().sqrt()
}

/// Scales gradients of global norm `norm` down to `max_norm` when they exceed it, by `max_norm / (norm + 1e-6)` as
/// `torch.nn.utils.clip_grad_norm_` does.
pub fn clip(gradients: &mut Gradients, norm: f64, max_norm: f64) {
    let factor = (max_norm / (norm + 1e-6)) as f32;
    if factor < 1.0 {
        gradients.par_iter_mut().for_each(|g| g.iter_mut().for_each(|x| *x *= factor));
    }
}
