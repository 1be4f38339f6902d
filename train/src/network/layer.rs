//! One transformer layer, forward and backward: attention and SwiGLU, each after an RMSNorm and added to the residual
//! stream.

use ckpt_inspect::ModelConfig;
use ckpt_inspect::meaning::architecture::{Part, Role};
use rayon::prelude::*;

use super::attention::{Attention, NormGradients};
use super::matmul::{Matrix, MatrixMut, matmul};
use super::norm::{rms_norm_rows, rms_norm_rows_backward};
use super::projection::{Projection, ROWS};
use super::swiglu::{swiglu, swiglu_backward};
use super::{Estimator, disjoint, math, ranges};
use crate::{Gradients, Parameters};

/// The indices of a layer's parameters.
pub(super) struct Layer {
    input_norm: usize,
    qkv: Projection,
    qk_norm: Option<(usize, usize)>,
    o: Projection,
    post_norm: usize,
    gate_up: Projection,
    down: Projection,
}

/// ws of a layer's matrices, one value per row; empty without BitLinear.
#[derive(Default)]
pub(super) struct Scales {
    qkv: Vec<f32>,
    o: Vec<f32>,
    gate_up: Vec<f32>,
    down: Vec<f32>,
}

/// The settings of a forward or backward pass through a layer.
pub(super) struct Pass<'a> {
    pub config: &'a ModelConfig,
    pub estimator: Estimator,
    pub parameters: &'a Parameters,
    pub scales: &'a Scales,
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    /// Positions in a sequence.
    pub len: usize,
    /// Tokens per unit of work.
    pub block: usize,
}

/// Results of the forward pass that the backward pass needs.
#[derive(Default)]
pub(super) struct Activations {
    /// Residual stream before the layer, `[tokens, hidden]`.
    pub input: Vec<f32>,
    /// Q, K and V before norm and rotation, `[tokens, (heads + 2 kv_heads) dim]`.
    qkv: Vec<f32>,
    /// Output of attention, `[sequences, kv_heads, len, groups dim]`.
    mixed: Vec<f32>,
    /// Residual stream after attention, `[tokens, hidden]`.
    middle: Vec<f32>,
    /// Gate and up, `[tokens, 2 mlp_hidden]`.
    gate_up: Vec<f32>,
}

impl Activations {
    pub fn resize(&mut self, c: &ModelConfig, tokens: usize) {
        let s = Sizes::of(c);
        self.input.resize(tokens * s.hidden, 0.0);
        self.qkv.resize(tokens * s.qkv, 0.0);
        self.mixed.resize(tokens * s.mixed, 0.0);
        self.middle.resize(tokens * s.hidden, 0.0);
        self.gate_up.resize(tokens * 2 * s.mlp, 0.0);
    }

    pub fn len(&self) -> usize {
        self.input.len() + self.qkv.len() + self.mixed.len() + self.middle.len() + self.gate_up.len()
    }
}

/// Buffers that all layers share.
#[derive(Default)]
pub(super) struct Scratch {
    /// Matrices in the form for products: codes in the forward pass, `ws Wq` in the backward pass; or plain weights.
    weights: Weights,
    /// Inputs of a projection, `[tokens, widest]`.
    wide: Vec<f32>,
    /// `[tokens, hidden]`.
    narrow: Vec<f32>,
    /// Gradient of the residual stream after the layer, and once the layer is done, before it. `[tokens, hidden]`.
    pub dx: Vec<f32>,
    /// Gradient of the residual stream after attention, `[tokens, hidden]`.
    d_middle: Vec<f32>,
    d_gate_up: Vec<f32>,
    /// As [`Activations::mixed`].
    d_mixed: Vec<f32>,
    /// `[sequences, kv_heads, len, (groups + 2) dim]`.
    d_groups: Vec<f32>,
    d_qkv: Vec<f32>,
    /// The input of each projection, quantized and dequantized, `[tokens, cols]`.
    inputs: Weights,
}

/// One buffer for each projection.
#[derive(Default)]
struct Weights {
    qkv: Vec<f32>,
    o: Vec<f32>,
    gate_up: Vec<f32>,
    down: Vec<f32>,
}

impl Weights {
    fn len(&self) -> usize {
        self.qkv.len() + self.o.len() + self.gate_up.len() + self.down.len()
    }
}

struct Sizes {
    hidden: usize,
    /// Q, K and V together.
    qkv: usize,
    /// All query heads.
    mixed: usize,
    mlp: usize,
}

impl Sizes {
    fn of(c: &ModelConfig) -> Sizes {
        Sizes {
            hidden: c.hidden_dim,
            qkv: (c.num_heads + 2 * c.num_kv_heads) * c.head_dim,
            mixed: c.num_heads * c.head_dim,
            mlp: c.mlp_hidden_dim,
        }
    }

    fn widest(&self) -> usize {
        self.hidden.max(self.mixed).max(self.mlp)
    }
}

impl Scratch {
    pub fn resize_forward(&mut self, c: &ModelConfig, tokens: usize) {
        let s = Sizes::of(c);
        self.weights.qkv.resize(s.qkv * s.hidden, 0.0);
        self.weights.o.resize(s.hidden * s.mixed, 0.0);
        self.weights.gate_up.resize(2 * s.mlp * s.hidden, 0.0);
        self.weights.down.resize(s.hidden * s.mlp, 0.0);
        self.wide.resize(tokens * s.widest(), 0.0);
        self.narrow.resize(tokens * s.hidden, 0.0);
    }

    pub fn resize_backward(&mut self, c: &ModelConfig, tokens: usize) {
        let s = Sizes::of(c);
        self.d_middle.resize(tokens * s.hidden, 0.0);
        self.d_gate_up.resize(tokens * 2 * s.mlp, 0.0);
        self.d_mixed.resize(tokens * s.mixed, 0.0);
        self.d_groups.resize(tokens * s.qkv, 0.0);
        self.d_qkv.resize(tokens * s.qkv, 0.0);
        self.inputs.qkv.resize(tokens * s.hidden, 0.0);
        self.inputs.o.resize(tokens * s.mixed, 0.0);
        self.inputs.gate_up.resize(tokens * s.hidden, 0.0);
        self.inputs.down.resize(tokens * s.mlp, 0.0);
    }

    pub fn len(&self) -> usize {
        self.weights.len()
            + self.inputs.len()
            + [&self.wide, &self.narrow, &self.dx, &self.d_middle, &self.d_gate_up, &self.d_mixed]
                .map(Vec::len)
                .iter()
                .sum::<usize>()
            + self.d_groups.len()
            + self.d_qkv.len()
    }
}

impl Layer {
    pub fn new(c: &ModelConfig, n: usize, at: &dyn Fn(Role) -> usize) -> Self {
        let at = |part| at(Role::Layer(n, part));
        let s = Sizes::of(c);
        let kv = c.num_kv_heads * c.head_dim;
        let (attention, mlp) = (c.use_bitlinear_attn, c.use_bitlinear_ffn);
        let qkv = [(at(Part::Q), s.mixed), (at(Part::K), kv), (at(Part::V), kv)];
        let gate_up = [(at(Part::Gate), s.mlp), (at(Part::Up), s.mlp)];
        Layer {
            input_norm: at(Part::AttentionNorm),
            qkv: Projection::new(&qkv, s.hidden, attention),
            qk_norm: c.use_qk_norm.then(|| (at(Part::QNorm), at(Part::KNorm))),
            o: Projection::new(&[(at(Part::O), s.hidden)], s.mixed, attention),
            post_norm: at(Part::FfnNorm),
            gate_up: Projection::new(&gate_up, s.hidden, mlp),
            down: Projection::new(&[(at(Part::Down), s.hidden)], s.mlp, mlp),
        }
    }

    pub fn scales(&self, c: &ModelConfig, parameters: &Parameters) -> Scales {
        Scales {
            qkv: self.qkv.scales(c, parameters),
            o: self.o.scales(c, parameters),
            gate_up: self.gate_up.scales(c, parameters),
            down: self.down.scales(c, parameters),
        }
    }

    /// Calls `f` with the index of each ternary parameter and its scales, one per row.
    pub fn each_scale<'s>(&self, scales: &'s Scales, mut f: impl FnMut(usize, &'s [f32])) {
        let all = [
            (&self.qkv, &scales.qkv),
            (&self.o, &scales.o),
            (&self.gate_up, &scales.gate_up),
            (&self.down, &scales.down),
        ];
        for (projection, scales) in all.into_iter().filter(|(p, _)| p.ternary) {
            let mut first = 0;
            for (&at, &rows) in projection.at.iter().zip(&projection.rows) {
                f(at, &scales[first..first + rows]);
                first += rows;
            }
        }
    }

    fn expand(&self, pass: &Pass<'_>, scaled: bool, weights: &mut Weights) {
        let (parameters, scales) = (pass.parameters, pass.scales);
        self.qkv.expand(parameters, &scales.qkv, scaled, &mut weights.qkv);
        self.o.expand(parameters, &scales.o, scaled, &mut weights.o);
        self.gate_up.expand(parameters, &scales.gate_up, scaled, &mut weights.gate_up);
        self.down.expand(parameters, &scales.down, scaled, &mut weights.down);
    }

    fn attention<'a>(&self, pass: &Pass<'a>) -> Attention<'a> {
        let c = pass.config;
        let weight = |at: usize| pass.parameters.0[at].values.as_slice();
        Attention {
            len: pass.len,
            dim: c.head_dim,
            heads: c.num_heads,
            kv_heads: c.num_kv_heads,
            soft_cap: c.attn_logit_soft_cap.map(|c| c as f32),
            eps: c.norm_eps as f32,
            qk_norm: self.qk_norm.map(|(q, k)| (weight(q), weight(k))),
            cos: pass.cos,
            sin: pass.sin,
        }
    }

    /// From `activations.input` to `output`, both `[tokens, hidden]`.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        activations: &mut Activations,
        scratch: &mut Scratch,
        output: &mut [f32],
    ) {
        let s = Sizes::of(pass.config);
        let (block, eps) = (pass.block, pass.config.norm_eps as f32);
        let norm_weight = |at: usize| &pass.parameters.0[at].values;
        let (input_norm, post_norm) = (norm_weight(self.input_norm), norm_weight(self.post_norm));
        self.expand(pass, false, &mut scratch.weights);
        let weights = &scratch.weights;
        let Activations { input, qkv, mixed, middle, gate_up } = activations;

        (
            input.par_chunks(block * s.hidden),
            qkv.par_chunks_mut(block * s.qkv),
            scratch.wide.par_chunks_mut(block * s.widest()),
        )
            .into_par_iter()
            .for_each(|(x, qkv, wide)| {
                let h = &mut wide[..x.len()];
                rms_norm_rows(x, input_norm, eps, h);
                self.qkv.forward(pass, &weights.qkv, &pass.scales.qkv, h, qkv);
            });

        let attention = self.attention(pass);
        let kv_heads = attention.kv_heads;
        let part = pass.len * s.mixed / kv_heads;
        mixed.par_chunks_mut(part).enumerate().for_each(|(i, out)| {
            let qkv = &qkv[i / kv_heads * pass.len * s.qkv..][..pass.len * s.qkv];
            attention.forward(qkv, i % kv_heads, out);
        });

        let input = &*input;
        (
            middle.par_chunks_mut(block * s.hidden),
            gate_up.par_chunks_mut(block * 2 * s.mlp),
            output.par_chunks_mut(block * s.hidden),
            scratch.wide.par_chunks_mut(block * s.widest()),
            scratch.narrow.par_chunks_mut(block * s.hidden),
        )
            .into_par_iter()
            .enumerate()
            .for_each(|(i, (middle, gate_up, output, wide, narrow))| {
                let n = middle.len() / s.hidden;
                let first = i * block;
                let h = &mut wide[..n * s.mixed];
                by_token(mixed, pass.len, kv_heads, s.mixed, first, h);
                self.o.forward(pass, &weights.o, &pass.scales.o, h, narrow);
                add(&input[first * s.hidden..], narrow, middle);
                let h = &mut wide[..n * s.hidden];
                rms_norm_rows(middle, post_norm, eps, h);
                self.gate_up.forward(pass, &weights.gate_up, &pass.scales.gate_up, h, gate_up);
                let h = &mut wide[..n * s.mlp];
                swiglu(gate_up, s.mlp, h);
                self.down.forward(pass, &weights.down, &pass.scales.down, h, narrow);
                add(middle, narrow, output);
            });
    }

    /// From the gradient of the output in `scratch.dx` to that of the input, there; parameters' are added to
    /// `gradients`.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        activations: &Activations,
        scratch: &mut Scratch,
        gradients: &mut Gradients,
    ) {
        let s = Sizes::of(pass.config);
        let (block, eps) = (pass.block, pass.config.norm_eps as f32);
        let norm_weight = |at: usize| &pass.parameters.0[at].values;
        let (input_norm, post_norm) = (norm_weight(self.input_norm), norm_weight(self.post_norm));
        self.expand(pass, true, &mut scratch.weights);
        let Activations { input, qkv, mixed, middle, gate_up } = activations;
        let Scratch { weights, wide, narrow, dx, d_middle, d_gate_up, d_mixed, d_groups, d_qkv, inputs } =
            scratch;
        let weights = &*weights;
        let attention = self.attention(pass);
        let kv_heads = attention.kv_heads;

        // The MLP, and o_proj: from dx to d_middle and the gradient of attention's output by token (in `d_mixed`).
        let d_post: Vec<Vec<f32>> = (
            (dx.par_chunks(block * s.hidden), middle.par_chunks(block * s.hidden)),
            (d_middle.par_chunks_mut(block * s.hidden), narrow.par_chunks_mut(block * s.hidden)),
            (gate_up.par_chunks(block * 2 * s.mlp), d_gate_up.par_chunks_mut(block * 2 * s.mlp)),
            (wide.par_chunks_mut(block * s.widest()), d_mixed.par_chunks_mut(block * s.mixed)),
            (inputs.down.par_chunks_mut(block * s.mlp), inputs.gate_up.par_chunks_mut(block * s.hidden)),
            inputs.o.par_chunks_mut(block * s.mixed),
        )
            .into_par_iter()
            .enumerate()
            .map(|(i, blocks)| {
                let ((dx, middle), (d_middle, narrow), (gate_up, d_gate_up), (wide, d_mixed), inputs, in_o) =
                    blocks;
                let (in_down, in_gate_up) = inputs;
                let n = dx.len() / s.hidden;
                let h = &mut wide[..n * s.mlp];
                swiglu(gate_up, s.mlp, h);
                let mut dh = vec![0.0; n * s.mlp];
                self.down.backward(pass, &weights.down, h, in_down, dx, &mut dh);
                swiglu_backward(gate_up, s.mlp, &dh, d_gate_up);
                let h = &mut wide[..n * s.hidden];
                rms_norm_rows(middle, post_norm, eps, h);
                self.gate_up.backward(pass, &weights.gate_up, h, in_gate_up, d_gate_up, narrow);
                d_middle.copy_from_slice(dx);
                let mut d_norm = vec![0.0; s.hidden];
                rms_norm_rows_backward(middle, post_norm, eps, narrow, d_middle, &mut d_norm);
                let h = &mut wide[..n * s.mixed];
                by_token(mixed, pass.len, kv_heads, s.mixed, i * block, h);
                self.o.backward(pass, &weights.o, h, in_o, d_middle, d_mixed);
                d_norm
            })
            .collect();
        sum_into(&mut gradients[self.post_norm], &d_post);

        // Attention.
        let part = pass.len * s.qkv / kv_heads;
        let groups_dim = s.mixed / kv_heads;
        let norms: Vec<NormGradients> = d_groups
            .par_chunks_mut(part)
            .enumerate()
            .map(|(i, d_groups)| {
                let (sequence, kv) = (i / kv_heads, i % kv_heads);
                let tokens = sequence * pass.len..(sequence + 1) * pass.len;
                let mut d_out = vec![0.0; pass.len * groups_dim];
                let rows = d_mixed[tokens.start * s.mixed..tokens.end * s.mixed].chunks(s.mixed);
                for (row, out) in rows.zip(d_out.chunks_mut(groups_dim)) {
                    out.copy_from_slice(&row[kv * groups_dim..][..groups_dim]);
                }
                let qkv = &qkv[tokens.start * s.qkv..tokens.end * s.qkv];
                attention.backward(qkv, kv, &d_out, d_groups)
            })
            .collect();
        if let Some((q, k)) = self.qk_norm {
            let (dq, dk): (Vec<_>, Vec<_>) = norms.into_iter().unzip();
            sum_into(&mut gradients[q], &dq);
            sum_into(&mut gradients[k], &dk);
        }

        // q, k, v_proj: from d_groups to d_qkv by token and the gradient of their input.
        let d_groups = &*d_groups;
        let d_input: Vec<Vec<f32>> = (
            d_qkv.par_chunks_mut(block * s.qkv),
            input.par_chunks(block * s.hidden),
            wide.par_chunks_mut(block * s.widest()),
            narrow.par_chunks_mut(block * s.hidden),
            inputs.qkv.par_chunks_mut(block * s.hidden),
        )
            .into_par_iter()
            .enumerate()
            .map(|(i, (d_qkv, input, wide, narrow, in_qkv))| {
                qkv_by_token(d_groups, &attention, i * block, d_qkv);
                let h = &mut wide[..input.len()];
                rms_norm_rows(input, input_norm, eps, h);
                self.qkv.backward(pass, &weights.qkv, h, in_qkv, d_qkv, narrow);
                let mut d_norm = vec![0.0; s.hidden];
                // `narrow` becomes the norm's part of the residual stream's gradient.
                let dy = narrow.to_vec();
                narrow.fill(0.0);
                rms_norm_rows_backward(input, input_norm, eps, &dy, narrow, &mut d_norm);
                d_norm
            })
            .collect();
        sum_into(&mut gradients[self.input_norm], &d_input);

        self.weight_gradients(dx, d_middle, d_gate_up, d_qkv, inputs, gradients);
        add(d_middle, narrow, dx);
    }

    /// `dW += dy' . x` for all matrices of the layer.
    fn weight_gradients(
        &self,
        d_output: &[f32],
        d_middle: &[f32],
        d_gate_up: &[f32],
        d_qkv: &[f32],
        inputs: &Weights,
        gradients: &mut Gradients,
    ) {
        struct Part<'a> {
            dw: &'a mut [f32],
            dy: Matrix<'a>,
            x: Matrix<'a>,
            shape: (usize, usize),
        }
        let at = [self.qkv.at[0], self.qkv.at[1], self.qkv.at[2], self.o.at[0]];
        let [q, k, v, o] = at;
        let [gate, up, down] = [self.gate_up.at[0], self.gate_up.at[1], self.down.at[0]];
        let [q, k, v, o, gate, up, down] = disjoint(gradients, [q, k, v, o, gate, up, down]);
        let all = [
            (&self.qkv, vec![q, k, v], d_qkv, &inputs.qkv),
            (&self.o, vec![o], d_middle, &inputs.o),
            (&self.gate_up, vec![gate, up], d_gate_up, &inputs.gate_up),
            (&self.down, vec![down], d_output, &inputs.down),
        ];
        let mut parts = Vec::new();
        for (projection, gradients, dy, x) in all {
            let (width, cols) = (projection.rows.iter().sum::<usize>(), projection.cols);
            let tokens = dy.len() / width;
            let mut first = 0;
            for (dw, &rows) in gradients.into_iter().zip(&projection.rows) {
                for (dw, range) in dw.chunks_mut(ROWS * cols).zip(ranges(rows, ROWS)) {
                    let dy = Matrix::strided(&dy[first + range.start..], tokens, range.len(), width);
                    parts.push(Part { dw, dy, x: Matrix::new(x, tokens, cols), shape: (range.len(), cols) });
                }
                first += rows;
            }
        }
        parts.into_par_iter().for_each(|Part { dw, dy, x, shape: (rows, cols) }| {
            matmul(MatrixMut::new(dw, rows, cols), dy.t(), x, 1.0, true);
        });
    }
}

/// Rows of attention's output (`[sequences, kv_heads, len, groups dim]`) of the tokens from `first`, to `out`
/// (`[tokens, width]`).
fn by_token(mixed: &[f32], len: usize, kv_heads: usize, width: usize, first: usize, out: &mut [f32]) {
    let part = width / kv_heads;
    for (token, row) in (first..).zip(out.chunks_mut(width)) {
        let (sequence, t) = (token / len, token % len);
        for (kv, out) in row.chunks_mut(part).enumerate() {
            out.copy_from_slice(&mixed[((sequence * kv_heads + kv) * len + t) * part..][..part]);
        }
    }
}

/// Gradients of Q, K and V by key head (`[sequences, kv_heads, len, (groups + 2) dim]`) of the tokens from `first`, to
/// `out` (`[tokens, (heads + 2 kv_heads) dim]`).
fn qkv_by_token(d_groups: &[f32], a: &Attention<'_>, first: usize, out: &mut [f32]) {
    let (dim, groups) = (a.dim, a.heads / a.kv_heads);
    let part = (groups + 2) * dim;
    let width = (a.heads + 2 * a.kv_heads) * dim;
    for (token, row) in (first..).zip(out.chunks_mut(width)) {
        let (sequence, t) = (token / a.len, token % a.len);
        for kv in 0..a.kv_heads {
            let from = &d_groups[((sequence * a.kv_heads + kv) * a.len + t) * part..][..part];
            row[kv * groups * dim..][..groups * dim].copy_from_slice(&from[..groups * dim]);
            row[(a.heads + kv) * dim..][..dim].copy_from_slice(&from[groups * dim..][..dim]);
            row[(a.heads + a.kv_heads + kv) * dim..][..dim].copy_from_slice(&from[(groups + 1) * dim..]);
        }
    }
}

fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    math::simd(|| out.iter_mut().zip(a).zip(b).for_each(|((o, &a), &b)| *o = a + b));
}

/// Adds every one of `parts` to `total`, in their order.
fn sum_into(total: &mut [f32], parts: &[Vec<f32>]) {
    for part in parts {
        total.iter_mut().zip(part).for_each(|(t, &p)| *t += p);
    }
}
