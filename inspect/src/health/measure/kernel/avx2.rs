//! For AVX2. A part of the block that fits the first-level cache several times is seen as f64 and as f32 for the
//! moments, as its upper 16 bits for the ternary line, and as exponent bytes for the octaves: one loop each, because 16
//! registers do not hold the counters of two.

use std::arch::x86_64::*;

use super::{AHEAD, Line, Octaves, SLACK, Sums, Vectorized, portable, set_aside};
use crate::InstructionSet;

/// Groups of 64 elements in a part.
const PART: usize = 28;

pub(super) fn is_available() -> bool {
    InstructionSet::Avx2.is_available()
}

#[target_feature(enable = "avx2,fma,popcnt,bmi1")]
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
        moments.add_extremes(part);
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
    Sums {
        sum: total(moments.sum) + rest.sum,
        squares: total(moments.squares) + rest.squares,
        abs: total(moments.abs) + rest.abs,
        min: lanes_ps(moments.min).into_iter().fold(rest.min, f32::min),
        max: lanes_ps(moments.max).into_iter().fold(rest.max, f32::max),
        zeros: sum_epi32(moments.zeros) + rest.zeros,
        above: above + rest.above,
        below: below + rest.below,
    }
}

#[target_feature(enable = "avx2,fma,popcnt,bmi1")]
pub(super) fn run(task: impl Vectorized) {
    task.run();
}

struct Moments {
    sum: [__m256d; 4],
    squares: [__m256d; 4],
    abs: [__m256d; 4],
    min: __m256,
    max: __m256,
    zeros: __m256i,
}

impl Moments {
    #[target_feature(enable = "avx2")]
    fn new() -> Self {
        let zero = [_mm256_setzero_pd(); 4];
        Moments {
            sum: zero,
            squares: zero,
            abs: zero,
            min: _mm256_set1_ps(f32::INFINITY),
            max: _mm256_set1_ps(f32::NEG_INFINITY),
            zeros: _mm256_setzero_si256(),
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn add(&mut self, groups: &[[f32; 64]]) {
        let absolute = _mm256_castsi256_pd(_mm256_set1_epi64x(i64::MAX));
        let Moments { mut sum, mut squares, mut abs, .. } = *self;
        for group in groups {
            for line in 0..4 {
                _mm_prefetch::<_MM_HINT_T0>(group.as_ptr().wrapping_add(AHEAD + 16 * line).cast());
            }
            for quarter in group.as_chunks::<16>().0 {
                for i in 0..4 {
                    // SAFETY: a quarter of a group has 16 elements.
                    let x = _mm256_cvtps_pd(unsafe { _mm_loadu_ps(quarter.as_ptr().add(4 * i)) });
                    sum[i] = _mm256_add_pd(sum[i], x);
                    squares[i] = _mm256_fmadd_pd(x, x, squares[i]);
                    abs[i] = _mm256_add_pd(abs[i], _mm256_and_pd(x, absolute));
                }
            }
        }
        *self = Moments { sum, squares, abs, ..*self };
    }

    #[target_feature(enable = "avx2")]
    fn add_extremes(&mut self, groups: &[[f32; 64]]) {
        let (mut min, mut max) = ([self.min; 2], [self.max; 2]);
        for group in groups {
            for eighth in 0..8 {
                // SAFETY: a group has 64 elements.
                let x = unsafe { _mm256_loadu_ps(group.as_ptr().add(8 * eighth)) };
                let i = eighth % 2;
                min[i] = _mm256_min_ps(min[i], x);
                max[i] = _mm256_max_ps(max[i], x);
                let is_zero = _mm256_cmp_ps::<_CMP_EQ_OQ>(x, _mm256_setzero_ps());
                self.zeros = _mm256_sub_epi32(self.zeros, _mm256_castps_si256(is_zero));
            }
        }
        self.min = _mm256_min_ps(min[0], min[1]);
        self.max = _mm256_max_ps(max[0], max[1]);
    }
}

/// The upper halves of elements 0-31 and of 32-63, each packed in pairs of registers, lane by lane.
#[target_feature(enable = "avx2")]
fn upper_halves(group: &[f32; 64]) -> [[__m256i; 2]; 2] {
    let (eighths, _) = group.as_chunks::<8>();
    let upper = |eighth: usize| {
        // SAFETY: an eighth of a group has 8 elements.
        _mm256_srai_epi32::<16>(unsafe { _mm256_loadu_si256(eighths[eighth].as_ptr().cast()) })
    };
    let pair = |eighth| _mm256_packs_epi32(upper(eighth), upper(eighth + 1));
    [[pair(0), pair(2)], [pair(4), pair(6)]]
}

/// Elements beyond `line` on the positive and on the negative side; those near it go to `near`.
#[target_feature(enable = "avx2,popcnt,bmi1")]
fn count_codes(groups: &[[f32; 64]], line: Line, near: &mut Vec<f32>) -> (u64, u64) {
    let magnitude = _mm256_set1_epi16(0x7fff);
    let high = _mm256_set1_epi16(line.high as i16);
    let under_low = _mm256_set1_epi16(line.low as i16 - 1);
    near.reserve(64 * groups.len() + SLACK);
    let room = near.spare_capacity_mut();
    let (mut beyond, mut below) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let mut aside = 0;
    for group in groups {
        let mut is_near = [0; 2];
        for (words, is_near) in upper_halves(group).into_iter().zip(&mut is_near) {
            let near = words.map(|word| {
                let m = _mm256_and_si256(word, magnitude);
                let is_beyond = _mm256_cmpgt_epi16(m, high);
                beyond = _mm256_sub_epi16(beyond, is_beyond);
                below = _mm256_sub_epi16(below, _mm256_and_si256(is_beyond, _mm256_srai_epi16::<15>(word)));
                _mm256_andnot_si256(is_beyond, _mm256_cmpgt_epi16(m, under_low))
            });
            *is_near = in_order(near);
        }
        aside += set_aside(group, is_near[0] | is_near[1] << 32, &mut room[aside..]);
    }
    // SAFETY: so many elements of the spare capacity were written.
    unsafe { near.set_len(near.len() + aside) };
    let [beyond, below] =
        [beyond, below].map(|words| sum_epi32(_mm256_madd_epi16(words, _mm256_set1_epi16(1))));
    (beyond - below, below)
}

/// The signs of 32 words as bits, in the order of the elements before they were packed in pairs of registers.
#[target_feature(enable = "avx2")]
fn in_order(words: [__m256i; 2]) -> u64 {
    let bytes = _mm256_packs_epi16(words[0], words[1]);
    let ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    u64::from(_mm256_movemask_epi8(ordered) as u32)
}

/// Counts exponent bytes in a window of 16 octaves. Each byte of a counter holds two octaves in four bits each, and a
/// table turns an exponent into what it adds there.
struct Counter {
    first: u8,
    /// Octaves i and i + 8 of the window.
    nibbles: [__m256i; 8],
    totals: [__m256i; 16],
}

impl Counter {
    /// Groups that four bits hold: each adds at most 2.
    const GROUPS: usize = 7;

    #[target_feature(enable = "avx2")]
    fn new(first: u8) -> Self {
        let zero = _mm256_setzero_si256();
        Counter { first, nibbles: [zero; 8], totals: [zero; 16] }
    }

    /// Adds elements. Those outside the window go to `bins` one by one.
    #[target_feature(enable = "avx2,popcnt,bmi1")]
    fn add(&mut self, groups: &[[f32; 64]], bins: &mut [u64; 256]) {
        let first = _mm256_set1_epi8(self.first as i8);
        for groups in groups.chunks(Self::GROUPS) {
            let mut nibbles = self.nibbles;
            for words in groups.iter().flat_map(|group| upper_halves(group)) {
                let [a, b] = words.map(|w| _mm256_srli_epi16::<8>(_mm256_slli_epi16::<1>(w)));
                let fields = _mm256_packus_epi16(a, b);
                // 0 to 15 keep their lower four bits; everything else gets bit 7, for which a table gives 0.
                let index = _mm256_adds_epu8(_mm256_sub_epi8(fields, first), _mm256_set1_epi8(0x70));
                for (octave, count) in nibbles.iter_mut().enumerate() {
                    let table = _mm_set_epi64x(0x10 << (8 * octave), 1 << (8 * octave));
                    let added = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index);
                    *count = _mm256_add_epi8(*count, added);
                }
                let mut outside = _mm256_movemask_epi8(index) as u32;
                if outside != 0 {
                    let mut listed = [0u8; 32];
                    // SAFETY: `listed` has room for the register's 32 lanes.
                    unsafe { _mm256_storeu_si256(listed.as_mut_ptr().cast(), fields) };
                    while outside != 0 {
                        bins[usize::from(listed[outside.trailing_zeros() as usize])] += 1;
                        outside &= outside - 1;
                    }
                }
            }
            self.nibbles = nibbles;
            self.flush();
        }
    }

    /// Empties the counters of four bits.
    #[target_feature(enable = "avx2")]
    fn flush(&mut self) {
        let nibble = _mm256_set1_epi8(0xf);
        let (low, high) = self.totals.split_at_mut(8);
        for ((count, low), high) in self.nibbles.iter_mut().zip(low).zip(high) {
            let sum = |bytes| _mm256_sad_epu8(bytes, _mm256_setzero_si256());
            *low = _mm256_add_epi64(*low, sum(_mm256_and_si256(*count, nibble)));
            *high = _mm256_add_epi64(*high, sum(_mm256_and_si256(_mm256_srli_epi16::<4>(*count), nibble)));
            *count = _mm256_setzero_si256();
        }
    }

    /// Adds what was flushed to `bins`.
    #[target_feature(enable = "avx2")]
    fn finish(self, bins: &mut [u64; 256]) {
        for (octave, total) in self.totals.into_iter().enumerate() {
            let mut lanes = [0u64; 4];
            // SAFETY: `lanes` has room for the register's four lanes.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), total) };
            let count = lanes.into_iter().sum::<u64>();
            if count > 0 {
                bins[usize::from(self.first) + octave] += count;
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn total(lanes: [__m256d; 4]) -> f64 {
    let all = _mm256_add_pd(_mm256_add_pd(lanes[0], lanes[1]), _mm256_add_pd(lanes[2], lanes[3]));
    let mut out = [0.0; 4];
    // SAFETY: `out` has room for the register's four lanes.
    unsafe { _mm256_storeu_pd(out.as_mut_ptr(), all) };
    (out[0] + out[1]) + (out[2] + out[3])
}

#[target_feature(enable = "avx2")]
fn lanes_ps(x: __m256) -> [f32; 8] {
    let mut out = [0.0; 8];
    // SAFETY: `out` has room for the register's eight lanes.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) };
    out
}

#[target_feature(enable = "avx2")]
fn sum_epi32(x: __m256i) -> u64 {
    let mut out = [0u32; 8];
    // SAFETY: `out` has room for the register's eight lanes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) };
    out.into_iter().map(u64::from).sum()
}
