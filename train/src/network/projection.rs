//! The products of a layer: BitLinear or plain, forward and backward.

use ckpt_inspect::ModelConfig;
use rayon::prelude::*;

use super::layer::Pass;
use super::matmul::{Matrix, MatrixMut, matmul};
use super::{Estimator, bitlinear, math};
use crate::Parameters;

/// Weight rows per unit of work.
pub(super) const ROWS: usize = 128;

/// Matrices that are applied to the same input, stacked into one by rows.
pub(super) struct Projection {
    /// Indices of the parameters.
    pub at: Vec<usize>,
    /// Rows of each.
    pub rows: Vec<usize>,
    pub cols: usize,
    pub ternary: bool,
}

impl Projection {
    pub fn new(parameters: &[(usize, usize)], cols: usize, ternary: bool) -> Self {
        let (at, rows) = parameters.iter().copied().unzip();
        Projection { at, rows, cols, ternary }
    }

    pub fn scales(&self, c: &ModelConfig, parameters: &Parameters) -> Vec<f32> {
        if !self.ternary {
            return Vec::new();
        }
        let scales = |&at: &usize| {
            let weights = &parameters.0[at].values;
            bitlinear::weight_scales(
                weights,
                self.cols,
                c.bitlinear_per_channel,
                c.quantization_floor.number(),
            )
        };
        self.at.iter().flat_map(scales).collect()
    }

    /// Writes the matrices to `out` in the form for products: codes, times ws if `scaled`; or plain.
    pub fn expand(&self, parameters: &Parameters, scales: &[f32], scaled: bool, out: &mut [f32]) {
        let mut rest = out;
        let mut first = 0;
        for (&at, &rows) in self.at.iter().zip(&self.rows) {
            let (out, next) = rest.split_at_mut(rows * self.cols);
            rest = next;
            let part = ROWS * self.cols;
            let weights = &parameters.0[at].values;
            out.par_chunks_mut(part).zip(weights.par_chunks(part)).enumerate().for_each(
                |(i, (out, weights))| {
                    if !self.ternary {
                        return out.copy_from_slice(weights);
                    }
                    let scales = &scales[first + i * ROWS..];
                    math::simd(|| {
                        let rows = out.chunks_mut(self.cols).zip(weights.chunks(self.cols));
                        for ((out, weights), &scale) in rows.zip(scales) {
                            bitlinear::codes(weights, scale, if scaled { scale } else { 1.0 }, out);
                        }
                    });
                },
            );
            first += rows;
        }
    }

    /// `out = x . W'` for some tokens; `x` is quantized in place on the way. `weights` from [`Projection::expand`].
    pub fn forward(&self, pass: &Pass<'_>, weights: &[f32], scales: &[f32], x: &mut [f32], out: &mut [f32]) {
        let (cols, rows) = (self.cols, weights.len() / self.cols);
        let n = out.len() / rows;
        let eps = pass.config.quantization_floor.number() as f32;
        let mut token_scales = Vec::new();
        if self.ternary {
            math::simd(|| token_scales.extend(x.chunks_mut(cols).map(|x| bitlinear::quantize(x, eps))));
        }
        matmul(
            MatrixMut::new(out, n, rows),
            Matrix::new(x, n, cols),
            Matrix::new(weights, rows, cols).t(),
            1.0,
            false,
        );
        math::simd(|| {
            for (y, &token_scale) in out.chunks_mut(rows).zip(&token_scales) {
                bitlinear::rescale(y, scales, token_scale);
            }
        });
    }

    /// From `dy` the gradient of the input to `dx`, for some tokens; `input` receives the input of the product.
    /// `weights` from [`Projection::expand`], scaled.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        weights: &[f32],
        x: &[f32],
        input: &mut [f32],
        dy: &[f32],
        dx: &mut [f32],
    ) {
        let (cols, rows) = (self.cols, weights.len() / self.cols);
        let n = dy.len() / rows;
        matmul(
            MatrixMut::new(dx, n, cols),
            Matrix::new(dy, n, rows),
            Matrix::new(weights, rows, cols),
            1.0,
            false,
        );
        input.copy_from_slice(x);
        if !self.ternary {
            return;
        }
        let eps = pass.config.quantization_floor.number() as f32;
        math::simd(|| {
            for ((x, input), dx) in x.chunks(cols).zip(input.chunks_mut(cols)).zip(dx.chunks_mut(cols)) {
                let token_scale = bitlinear::quantize(input, eps);
                bitlinear::dequantize(input, token_scale);
                if pass.estimator == Estimator::ThroughScales {
                    bitlinear::through_token_scale(x, input, token_scale, dx);
                }
            }
        });
    }
}
