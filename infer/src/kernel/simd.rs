//! The operations that each instruction set implements: on sixteen f32 at a time, on blocks of codes, and the integer dot
//! products.
//! Everything else is written once in terms of these.

use half::{bf16, f16};

/// Values per vector, and rows per tile of a packed matrix.
pub const LANES: usize = 16;

/// Four digits of activations, in the order of the instruction set that they are made for.
#[derive(Clone, Copy, Debug, Default, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(8))]
pub struct Four(pub [u8; 8]);

/// Work that runs with a processor's vector instructions enabled.
///
/// `run` and everything it calls must be `#[inline(always)]`, so that it is compiled with them.
pub trait Work {
    /// Its result.
    type Output;
    /// Does the work.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A token for an instruction set: having one means that this processor has the instructions.
pub trait Simd: Copy + Send + Sync {
    /// Sixteen f32.
    type F: Copy;
    /// 64 codes: four of each of sixteen rows.
    type Codes: Copy;
    /// Sixteen sums of whole numbers.
    type Sums: Copy;
    /// Vector registers for sixteen f32 are enough for a block of 4 x 4 sums.
    const WIDE: bool;

    /// Runs `work` with the instructions enabled.
    fn run<W: Work>(self, work: W) -> W::Output;

    /// Every lane `x`.
    fn splat(self, x: f32) -> Self::F;
    /// The lanes in memory order.
    fn load(self, x: &[f32; LANES]) -> Self::F;
    /// Sixteen f16, made f32.
    fn load_f16(self, x: &[f16; LANES]) -> Self::F;
    /// Sixteen bf16, made f32.
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F;
    /// The lanes in memory order.
    fn store(self, x: Self::F, out: &mut [f32; LANES]);
    /// a + b.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a - b.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger of each pair; `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each pair; `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c, rounded once where the processor has a fused instruction.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The nearest integer, ties to even, of values below 2^22 in magnitude.
    fn round(self, x: Self::F) -> Self::F;
    /// 2^n for integers -126 <= n <= 127.
    fn exp2i(self, n: Self::F) -> Self::F;
    /// 0 where x < bound, else `value`.
    fn unless_below(self, x: Self::F, bound: Self::F, value: Self::F) -> Self::F;
    /// |x|.
    fn abs(self, x: Self::F) -> Self::F;
    /// The nearest integers, ties to even, of values within -128 to 127.
    fn store_i8(self, x: Self::F, out: &mut [i8; LANES]);
    /// Ternary codes of sixteen weights: 2 where w > line, 0 where w < -line, else 1. Byte i of word p is of weight
    /// 4p + i.
    fn codes(self, w: Self::F, line: f32) -> [u32; 4];

    /// Sums of code times activation over one tile of a [`super::packed::Ternary`] matrix, for M tokens. Element
    /// `[m][r]` is of token m and row r. `x[m]` holds 16 activations a block.
    fn ternary<const M: usize>(self, tile: &[super::Block], x: [&[i8]; M]) -> [[i32; LANES]; M];

    /// The token for products of many tokens, where it is used.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn amx(self) -> Option<super::amx::Amx> {
        None
    }

    /// The token for products of codes with many tokens, where they are [widened](super::widened) for them.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn widening(self) -> Option<super::avx2::Avx2> {
        None
    }

    /// Sums of int8 weight times activation over one tile of a [`super::packed::Bytes`] matrix, for M rows of unsigned
    /// activations. `x[m]` holds 4 activations a block.
    fn bytes<const M: usize>(self, tile: &[super::Block], x: [&[u8]; M]) -> [[i32; LANES]; M];

    /// Sixteen whole numbers, made f32.
    fn load_i8(self, x: &[i8; LANES]) -> Self::F;

    /// The bytes of a block.
    fn codes_of(self, block: &super::Block) -> Self::Codes;
    /// Every byte shifted right, or left where `right` is negative, of which the bits of `mask` are left. Bits that
    /// come from the next byte are not among those.
    fn field(self, codes: Self::Codes, right: i32, mask: u8) -> Self::Codes;
    /// The bits of both.
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes;
    /// Four digits within ±32639 as [`Simd::dot`] reads them.
    fn four(self, digits: [i16; 4]) -> Four;
    /// Nothing yet.
    fn no_sums(self) -> Self::Sums;
    /// Adds to each row's sum its four codes times digits, which are within -128 to 127 if `COARSE`. Sums of 64 products
    /// fit.
    fn dot<const COARSE: bool>(self, sums: Self::Sums, codes: Self::Codes, digits: &Four) -> Self::Sums;
    /// The sums less a number, rounded to f32.
    fn total(self, sums: Self::Sums, less: i32) -> Self::F;

    /// The sum of all lanes: halves added to halves.
    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(x, &mut lanes);
        let eight: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }

    /// The largest lane.
    #[inline(always)]
    fn largest(self, x: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(x, &mut lanes);
        lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a })
    }
}
