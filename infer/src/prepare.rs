//! Inputs of projections: normalized, gated and brought into the forms that matrices ask for.

use ckpt_inspect::meaning::Activation as Function;
use ckpt_inspect::measure::Floor;

use crate::kernel::activation::{Activation, Forms};
use crate::kernel::float::{
    Gelu, GeluTanh, Relu2, Silu, gated, rms_norm, rms_norm_unpadded, rms_scale, vectors, vectors_mut,
};
use crate::kernel::pool::{Pool, cuts};
use crate::kernel::simd::{Simd, Work};
use crate::layer::Gain;
use crate::model::Model;

/// Tokens whose norms one task computes.
const NORM_TOKENS: usize = 16;

/// What an activation is made from.
pub(crate) enum From<'a> {
    Norm { x: &'a [f32], weight: &'a [f32], eps: f32 },
    Gated { gate: &'a [f32], up: &'a [f32], function: &'a Function },
    Copy(&'a [f32]),
}

/// Fills one activation, normalizes it by further gains and quantizes it.
pub(crate) struct Prepare<'a> {
    pub from: From<'a>,
    pub gains: [Option<&'a Gain>; 2],
    pub width: usize,
    pub forms: Forms,
    pub floor: Floor,
    pub to: &'a mut Activation,
}

impl Work for Prepare<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.to.resize(self.width);
        match self.from {
            From::Norm { x, weight, eps } => rms_norm(s, x, weight, self.width, eps, &mut self.to.x),
            From::Gated { gate, up, function } => {
                let out = &mut self.to.x[..self.width];
                match function {
                    Function::Relu2 => gated::<S, Relu2>(s, gate, up, out),
                    Function::Gelu => gated::<S, Gelu>(s, gate, up, out),
                    Function::GeluTanh => gated::<S, GeluTanh>(s, gate, up, out),
                    _ => gated::<S, Silu>(s, gate, up, out),
                }
            }
            From::Copy(x) => self.to.x[..self.width].copy_from_slice(x),
        }
        for gain in self.gains.into_iter().flatten() {
            normalize_in_place(s, &mut self.to.x, &gain.weight, self.width, gain.eps);
        }
        self.to.quantize(s, self.forms, self.floor);
    }
}

/// x = x / sqrt(mean(x^2) + eps) * w over a row that need not be padded.
pub(crate) struct NormalizeRow<'a> {
    pub x: &'a mut [f32],
    pub weight: &'a [f32],
    pub eps: f32,
}

impl Work for NormalizeRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        rms_norm_unpadded(s, self.x, self.weight, self.eps);
    }
}

/// x += scale * norm(added) over padded rows, of which `width` elements count.
pub(crate) struct Join<'a> {
    pub x: &'a mut [f32],
    pub added: &'a [f32],
    pub norm: Option<&'a Gain>,
    pub width: usize,
    pub scale: Option<f32>,
}

impl Work for Join<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = self.scale.unwrap_or(1.0);
        let rows = vectors_mut(self.x).iter_mut().zip(vectors(self.added));
        let Some(gain) = self.norm else {
            let scale = s.splat(scale);
            rows.for_each(|(x, added)| s.store(s.add(s.load(x), s.mul(s.load(added), scale)), x));
            return;
        };
        let scale = s.splat(scale * rms_scale(s, self.added, self.width, gain.eps));
        for ((x, added), w) in rows.zip(vectors(&gain.weight)) {
            s.store(s.fma(s.mul(s.load(added), scale), s.load(w), s.load(x)), x);
        }
    }
}

/// Prepares the inputs of all tokens of a step.
pub(crate) fn prepare<'a>(
    model: &Model,
    pool: &Pool,
    activations: &mut [Activation],
    width: usize,
    forms: Forms,
    gains: [Option<&Gain>; 2],
    from: impl Fn(usize) -> From<'a> + Sync,
) {
    let rows = cuts(0..activations.len(), NORM_TOKENS);
    let floor = model.config.quantization_floor;
    pool.blocks(activations, 1, &rows, &[0, 1], |first, _, mut block| {
        for i in 0..block.rows() {
            let to = &mut block.row(i)[0];
            model.kernel.run(Prepare { from: from(first + i), gains, width, forms, floor, to });
        }
    });
}

/// x = x / sqrt(mean(x^2) + eps) * w over `width` elements of a padded row.
#[inline(always)]
pub(crate) fn normalize_in_place<S: Simd>(s: S, x: &mut [f32], weight: &[f32], width: usize, eps: f32) {
    let scale = s.splat(rms_scale(s, x, width, eps));
    for (x, w) in vectors_mut(x).iter_mut().zip(vectors(weight)) {
        s.store(s.mul(s.mul(s.load(x), scale), s.load(w)), x);
    }
}
