//! The blocks of GGML's quantized types, one file per type: laid out as in `ggml-common.h`, with the decoder and the
//! encoder, for the types that are made here; the blocks of others are copied from files that have them. Every block consists of bytes alone, so any byte slice can be
//! viewed as a slice of blocks; words are little-endian.
//!
//! Decoders and encoders follow `ggml-quants.c` operation by operation in f32, so results are the same bits.

use bytemuck::Pod;
use half::f16;

/// Declares the struct of a block: it has exactly the bytes of the file, without padding.
macro_rules! block {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

mod codebook;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod nvfp4;
mod q1_0;
mod q2_0;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod q8_1;
mod q8_k;
pub mod round;
mod search;
mod split;
mod tq1_0;
mod tq2_0;

pub use iq1_m::Iq1M;
pub use iq1_s::Iq1S;
pub use iq2_s::Iq2S;
pub use iq2_xs::Iq2Xs;
pub use iq2_xxs::Iq2Xxs;
pub use iq3_s::Iq3S;
pub use iq3_xxs::Iq3Xxs;
pub use iq4_nl::Iq4Nl;
pub use iq4_xs::Iq4Xs;
pub use mxfp4::Mxfp4;
pub use nvfp4::Nvfp4;
pub use q1_0::Q1_0;
pub use q2_0::Q2_0;
pub use q2_k::Q2K;
pub use q3_k::Q3K;
pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q4_k::{Q4K, scale_min};
pub use q5_0::Q5_0;
pub use q5_1::Q5_1;
pub use q5_k::Q5K;
pub use q6_k::Q6K;
pub use q8_0::Q8_0;
pub use q8_1::Q8_1;
pub use q8_k::Q8K;
pub(super) use split::split;
pub use split::{MOST_GROUPS, Parts, Split, Terms};
pub use tq1_0::Tq1_0;
pub use tq2_0::Tq2_0;

/// Elements of the largest block.
pub const LARGEST: usize = 256;

/// How far a block's elements may be from the values that it encodes.
///
/// For the formats with one scale per block it follows from how they round: half a step of the grid, a whole one where
/// a symmetric grid ends a step short on one side. For the K formats, whose scales are searched for and rounded to 4 or
/// 6 bits themselves, no such bound is known: theirs is the largest error seen in blocks of these encoders, from noise,
/// outliers, ramps, and one-sided blocks, plus a margin of a fifth. So it is for the IQ formats, with llama.cpp's encoders
/// and equal importances; where only seven signs of eight are stored, a value may get the wrong one. A block that exceeds
/// its bound is damaged, or was not made by a sensible encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Loss {
    /// The largest error, as a share of the block's largest magnitude.
    pub share: f64,
    /// The largest number of levels, which multiplies an error in its f16 scale.
    pub levels: f64,
}

/// A block of `N` elements.
pub trait Block<const N: usize>: Pod {
    /// How far its elements may be from the values it encodes; `None` for ternary blocks, whose codes are compared
    /// instead.
    const LOSS: Option<Loss>;

    /// Where in its bytes its f16 scales are, those that what it has of them multiplies or adds to; empty where they are kept
    /// otherwise, or encoders leave what was before beside a scale of zero.
    const SCALES: &[usize] = &[];

    /// Whether encoders write negative scales in the first of these places.
    const IS_SIGNED: bool = true;

    /// Writes its elements to `out`.
    fn decode(&self, out: &mut [f32; N]);

    /// Whether one of its scales is NaN by the standard of its type, which GGML's decoder takes for a number.
    fn has_nan_scale(&self) -> bool {
        false
    }
}

/// A block whose elements are -1, 0 or +1 times its scale.
pub trait TernaryBlock: Block<256> {
    /// The codes of its elements; the invalid code 3 gives 2.
    fn codes(&self, out: &mut [i8; 256]);
}

/// A block that values can be encoded to.
pub trait Encode<const N: usize>: Pod {
    /// The block for `values` by GGML's rule.
    fn encode(values: &[f32; N]) -> Self;
}

/// A block of ternary codes.
pub trait Pack<const N: usize>: Pod {
    /// The block of these codes, each value + 1, times `scale`.
    fn pack(codes: &[u8; N], scale: f32) -> Self;
}

/// How values become codes in the ternary types.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Codes {
    /// Each block on its own, as llama.cpp does: its largest magnitude is the scale, and half of it rounds away from
    /// zero.
    ByBlock,
    /// One scale for the whole matrix: the code is the sign of values larger in magnitude than `line`, else 0.
    Whole {
        /// The largest magnitude whose code is 0.
        line: f32,
        /// The factor of codes. A block without a nonzero code has the scale 0, as in llama.cpp.
        scale: f32,
    },
}

/// Encodes `values` to the blocks of `out`, which has room for all of them. For callers to compile for the processor's
/// vectors.
#[inline(always)]
pub fn encode<const N: usize, B: Encode<N>>(values: &[f32], out: &mut [u8]) {
    let out: &mut [B] = bytemuck::cast_slice_mut(out);
    for (values, out) in values.as_chunks::<N>().0.iter().zip(out) {
        *out = B::encode(values);
    }
}

/// [`encode`] for ternary blocks, whose codes follow from `rule`.
#[inline(always)]
pub fn encode_ternary<const N: usize, B: Pack<N>>(rule: Codes, values: &[f32], out: &mut [u8]) {
    let out: &mut [B] = bytemuck::cast_slice_mut(out);
    for (values, out) in values.as_chunks::<N>().0.iter().zip(out) {
        let (scale, factor, at) = match rule {
            Codes::ByBlock => {
                let largest = round::largest(values);
                (largest, round::inverse(largest), 0.5)
            }
            Codes::Whole { line, scale } => (scale, 1.0, line.next_up()),
        };
        let mut codes = [1u8; N];
        let mut live = 0;
        for (code, value) in codes.iter_mut().zip(values) {
            let value = value * factor;
            *code = 1 + u8::from(value >= at) - u8::from(value <= -at);
            live |= *code ^ 1;
        }
        *out = B::pack(&codes, if live == 0 { 0.0 } else { scale });
    }
}

#[inline(always)]
fn from_half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

#[inline(always)]
fn to_half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// The elements of a ternary block of scale `d`.
fn scaled(block: &impl TernaryBlock, d: f32, out: &mut [f32; 256]) {
    let mut codes = [0; 256];
    block.codes(&mut codes);
    out.iter_mut().zip(codes).for_each(|(out, code)| *out = d * f32::from(code));
}
