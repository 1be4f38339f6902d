//! Making a matrix ternary. The packings of its codes are in [`ckpt_inspect::packing`].

use ckpt_inspect::measure::{Floor, absmean_scale, zero_line};
use ckpt_inspect::packing::ReadCodes;
use ckpt_inspect::{Error as ReadError, TernaryPacking};
use rayon::prelude::*;

use crate::encode::Decoded;
use crate::simd::with_avx2;

/// Elements looked at in one piece.
const PIECE: usize = 1 << 16;

/// How the values of a matrix become codes -1, 0, +1, and the value of a code.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Grid {
    /// The factor of codes; `None` if only signs are known.
    pub scale: Option<f32>,
    /// Whether every value is a code times the scale already, so that nothing is lost.
    pub exact: bool,
}

impl Grid {
    /// The grid of a matrix: its own where all nonzero magnitudes are the same, else the absmean rule's, which
    /// BitLinear applies in every forward pass: scale = mean|W|, kept from zero, code = clamp(round(W / scale), -1, 1). The
    /// scale is [`absmean_scale`], as wherever ckpt makes weights ternary.
    ///
    /// # Errors
    /// `Damaged` when a value is NaN or infinite.
    pub(crate) fn measure(values: &Decoded<'_>, floor: Floor) -> Result<Grid, ReadError> {
        let pieces: Vec<Seen> = (0..values.len().div_ceil(PIECE))
            .into_par_iter()
            .map(|i| {
                let n = PIECE.min(values.len() - i * PIECE);
                Seen::of(values.get(i * PIECE, n, &mut Vec::new()))
            })
            .collect();
        let seen = pieces.into_iter().fold(Seen::default(), Seen::join);
        if !seen.sum.is_finite() {
            return Err(ReadError::damaged("holds NaN or infinity, which have no ternary code"));
        }
        Ok(match seen.magnitude {
            Magnitude::One(scale) => Grid { scale: Some(scale), exact: true },
            Magnitude::Zero => Grid { scale: Some(floor.of(0.0)), exact: true },
            Magnitude::Many => {
                let mean = seen.sum / values.len() as f64;
                Grid { scale: Some(absmean_scale(mean, floor)), exact: false }
            }
        })
    }

    /// The largest magnitude whose code is 0.
    pub fn line(&self) -> f32 {
        match self.scale {
            Some(scale) if !self.exact => zero_line(scale),
            _ => 0.0,
        }
    }

    /// The code of `value`. A value exactly halfway rounds to the even code, which is 0.
    pub fn code(&self, value: f32) -> i8 {
        let live = match self.scale {
            Some(scale) if !self.exact => (value / scale).abs() > 0.5,
            _ => value != 0.0,
        };
        match live {
            true if value > 0.0 => 1,
            true => -1,
            false => 0,
        }
    }
}

/// Whether the nonzero values seen so far have one magnitude.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Magnitude {
    #[default]
    Zero,
    One(f32),
    Many,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The sum of magnitudes.
    sum: f64,
    magnitude: Magnitude,
}

impl Seen {
    fn of(values: &[f32]) -> Seen {
        let sum = sum_of_magnitudes(values);
        let magnitude = match values.iter().find(|x| **x != 0.0) {
            None => Magnitude::Zero,
            // For most matrices the first few values show that there are several.
            Some(first) if values.chunks(1024).all(|v| have_one_magnitude(v, first.abs())) => {
                Magnitude::One(first.abs())
            }
            Some(_) => Magnitude::Many,
        };
        Seen { sum, magnitude }
    }

    fn join(self, other: Seen) -> Seen {
        let magnitude = match (self.magnitude, other.magnitude) {
            (Magnitude::Zero, other) => other,
            (own, Magnitude::Zero) => own,
            (Magnitude::One(a), Magnitude::One(b)) if a == b => self.magnitude,
            _ => Magnitude::Many,
        };
        Seen { sum: self.sum + other.sum, magnitude }
    }
}

with_avx2!(have_one_magnitude(values: &[f32], magnitude: f32) -> bool = portable_magnitude);

/// Whether all are zero or of this magnitude.
#[inline(always)]
fn portable_magnitude(values: &[f32], magnitude: f32) -> bool {
    let mut other = 0u32;
    for x in values {
        other |= u32::from((*x != 0.0) & (x.abs() != magnitude));
    }
    other == 0
}

with_avx2!(sum_of_magnitudes(values: &[f32]) -> f64 = portable_sum);

#[inline(always)]
fn portable_sum(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<32>();
    let mut lanes = [0.0; 32];
    for chunk in chunks {
        for i in 0..32 {
            lanes[i] += f64::from(chunk[i].abs());
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|x| f64::from(x.abs())).sum::<f64>()
}

with_avx2!(pub(crate) codes_beyond(line: f32, values: &[f32], codes: &mut [i8]) = portable_codes);

/// The codes of values of which those up to `line` in magnitude are 0; see [`Grid::line`].
#[inline(always)]
fn portable_codes(line: f32, values: &[f32], codes: &mut [i8]) {
    codes.iter_mut().zip(values).for_each(|(code, x)| *code = i8::from(*x > line) - i8::from(*x < -line));
}

with_avx2!(pub(crate) pack(packing: TernaryPacking, shape: &[usize], start: usize, out: &mut [u8], codes: &mut ReadCodes<'_>) = portable_pack);

/// Packed bytes `start..start + out.len()` of a matrix whose codes `codes` reads.
#[inline(always)]
fn portable_pack(
    packing: TernaryPacking,
    shape: &[usize],
    start: usize,
    out: &mut [u8],
    codes: &mut ReadCodes<'_>,
) {
    packing.encode(shape, start, out, codes);
}
