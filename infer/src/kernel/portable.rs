//! Plain Rust, for any processor, and the reference that the other versions are tested against.

use half::{bf16, f16};

use super::Block;
use super::simd::{Four, LANES, Simd, Work};

/// No special instructions.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Simd for Portable {
    type F = [f32; LANES];
    type Codes = [u8; 64];
    type Sums = [i32; LANES];
    const WIDE: bool = false;

    fn run<W: Work>(self, work: W) -> W::Output {
        work.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::F {
        each(|i| x[i].to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F {
        each(|i| x[i].to_f32())
    }
    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        *out = x;
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        each(|i| round_even(x[i]))
    }
    #[inline(always)]
    fn exp2i(self, n: Self::F) -> Self::F {
        each(|i| f32::from_bits(((n[i] as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    fn unless_below(self, x: Self::F, bound: Self::F, value: Self::F) -> Self::F {
        each(|i| if x[i] < bound[i] { 0.0 } else { value[i] })
    }
    #[inline(always)]
    fn abs(self, x: Self::F) -> Self::F {
        each(|i| x[i].abs())
    }
    #[inline(always)]
    fn store_i8(self, x: Self::F, out: &mut [i8; LANES]) {
        *out = std::array::from_fn(|i| round_even(x[i]) as i8);
    }
    #[inline(always)]
    fn codes(self, w: Self::F, line: f32) -> [u32; 4] {
        let code = |w: f32| 1 + u8::from(w > line) - u8::from(w < -line);
        std::array::from_fn(|p| u32::from_le_bytes(std::array::from_fn(|i| code(w[4 * p + i]))))
    }

    #[inline(always)]
    fn ternary<const M: usize>(self, tile: &[Block], x: [&[i8]; M]) -> [[i32; LANES]; M] {
        let mut sums = [[0; LANES]; M];
        for (b, Block(bytes)) in tile.iter().enumerate() {
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = &x[LANES * b..][..LANES];
                for (sum, row) in sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    for p in 0..4 {
                        for i in 0..4 {
                            *sum += i32::from(row[i] >> (2 * p) & 3) * i32::from(x[4 * p + i]);
                        }
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn bytes<const M: usize>(self, tile: &[Block], x: [&[u8]; M]) -> [[i32; LANES]; M] {
        let mut sums = [[0; LANES]; M];
        for (b, Block(bytes)) in tile.iter().enumerate() {
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = &x[4 * b..][..4];
                for (sum, row) in sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    for i in 0..4 {
                        *sum += i32::from(row[i] as i8) * i32::from(x[i]);
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        each(|i| f32::from(x[i]))
    }
    #[inline(always)]
    fn codes_of(self, block: &Block) -> Self::Codes {
        block.0
    }
    #[inline(always)]
    fn field(self, codes: Self::Codes, right: i32, mask: u8) -> Self::Codes {
        if right < 0 { codes.map(|x| x << -right & mask) } else { codes.map(|x| x >> right & mask) }
    }
    #[inline(always)]
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn four(self, digits: [i16; 4]) -> Four {
        Four(bytemuck::cast(digits))
    }
    #[inline(always)]
    fn no_sums(self) -> Self::Sums {
        [0; LANES]
    }
    #[inline(always)]
    fn dot<const COARSE: bool>(self, mut sums: Self::Sums, codes: Self::Codes, digits: &Four) -> Self::Sums {
        let digits: [i16; 4] = bytemuck::cast(digits.0);
        for (sum, row) in sums.iter_mut().zip(codes.as_chunks::<4>().0) {
            for i in 0..4 {
                *sum += i32::from(row[i]) * i32::from(digits[i]);
            }
        }
        sums
    }
    #[inline(always)]
    fn total(self, sums: Self::Sums, less: i32) -> Self::F {
        each(|i| (sums[i] - less) as f32)
    }
}

/// The nearest integer, ties to even, of |x| < 2^22: adding 1.5 * 2^23 leaves no fraction bits.
#[inline(always)]
fn round_even(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    x + MAGIC - MAGIC
}
