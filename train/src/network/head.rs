//! Final norm, output head and loss, forward and backward in one pass, a chunk of positions at a time: logits of a
//! whole batch are never stored. Positions that the loss ignores are skipped.

use rayon::prelude::*;

use super::matmul::{Matrix, MatrixMut, matmul};
use super::{block, math, norm, ranges};
use crate::batch::IGNORE;
use crate::distill::Targets;
use crate::{Loss, Losses};

/// The most logits computed at a time: 64 MiB of f32.
const CHUNK_LOGITS: usize = 1 << 24;
/// Rows of the head's gradient per unit of work.
const ROWS: usize = 256;

/// The head and its targets.
pub(super) struct Head<'a> {
    /// `[vocab, hidden]`.
    pub weight: &'a [f32],
    /// `[hidden]`.
    pub norm: &'a [f32],
    pub hidden: usize,
    pub eps: f32,
    pub soft_cap: Option<f32>,
    /// One target per token, or [`IGNORE`].
    pub targets: &'a [i32],
    pub loss: &'a Loss,
    /// The teachers' targets of each token, if there are any.
    pub teachers: Option<&'a Targets>,
    /// The factor of the gradient of the mean loss.
    pub scale: f32,
}

/// Buffers.
#[derive(Default)]
pub(super) struct Scratch {
    normed: Vec<f32>,
    d_normed: Vec<f32>,
    logits: Vec<f32>,
}

impl Scratch {
    pub fn len(&self) -> usize {
        self.normed.len() + self.d_normed.len() + self.logits.len()
    }
}

/// dL/dx `[tokens, hidden]`, and the gradients of head and final norm, to be added to.
type Backward<'a> = (&'a mut [f32], &'a mut Vec<f32>, &'a mut Vec<f32>);

impl Head<'_> {
    /// The mean losses, from the residual stream `x` (`[tokens, hidden]`).
    pub fn run(&self, x: &[f32], scratch: &mut Scratch, mut backward: Option<Backward<'_>>) -> Losses {
        let (hidden, vocab) = (self.hidden, self.weight.len() / self.hidden);
        let counted: Vec<(usize, usize)> = self
            .targets
            .iter()
            .enumerate()
            .filter(|(_, t)| **t != IGNORE)
            .map(|(at, &t)| (at, t as usize))
            .collect();
        let each = self.scale / counted.len().max(1) as f32;
        let chunk = (CHUNK_LOGITS / vocab).clamp(32, 4096);
        let mut losses = Vec::with_capacity(counted.len());
        for positions in counted.chunks(chunk) {
            let n = positions.len();
            scratch.normed.resize(n * hidden, 0.0);
            scratch.d_normed.resize(n * hidden, 0.0);
            scratch.logits.resize(n * vocab, 0.0);
            let size = block(n);
            let wants_gradient = backward.is_some();
            let parts: Vec<Vec<Losses>> = (
                positions.par_chunks(size),
                scratch.normed.par_chunks_mut(size * hidden),
                scratch.d_normed.par_chunks_mut(size * hidden),
                scratch.logits.par_chunks_mut(size * vocab),
            )
                .into_par_iter()
                .map(|(positions, normed, d_normed, logits)| {
                    let losses = self.block(x, positions, normed, logits, each);
                    if wants_gradient {
                        let d = Matrix::new(logits, positions.len(), vocab);
                        let out = MatrixMut::new(d_normed, positions.len(), hidden);
                        matmul(out, d, Matrix::new(self.weight, vocab, hidden), 1.0, false);
                    }
                    losses
                })
                .collect();
            losses.extend(parts.into_iter().flatten());
            if let Some((dx, d_weight, d_norm)) = &mut backward {
                let (normed, logits) = (&scratch.normed, &scratch.logits);
                d_weight.par_chunks_mut(ROWS * hidden).zip(ranges(vocab, ROWS).collect::<Vec<_>>()).for_each(
                    |(d_weight, rows)| {
                        let d = Matrix::strided(&logits[rows.start..], n, rows.len(), vocab).t();
                        let out = MatrixMut::new(d_weight, rows.len(), hidden);
                        matmul(out, d, Matrix::new(normed, n, hidden), 1.0, true);
                    },
                );
                math::simd(|| {
                    for (&(at, _), d) in positions.iter().zip(scratch.d_normed.chunks(hidden)) {
                        let range = at * hidden..(at + 1) * hidden;
                        let (x, dx) = (&x[range.clone()], &mut dx[range]);
                        norm::rms_norm_backward(x, self.norm, self.eps, d, dx, d_norm);
                    }
                });
            }
        }
        let (mut mean, each) = (Losses::default(), 1.0 / counted.len().max(1) as f64);
        losses.iter().for_each(|losses| mean.add(*losses, each));
        mean
    }

    /// The logits `[vocab]` of one position, from its residual stream `x`, `[hidden]`.
    pub fn logits(&self, x: &[f32]) -> Vec<f32> {
        let mut normed = vec![0.0; self.hidden];
        let mut logits = vec![0.0; self.weight.len() / self.hidden];
        self.project(x, &[(0, 0)], &mut normed, &mut logits);
        if let Some(cap) = self.soft_cap {
            logits.iter_mut().for_each(|z| *z = cap * math::tanh(*z / cap));
        }
        logits
    }

    /// Normed rows and uncapped logits of some positions of `x`.
    fn project(&self, x: &[f32], positions: &[(usize, usize)], normed: &mut [f32], logits: &mut [f32]) {
        let (hidden, n) = (self.hidden, positions.len());
        let vocab = logits.len() / n;
        math::simd(|| {
            for (&(at, _), y) in positions.iter().zip(normed.chunks_mut(hidden)) {
                norm::rms_norm(&x[at * hidden..][..hidden], self.norm, self.eps, y);
            }
        });
        let head = Matrix::new(self.weight, vocab, hidden);
        matmul(MatrixMut::new(logits, n, vocab), Matrix::new(normed, n, hidden), head.t(), 1.0, false);
    }

    /// Losses of some positions; `logits` become the gradient before the cap, times `each`.
    fn block(
        &self,
        x: &[f32],
        positions: &[(usize, usize)],
        normed: &mut [f32],
        logits: &mut [f32],
        each: f32,
    ) -> Vec<Losses> {
        let vocab = logits.len() / positions.len();
        self.project(x, positions, normed, logits);
        let mut slope = vec![1.0; if self.soft_cap.is_some() { vocab } else { 0 }];
        let mut teacher = Vec::new();
        let row = |(&(at, target), row): (&(usize, usize), &mut [f32])| {
            if let Some(cap) = self.soft_cap {
                math::simd(|| {
                    for (z, slope) in row.iter_mut().zip(&mut slope) {
                        let t = math::tanh(*z / cap);
                        *z = cap * t;
                        *slope = 1.0 - t * t;
                    }
                });
            }
            let teacher = self.teachers.map(|teachers| {
                teacher.resize(vocab, 0.0);
                teachers.probabilities(at, &mut teacher);
                teacher.as_mut_slice()
            });
            let loss = self.loss.row(target, teacher, row, each);
            math::simd(|| row.iter_mut().zip(&slope).for_each(|(d, &slope)| *d *= slope));
            loss
        };
        positions.iter().zip(logits.chunks_mut(vocab)).map(row).collect()
    }
}
