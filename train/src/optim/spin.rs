//! BitNetSpinSolver: sign descent with momentum of signs, in which weights near zero tunnel to the other side.

use ckpt_convert::Object;
use ckpt_inspect::Checkpoint;
use ckpt_inspect::metadata::Value;
use serde::{Deserialize, Serialize};

use super::{Groups, Hyperparameters, Optimizer, PART, Rate, at_least_zero, buffers, each_part, in_range};
use crate::{Gradients, Parameters, Random, Result};

/// The settings of the spin solver.
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
    /// Share of the past in the direction; [`MOMENTUM`] when not given.
    pub momentum: Option<f64>,
    /// Below it weights tunnel.
    pub hysteresis_threshold: f64,
    /// How far they tunnel, in learning rates.
    pub tunnel_strength: f64,
}

/// The default learning rate.
pub const LR: f64 = 1e-3;
/// The default momentum.
pub const MOMENTUM: f64 = 0.9;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            lr: None,
            weight_decay: 0.0,
            ternary_weight_decay: 0.0,
            momentum: None,
            hysteresis_threshold: 0.05,
            tunnel_strength: 2.0,
        }
    }
}

impl Settings {
    fn lr(&self) -> f64 {
        self.lr.unwrap_or(LR)
    }

    fn momentum(&self) -> f64 {
        self.momentum.unwrap_or(MOMENTUM)
    }
}

impl Hyperparameters for Settings {
    fn check(&self) -> Result<()> {
        in_range(self.lr(), Hyperparameters::weight_decay(self), &[("momentum", self.momentum())])?;
        at_least_zero(&[
            ("hysteresis_threshold", self.hysteresis_threshold),
            ("tunnel_strength", self.tunnel_strength),
        ])
    }

    fn build(&self, parameters: &Parameters, seed: u64) -> Box<dyn Optimizer> {
        let (lr, decay) = (self.lr(), (self.weight_decay, self.ternary_weight_decay));
        let groups = Groups::new(parameters, &|_| true, lr, decay.0, decay.1);
        Box::new(Spin {
            buffers: buffers(&groups, parameters),
            groups,
            momentum: self.momentum(),
            threshold: self.hysteresis_threshold,
            tunnel: self.tunnel_strength,
            seed,
        })
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

/// `b = m b + (1 - m) sign(g)`; `d = sign(b)`; `w -= lr d`; where then `|w| < threshold`:
/// `w += (-d, or a random sign if d = 0) lr tunnel`. Weight decay, if any, is decoupled and comes first.
pub struct Spin {
    groups: Groups,
    momentum: f64,
    threshold: f64,
    tunnel: f64,
    seed: u64,
    buffers: Vec<Vec<f32>>,
}

/// -1, 0 or +1, as `torch.sign`.
fn sign(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

impl Optimizer for Spin {
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, factor: f64, step: u64) {
        let rates = self.groups.rates(parameters);
        let (momentum, threshold) = (self.momentum as f32, self.threshold as f32);
        let (tunnel, seed) = (self.tunnel as f32, self.seed);
        each_part(
            parameters,
            gradients,
            &mut self.buffers,
            &rates,
            |w, g, b, (lr, weight_decay), (at, part)| {
                let (lr, decay) = ((lr * factor) as f32, (1.0 - lr * factor * weight_decay) as f32);
                for (i, ((w, &g), b)) in w.iter_mut().zip(g).zip(b).enumerate() {
                    *b = momentum * *b + (1.0 - momentum) * sign(g);
                    let d = sign(*b);
                    *w = *w * decay - lr * d;
                    if w.abs() < threshold {
                        let away = match d {
                            0.0 => Random::new(&[seed, step, at as u64, (part * PART + i) as u64]).sign(),
                            d => -d,
                        };
                        *w += away * lr * tunnel;
                    }
                }
            },
        );
    }

    fn state<'a>(&'a self, parameters: &Parameters, factor: f64) -> Object<'a> {
        let options = [
            ("momentum", Value::F64(self.momentum)),
            ("hysteresis_threshold", Value::F64(self.threshold)),
            ("tunnel_strength", Value::F64(self.tunnel)),
        ];
        self.groups.state(parameters, factor, &options, |at| {
            let buffer = Object::floats(&parameters.0[at].shape, &self.buffers[at]);
            Object::dict([("momentum_buffer", buffer)])
        })
    }

    fn load(&mut self, checkpoint: &Checkpoint, key: &str, parameters: &Parameters) -> Result<Vec<String>> {
        let Self { groups, buffers, .. } = self;
        groups.load(checkpoint, key, parameters, "momentum_buffer", |at, values| buffers[at] = values)?;
        Ok(Vec::new())
    }

    fn ternary_decay(&self, parameters: &Parameters) -> Vec<(f64, f64)> {
        self.groups.ternary_decay(parameters)
    }
}
