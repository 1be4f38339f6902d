//! RMSNorm of one row, `y = x / sqrt(mean(x^2) + eps) * w`, and rotary embedding of one head; forward and backward.

use super::math;

/// `sqrt(mean(x^2) + eps)`.
#[inline(always)]
fn rms(x: &[f32], eps: f32) -> f32 {
    (math::dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// The normalized row to `y`.
#[inline(always)]
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let rms = rms(x, eps);
    for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
        *y = x / rms * w;
    }
}

/// Given dL/dy adds dL/dx to `dx` and dL/dw to `dw`. With `n = x / rms`: `dw = dy n`,
/// `dx = (w dy - n mean(w dy n)) / rms`.
#[inline(always)]
pub(super) fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let inverse = 1.0 / rms(x, eps);
    for ((dw, &dy), &x) in dw.iter_mut().zip(dy).zip(x) {
        *dw += dy * x * inverse;
    }
    let mean = math::dot3(dy, weight, x) * inverse / x.len() as f32;
    for (((dx, &x), &w), &dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
        *dx += (w * dy - x * inverse * mean) * inverse;
    }
}

/// cos and sin of `position * base^(-2i / dim)`, each `[len, dim / 2]`. Frequencies and angles are f32, as the
/// reference computes them.
pub(crate) fn rotary_table(base: f64, dim: usize, len: usize) -> (Vec<f32>, Vec<f32>) {
    let half = dim / 2;
    let frequency: Vec<f32> =
        (0..half).map(|i| 1.0 / (base as f32).powf(2.0 * i as f32 / dim as f32)).collect();
    let angles = (0..len).flat_map(|t| frequency.iter().map(move |f| f64::from(t as f32 * f)));
    angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip()
}

/// Rotates one head in place, first half with second half; `direction` 1 forward, -1 backward (the transposed
/// rotation).
#[inline(always)]
pub(super) fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    let (first, second) = x.split_at_mut(cos.len());
    for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let s = s * direction;
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

/// [`rms_norm`] of every row of `x`.
pub(super) fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let hidden = weight.len();
    math::simd(|| {
        for (x, y) in x.chunks(hidden).zip(y.chunks_mut(hidden)) {
            rms_norm(x, weight, eps, y);
        }
    });
}

/// [`rms_norm_backward`] of every row of `x`.
pub(super) fn rms_norm_rows_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let hidden = weight.len();
    math::simd(|| {
        for ((x, dy), dx) in x.chunks(hidden).zip(dy.chunks(hidden)).zip(dx.chunks_mut(hidden)) {
            rms_norm_backward(x, weight, eps, dy, dx, dw);
        }
    });
}
