//! For AVX-512 as it is since Ice Lake and Zen 4. A part of the block that fits the first-level cache several times is
//! seen as f32 and f64 for the moments, as its upper 16 bits for the ternary line, and as exponent bytes for the
//! octaves: one loop each, so that each keeps its counters in registers.

use std::arch::x86_64::*;

use super::{AHEAD, Line, Octaves, SLACK, Sums, Vectorized, portable, set_aside};
use crate::InstructionSet;

/// Groups of 64 elements in a part.
const PART: usize = 31;

pub(super) fn is_available() -> bool {
    InstructionSet::Avx512Bitalg.is_available()
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bitalg,gfni,popcnt,bmi1")]
pub(super) fn scan(
    block: &[f32],
    line: Option<Line>,
    mut octaves: Option<&mut Octaves>,
    near: &mut Vec<f32>,
) -> Sums {
    let (groups, tail) = block.as_chunks::<64>();
    let rest = portable::scan(tail, line, octaves.as_deref_mut(), near);
    let mut moments = Moments::new();
    let mut counter = octaves.as_ref().map(|octaves| Counter::new(octaves.first));
    let (mut above, mut below) = (0, 0);
    for part in groups.chunks(PART) {
        moments.add(part);
        if let Some(line) = line {
            let (over, under) = count_codes(part, line, near);
            (above, below) = (above + over, below + under);
        }
        if let (Some(counter), Some(octaves)) = (&mut counter, &mut octaves) {
            counter.add(part, &mut octaves.bins);
        }
    }
    if let (Some(counter), Some(octaves)) = (counter, octaves) {
        counter.finish(&mut octaves.bins);
    }
    let [sum, squares, abs] = [moments.sum, moments.squares, moments.abs]
        .map(|lanes| _mm512_reduce_add_pd(_mm512_add_pd(lanes[0], lanes[1])));
    Sums {
        sum: sum + rest.sum,
        squares: squares + rest.squares,
        abs: abs + rest.abs,
        min: _mm512_reduce_min_ps(moments.min).min(rest.min),
        max: _mm512_reduce_max_ps(moments.max).max(rest.max),
        zeros: moments.zeros + rest.zeros,
        above: above + rest.above,
        below: below + rest.below,
    }
}

#[target_feature(enable = "avx512f")]
fn load(group: &[f32; 64]) -> [__m512; 4] {
    // SAFETY: a group has 64 elements.
    [0, 1, 2, 3].map(|quarter| unsafe { _mm512_loadu_ps(group.as_ptr().add(16 * quarter)) })
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bitalg,gfni,popcnt,bmi1")]
pub(super) fn run(task: impl Vectorized) {
    task.run();
}

struct Moments {
    sum: [__m512d; 2],
    squares: [__m512d; 2],
    abs: [__m512d; 2],
    min: __m512,
    max: __m512,
    zeros: u64,
}

impl Moments {
    #[target_feature(enable = "avx512f")]
    fn new() -> Self {
        let zero = [_mm512_setzero_pd(); 2];
        Moments {
            sum: zero,
            squares: zero,
            abs: zero,
            min: _mm512_set1_ps(f32::INFINITY),
            max: _mm512_set1_ps(f32::NEG_INFINITY),
            zeros: 0,
        }
    }

    #[target_feature(enable = "avx512f,avx512dq,popcnt")]
    fn add(&mut self, groups: &[[f32; 64]]) {
        let Moments { mut sum, mut squares, mut abs, mut min, mut max, mut zeros } = *self;
        for group in groups {
            for line in 0..4 {
                _mm_prefetch::<_MM_HINT_T0>(group.as_ptr().wrapping_add(AHEAD + 16 * line).cast());
            }
            for eighth in 0..8 {
                // SAFETY: a group has 64 elements.
                let x = _mm512_cvtps_pd(unsafe { _mm256_loadu_ps(group.as_ptr().add(8 * eighth)) });
                let i = eighth % 2;
                sum[i] = _mm512_add_pd(sum[i], x);
                squares[i] = _mm512_fmadd_pd(x, x, squares[i]);
                abs[i] = _mm512_add_pd(abs[i], _mm512_abs_pd(x));
            }
            let mut is_zero = 0u64;
            for (quarter, x) in load(group).into_iter().enumerate() {
                min = _mm512_min_ps(min, x);
                max = _mm512_max_ps(max, x);
                let mask = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(x, _mm512_setzero_ps());
                is_zero |= u64::from(mask) << (16 * quarter);
            }
            zeros += u64::from(is_zero.count_ones());
        }
        *self = Moments { sum, squares, abs, min, max, zeros };
    }
}

/// The upper halves of a group's elements, in order.
#[target_feature(enable = "avx512f,avx512bw")]
fn upper_halves(group: &[f32; 64]) -> [__m512i; 2] {
    const ODD: [u16; 32] = {
        let mut odd = [0; 32];
        let mut i = 0;
        while i < 32 {
            odd[i] = 2 * i as u16 + 1;
            i += 1;
        }
        odd
    };
    // SAFETY: the array fills the register.
    let odd = unsafe { _mm512_loadu_si512(ODD.as_ptr().cast()) };
    let [a, b, c, d] = load(group).map(|x| _mm512_castps_si512(x));
    [_mm512_permutex2var_epi16(a, odd, b), _mm512_permutex2var_epi16(c, odd, d)]
}

/// Elements beyond `line` on the positive and on the negative side; those near it go to `near`.
#[target_feature(enable = "avx512f,avx512bw,popcnt,bmi1")]
fn count_codes(groups: &[[f32; 64]], line: Line, near: &mut Vec<f32>) -> (u64, u64) {
    let one = _mm512_set1_epi16(1);
    let magnitude = _mm512_set1_epi16(0x7fff);
    let high = _mm512_set1_epi16(line.high as i16);
    let low = _mm512_set1_epi16(line.low as i16);
    let width = _mm512_set1_epi16((line.high + 1 - line.low) as i16);
    near.reserve(64 * groups.len() + SLACK);
    let room = near.spare_capacity_mut();
    let (mut beyond, mut below) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let mut aside = 0;
    for group in groups {
        let mut is_near = [0; 2];
        for (half, is_near) in upper_halves(group).into_iter().zip(&mut is_near) {
            let m = _mm512_and_si512(half, magnitude);
            // 1 where it is beyond: a saturated difference, cut off.
            let is_beyond = _mm512_min_epu16(_mm512_subs_epu16(m, high), one);
            beyond = _mm512_add_epi16(beyond, is_beyond);
            below = _mm512_add_epi16(below, _mm512_and_si512(is_beyond, _mm512_srli_epi16::<15>(half)));
            *is_near = _mm512_cmplt_epu16_mask(_mm512_sub_epi16(m, low), width);
        }
        let is_near = u64::from(is_near[0]) | u64::from(is_near[1]) << 32;
        aside += set_aside(group, is_near, &mut room[aside..]);
    }
    // SAFETY: so many elements of the spare capacity were written.
    unsafe { near.set_len(near.len() + aside) };
    let [beyond, below] =
        [beyond, below].map(|words| _mm512_reduce_add_epi32(_mm512_madd_epi16(words, one)) as u64);
    (beyond - below, below)
}

/// Counts exponents in a window of 16 octaves.
struct Counter {
    first: u8,
    /// Octaves 0-7 and 8-15 of the window; of each, even octaves and odd ones, 16 bits each.
    words: [[__m512i; 2]; 2],
}

impl Counter {
    #[target_feature(enable = "avx512f")]
    fn new(first: u8) -> Self {
        Counter { first, words: [[_mm512_setzero_si512(); 2]; 2] }
    }

    /// Adds at most [`PART`] groups. Elements outside the window go to `bins` one by one.
    ///
    /// A table turns an exponent byte into one bit of two bytes, and the transposition of 8 x 8 bits gathers eight
    /// elements' bits by octave, to be counted as bits set. So byte i of every 8 counts octave i, and grows by at most
    /// 8 a group.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bitalg,gfni,popcnt,bmi1")]
    fn add(&mut self, groups: &[[f32; 64]], bins: &mut [u64; 256]) {
        const { assert!(8 * PART <= 255) };
        const ODD: [u8; 64] = {
            let mut odd = [0; 64];
            let mut i = 0;
            while i < 64 {
                odd[i] = 2 * i as u8 + 1;
                i += 1;
            }
            odd
        };
        const UNIT_ROWS: i64 = i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]);
        // SAFETY: the array fills the register.
        let odd = unsafe { _mm512_loadu_si512(ODD.as_ptr().cast()) };
        let first = _mm512_set1_epi8(self.first as i8);
        let tables = [_mm_set_epi64x(0, UNIT_ROWS), _mm_set_epi64x(UNIT_ROWS, 0)]
            .map(|table| _mm512_broadcast_i32x4(table));
        let mut counts = [_mm512_setzero_si512(); 2];
        for group in groups {
            // The exponent moves to the upper byte of its half, and the sign out.
            let [a, b] = upper_halves(group).map(|h| _mm512_slli_epi16::<1>(h));
            let fields = _mm512_permutex2var_epi8(a, odd, b);
            // 0 to 15 keep their lower four bits; everything else gets bit 7, for which a table gives 0.
            let index = _mm512_adds_epu8(_mm512_sub_epi8(fields, first), _mm512_set1_epi8(0x70));
            for (count, table) in counts.iter_mut().zip(tables) {
                let one_hot = _mm512_shuffle_epi8(table, index);
                let by_octave = _mm512_gf2p8affine_epi64_epi8::<0>(_mm512_set1_epi64(UNIT_ROWS), one_hot);
                *count = _mm512_add_epi8(*count, _mm512_popcnt_epi8(by_octave));
            }
            let mut outside = _mm512_movepi8_mask(index);
            if outside != 0 {
                let mut listed = [0u8; 64];
                // SAFETY: `listed` has room for the register's 64 lanes.
                unsafe { _mm512_storeu_si512(listed.as_mut_ptr().cast(), fields) };
                while outside != 0 {
                    bins[usize::from(listed[outside.trailing_zeros() as usize])] += 1;
                    outside &= outside - 1;
                }
            }
        }
        for (bytes, words) in counts.into_iter().zip(&mut self.words) {
            words[0] = _mm512_add_epi16(words[0], _mm512_and_si512(bytes, _mm512_set1_epi16(0xff)));
            words[1] = _mm512_add_epi16(words[1], _mm512_srli_epi16::<8>(bytes));
        }
    }

    /// Adds the window's counts to `bins`.
    #[target_feature(enable = "avx512f")]
    fn finish(self, bins: &mut [u64; 256]) {
        for (half, parities) in self.words.into_iter().enumerate() {
            for (odd, words) in parities.into_iter().enumerate() {
                for place in 0..4 {
                    let shifted = _mm512_srl_epi64(words, _mm_set_epi64x(0, 16 * place as i64));
                    let counts = _mm512_and_si512(shifted, _mm512_set1_epi64(0xffff));
                    let octave = usize::from(self.first) + 8 * half + 2 * place + odd;
                    bins[octave] += _mm512_reduce_add_epi64(counts) as u64;
                }
            }
        }
    }
}
