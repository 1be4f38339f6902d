//! Stochastic gradient descent with momentum and decoupled weight decay.

use ckpt_inspect::Checkpoint;
use serde_pickle::Value;

use super::{Groups, Optimizer, buffers, each_part};
use crate::network::math;
use crate::{Gradients, Parameters, Result};
use ckpt_convert::Object;

/// `w *= 1 - lr wd`; `b = momentum b + g`; `w -= lr b`. The first buffer is the gradient, as in `torch.optim.SGD`.
pub struct Sgd {
    groups: Groups,
    momentum: f64,
    buffers: Vec<Vec<f32>>,
}

impl Sgd {
    pub(super) fn new(groups: Groups, parameters: &Parameters, momentum: f64) -> Self {
        let buffers = buffers(&groups, parameters);
        Sgd { groups, momentum, buffers }
    }
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
        // PyTorch's SGD keeps no buffers where it needs none.
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
