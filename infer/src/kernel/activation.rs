//! One token's input to a linear layer, in the forms that matrices ask for.

use ckpt_inspect::measure::Floor;

use super::coded::{Digits, GROUP, Group, SPAN_COLS};
use super::float::{abs_max, vectors, vectors_mut};
use super::memory::Aligned;
use super::simd::{Four, LANES, Simd};

/// How finely activations are rounded for matrices of codes, in digits of a step for each [`GROUP`] columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rounding {
    /// To 8 bits: within ±127.
    Coarse,
    /// To 16 bits: within ±32639, so that either byte of two signed ones fits.
    Fine,
}

impl Rounding {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Rounding::Coarse => "coarse",
            Rounding::Fine => "fine",
        }
    }

    /// The largest digit.
    fn most(self) -> f32 {
        match self {
            Rounding::Coarse => 127.0,
            Rounding::Fine => 32639.0,
        }
    }
}

/// The forms of one token's activations that matrices ask for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forms {
    /// Int8, for ternary matrices.
    pub int8: bool,
    /// 16 bits in two bytes, for int8 matrices.
    pub int16: bool,
    /// Digits, for matrices of codes.
    pub digits: Option<Rounding>,
}

impl Forms {
    /// The forms that either asks for; of two roundings the finer one.
    pub fn and(self, other: Self) -> Self {
        Forms {
            int8: self.int8 || other.int8,
            int16: self.int16 || other.int16,
            digits: self.digits.max(other.digits),
        }
    }
}

/// One token's input to a linear layer, in f32 and in all forms that the layer's matrices need.
#[derive(Debug, Default)]
pub struct Activation {
    /// The values, padded with zeros to whole vectors.
    pub x: Aligned<f32>,
    pub(super) int8: Aligned<i8>,
    /// max|x|, kept from zero.
    pub(super) int8_scale: f32,
    pub(super) int8_sum: i32,
    /// x / int16_scale = 256 * (high - 128) + low, within ±32767.
    pub(super) high: Aligned<u8>,
    pub(super) low: Aligned<u8>,
    pub(super) int16_scale: f32,
    /// As in [`Digits`].
    fours: Aligned<Four>,
    groups: Vec<Group>,
    rounding: Option<Rounding>,
}

impl Activation {
    /// Makes room for `width` values, padded with zeros.
    pub fn resize(&mut self, width: usize) {
        let padded = width.next_multiple_of(LANES);
        self.x.resize(padded);
        self.x[width..].fill(0.0);
    }

    /// Makes the requested forms from `x`. int8: round(clamp(x / max|x| * 127, -128, 127)), half to even.
    #[inline(always)]
    pub fn quantize<S: Simd>(&mut self, s: S, forms: Forms, floor: Floor) {
        if forms.int8 || forms.int16 {
            let largest = abs_max(s, &self.x);
            if forms.int8 {
                self.int8(s, floor.of(largest));
            }
            if forms.int16 {
                self.int16(s, largest);
            }
        }
        if let Some(rounding) = forms.digits {
            self.digits(s, rounding);
        }
    }

    #[inline(always)]
    fn int8<S: Simd>(&mut self, s: S, scale: f32) {
        self.int8.resize(self.x.len());
        self.int8_scale = scale;
        let (scale, most, least) = (s.splat(scale), s.splat(127.0), s.splat(-128.0));
        self.int8_sum = 0;
        for (x, q) in vectors(&self.x).iter().zip(vectors_mut(&mut self.int8)) {
            let x = s.mul(s.div(s.load(x), scale), most);
            s.store_i8(s.min(s.max(x, least), most), q);
            self.int8_sum += q.iter().map(|&q| i32::from(q)).sum::<i32>();
        }
    }

    #[inline(always)]
    fn int16<S: Simd>(&mut self, s: S, largest: f32) {
        self.high.resize(self.x.len());
        self.low.resize(self.x.len());
        self.int16_scale = largest / 32767.0;
        let inverse = if largest > 0.0 { 32767.0 / largest } else { 0.0 };
        let inverse = s.splat(inverse);
        let ends = vectors_mut(&mut self.high).iter_mut().zip(vectors_mut(&mut self.low));
        for (x, (high, low)) in vectors(&self.x).iter().zip(ends) {
            let mut rounded = [0.0; LANES];
            s.store(s.round(s.mul(s.load(x), inverse)), &mut rounded);
            for i in 0..LANES {
                let q = rounded[i] as i32;
                high[i] = ((q >> 8) + 128) as u8;
                low[i] = q as u8;
            }
        }
    }

    #[inline(always)]
    fn digits<S: Simd>(&mut self, s: S, rounding: Rounding) {
        /// The quotient of the largest digit and anything above it is finite.
        const LEAST: f32 = 1e-30;
        let padded = self.x.len().next_multiple_of(SPAN_COLS);
        self.fours.resize(padded / 4);
        self.groups.resize(padded / GROUP, Group::default());
        self.rounding = Some(rounding);
        let most = rounding.most();
        let fours = self.fours.as_chunks_mut::<{ GROUP / 4 }>().0;
        let mut values = self.x.chunks(GROUP);
        for (group, fours) in self.groups.iter_mut().zip(fours) {
            (*group, *fours) = (Group::default(), [Four::default(); GROUP / 4]);
            let Some(x) = values.next() else { continue };
            let largest = abs_max(s, x);
            group.step = largest / most;
            let inverse = s.splat(if largest > LEAST { most / largest } else { 0.0 });
            for (half, x) in vectors(x).iter().enumerate() {
                let mut rounded = [0.0; LANES];
                s.store(s.round(s.mul(s.load(x), inverse)), &mut rounded);
                let digits = rounded.map(|x| x as i16);
                group.halves[half] = digits.iter().map(|&q| i32::from(q)).sum();
                for (four, digits) in fours[4 * half..].iter_mut().zip(digits.as_chunks::<4>().0) {
                    *four = s.four(*digits);
                }
            }
            group.sum = group.halves[0] + group.halves[1];
        }
    }

    /// Its digits.
    #[inline(always)]
    pub(super) fn as_digits(&self) -> Digits<'_> {
        Digits { fours: &self.fours, groups: &self.groups }
    }

    /// Whether its digits are of 8 bits.
    #[inline(always)]
    pub(super) fn is_coarse(&self) -> bool {
        self.rounding == Some(Rounding::Coarse)
    }
}
