//! Stochastic gradient descent with momentum and decoupled weight decay.

use ckpt_convert::Object;
use ckpt_inspect::Checkpoint;
use ckpt_inspect::metadata::Value;
use serde::{Deserialize, Serialize};

use super::{Groups, Hyperparameters, Optimizer, Rate, buffers, each_part, in_range};
use crate::network::math;
use crate::{Gradients, Parameters, Result};

/// The settings of SGD.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Settings {
    /// Learning rate; [`LR`] when not given.
    pub lr: Option<f64>,
    /// Decoupled weight decay of parameters outside BitLinear layers.
    pub weight_decay: f64,
    /// Decoupled weight decay of ternary weights.
    pub ternary_weight_decay: f64,
    /// Share of the past in the direction; none when not given.
    pub momentum: Option<f64>,
}

/// The default learning rate.
pub const LR: f64 = 0.1;

impl Settings {
    fn lr(&self) -> f64 {
        self.lr.unwrap_or(LR)
    }

    fn momentum(&self) -> f64 {
        self.momentum.unwrap_or(0.0)
    }
}

impl Hyperparameters for Settings {
    fn check(&self) -> Result<()> {
        in_range(self.lr(), Hyperparameters::weight_decay(self), &[("momentum", self.momentum())])
    }

    fn build(&self, parameters: &Parameters, _seed: u64) -> Box<dyn Optimizer> {
        let (lr, decay) = (self.lr(), (self.weight_decay, self.ternary_weight_decay));
        let groups = Groups::new(parameters, &|_| true, lr, decay.0, decay.1);
        Box::new(Sgd { buffers: buffers(&groups, parameters), groups, momentum: self.momentum() })
    }

    fn chosen(&self) -> Vec<(&'static str, f64)> {
        vec![("lr", self.lr()), ("momentum", self.momentum())]
    }

    fn rates(&self) -> Vec<Rate> {
        Rate::whole(self.lr())
    }

    fn weight_decay(&self) -> (f64, f64) {
        (self.weight_decay, self.ternary_weight_decay)
    }
}

/// `w *= 1 - lr wd`; `b = momentum b + g`; `w -= lr b`. The first buffer is the gradient, as in `torch.optim.SGD`.
pub struct Sgd {
    groups: Groups,
    momentum: f64,
    buffers: Vec<Vec<f32>>,
}

impl Optimizer for Sgd {
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, factor: f64, _step: u64) {
        let rates = self.groups.rates(parameters);
        let momentum = self.momentum as f32;
        each_part(parameters, gradients, &mut self.buffers, &rates, |w, g, b, (lr, weight_decay), _| {
            let (lr, decay) = ((lr * factor) as f32, (1.0 - lr * factor * weight_decay) as f32);
            math::simd(|| {
                for ((w, &g), b) in w.iter_mut().zip(g).zip(b) {
                    *b = momentum * *b + g;
                    *w = *w * decay - lr * *b;
                }
            });
        });
    }

    fn state<'a>(&'a self, parameters: &Parameters, factor: f64) -> Object<'a> {
        let options = [
            ("momentum", Value::F64(self.momentum)),
            ("dampening", Value::F64(0.0)),
            ("nesterov", Value::Bool(false)),
            ("maximize", Value::Bool(false)),
            ("foreach", Value::None),
            ("differentiable", Value::Bool(false)),
            ("fused", Value::None),
            // PyTorch's SGD does not know the key, and would add its decay to the gradient.
            ("decoupled_weight_decay", Value::Bool(true)),
        ];
        self.groups.state(parameters, factor, &options, |at| {
            let buffer = Object::floats(&parameters.0[at].shape, &self.buffers[at]);
            Object::dict([("momentum_buffer", buffer)])
        })
    }

    fn load(&mut self, checkpoint: &Checkpoint, key: &str, parameters: &Parameters) -> Result<Vec<String>> {
        let Self { groups, buffers, momentum } = self;
        // PyTorch's SGD stores no buffers if it needs none.
        if *momentum == 0.0 && !Groups::holds_tensors(checkpoint, key) {
            groups.numbers(checkpoint, key, parameters)?;
            return Ok(Vec::new());
        }
        groups.load(checkpoint, key, parameters, "momentum_buffer", |at, values| buffers[at] = values)?;
        Ok(Vec::new())
    }

    fn ternary_decay(&self, parameters: &Parameters) -> Vec<(f64, f64)> {
        self.groups.ternary_decay(parameters)
    }
}
