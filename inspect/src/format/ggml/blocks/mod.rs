//! The blocks of GGML's quantized types, a file each: as `ggml-common.h` lays them out, with the decoder and, but for
//! Q8_K, which no file has, the encoder. Every block is made of bytes alone, so a slice of them is a view of any byte
//! slice; words are little-endian.
//!
//! Decoders and encoders follow `ggml-quants.c` operation by operation in f32, so results are the same bits.

use bytemuck::Pod;
use half::f16;

/// Declares the struct of a block: it has the bytes that a file has, and never more.
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
mod q8_k;
pub mod round;
mod search;
mod tq1_0;
mod tq2_0;

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
pub use q8_k::Q8K;
pub use tq1_0::Tq1_0;
pub use tq2_0::Tq2_0;

/// Elements of the largest block.
pub const LARGEST: usize = 256;

/// How far a block's elements may be from the values that it was made of.
///
/// For the formats with one scale a block it follows from how they round: half a step of the grid, a whole one where a
/// symmetric grid ends a step short on one side. For the K formats, whose scales are searched for and rounded to 4 or 6
/// bits themselves, no such bound is known: theirs is what no block of these encoders has been seen to exceed, from
/// noise, outliers, ramps, and one-sided blocks, with a fifth to spare. A block that exceeds it is damaged or was made by
/// no sensible encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Loss {
    /// A share of the block's largest magnitude.
    pub share: f64,
    /// How many levels an error in its f16 scale is multiplied by at most.
    pub levels: f64,
}

/// A block of `N` elements.
pub trait Block<const N: usize>: Pod {
    /// How far it may be from the values it was made of; `None` for ternary blocks, whose codes are compared instead.
    const LOSS: Option<Loss>;

    /// The elements it stands for.
    fn decode(&self, out: &mut [f32; N]);
}

/// A block whose elements are -1, 0 or +1 times its scale.
pub trait TernaryBlock: Block<256> {
    /// The codes of its elements; bits that are no code give 2.
    fn codes(&self, out: &mut [i8; 256]);
}

/// A block that is made from values.
pub trait Encode<const N: usize>: Pod {
    /// The block that is nearest by GGML's rule.
    fn encode(values: &[f32; N]) -> Self;
}

/// A block of ternary codes.
pub trait Pack<const N: usize>: Pod {
    /// The block of these codes, each value + 1, times `scale`.
    fn pack(codes: &[u8; N], scale: f32) -> Self;
}

/// What makes a value's code in the ternary types.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Codes {
    /// Each block by itself, as llama.cpp does: its largest magnitude is the scale, and half of it rounds away from
    /// zero.
    ByBlock,
    /// By one scale for the whole matrix: the code is the sign of what is larger in magnitude than `line`, else 0.
    Whole {
        /// The largest magnitude whose code is 0.
        line: f32,
        /// What codes are multiplied by. A block without a nonzero code has the scale 0, as llama.cpp gives it.
        scale: f32,
    },
}

/// Fills `out`, room for as many blocks as `values` fill, with them. For callers to compile for the processor's vectors.
#[inline(always)]
pub fn encode<const N: usize, B: Encode<N>>(values: &[f32], out: &mut [u8]) {
    let out: &mut [B] = bytemuck::cast_slice_mut(out);
    for (values, out) in values.as_chunks::<N>().0.iter().zip(out) {
        *out = B::encode(values);
    }
}

/// [`encode`] for ternary blocks, whose codes are told by `rule`.
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
