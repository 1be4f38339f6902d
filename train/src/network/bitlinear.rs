//! BitLinear (BitNet b1.58, <https://arxiv.org/abs/2402.17764>): forward and backward side by side.
//!
//! Forward: `ws = mean|W| + eps`, `Wq = clamp(round(W / ws), -1, 1)`; per token `xs = max|x| + eps`,
//! `xq = round(x / xs * 127)`; `y = (xq . Wq) * (ws * xs / 127)`, rounding half to even, all in f32 as PyTorch computes
//! it. The dot is one of integers below 2^24, so f32 sums are exact in any order as long as fan_in * 127 < 2^24.
//!
//! Backward: the straight-through estimator replaces rounding by the identity. With `Wd = ws Wq` and `xd = xs xq /
//! 127`, `y = xd . Wd`, that leaves `dx = dy . Wd` and `dW = dy' . xd`: the detached form. When ws and xs are functions
//! of W and x, as the reference trains, two terms are added: `dxs = sum_i dx_i (xd_i - x_i) / xs`, which goes to the
//! largest |x| with its sign, and `dws = sum dW (Wd - W) / ws`, which goes to every weight as sign(W) / n.

use ckpt_inspect::measure::{Floor, absmean_scale};

use super::math;

/// `mean|W| + eps` for the matrix, or for each of its rows, as one value per row. The mean is taken in f64 and rounded.
pub(super) fn weight_scales(weights: &[f32], cols: usize, per_row: bool, eps: f64) -> Vec<f32> {
    let scale = |values: &[f32]| {
        let sum: f64 = values.chunks(4096).map(|c| c.iter().map(|w| f64::from(w.abs())).sum::<f64>()).sum();
        absmean_scale(sum / values.len() as f64, Floor::Added(eps))
    };
    let rows = weights.len() / cols;
    if per_row { weights.chunks(cols).map(scale).collect() } else { vec![scale(weights); rows] }
}

/// Codes -1, 0, +1 of one row, times `factor`.
#[inline(always)]
pub(super) fn codes(weights: &[f32], scale: f32, factor: f32, out: &mut [f32]) {
    for (code, &w) in out.iter_mut().zip(weights) {
        let r = w / scale;
        // A NaN weight stays NaN, so that a run notices it.
        *code = if r.abs() > 0.5 { factor.copysign(r) } else { r * 0.0 };
    }
}

/// Quantizes one token in place, to integers of -127 to 127 (as f32); returns xs.
#[inline(always)]
pub(super) fn quantize(x: &mut [f32], eps: f32) -> f32 {
    let scale = math::max_abs(x) + eps;
    x.iter_mut().for_each(|x| *x = math::round(*x / scale * 127.0));
    scale
}

/// Turns the integer dots of one token into outputs: `y *= ws * xs / 127`.
#[inline(always)]
pub(super) fn rescale(dots: &mut [f32], weight_scales: &[f32], token_scale: f32) {
    for (y, &ws) in dots.iter_mut().zip(weight_scales) {
        *y *= ws * token_scale / 127.0;
    }
}

/// `xd` of one token from its integers, in place.
#[inline(always)]
pub(super) fn dequantize(levels: &mut [f32], token_scale: f32) {
    let unit = token_scale / 127.0;
    levels.iter_mut().for_each(|q| *q *= unit);
}

/// Adds the gradient through xs to `dx`, the detached gradient of one token, given `xd`.
#[inline(always)]
pub(super) fn through_token_scale(x: &[f32], dequantized: &[f32], token_scale: f32, dx: &mut [f32]) {
    let ds = (math::dot(dx, dequantized) - math::dot(dx, x)) / token_scale;
    let largest = math::max_abs(x);
    if let Some(at) = x.iter().position(|x| x.abs() == largest) {
        dx[at] += if x[at] == 0.0 { 0.0 } else { ds * x[at].signum() };
    }
}

/// Adds the gradient through ws to `dw`, the detached gradient of a whole matrix. Linear in `dw`, so once after all
/// batches of a step is enough.
pub(super) fn through_weight_scale(
    weights: &[f32],
    scales: &[f32],
    cols: usize,
    per_row: bool,
    dw: &mut [f32],
) {
    let row_ds = |row: usize, weights: &[f32], dw: &[f32], codes_row: &mut [f32]| {
        math::simd(|| {
            codes(weights, scales[row], scales[row], codes_row);
            f64::from(math::dot(dw, codes_row)) - f64::from(math::dot(dw, weights))
        })
    };
    let spread = |weights: &[f32], dw: &mut [f32], each: f32| {
        let sign = |w: f32| if w == 0.0 { 0.0 } else { each * w.signum() };
        dw.iter_mut().zip(weights).for_each(|(d, &w)| *d += sign(w));
    };
    let mut codes_row = vec![0.0; cols];
    if per_row {
        for (row, (w, d)) in weights.chunks(cols).zip(dw.chunks_mut(cols)).enumerate() {
            let ds = row_ds(row, w, d, &mut codes_row) / f64::from(scales[row]);
            spread(w, d, (ds / cols as f64) as f32);
        }
    } else {
        let rows = weights.chunks(cols).zip(dw.chunks(cols)).enumerate();
        let ds: f64 = rows.map(|(row, (w, d))| row_ds(row, w, d, &mut codes_row)).sum();
        let ds = ds / f64::from(scales[0]);
        spread(weights, dw, (ds / weights.len() as f64) as f32);
    }
}
