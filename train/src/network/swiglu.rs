//! SwiGLU between its two projections, `silu(gate) * up`, forward and backward.

use super::math;

/// `silu(gate) * up`, from rows of gate and up side by side.
pub(super) fn swiglu(gate_up: &[f32], mlp: usize, out: &mut [f32]) {
    math::simd(|| {
        for (row, out) in gate_up.chunks(2 * mlp).zip(out.chunks_mut(mlp)) {
            let (gate, up) = row.split_at(mlp);
            for ((h, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                *h = g / (1.0 + math::exp(-g)) * u;
            }
        }
    });
}

/// With `s = sigmoid(g)`: `dg = dh u s (1 + g (1 - s))`, `du = dh g s`.
pub(super) fn swiglu_backward(gate_up: &[f32], mlp: usize, dh: &[f32], d_gate_up: &mut [f32]) {
    math::simd(|| {
        let rows = gate_up.chunks(2 * mlp).zip(dh.chunks(mlp));
        for ((row, dh), out) in rows.zip(d_gate_up.chunks_mut(2 * mlp)) {
            let ((gate, up), (d_gate, d_up)) = (row.split_at(mlp), out.split_at_mut(mlp));
            for ((((dg, du), &g), &u), &d) in d_gate.iter_mut().zip(d_up).zip(gate).zip(up).zip(dh) {
                let s = 1.0 / (1.0 + math::exp(-g));
                *dg = d * u * s * (1.0 + g * (1.0 - s));
                *du = d * g * s;
            }
        }
    });
}
