//! NEON: a vector is four registers.

use std::arch::aarch64::*;

use ckpt_inspect::InstructionSet;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::Block;
use super::simd::{Four, LANES, Simd, Work};

/// The processor has NEON, as every 64-bit ARM has.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// The token, where the processor has the instructions.
    pub fn new() -> Option<Self> {
        InstructionSet::Neon.is_available().then_some(Neon(()))
    }
}

/// An intrinsic under a token.
macro_rules! has {
    ($intrinsic:expr) => {{
        // SAFETY: a token exists only where the processor has the instructions, and pointers come from references
        // to arrays of the size that is read or written.
        #[allow(unused_unsafe)]
        unsafe {
            $intrinsic
        }
    }};
}

/// The same intrinsic on all four registers of a vector.
macro_rules! all {
    ($intrinsic:ident($($x:expr),*)) => {
        std::array::from_fn(|i| has!($intrinsic($($x[i]),*)))
    };
}

impl Simd for Neon {
    type F = [float32x4_t; 4];
    type Codes = [uint8x16_t; 4];
    /// Of each row four sums side by side.
    type Sums = [int32x4_t; LANES];
    const WIDE: bool = false;

    #[inline(always)]
    fn run<W: Work>(self, work: W) -> W::Output {
        work.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [has!(vdupq_n_f32(x)); 4]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        std::array::from_fn(|i| has!(vld1q_f32(x.as_ptr().add(4 * i))))
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::F {
        let mut wide = [0.0; LANES];
        x.convert_to_f32_slice(&mut wide);
        self.load(&wide)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F {
        std::array::from_fn(|i| {
            let words = has!(vld1_u16(x.as_ptr().add(4 * i).cast()));
            has!(vreinterpretq_f32_u32(vshll_n_u16::<16>(words)))
        })
    }
    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        for (i, x) in x.into_iter().enumerate() {
            has!(vst1q_f32(out.as_mut_ptr().add(4 * i), x));
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        all!(vaddq_f32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        all!(vsubq_f32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        all!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        all!(vdivq_f32(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| has!(vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i])))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| has!(vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i])))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        all!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        all!(vrndnq_f32(x))
    }
    #[inline(always)]
    fn exp2i(self, n: Self::F) -> Self::F {
        std::array::from_fn(|i| {
            let biased = has!(vaddq_s32(vcvtnq_s32_f32(n[i]), vdupq_n_s32(127)));
            has!(vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased)))
        })
    }
    #[inline(always)]
    fn unless_below(self, x: Self::F, bound: Self::F, value: Self::F) -> Self::F {
        std::array::from_fn(|i| has!(vbslq_f32(vcltq_f32(x[i], bound[i]), vdupq_n_f32(0.0), value[i])))
    }
    #[inline(always)]
    fn abs(self, x: Self::F) -> Self::F {
        all!(vabsq_f32(x))
    }
    #[inline(always)]
    fn store_i8(self, x: Self::F, out: &mut [i8; LANES]) {
        let words = x.map(|x| has!(vqmovn_s32(vcvtnq_s32_f32(x))));
        has!({
            let low = vqmovn_s16(vcombine_s16(words[0], words[1]));
            let high = vqmovn_s16(vcombine_s16(words[2], words[3]));
            vst1q_s8(out.as_mut_ptr(), vcombine_s8(low, high));
        });
    }
    #[inline(always)]
    fn codes(self, w: Self::F, line: f32) -> [u32; 4] {
        std::array::from_fn(|i| {
            has!({
                // Comparisons give all ones, which is -1.
                let above = vreinterpretq_s32_u32(vcgtq_f32(w[i], vdupq_n_f32(line)));
                let below = vreinterpretq_s32_u32(vcltq_f32(w[i], vdupq_n_f32(-line)));
                let words = vmovn_s32(vaddq_s32(vsubq_s32(vdupq_n_s32(1), above), below));
                let bytes = vmovn_s16(vcombine_s16(words, words));
                vget_lane_u32::<0>(vreinterpret_u32_s8(bytes))
            })
        })
    }

    #[inline(always)]
    fn ternary<const M: usize>(self, tile: &[Block], x: [&[i8]; M]) -> [[i32; LANES]; M] {
        // SAFETY: the token.
        std::array::from_fn(|m| unsafe { ternary(tile, x[m]) })
    }

    #[inline(always)]
    fn bytes<const M: usize>(self, tile: &[Block], x: [&[u8]; M]) -> [[i32; LANES]; M] {
        // SAFETY: the token.
        std::array::from_fn(|m| unsafe { bytes(tile, x[m]) })
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        let bytes = has!(vld1q_s8(x.as_ptr()));
        let words = [has!(vmovl_s8(vget_low_s8(bytes))), has!(vmovl_high_s8(bytes))];
        std::array::from_fn(|i| {
            let four = if i % 2 == 0 {
                has!(vmovl_s16(vget_low_s16(words[i / 2])))
            } else {
                has!(vmovl_high_s16(words[i / 2]))
            };
            has!(vcvtq_f32_s32(four))
        })
    }
    #[inline(always)]
    fn codes_of(self, block: &Block) -> Self::Codes {
        std::array::from_fn(|i| has!(vld1q_u8(block.0.as_ptr().add(16 * i))))
    }
    #[inline(always)]
    fn field(self, codes: Self::Codes, right: i32, mask: u8) -> Self::Codes {
        let (left, mask) = (has!(vdupq_n_s8(-right as i8)), has!(vdupq_n_u8(mask)));
        std::array::from_fn(|i| has!(vandq_u8(vshlq_u8(codes[i], left), mask)))
    }
    #[inline(always)]
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes {
        all!(vorrq_u8(a, b))
    }
    #[inline(always)]
    fn four(self, digits: [i16; 4]) -> Four {
        Four(bytemuck::cast(digits))
    }
    #[inline(always)]
    fn no_sums(self) -> Self::Sums {
        [has!(vdupq_n_s32(0)); LANES]
    }
    #[inline(always)]
    fn dot<const COARSE: bool>(self, mut sums: Self::Sums, codes: Self::Codes, digits: &Four) -> Self::Sums {
        let digits: [i16; 4] = bytemuck::cast(*digits);
        let x = has!(vld1_s16(digits.as_ptr()));
        for i in 0..4 {
            // Two rows in a register.
            let first = has!(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(codes[i]))));
            let second = has!(vreinterpretq_s16_u16(vmovl_high_u8(codes[i])));
            sums[4 * i] = has!(vmlal_s16(sums[4 * i], vget_low_s16(first), x));
            sums[4 * i + 1] = has!(vmlal_s16(sums[4 * i + 1], vget_high_s16(first), x));
            sums[4 * i + 2] = has!(vmlal_s16(sums[4 * i + 2], vget_low_s16(second), x));
            sums[4 * i + 3] = has!(vmlal_s16(sums[4 * i + 3], vget_high_s16(second), x));
        }
        sums
    }
    #[inline(always)]
    fn total(self, sums: Self::Sums, less: i32) -> Self::F {
        let less = has!(vdupq_n_s32(less));
        std::array::from_fn(|i| {
            let four = &sums[4 * i..];
            has!({
                let rows = vpaddq_s32(vpaddq_s32(four[0], four[1]), vpaddq_s32(four[2], four[3]));
                vcvtq_f32_s32(vsubq_s32(rows, less))
            })
        })
    }
}

/// Blocks whose sums fit i16: at most 4 planes of 2 * 128 = 1024 a block, and 31 * 1024 < 2^15.
const FITS_I16: usize = 31;

#[target_feature(enable = "neon")]
fn ternary(tile: &[Block], x: &[i8]) -> [i32; LANES] {
    let three = vdup_n_u8(3);
    let mut sums = [vdupq_n_s32(0); 8];
    for (blocks, x) in tile.chunks(FITS_I16).zip(x.chunks(LANES * FITS_I16)) {
        // Each register holds four columns' sums of two rows.
        let mut columns = [vdupq_n_s16(0); 8];
        for (block, x) in blocks.iter().zip(x.as_chunks::<LANES>().0) {
            let x: [int8x8_t; 4] = std::array::from_fn(|p| {
                let four = u32::from_ne_bytes(std::array::from_fn(|i| x[4 * p + i] as u8));
                vreinterpret_s8_u32(vdup_n_u32(four))
            });
            for (i, columns) in columns.iter_mut().enumerate() {
                // SAFETY: a block is 64 bytes.
                let w = unsafe { vld1_u8(block.0.as_ptr().add(8 * i)) };
                let planes = [w, vshr_n_u8::<2>(w), vshr_n_u8::<4>(w), vshr_n_u8::<6>(w)];
                for (plane, x) in planes.into_iter().zip(x) {
                    *columns = vmlal_s8(*columns, vreinterpret_s8_u8(vand_u8(plane, three)), x);
                }
            }
        }
        for (sum, columns) in sums.iter_mut().zip(columns) {
            *sum = vpadalq_s16(*sum, columns);
        }
    }
    lanes(sums)
}

#[target_feature(enable = "neon")]
fn bytes(tile: &[Block], x: &[u8]) -> [i32; LANES] {
    let mut sums = [vdupq_n_s32(0); 8];
    for (block, x) in tile.iter().zip(x.as_chunks::<4>().0) {
        let x = vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(u32::from_ne_bytes(*x)))));
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a block is 64 bytes.
            let w = vmovl_s8(unsafe { vld1_s8(block.0.as_ptr().add(8 * i).cast()) });
            // Row 2i in the low half, row 2i + 1 in the high one, each folded to two columns.
            let first = vmull_s16(vget_low_s16(w), vget_low_s16(x));
            let second = vmull_s16(vget_high_s16(w), vget_high_s16(x));
            *sum = vaddq_s32(*sum, vpaddq_s32(first, second));
        }
    }
    lanes(sums)
}

/// Adds neighbours: register i holds two halves of row 2i, then two of row 2i + 1.
#[target_feature(enable = "neon")]
fn lanes(sums: [int32x4_t; 8]) -> [i32; LANES] {
    let mut out = [0; LANES];
    for i in 0..4 {
        // SAFETY: `out` has room for sixteen lanes, and i < 4.
        unsafe { vst1q_s32(out.as_mut_ptr().add(4 * i), vpaddq_s32(sums[2 * i], sums[2 * i + 1])) };
    }
    out
}
