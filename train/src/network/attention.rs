//! Causal attention of the query heads that share one key head, over one sequence; forward and backward.
//!
//! `q^ = rope(norm(q))`, `k^ = rope(norm(k))`, `s = cap tanh(q^ k^' / sqrt(dim) / cap)`, `P = softmax(s)` over the
//! positions up to the query's own, `o = P v`. Scores are computed in tiles of queries and recomputed in the backward
//! pass, so at most one tile of them is in memory.

use super::math;
use super::matmul::{Matrix, MatrixMut, matmul};
use super::norm;

/// Queries per tile.
const TILE: usize = 64;

/// The settings that all heads of a layer share.
pub(super) struct Attention<'a> {
    /// Positions in a sequence.
    pub len: usize,
    /// Elements per head.
    pub dim: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub soft_cap: Option<f32>,
    pub eps: f32,
    /// Weights of the norms of Q and K, `[dim]` each.
    pub qk_norm: Option<(&'a [f32], &'a [f32])>,
    /// `[len, dim / 2]`, at least.
    pub cos: &'a [f32],
    pub sin: &'a [f32],
}

/// Gradients of the weights of the norms of Q and K, `[dim]` each.
pub(super) type NormGradients = (Vec<f32>, Vec<f32>);

impl Attention<'_> {
    /// Query heads per key head.
    fn groups(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements of one position of Q, K and V together.
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.dim
    }

    /// Normalizes and rotates head `head` of `qkv` (`[len, width]`) into `out` (`[len, dim]`).
    fn prepare(&self, qkv: &[f32], head: usize, out: &mut [f32]) {
        let (dim, half) = (self.dim, self.dim / 2);
        math::simd(|| {
            for (t, (row, out)) in qkv.chunks(self.width()).zip(out.chunks_mut(dim)).enumerate() {
                let x = &row[head * dim..][..dim];
                match self.qk_norm {
                    Some((q, k)) => {
                        norm::rms_norm(x, if head < self.heads { q } else { k }, self.eps, out);
                    }
                    None => out.copy_from_slice(x),
                }
                norm::rotate(out, &self.cos[t * half..][..half], &self.sin[t * half..][..half], 1.0);
            }
        });
    }

    /// The gradient of head `head` before [`Attention::prepare`], written to `d_qkv` (`[len, span]`, at column
    /// `column`), from that after it in `d` (destroyed). Adds the norm's to `d_weight`.
    #[allow(clippy::too_many_arguments)]
    fn prepare_backward(
        &self,
        qkv: &[f32],
        head: usize,
        d: &mut [f32],
        d_qkv: &mut [f32],
        column: usize,
        d_weight: &mut [f32],
    ) {
        let (dim, half) = (self.dim, self.dim / 2);
        let span = (self.groups() + 2) * dim;
        math::simd(|| {
            let rows = qkv.chunks(self.width()).zip(d_qkv.chunks_mut(span)).zip(d.chunks_mut(dim));
            for (t, ((row, d_row), d)) in rows.enumerate() {
                norm::rotate(d, &self.cos[t * half..][..half], &self.sin[t * half..][..half], -1.0);
                let dx = &mut d_row[column..][..dim];
                match self.qk_norm {
                    Some((q, k)) => {
                        let weight = if head < self.heads { q } else { k };
                        dx.fill(0.0);
                        norm::rms_norm_backward(&row[head * dim..][..dim], weight, self.eps, d, dx, d_weight);
                    }
                    None => dx.copy_from_slice(d),
                }
            }
        });
    }

    /// Softmax weights of the queries `first..first + rows` into `p` (`[rows, keys]`), zero beyond each query's own
    /// position. `slope`, when there is a cap and it is wanted, receives `1 - tanh^2`.
    fn weights(&self, q: &[f32], k: &[f32], first: usize, p: &mut [f32], mut slope: Option<&mut [f32]>) {
        let (dim, rows) = (self.dim, q.len() / self.dim);
        let keys = first + rows;
        let scale = 1.0 / (dim as f32).sqrt();
        matmul(
            MatrixMut::new(p, rows, keys),
            Matrix::new(q, rows, dim),
            Matrix::new(k, keys, dim).t(),
            scale,
            false,
        );
        math::simd(|| {
            for (r, row) in p.chunks_mut(keys).enumerate() {
                let (row, beyond) = row.split_at_mut(first + r + 1);
                if let Some(cap) = self.soft_cap {
                    row.iter_mut().for_each(|s| *s = math::tanh(*s / cap));
                    if let Some(slope) = &mut slope {
                        for (slope, &t) in slope[r * keys..].iter_mut().zip(row.iter()) {
                            *slope = 1.0 - t * t;
                        }
                    }
                    row.iter_mut().for_each(|s| *s *= cap);
                }
                let highest = math::max(row);
                row.iter_mut().for_each(|s| *s = math::exp(*s - highest));
                let total = math::sum(row);
                row.iter_mut().for_each(|s| *s /= total);
                beyond.fill(0.0);
            }
        });
    }

    /// `qkv` is `[len, (heads + 2 kv_heads) dim]`; `out`, of the query heads of key head `kv`, `[len, groups dim]`.
    pub fn forward(&self, qkv: &[f32], kv: usize, out: &mut [f32]) {
        let (len, dim, groups) = (self.len, self.dim, self.groups());
        let (mut k, mut q) = (vec![0.0; len * dim], vec![0.0; len * dim]);
        let mut p = vec![0.0; TILE.min(len) * len];
        self.prepare(qkv, self.heads + kv, &mut k);
        let v = &qkv[(self.heads + self.kv_heads + kv) * dim..];
        let mut mixed = vec![0.0; TILE.min(len) * dim];
        for group in 0..groups {
            self.prepare(qkv, kv * groups + group, &mut q);
            for first in (0..len).step_by(TILE) {
                let rows = TILE.min(len - first);
                let keys = first + rows;
                let (p, mixed) = (&mut p[..rows * keys], &mut mixed[..rows * dim]);
                self.weights(&q[first * dim..][..rows * dim], &k, first, p, None);
                let v = Matrix::strided(v, keys, dim, self.width());
                matmul(MatrixMut::new(mixed, rows, dim), Matrix::new(p, rows, keys), v, 1.0, false);
                let out = out[first * groups * dim..].chunks_mut(groups * dim);
                for (out, mixed) in out.zip(mixed.chunks(dim)) {
                    out[group * dim..][..dim].copy_from_slice(mixed);
                }
            }
        }
    }

    /// From `d_out` (`[len, groups dim]`) the gradients of the group's Q heads, K and V to `d_qkv`
    /// (`[len, (groups + 2) dim]`, in that order), and those of the norms.
    pub fn backward(&self, qkv: &[f32], kv: usize, d_out: &[f32], d_qkv: &mut [f32]) -> NormGradients {
        let (len, dim, groups) = (self.len, self.dim, self.groups());
        let zeros = || vec![0.0; len * dim];
        let (mut k, mut q, mut dk, mut dq, mut dv) = (zeros(), zeros(), zeros(), zeros(), zeros());
        let tile = || vec![0.0; TILE.min(len) * len];
        let (mut p, mut slope, mut dp) = (tile(), tile(), tile());
        let (mut dwq, mut dwk) = (vec![0.0; dim], vec![0.0; dim]);
        let scale = 1.0 / (dim as f32).sqrt();
        self.prepare(qkv, self.heads + kv, &mut k);
        let v = &qkv[(self.heads + self.kv_heads + kv) * dim..];
        for group in 0..groups {
            self.prepare(qkv, kv * groups + group, &mut q);
            for first in (0..len).step_by(TILE) {
                let rows = TILE.min(len - first);
                let keys = first + rows;
                let q = &q[first * dim..][..rows * dim];
                let (p, dp) = (&mut p[..rows * keys], &mut dp[..rows * keys]);
                let slope = &mut slope[..rows * keys];
                self.weights(q, &k, first, p, Some(slope));
                let d_out =
                    Matrix::strided(&d_out[first * groups * dim + group * dim..], rows, dim, groups * dim);
                let weights = Matrix::new(p, rows, keys);
                matmul(MatrixMut::new(&mut dv[..keys * dim], keys, dim), weights.t(), d_out, 1.0, true);
                let values = Matrix::strided(v, keys, dim, self.width());
                matmul(MatrixMut::new(dp, rows, keys), d_out, values.t(), 1.0, false);
                self.weights_backward(p, slope, dp, keys);
                let ds = Matrix::new(dp, rows, keys);
                let dq = MatrixMut::new(&mut dq[first * dim..][..rows * dim], rows, dim);
                matmul(dq, ds, Matrix::new(&k, keys, dim), scale, false);
                let dk = MatrixMut::new(&mut dk[..keys * dim], keys, dim);
                matmul(dk, ds.t(), Matrix::new(q, rows, dim), scale, true);
            }
            self.prepare_backward(qkv, kv * groups + group, &mut dq, d_qkv, group * dim, &mut dwq);
        }
        self.prepare_backward(qkv, self.heads + kv, &mut dk, d_qkv, groups * dim, &mut dwk);
        for (row, dv) in d_qkv.chunks_mut((groups + 2) * dim).zip(dv.chunks(dim)) {
            row[(groups + 1) * dim..].copy_from_slice(dv);
        }
        (dwq, dwk)
    }

    /// From the gradient of the softmax weights in `dp` that of the scores before the cap, in place:
    /// `ds = P (dP - sum P dP) (1 - tanh^2)`.
    fn weights_backward(&self, p: &[f32], slope: &[f32], dp: &mut [f32], keys: usize) {
        math::simd(|| {
            for ((p, slope), dp) in p.chunks(keys).zip(slope.chunks(keys)).zip(dp.chunks_mut(keys)) {
                let mean = math::dot(p, dp);
                for (d, &p) in dp.iter_mut().zip(p) {
                    *d = p * (*d - mean);
                }
                if self.soft_cap.is_some() {
                    dp.iter_mut().zip(slope).for_each(|(d, &slope)| *d *= slope);
                }
            }
        });
    }
}
