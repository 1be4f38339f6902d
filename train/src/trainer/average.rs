//! An exponential moving average of the weights.

use ckpt_convert::Object;
use ckpt_inspect::Checkpoint;
use rayon::prelude::*;

use crate::{Error, Parameters, Result};

/// Its key in checkpoints.
pub(super) const KEY: &str = "ema_state_dict";

/// The average, kept in f32: a += (1 - decay) * (w - a) after each step. It begins with the weights after the first step,
/// as `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn` does
/// (<https://pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema>).
pub(super) struct Average {
    /// Share of a step's weights in it.
    share: f32,
    parameters: Option<Parameters>,
}

impl Average {
    /// An average of this decay; `None` for a decay of 0.
    ///
    /// # Errors
    /// `Settings` unless it is at least 0 and below 1.
    pub fn new(decay: f64) -> Result<Option<Self>> {
        if !(0.0..1.0).contains(&decay) {
            return Err(Error::settings("ema must be at least 0 and below 1"));
        }
        Ok((decay > 0.0).then_some(Average { share: (1.0 - decay) as f32, parameters: None }))
    }

    /// Goes on from the average in `checkpoint`; false if it has none.
    ///
    /// # Errors
    /// `Settings` for one of another model.
    pub fn restore(&mut self, checkpoint: &Checkpoint, like: &Parameters) -> Result<bool> {
        let named = |name: &str| format!("{KEY}.{name}");
        let is_there = like.0.iter().any(|p| checkpoint.tensor(&named(&p.name)).is_ok());
        if is_there {
            let mut parameters = like.clone();
            for parameter in &mut parameters.0 {
                let tensor = checkpoint.tensor(&named(&parameter.name))?;
                if tensor.shape != parameter.shape {
                    return Err(Error::settings(format!(
                        "{}: `{}` has shape {:?}, but the model needs {:?}",
                        checkpoint.path.display(),
                        tensor.name.escape_debug(),
                        tensor.shape,
                        parameter.shape
                    )));
                }
                parameter.values = checkpoint.values(tensor)?;
            }
            self.parameters = Some(parameters);
        }
        Ok(is_there)
    }

    /// Takes a step's weights in.
    pub fn update(&mut self, weights: &Parameters) {
        let Some(average) = &mut self.parameters else {
            self.parameters = Some(weights.clone());
            return;
        };
        let share = self.share;
        average.0.par_iter_mut().zip(&weights.0).for_each(|(average, weights)| {
            for (a, &w) in average.values.iter_mut().zip(&weights.values) {
                *a += share * (w - *a);
            }
        });
    }

    /// The averaged weights, after the first step.
    pub fn parameters(&self) -> Option<&Parameters> {
        self.parameters.as_ref()
    }

    /// They as a state dict.
    pub fn object(&self) -> Option<Object<'_>> {
        let named = |p| -> (&str, Object<'_>) {
            let p: &crate::Parameter = p;
            (p.name.as_str(), Object::floats(&p.shape, &p.values))
        };
        self.parameters.as_ref().map(|parameters| Object::dict(parameters.0.iter().map(named)))
    }
}
