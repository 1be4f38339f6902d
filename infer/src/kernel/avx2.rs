//! AVX2, FMA and F16C: a vector is two registers.

use std::arch::x86_64::*;

use ckpt_inspect::InstructionSet;
use half::{bf16, f16};

use super::Block;
use super::simd::{Four, LANES, Simd, Work};

/// The processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The token, where the processor has the instructions.
    pub fn new() -> Option<Self> {
        InstructionSet::Avx2.is_available().then_some(Avx2(()))
    }
}

/// An intrinsic under a token.
macro_rules! has {
    ($intrinsic:expr) => {
        // SAFETY: a token exists only where the processor has the instructions, and pointers come from references
        // to arrays of the size that is read or written.
        unsafe { $intrinsic }
    };
}

/// The same intrinsic on both registers of a vector.
macro_rules! both {
    ($intrinsic:ident($($x:expr),*)) => {
        has!([$intrinsic($($x[0]),*), $intrinsic($($x[1]),*)])
    };
}

impl Avx2 {
    /// Codes of four columns widened to 16 bits: of the first two columns, those of a row side by side, and of the others.
    #[inline(always)]
    pub fn widen(self, codes: [__m256i; 2]) -> [[i16; 2 * LANES]; 2] {
        // The first or the last two bytes of each row's four, each with a zero.
        const FIRST: i64 = 0x8005_8004_8001_8000_u64 as i64;
        const LAST: i64 = FIRST + 0x0002_0002_0002_0002;
        const NEXT: i64 = 0x0008_0008_0008_0008;
        let mut out = [[0; 2 * LANES]; 2];
        for (out, two) in out.iter_mut().zip([FIRST, LAST]) {
            has!({
                let bytes = _mm256_set_epi64x(two + NEXT, two, two + NEXT, two);
                _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_shuffle_epi8(codes[0], bytes));
                _mm256_storeu_si256(out.as_mut_ptr().add(LANES).cast(), _mm256_shuffle_epi8(codes[1], bytes));
            });
        }
        out
    }

    /// `x` for every row.
    #[inline(always)]
    pub fn whole(self, x: i32) -> [__m256i; 2] {
        [has!(_mm256_set1_epi32(x)); 2]
    }

    /// Widened codes of two columns.
    #[inline(always)]
    pub fn load_pair(self, codes: &[i16; 2 * LANES]) -> [__m256i; 2] {
        let p = codes.as_ptr();
        has!([_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(LANES).cast())])
    }

    /// Adds to each row's sum its codes of two columns times two digits of 16 bits.
    #[inline(always)]
    pub fn dot_pair(self, sums: [__m256i; 2], codes: [__m256i; 2], digits: i32) -> [__m256i; 2] {
        has!({
            let x = _mm256_set1_epi32(digits);
            [
                _mm256_add_epi32(sums[0], _mm256_madd_epi16(codes[0], x)),
                _mm256_add_epi32(sums[1], _mm256_madd_epi16(codes[1], x)),
            ]
        })
    }

    /// Whole numbers rounded to f32.
    #[inline(always)]
    pub fn float(self, x: [__m256i; 2]) -> [__m256; 2] {
        both!(_mm256_cvtepi32_ps(x))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn enabled<W: Work>(token: Avx2, work: W) -> W::Output {
    work.run(token)
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type Codes = [__m256i; 2];
    /// Of each half of the codes the rows 0 1 4 5, then 2 3 6 7, each with two sums side by side.
    type Sums = [[__m256i; 2]; 2];
    const WIDE: bool = false;

    #[inline(always)]
    fn run<W: Work>(self, work: W) -> W::Output {
        has!(enabled(self, work))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [has!(_mm256_set1_ps(x)); 2]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        has!([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::F {
        let p = x.as_ptr().cast::<__m128i>();
        has!([_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1)))])
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F {
        let p = x.as_ptr().cast::<__m128i>();
        has!([widen_bf16(_mm_loadu_si128(p)), widen_bf16(_mm_loadu_si128(p.add(1)))])
    }
    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        has!({
            _mm256_storeu_ps(out.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x[1]);
        });
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        has!([_mm256_round_ps::<NEAREST>(x[0]), _mm256_round_ps::<NEAREST>(x[1])])
    }
    #[inline(always)]
    fn exp2i(self, n: Self::F) -> Self::F {
        has!([exp2i(n[0]), exp2i(n[1])])
    }
    #[inline(always)]
    fn unless_below(self, x: Self::F, bound: Self::F, value: Self::F) -> Self::F {
        both!(unless_below(x, bound, value))
    }
    #[inline(always)]
    fn abs(self, x: Self::F) -> Self::F {
        let sign = [has!(_mm256_set1_ps(-0.0)); 2];
        both!(_mm256_andnot_ps(sign, x))
    }
    #[inline(always)]
    fn store_i8(self, x: Self::F, out: &mut [i8; LANES]) {
        let words = both!(_mm256_cvtps_epi32(x));
        has!(_mm_storeu_si128(out.as_mut_ptr().cast(), bytes_of(words)));
    }
    #[inline(always)]
    fn codes(self, w: Self::F, line: f32) -> [u32; 4] {
        has!({
            let mut out = [0u32; 4];
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes_of([codes(w[0], line), codes(w[1], line)]));
            out
        })
    }

    #[inline(always)]
    fn ternary<const M: usize>(self, tile: &[Block], x: [&[i8]; M]) -> [[i32; LANES]; M] {
        let mut sums = [[0; LANES]; M];
        for m in 0..M {
            sums[m] = has!(ternary(tile, x[m]));
        }
        sums
    }

    #[inline(always)]
    fn widening(self) -> Option<Avx2> {
        Some(self)
    }

    #[inline(always)]
    fn bytes<const M: usize>(self, tile: &[Block], x: [&[u8]; M]) -> [[i32; LANES]; M] {
        let mut sums = [[0; LANES]; M];
        for m in 0..M {
            sums[m] = has!(bytes(tile, x[m]));
        }
        sums
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        let eight = |at: usize| has!(_mm_loadl_epi64(x.as_ptr().add(at).cast()));
        let words = [eight(0), eight(8)];
        let words = both!(_mm256_cvtepi8_epi32(words));
        both!(_mm256_cvtepi32_ps(words))
    }
    #[inline(always)]
    fn codes_of(self, block: &Block) -> Self::Codes {
        let p = block.0.as_ptr();
        has!([_mm256_load_si256(p.cast()), _mm256_load_si256(p.add(32).cast())])
    }
    #[inline(always)]
    fn field(self, codes: Self::Codes, right: i32, mask: u8) -> Self::Codes {
        let shifted = if right < 0 {
            let left = [has!(_mm_cvtsi32_si128(-right)); 2];
            both!(_mm256_sll_epi32(codes, left))
        } else {
            let right = [has!(_mm_cvtsi32_si128(right)); 2];
            both!(_mm256_srl_epi32(codes, right))
        };
        let mask = [has!(_mm256_set1_epi8(mask as i8)); 2];
        both!(_mm256_and_si256(shifted, mask))
    }
    #[inline(always)]
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes {
        both!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn four(self, digits: [i16; 4]) -> Four {
        Four(bytemuck::cast(digits))
    }
    #[inline(always)]
    fn no_sums(self) -> Self::Sums {
        [[has!(_mm256_setzero_si256()); 2]; 2]
    }
    #[inline(always)]
    fn dot<const COARSE: bool>(self, mut sums: Self::Sums, codes: Self::Codes, digits: &Four) -> Self::Sums {
        let (x, zero) = has!((_mm256_set1_epi64x(i64::from_ne_bytes(digits.0)), _mm256_setzero_si256()));
        for half in 0..2 {
            has!({
                let low = _mm256_madd_epi16(_mm256_unpacklo_epi8(codes[half], zero), x);
                let high = _mm256_madd_epi16(_mm256_unpackhi_epi8(codes[half], zero), x);
                sums[half][0] = _mm256_add_epi32(sums[half][0], low);
                sums[half][1] = _mm256_add_epi32(sums[half][1], high);
            });
        }
        sums
    }
    #[inline(always)]
    fn total(self, sums: Self::Sums, less: i32) -> Self::F {
        let less = has!(_mm256_set1_epi32(less));
        has!([
            // Neighbours of both registers are added, which puts the rows in order.
            _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_hadd_epi32(sums[0][0], sums[0][1]), less)),
            _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_hadd_epi32(sums[1][0], sums[1][1]), less)),
        ])
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen_bf16(x: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn exp2i(n: __m256) -> __m256 {
    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}

#[inline]
#[target_feature(enable = "avx2")]
fn unless_below(x: __m256, bound: __m256, value: __m256) -> __m256 {
    _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x, bound), value)
}

#[inline]
#[target_feature(enable = "avx2")]
fn codes(w: __m256, line: f32) -> __m256i {
    // Comparisons give all ones, which is -1.
    let above = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(w, _mm256_set1_ps(line)));
    let below = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(w, _mm256_set1_ps(-line)));
    _mm256_add_epi32(_mm256_sub_epi32(_mm256_set1_epi32(1), above), below)
}

/// Sixteen words as bytes. Packing works within 128-bit halves; the permutation puts the quarters back in order.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes_of(words: [__m256i; 2]) -> __m128i {
    let halves = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(words[0], words[1]));
    _mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
}

/// Blocks whose pair sums fit i16: at most 4 planes * 2 codes of 2 * 128 = 2048 a block, and 15 * 2048 < 2^15.
const FITS_I16: usize = 15;

#[inline]
#[target_feature(enable = "avx2")]
fn ternary(tile: &[Block], x: &[i8]) -> [i32; LANES] {
    let three = _mm256_set1_epi8(3);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); 2];
    for (blocks, x) in tile.chunks(FITS_I16).zip(x.chunks(LANES * FITS_I16)) {
        let mut pairs = [_mm256_setzero_si256(); 2];
        for (block, x) in blocks.iter().zip(x.as_chunks::<LANES>().0) {
            for (half, pairs) in pairs.iter_mut().enumerate() {
                // SAFETY: a block is 64 bytes.
                let w = unsafe { _mm256_load_si256(block.0.as_ptr().add(32 * half).cast()) };
                let planes =
                    [w, _mm256_srli_epi32::<2>(w), _mm256_srli_epi32::<4>(w), _mm256_srli_epi32::<6>(w)];
                for (plane, x) in planes.into_iter().zip(x.as_chunks::<4>().0) {
                    let x = _mm256_set1_epi32(i32::from_ne_bytes(x.map(|x| x as u8)));
                    let products = _mm256_maddubs_epi16(_mm256_and_si256(plane, three), x);
                    *pairs = _mm256_add_epi16(*pairs, products);
                }
            }
        }
        for (sum, pairs) in sums.iter_mut().zip(pairs) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    lanes(sums)
}

/// Products are summed in 16-bit pairs, which hold 2 * 255 * 128 in 32 bits: nothing saturates.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes(tile: &[Block], x: &[u8]) -> [i32; LANES] {
    let mut sums = [_mm256_setzero_si256(); 4];
    for (block, x) in tile.iter().zip(x.as_chunks::<4>().0) {
        let x = _mm256_cvtepu8_epi16(_mm_set1_epi32(i32::from_ne_bytes(*x)));
        for (quarter, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a block is 64 bytes.
            let w = unsafe { _mm_load_si128(block.0.as_ptr().add(16 * quarter).cast()) };
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_cvtepi8_epi16(w), x));
        }
    }
    // Each sum holds two halves of each of four rows: adding neighbours leaves rows 0 1 4 5 2 3 6 7.
    let rows = |a, b| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(a, b));
    lanes([rows(sums[0], sums[1]), rows(sums[2], sums[3])])
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes(x: [__m256i; 2]) -> [i32; LANES] {
    let mut out = [0; LANES];
    // SAFETY: `out` has room for sixteen lanes.
    unsafe {
        _mm256_storeu_si256(out.as_mut_ptr().cast(), x[0]);
        _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), x[1]);
    }
    out
}
