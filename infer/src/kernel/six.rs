//! Six-bit matrices, for embeddings and heads: a scale for each row and 32 columns, rounded here.

use std::sync::{Mutex, PoisonError};

use half::f16;

use super::Kernel;
use super::coded::{Coded, GROUP, Kind, SPAN_COLS};
use super::float::{abs_max, vectors};
use super::memory::Block;
use super::pool::Pool;
use super::simd::{LANES, Simd, Work};

/// The largest value.
const MOST: f32 = 31.0;

/// Rounds each row's groups to six bits with scale max|w| / 31, relative to that of the whole matrix, so that scales fit
/// f16 for weights of any size. `row(i, out)` gives row i.
pub fn quantize(
    kernel: Kernel,
    pool: &Pool,
    (rows, cols): (usize, usize),
    row: impl Fn(usize, &mut [f32]) + Sync,
) -> Coded {
    let padded = || vec![0.0; cols.next_multiple_of(SPAN_COLS)];
    let largest = Mutex::new(0.0f32);
    pool.run(rows.div_ceil(LANES), &|tile| {
        let (mut values, mut of_tile) = (padded(), 0.0f32);
        for i in tile * LANES..rows.min((tile + 1) * LANES) {
            row(i, &mut values[..cols]);
            let of_row = kernel.run(AbsMax(&values));
            of_tile = if of_row > of_tile || of_row.is_nan() { of_row } else { of_tile };
        }
        let mut largest = largest.lock().unwrap_or_else(PoisonError::into_inner);
        *largest = if of_tile > *largest || of_tile.is_nan() { of_tile } else { *largest };
    });
    let scale = largest.into_inner().unwrap_or_else(PoisonError::into_inner) / MOST;
    let packed = Coded::packed(pool, Kind::Six, (rows, cols), |i, lane, spans| {
        let mut values = padded();
        row(i, &mut values[..cols]);
        kernel.run(Pack { values: &values, scale, lane, spans });
    });
    let rounding = packed.rounding;
    packed.with(scale, rounding)
}

struct AbsMax<'a>(&'a [f32]);

impl Work for AbsMax<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        abs_max(s, self.0)
    }
}

/// Packs one row into its lane of a tile.
struct Pack<'a> {
    values: &'a [f32],
    scale: f32,
    lane: usize,
    spans: &'a mut [Block],
}

impl Work for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pack { values, scale, lane, spans } = self;
        let form = Kind::Six.form();
        for (values, span) in values.chunks_exact(SPAN_COLS).zip(spans.chunks_exact_mut(form.span())) {
            for (group, values) in values.chunks_exact(GROUP).enumerate() {
                let largest = abs_max(s, values);
                let relative = f16::from_f32(if scale > 0.0 { largest / MOST / scale } else { 0.0 });
                form.put_d(span, lane, group, relative.to_le_bytes());
                let step = relative.to_f32() * scale;
                let inverse = s.splat(if step > 0.0 { 1.0 / step } else { 0.0 });
                let mut codes = [0; GROUP];
                for (values, codes) in vectors(values).iter().zip(codes.as_chunks_mut::<LANES>().0) {
                    let mut rounded = [0; LANES];
                    let within = s.max(s.min(s.mul(s.load(values), inverse), s.splat(MOST)), s.splat(-32.0));
                    s.store_i8(within, &mut rounded);
                    *codes = rounded.map(|code| (code + 32) as u8);
                }
                form.put_codes(span, lane, group, &codes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scales are relative to the largest weight, so small matrices lose nothing to f16.
    #[test]
    fn size_does_not_matter() {
        let pool = Pool::new(2);
        for size in [1e-9f32, 1.0, 1e9] {
            let row = |i: usize, out: &mut [f32]| {
                out.iter_mut().enumerate().for_each(|(c, w)| *w = size * ((i * 70 + c) as f32 / 700.0 - 0.5));
            };
            let matrix = quantize(Kernel::best(), &pool, (10, 70), row);
            let (mut want, mut got) = ([0.0; 70], [0.0; 70]);
            for i in 0..10 {
                row(i, &mut want);
                matrix.row(i, &mut got);
                for (want, got) in want.iter().zip(&got) {
                    assert!((want - got).abs() <= size * 0.51 / 62.0, "{size}: {got} for {want}");
                }
            }
        }
    }
}
