//! AdamW (Loshchilov and Hutter 2019, <https://arxiv.org/abs/1711.05101>), in the order of operations of
//! `torch.optim.AdamW`.

use ckpt_convert::Object;
use ckpt_inspect::Checkpoint;
use ckpt_inspect::metadata::Value;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Groups, Hyperparameters, Optimizer, PART, Rate, at_least_zero, buffers, in_range};
use crate::network::math;
use crate::{Gradients, Parameter, Parameters, Result};

/// The settings of AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Settings {
    /// Learning rate; [`LR`] when not given.
    pub lr: Option<f64>,
    /// Decoupled weight decay of parameters outside BitLinear layers.
    pub weight_decay: f64,
    /// Decoupled weight decay of ternary weights.
    pub ternary_weight_decay: f64,
    /// Shares of the past in the two moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// The default learning rate.
pub const LR: f64 = 3e-4;

impl Default for Settings {
    fn default() -> Self {
        Settings { lr: None, weight_decay: 0.0, ternary_weight_decay: 0.0, betas: (0.9, 0.95), eps: 1e-8 }
    }
}

impl Settings {
    fn lr(&self) -> f64 {
        self.lr.unwrap_or(LR)
    }

    /// AdamW on the `wanted` parameters.
    pub(super) fn on(&self, parameters: &Parameters, wanted: &dyn Fn(&Parameter) -> bool) -> AdamW {
        let groups = Groups::new(parameters, wanted, self.lr(), self.weight_decay, self.ternary_weight_decay);
        AdamW::new(groups, parameters, self.betas, self.eps)
    }
}

impl Hyperparameters for Settings {
    fn check(&self) -> Result<()> {
        in_range(
            self.lr(),
            Hyperparameters::weight_decay(self),
            &[("betas", self.betas.0), ("betas", self.betas.1)],
        )?;
        at_least_zero(&[("eps", self.eps)])
    }

    fn build(&self, parameters: &Parameters, _seed: u64) -> Box<dyn Optimizer> {
        Box::new(self.on(parameters, &|_| true))
    }

    fn chosen(&self) -> Vec<(&'static str, f64)> {
        vec![("lr", self.lr())]
    }

    fn rates(&self) -> Vec<Rate> {
        Rate::whole(self.lr())
    }

    fn weight_decay(&self) -> (f64, f64) {
        (self.weight_decay, self.ternary_weight_decay)
    }
}

/// `w *= 1 - lr wd`; `m += (g - m)(1 - b1)`; `v = b2 v + (1 - b2) g^2`;
/// `w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`.
pub struct AdamW {
    groups: Groups,
    betas: (f64, f64),
    eps: f64,
    /// Steps taken.
    taken: u64,
    exp_avg: Vec<Vec<f32>>,
    exp_avg_sq: Vec<Vec<f32>>,
}

impl AdamW {
    fn new(groups: Groups, parameters: &Parameters, betas: (f64, f64), eps: f64) -> Self {
        let (exp_avg, exp_avg_sq) = (buffers(&groups, parameters), buffers(&groups, parameters));
        AdamW { groups, betas, eps, taken: 0, exp_avg, exp_avg_sq }
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, factor: f64, _step: u64) {
        self.taken = self.taken.saturating_add(1);
        let rates = self.groups.rates(parameters);
        let t = self.taken.min(i32::MAX as u64) as i32;
        let (b1, b2) = self.betas;
        let correction = 1.0 - b1.powi(t);
        let root = (1.0 - b2.powi(t)).sqrt() as f32;
        let (keep1, b2, keep2, eps) = ((1.0 - b1) as f32, b2 as f32, (1.0 - b2) as f32, self.eps as f32);
        let moments = self.exp_avg.par_iter_mut().zip(&mut self.exp_avg_sq);
        let all = parameters.0.par_iter_mut().zip(gradients).zip(moments).zip(&rates);
        all.for_each(|(((parameter, gradient), (m, v)), rates)| {
            let Some((lr, weight_decay)) = *rates else { return };
            let lr = lr * factor;
            let (size, decay) = ((lr / correction) as f32, (1.0 - lr * weight_decay) as f32);
            let weights = parameter.values.par_chunks_mut(PART).zip(gradient.par_chunks(PART));
            let moments = m.par_chunks_mut(PART).zip(v.par_chunks_mut(PART));
            weights.zip(moments).for_each(|((w, g), (m, v))| {
                math::simd(|| {
                    for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                        *w *= decay;
                        *m += (g - *m) * keep1;
                        *v = *v * b2 + g * g * keep2;
                        *w -= size * (*m / (v.sqrt() / root + eps));
                    }
                });
            });
        });
    }

    fn state<'a>(&'a self, parameters: &Parameters, factor: f64) -> Object<'a> {
        let flag = |name, value| (name, Value::Bool(value));
        let options = [
            ("betas", Value::Tuple(vec![Value::F64(self.betas.0), Value::F64(self.betas.1)])),
            ("eps", Value::F64(self.eps)),
            flag("amsgrad", false),
            flag("maximize", false),
            ("foreach", Value::None),
            flag("capturable", false),
            flag("differentiable", false),
            ("fused", Value::None),
            flag("decoupled_weight_decay", true),
        ];
        self.groups.state(parameters, factor, &options, |at| {
            let shape = &parameters.0[at].shape;
            Object::dict([
                ("step", Object::scalar(self.taken as f32)),
                ("exp_avg", Object::floats(shape, &self.exp_avg[at])),
                ("exp_avg_sq", Object::floats(shape, &self.exp_avg_sq[at])),
            ])
        })
    }

    fn load(&mut self, checkpoint: &Checkpoint, key: &str, parameters: &Parameters) -> Result<Vec<String>> {
        let Self { groups, exp_avg, exp_avg_sq, taken, .. } = self;
        groups.load(checkpoint, key, parameters, "exp_avg", |at, values| exp_avg[at] = values)?;
        groups.load(checkpoint, key, parameters, "exp_avg_sq", |at, values| exp_avg_sq[at] = values)?;
        groups.load(checkpoint, key, parameters, "step", |_, step| *taken = (*taken).max(step[0] as u64))?;
        Ok(Vec::new())
    }

    fn ternary_decay(&self, parameters: &Parameters) -> Vec<(f64, f64)> {
        self.groups.ternary_decay(parameters)
    }
}
