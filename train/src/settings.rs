//! The settings of a run.

use ckpt_inspect::Thresholds;
use serde::{Deserialize, Serialize};

use crate::{Error, Loss, Result, SampleSettings, Schedule, data, distill, optim};

/// All settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Settings {
    /// The step to stop at, counted from the start of the model's training.
    pub steps: u64,
    /// Batches per step. Each counts by its positions that are learnt, so that 8 batches of 1 sequence are 1 of 8.
    pub accumulate: u64,
    /// Largest global norm of the gradients; 0 for no limit.
    pub clip: f64,
    /// Whether scales are held constant in the backward pass of a BitLinear.
    pub detached_scales: bool,
    /// Random seed; by default that of the resumed checkpoint, or 0.
    pub seed: Option<u64>,
    /// Steps between checkpoints; 0 for one at the end.
    pub save_every: u64,
    /// Checkpoints to keep; 0 for all.
    pub keep_last: usize,
    /// Steps between validations; 0 for none.
    pub validate_every: u64,
    /// Validations in a row without a lower loss after which the run stops; 0 for no such end.
    pub patience: u64,
    /// Steps between measurements of the weights; 0 for none.
    pub health_every: u64,
    /// Whether to stop when a layer falls below healthy, or the run explodes.
    pub stop_on_collapse: bool,
    /// Whether `best.pt` may be of unhealthy weights.
    pub best_any: bool,
    /// Decay of an exponential moving average of the weights; 0 for none.
    pub ema: f64,
    /// Steps in a row that may give NaN or infinity before the run stops.
    pub max_skipped: u64,
    /// The std below which a layer is unhealthy.
    pub thresholds: Thresholds,
    /// The learning rate over steps.
    pub schedule: Schedule,
    /// The loss.
    pub loss: Loss,
    /// The optimizer.
    pub optimizer: optim::Settings,
    /// The data.
    pub data: data::Settings,
    /// The teachers.
    pub distill: distill::Settings,
    /// Samples of text.
    pub sample: SampleSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            steps: 1000,
            accumulate: 1,
            clip: 1.0,
            detached_scales: false,
            seed: None,
            save_every: 500,
            keep_last: 0,
            validate_every: 250,
            patience: 0,
            health_every: 50,
            stop_on_collapse: false,
            best_any: false,
            ema: 0.0,
            max_skipped: 5,
            thresholds: Thresholds::default(),
            schedule: Schedule::default(),
            loss: Loss::default(),
            optimizer: optim::Settings::default(),
            data: data::Settings::default(),
            distill: distill::Settings::default(),
            sample: SampleSettings::default(),
        }
    }
}

impl Settings {
    /// Refuses numbers with which no run is possible, by the name of their key; the data, the optimizer, the teachers and
    /// the moving average refuse their own.
    ///
    /// # Errors
    /// `Settings`.
    pub(crate) fn check(&self) -> Result<()> {
        let Thresholds { projection, relative, convolutions, tables, dead_zero_share, .. } = &self.thresholds;
        let levels = [projection, relative, convolutions, tables].map(|l| [l.healthy, l.weak, l.dying]);
        let is_size = |number: &f64| number.is_finite() && *number >= 0.0;
        let share = 0.0..=1.0;
        for (sound, what) in [
            (self.steps > 0, "steps must be above 0"),
            (self.accumulate > 0, "accumulate must be above 0"),
            (is_size(&self.clip), "clip must be a number of at least 0"),
            (self.loss.fault().is_none(), self.loss.fault().unwrap_or_default()),
            (share.contains(&self.schedule.min_factor), "schedule.min_factor must be from 0 to 1"),
            (levels.iter().flatten().all(is_size), "the levels of thresholds must be numbers of at least 0"),
            (share.contains(dead_zero_share), "thresholds.dead_zero_share must be from 0 to 1"),
        ] {
            if !sound {
                return Err(Error::settings(what));
            }
        }
        Ok(())
    }
}

/// How much of a checkpoint's own state to keep when resuming.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ResumeOptions {
    /// Start even if layers have collapsed.
    pub allow_collapsed: bool,
    /// Ignore the optimizer's state.
    pub reset_optimizer: bool,
    /// Start the data from the beginning.
    pub restart_data: bool,
    /// Whether projections are BitLinear; by default what the checkpoint says, or what its format implies.
    pub bitlinear: Option<bool>,
}
