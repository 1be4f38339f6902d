//! AVX-512 with VNNI: one register is a vector, and one instruction multiplies four codes of sixteen rows.

use std::arch::x86_64::*;

use ckpt_inspect::InstructionSet;
use half::{bf16, f16};

use super::Block;
use super::amx::Amx;
use super::simd::{Four, LANES, Simd, Work};

/// The processor has AVX-512 F, BW, DQ, VL and VNNI, and with them AVX2, FMA and F16C; and AMX int8, if so it is used.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(Option<Amx>);

impl Avx512 {
    /// The token, where the processor has the instructions.
    pub fn new() -> Option<Self> {
        InstructionSet::Avx512Vnni.is_available().then_some(Avx512(None))
    }

    /// The token for these and AMX, where the processor has both.
    pub fn with_amx() -> Option<Self> {
        Avx512::new().and_then(|_| Amx::new()).map(|amx| Avx512(Some(amx)))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        if self.0.is_some() { "amx" } else { "avx512" }
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn enabled<W: Work>(token: Avx512, work: W) -> W::Output {
    work.run(token)
}

impl Simd for Avx512 {
    type F = __m512;
    type Codes = __m512i;
    /// Of the low bytes of digits, and of the high ones.
    type Sums = [__m512i; 2];
    const WIDE: bool = true;

    #[inline(always)]
    fn run<W: Work>(self, work: W) -> W::Output {
        has!(enabled(self, work))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        has!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        has!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::F {
        has!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F {
        has!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
            x.as_ptr().cast()
        )))))
    }
    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32; LANES]) {
        has!(_mm512_storeu_ps(out.as_mut_ptr(), x))
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        has!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        has!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        has!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x))
    }
    #[inline(always)]
    fn exp2i(self, n: Self::F) -> Self::F {
        has!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn unless_below(self, x: Self::F, bound: Self::F, value: Self::F) -> Self::F {
        has!(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, bound), value))
    }
    #[inline(always)]
    fn abs(self, x: Self::F) -> Self::F {
        has!(_mm512_abs_ps(x))
    }
    #[inline(always)]
    fn store_i8(self, x: Self::F, out: &mut [i8; LANES]) {
        has!(_mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))))
    }
    #[inline(always)]
    fn codes(self, w: Self::F, line: f32) -> [u32; 4] {
        has!({
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(w, _mm512_set1_ps(line));
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(w, _mm512_set1_ps(-line));
            let codes = _mm_mask_mov_epi8(_mm_set1_epi8(1), above, _mm_set1_epi8(2));
            let mut words = [0u32; 4];
            _mm_storeu_si128(words.as_mut_ptr().cast(), _mm_mask_mov_epi8(codes, below, _mm_setzero_si128()));
            words
        })
    }

    #[inline(always)]
    fn ternary<const M: usize>(self, tile: &[Block], x: [&[i8]; M]) -> [[i32; LANES]; M] {
        for x in x {
            assert!(x.len() >= LANES * tile.len());
        }
        // SAFETY: the token, and every row of activations has 16 bytes a block.
        unsafe {
            if M == 1 {
                [ternary_one(tile, x[0].as_ptr()); M]
            } else {
                ternary_many(tile, x.map(<[i8]>::as_ptr))
            }
        }
    }

    #[inline(always)]
    fn amx(self) -> Option<Amx> {
        self.0
    }

    #[inline(always)]
    fn bytes<const M: usize>(self, tile: &[Block], x: [&[u8]; M]) -> [[i32; LANES]; M] {
        for x in x {
            assert!(x.len() >= 4 * tile.len());
        }
        // SAFETY: the token, and every row of activations has 4 bytes a block.
        unsafe { bytes(tile, x.map(<[u8]>::as_ptr)) }
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::F {
        has!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }
    #[inline(always)]
    fn codes_of(self, block: &Block) -> Self::Codes {
        has!(_mm512_load_si512(block.0.as_ptr().cast()))
    }
    #[inline(always)]
    fn field(self, codes: Self::Codes, right: i32, mask: u8) -> Self::Codes {
        has!({
            let shifted = match right < 0 {
                true => _mm512_sll_epi32(codes, _mm_cvtsi32_si128(-right)),
                false => _mm512_srl_epi32(codes, _mm_cvtsi32_si128(right)),
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        })
    }
    #[inline(always)]
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes {
        has!(_mm512_or_si512(a, b))
    }
    /// The low bytes, signed, then the high ones.
    #[inline(always)]
    fn four(self, digits: [i16; 4]) -> Four {
        let mut bytes = [0; 8];
        for i in 0..4 {
            let low = digits[i] as i8;
            bytes[i] = low as u8;
            bytes[4 + i] = ((digits[i] - i16::from(low)) >> 8) as u8;
        }
        Four(bytes)
    }
    #[inline(always)]
    fn no_sums(self) -> Self::Sums {
        [has!(_mm512_setzero_si512()); 2]
    }
    #[inline(always)]
    fn dot<const COARSE: bool>(self, mut sums: Self::Sums, codes: Self::Codes, digits: &Four) -> Self::Sums {
        // Two loads of four bytes, each of which is part of an instruction; one of eight would have to be taken apart.
        let bytes = digits.0.as_ptr().cast::<i8>();
        sums[0] = has!(_mm512_dpbusd_epi32(sums[0], codes, four(bytes)));
        if !COARSE {
            sums[1] = has!(_mm512_dpbusd_epi32(sums[1], codes, four(bytes.add(4))));
        }
        sums
    }
    #[inline(always)]
    fn total(self, sums: Self::Sums, less: i32) -> Self::F {
        has!({
            let total = _mm512_add_epi32(_mm512_slli_epi32::<8>(sums[1]), sums[0]);
            _mm512_cvtepi32_ps(_mm512_sub_epi32(total, _mm512_set1_epi32(less)))
        })
    }
}

/// Four activations, in every lane.
///
/// # Safety
/// `x` can be read for 4 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn four(x: *const i8) -> __m512i {
    // SAFETY: the caller's promise.
    _mm512_set1_epi32(unsafe { x.cast::<i32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn lanes(x: __m512i) -> [i32; LANES] {
    let mut out = [0; LANES];
    // SAFETY: `out` has room for sixteen lanes.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) };
    out
}

/// One token: codes stay where they are in their byte, so plane p's sum comes out 4^p times too large, which a
/// shift undoes exactly. (2 * 64 + 0) * 127 a product: i32 holds 8 million columns.
///
/// # Safety
/// `x` can be read for 16 bytes a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn ternary_one(tile: &[Block], x: *const i8) -> [i32; LANES] {
    let mask = [3, 12, 48, 192u8].map(|m| _mm512_set1_epi8(m as i8));
    let mut even = [_mm512_setzero_si512(); 4];
    let mut odd = even;
    let (pairs, last) = tile.as_chunks::<2>();
    for (b, pair) in pairs.iter().enumerate() {
        // SAFETY: a block is 64 bytes, and the caller's promise.
        unsafe {
            let x = x.add(2 * LANES * b);
            let (w, v) =
                (_mm512_load_si512(pair[0].0.as_ptr().cast()), _mm512_load_si512(pair[1].0.as_ptr().cast()));
            for p in 0..4 {
                even[p] = _mm512_dpbusd_epi32(even[p], _mm512_and_si512(w, mask[p]), four(x.add(4 * p)));
                odd[p] =
                    _mm512_dpbusd_epi32(odd[p], _mm512_and_si512(v, mask[p]), four(x.add(LANES + 4 * p)));
            }
        }
    }
    for block in last {
        // SAFETY: as above; this is the last block.
        unsafe {
            let x = x.add(LANES * (tile.len() - 1));
            let w = _mm512_load_si512(block.0.as_ptr().cast());
            for p in 0..4 {
                even[p] = _mm512_dpbusd_epi32(even[p], _mm512_and_si512(w, mask[p]), four(x.add(4 * p)));
            }
        }
    }
    let plane = |p: usize| _mm512_add_epi32(even[p], odd[p]);
    let low = _mm512_add_epi32(plane(0), _mm512_srai_epi32::<2>(plane(1)));
    let high = _mm512_add_epi32(_mm512_srai_epi32::<4>(plane(2)), _mm512_srai_epi32::<6>(plane(3)));
    lanes(_mm512_add_epi32(low, high))
}

/// # Safety
/// Every `x` can be read for 16 bytes a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn ternary_many<const M: usize>(tile: &[Block], x: [*const i8; M]) -> [[i32; LANES]; M] {
    let three = _mm512_set1_epi8(3);
    let mut sums = [_mm512_setzero_si512(); M];
    for (b, block) in tile.iter().enumerate() {
        // SAFETY: a block is 64 bytes, and the caller's promise.
        unsafe {
            let w = _mm512_load_si512(block.0.as_ptr().cast());
            let planes = [w, _mm512_srli_epi32::<2>(w), _mm512_srli_epi32::<4>(w), _mm512_srli_epi32::<6>(w)];
            for (p, plane) in planes.into_iter().enumerate() {
                let codes = _mm512_and_si512(plane, three);
                for m in 0..M {
                    sums[m] = _mm512_dpbusd_epi32(sums[m], codes, four(x[m].add(LANES * b + 4 * p)));
                }
            }
        }
    }
    let mut out = [[0; LANES]; M];
    for m in 0..M {
        out[m] = lanes(sums[m]);
    }
    out
}

/// # Safety
/// Every `x` can be read for 4 bytes a block.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn bytes<const M: usize>(tile: &[Block], x: [*const u8; M]) -> [[i32; LANES]; M] {
    let mut even = [_mm512_setzero_si512(); M];
    let mut odd = even;
    let (pairs, last) = tile.as_chunks::<2>();
    for (b, pair) in pairs.iter().enumerate() {
        // SAFETY: a block is 64 bytes, and the caller's promise.
        unsafe {
            let (w, v) =
                (_mm512_load_si512(pair[0].0.as_ptr().cast()), _mm512_load_si512(pair[1].0.as_ptr().cast()));
            for m in 0..M {
                let x = x[m].add(8 * b);
                even[m] = _mm512_dpbusd_epi32(even[m], four(x.cast()), w);
                odd[m] = _mm512_dpbusd_epi32(odd[m], four(x.add(4).cast()), v);
            }
        }
    }
    for block in last {
        // SAFETY: as above; this is the last block.
        unsafe {
            let w = _mm512_load_si512(block.0.as_ptr().cast());
            for m in 0..M {
                even[m] = _mm512_dpbusd_epi32(even[m], four(x[m].add(4 * (tile.len() - 1)).cast()), w);
            }
        }
    }
    let mut out = [[0; LANES]; M];
    for m in 0..M {
        out[m] = lanes(_mm512_add_epi32(even[m], odd[m]));
    }
    out
}
