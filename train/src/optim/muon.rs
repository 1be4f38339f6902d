//! Muon (Jordan 2024, <https://kellerjordan.github.io/posts/muon/>): momentum, orthogonalized by Newton-Schulz
//! iterations; AdamW updates the other parameters. In the form that is usual today, and in that of the original trainer
//! of bitnet-student.

use ckpt_convert::Object;
use ckpt_inspect::Checkpoint;
use ckpt_inspect::metadata::Value;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::adamw::{self, AdamW};
use super::{Groups, Hyperparameters, Optimizer, Rate, at_least_zero, below_one, buffers};
use crate::network::math;
use crate::network::matmul::{Matrix, MatrixMut, matmul};
use crate::{Gradients, Parameter, Parameters, Result, Role};

/// The settings of Muon, and of AdamW for the other parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Settings {
    /// Learning rate of Muon's matrices; [`LR`] when not given.
    pub lr: Option<f64>,
    /// Learning rate of the parameters that AdamW updates.
    pub adamw_lr: f64,
    /// Decoupled weight decay of parameters outside BitLinear layers; in the cubic form, of parameters that are not
    /// matrices.
    pub weight_decay: f64,
    /// Decoupled weight decay of ternary weights; in the cubic form, of every matrix, the embedding included.
    pub ternary_weight_decay: f64,
    /// Muon's momentum; [`MOMENTUM`] when not given.
    pub momentum: Option<f64>,
    /// AdamW's betas.
    pub betas: (f64, f64),
    /// AdamW's eps.
    pub eps: f64,
}

/// The settings of Muon in the form of the original trainer of bitnet-student, with a cubic iteration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cubic(pub Settings);

/// The default learning rate.
pub const LR: f64 = 0.02;
/// The default momentum.
pub const MOMENTUM: f64 = 0.95;

impl Default for Settings {
    fn default() -> Self {
        let adamw::Settings { weight_decay, ternary_weight_decay, betas, eps, .. } =
            adamw::Settings::default();
        Settings {
            lr: None,
            adamw_lr: adamw::LR,
            weight_decay,
            ternary_weight_decay,
            momentum: None,
            betas,
            eps,
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

    /// The settings of AdamW for the parameters that Muon does not update.
    fn rest(&self) -> adamw::Settings {
        adamw::Settings {
            lr: Some(self.adamw_lr),
            weight_decay: self.weight_decay,
            ternary_weight_decay: self.ternary_weight_decay,
            betas: self.betas,
            eps: self.eps,
        }
    }

    /// Muon on the parameters that are `wanted`, of which those that no BitLinear uses decay by `weight_decay`.
    fn on(
        &self,
        parameters: &Parameters,
        form: Form,
        weight_decay: f64,
        wanted: &dyn Fn(&Parameter) -> bool,
    ) -> Box<dyn Optimizer> {
        let groups = Groups::new(parameters, wanted, self.lr(), weight_decay, self.ternary_weight_decay);
        let rest = self.rest().on(parameters, &|p| !wanted(p));
        let (buffers, momentum) = (buffers(&groups, parameters), self.momentum());
        Box::new(Muon { groups, momentum, form, buffers, rest })
    }
}

impl Hyperparameters for Settings {
    fn check(&self) -> Result<()> {
        at_least_zero(&[("lr", self.lr()), ("adamw_lr", self.adamw_lr)])?;
        self.rest().check()?;
        below_one(&[("momentum", self.momentum())])
    }

    fn build(&self, parameters: &Parameters, _seed: u64) -> Box<dyn Optimizer> {
        let hidden = |p: &Parameter| matches!(p.role, Role::Attention | Role::Mlp);
        self.on(parameters, Form::Quintic, self.weight_decay, &hidden)
    }

    fn chosen(&self) -> Vec<(&'static str, f64)> {
        vec![("lr", self.lr()), ("momentum", self.momentum())]
    }

    fn rates(&self) -> Vec<Rate> {
        vec![
            Rate { part: Some("muon"), setting: "muon_lr", lr: self.lr() },
            Rate { part: Some("adamw"), setting: "adamw_lr", lr: self.adamw_lr },
        ]
    }

    fn weight_decay(&self) -> (f64, f64) {
        (self.weight_decay, self.ternary_weight_decay)
    }
}

impl Hyperparameters for Cubic {
    fn check(&self) -> Result<()> {
        self.0.check()
    }

    fn build(&self, parameters: &Parameters, _seed: u64) -> Box<dyn Optimizer> {
        // Every matrix has the same weight decay.
        let decay = self.0.ternary_weight_decay;
        self.0.on(parameters, Form::Cubic, decay, &|p| p.shape.len() == 2)
    }

    fn chosen(&self) -> Vec<(&'static str, f64)> {
        self.0.chosen()
    }

    fn rates(&self) -> Vec<Rate> {
        self.0.rates()
    }

    fn weight_decay(&self) -> (f64, f64) {
        self.0.weight_decay()
    }

    fn warning(&self) -> Option<String> {
        let Settings { weight_decay, ternary_weight_decay, .. } = &self.0;
        (*weight_decay > 0.0).then(|| {
            format!(
                "weight_decay {weight_decay} has no effect on any matrix: muon-adamw decays all of them, the embedding too, by ternary_weight_decay ({ternary_weight_decay})"
            )
        })
    }
}

/// Newton-Schulz iterations.
const ITERATIONS: usize = 5;

/// The iteration, and how its result is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// The original trainer's: `X(1.5 I - 0.5 X'X)`, times the norm it had; `w -= lr NS(g + m NS(b))`; all matrices.
    Cubic,
    /// Today's: `a X + (b A + c A^2) X`, `A = XX'`, (a, b, c) = (3.4445, -4.7750, 2.0315);
    /// `w -= lr sqrt(max(1, rows / cols)) NS(g + m b)`; hidden matrices.
    Quintic,
}

/// `w *= 1 - lr wd`; `b = m b + g`; then as [`Form`] says.
pub struct Muon {
    groups: Groups,
    momentum: f64,
    form: Form,
    buffers: Vec<Vec<f32>>,
    rest: AdamW,
}

/// Rows of a product per unit of work.
const ROWS: usize = 128;

/// `out = alpha * a . b` (`+ out` if `add`), `a` row-major `[rows, inner]`; blocks of rows in parallel.
fn product(out: &mut [f32], a: &[f32], inner: usize, b: Matrix<'_>, cols: usize, alpha: f32, add: bool) {
    let blocks = out.par_chunks_mut(ROWS * cols).zip(a.par_chunks(ROWS * inner));
    blocks.for_each(|(out, a)| {
        let rows = out.len() / cols;
        matmul(MatrixMut::new(out, rows, cols), Matrix::new(a, rows, inner), b, alpha, add);
    });
}

/// `x' x`, `[cols, cols]`.
fn gram(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; cols * cols];
    out.par_chunks_mut(ROWS * cols).enumerate().for_each(|(i, out)| {
        let height = out.len() / cols;
        let part = Matrix::strided(&x[i * ROWS..], rows, height, cols).t();
        matmul(MatrixMut::new(out, height, cols), part, Matrix::new(x, rows, cols), 1.0, false);
    });
    out
}

fn transposed(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (r, row) in x.chunks(cols).enumerate() {
        row.iter().enumerate().for_each(|(c, &value)| out[c * rows + r] = value);
    }
    out
}

fn frobenius(x: &[f32]) -> f32 {
    let squares = |part: &[f32]| f64::from(math::simd(|| math::dot(part, part)));
    x.chunks(4096).map(squares).sum::<f64>().sqrt() as f32
}

/// Turns `matrix` (`[rows, cols]`) towards the nearest matrix whose singular values are all equal, as `form` says: 1,
/// or with [`Form::Cubic`] the norm that it had.
pub fn orthogonalize(matrix: &mut Vec<f32>, rows: usize, cols: usize, form: Form) {
    // The Gram matrix of the shorter side; both give the same result.
    let tall = rows >= cols;
    let (height, width) = if tall { (rows, cols) } else { (cols, rows) };
    let mut x = if tall { std::mem::take(matrix) } else { transposed(matrix, rows, cols) };
    let norm = frobenius(&x);
    x.iter_mut().for_each(|x| *x /= norm + 1e-7);
    let mut next = vec![0.0; x.len()];
    for _ in 0..ITERATIONS {
        let mut gram = gram(&x, height, width);
        let (keep, factor) = match form {
            Form::Cubic => (1.5, -0.5),
            Form::Quintic => {
                let mut square = gram.clone();
                product(&mut square, &gram, width, Matrix::new(&gram, width, width), width, 2.0315, false);
                gram.iter_mut().zip(&square).for_each(|(a, s)| *a = *a * -4.775 + s);
                (3.4445, 1.0)
            }
        };
        next.iter_mut().zip(&x).for_each(|(next, &x)| *next = keep * x);
        product(&mut next, &x, width, Matrix::new(&gram, width, width), width, factor, true);
        std::mem::swap(&mut x, &mut next);
    }
    if form == Form::Cubic {
        x.iter_mut().for_each(|x| *x *= norm);
    }
    *matrix = if tall { x } else { transposed(&x, cols, rows) };
}

impl Optimizer for Muon {
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, factor: f64, step: u64) {
        let rates = self.groups.rates(parameters);
        let (momentum, form) = (self.momentum as f32, self.form);
        let all = parameters.0.par_iter_mut().zip(gradients).zip(&mut self.buffers).zip(&rates);
        all.for_each(|(((parameter, g), buffer), rates)| {
            let (Some((lr, weight_decay)), Some((rows, cols))) = (*rates, parameter.matrix()) else { return };
            let lr = lr * factor;
            let mut size = lr as f32;
            buffer.iter_mut().zip(g).for_each(|(b, &g)| *b = momentum * *b + g);
            let mut update = buffer.clone();
            match form {
                Form::Cubic => orthogonalize(&mut update, rows, cols, form),
                Form::Quintic => size *= (rows as f32 / cols as f32).max(1.0).sqrt(),
            }
            update.iter_mut().zip(g).for_each(|(u, &g)| *u = g + momentum * *u);
            orthogonalize(&mut update, rows, cols, form);
            let decay = (1.0 - lr * weight_decay) as f32;
            parameter.values.iter_mut().zip(&update).for_each(|(w, &u)| *w = *w * decay - size * u);
        });
        self.rest.step(parameters, gradients, factor, step);
    }

    fn state<'a>(&'a self, parameters: &Parameters, factor: f64) -> Object<'a> {
        let options = [
            ("momentum", Value::F64(self.momentum)),
            ("nesterov", Value::Bool(true)),
            ("ns_iters", Value::I64(ITERATIONS as i64)),
            ("keeps_size", Value::Bool(self.form == Form::Cubic)),
        ];
        let muon = self.groups.state(parameters, factor, &options, |at| {
            let buffer = Object::floats(&parameters.0[at].shape, &self.buffers[at]);
            Object::dict([("momentum_buffer", buffer)])
        });
        Object::dict([("muon", muon), ("adamw", self.rest.state(parameters, factor))])
    }

    fn load(&mut self, checkpoint: &Checkpoint, key: &str, parameters: &Parameters) -> Result<Vec<String>> {
        let Self { groups, buffers, rest, .. } = self;
        let muon = format!("{key}.muon");
        groups.load(checkpoint, &muon, parameters, "momentum_buffer", |at, values| buffers[at] = values)?;
        rest.load(checkpoint, &format!("{key}.adamw"), parameters)
    }

    fn ternary_decay(&self, parameters: &Parameters) -> Vec<(f64, f64)> {
        let mut all = self.groups.ternary_decay(parameters);
        all.extend(self.rest.ternary_decay(parameters));
        all
    }
}
