//! For AVX2. Groups of 64 elements: each is seen as f32, as f64 for the moments, as its upper 16 bits for the ternary
//! line, and as its exponent byte for the octaves.

use std::arch::x86_64::*;

use super::{Line, Octaves, SPARE, Sums, portable, set_aside};

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("bmi1")
}

#[target_feature(enable = "avx2,fma,popcnt,bmi1")]
pub(super) fn scan(
    block: &[f32],
    line: Option<Line>,
    octaves: Option<&mut Octaves>,
    near: &mut Vec<f32>,
) -> Sums {
    let band = line.unwrap_or(Line::SIGN);
    match (line.is_some(), octaves.is_some()) {
        (true, true) => groups::<true, true>(block, band, octaves, near),
        (true, false) => groups::<true, false>(block, band, octaves, near),
        (false, true) => groups::<false, true>(block, band, octaves, near),
        (false, false) => groups::<false, false>(block, band, octaves, near),
    }
}

#[target_feature(enable = "avx2,fma,popcnt,bmi1")]
fn groups<const TERNARY: bool, const HISTOGRAM: bool>(
    block: &[f32],
    line: Line,
    mut octaves: Option<&mut Octaves>,
    near: &mut Vec<f32>,
) -> Sums {
    let (groups, tail) = block.as_chunks::<64>();
    let rest = portable::scan(tail, TERNARY.then_some(line), octaves.as_deref_mut(), near);
    let absolute = _mm256_castsi256_pd(_mm256_set1_epi64x(i64::MAX));
    let mut sum = [_mm256_setzero_pd(); 4];
    let mut squares = [_mm256_setzero_pd(); 4];
    let mut abs = [_mm256_setzero_pd(); 4];
    let mut min = [_mm256_set1_ps(f32::INFINITY); 2];
    let mut max = [_mm256_set1_ps(f32::NEG_INFINITY); 2];
    let mut zeros = _mm256_setzero_si256();
    let (mut above, mut below) = (0, 0);
    let mut counter = Counter::new(octaves.as_ref().map_or(0, |o| o.first));
    let magnitude = _mm256_set1_epi16(0x7fff);
    let under_low = _mm256_set1_epi16(line.low as i16 - 1);
    let high = _mm256_set1_epi16(line.high as i16);
    for part in groups.chunks(Counter::GROUPS) {
        near.reserve(if TERNARY { 64 * part.len() + SPARE } else { 0 });
        let spare = near.spare_capacity_mut();
        let mut aside = 0;
        for group in part {
            let p = group.as_ptr();
            for sixteenth in 0..16 {
                // SAFETY: a group has 64 elements.
                let x = _mm256_cvtps_pd(unsafe { _mm_loadu_ps(p.add(4 * sixteenth)) });
                let i = sixteenth % 4;
                sum[i] = _mm256_add_pd(sum[i], x);
                squares[i] = _mm256_fmadd_pd(x, x, squares[i]);
                abs[i] = _mm256_add_pd(abs[i], _mm256_and_pd(x, absolute));
            }
            let (mut beyond, mut negative, mut set) = (0u64, 0u64, 0u64);
            for half in 0..2 {
                // SAFETY: a group has 64 elements.
                let x = [0, 1, 2, 3].map(|i| unsafe { _mm256_loadu_ps(p.add(32 * half + 8 * i)) });
                for (i, x) in x.into_iter().enumerate() {
                    min[i % 2] = _mm256_min_ps(min[i % 2], x);
                    max[i % 2] = _mm256_max_ps(max[i % 2], x);
                    let is_zero = _mm256_cmp_ps::<_CMP_EQ_OQ>(x, _mm256_setzero_ps());
                    zeros = _mm256_sub_epi32(zeros, _mm256_castps_si256(is_zero));
                }
                if !TERNARY && !HISTOGRAM {
                    continue;
                }
                let upper = |x| _mm256_srai_epi32::<16>(_mm256_castps_si256(x));
                let words = [
                    _mm256_packs_epi32(upper(x[0]), upper(x[1])),
                    _mm256_packs_epi32(upper(x[2]), upper(x[3])),
                ];
                if TERNARY {
                    let magnitudes = words.map(|w| _mm256_and_si256(w, magnitude));
                    let over = magnitudes.map(|m| _mm256_cmpgt_epi16(m, high));
                    let from = magnitudes.map(|m| _mm256_cmpgt_epi16(m, under_low));
                    beyond |= in_order(over) << (32 * half);
                    negative |= in_order(words) << (32 * half);
                    set |= in_order(from) << (32 * half);
                }
                if HISTOGRAM && let Some(octaves) = &mut octaves {
                    counter.add(words, &mut octaves.bins);
                }
            }
            if TERNARY {
                above += u64::from((beyond & !negative).count_ones());
                below += u64::from((beyond & negative).count_ones());
                aside += set_aside(group, set & !beyond, &mut spare[aside..]);
            }
        }
        // SAFETY: so many elements of the spare capacity were written.
        unsafe { near.set_len(near.len() + aside) };
        if HISTOGRAM {
            counter.flush();
        }
    }
    if let Some(octaves) = octaves {
        counter.finish(&mut octaves.bins);
    }
    Sums {
        sum: total(sum) + rest.sum,
        squares: total(squares) + rest.squares,
        abs: total(abs) + rest.abs,
        min: lanes_ps(_mm256_min_ps(min[0], min[1])).into_iter().fold(rest.min, f32::min),
        max: lanes_ps(_mm256_max_ps(max[0], max[1])).into_iter().fold(rest.max, f32::max),
        zeros: lanes_u32(zeros).into_iter().map(u64::from).sum::<u64>() + rest.zeros,
        above: above + rest.above,
        below: below + rest.below,
    }
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

    /// Adds 32 elements, given by their upper halves. Those outside the window go to `bins` one by one.
    #[target_feature(enable = "avx2,popcnt,bmi1")]
    fn add(&mut self, words: [__m256i; 2], bins: &mut [u64; 256]) {
        let [a, b] = words.map(|w| _mm256_srli_epi16::<8>(_mm256_slli_epi16::<1>(w)));
        let fields = _mm256_packus_epi16(a, b);
        let from_first = _mm256_sub_epi8(fields, _mm256_set1_epi8(self.first as i8));
        // 0 to 15 keep their lower four bits; everything else gets bit 7, for which the table gives 0.
        let index = _mm256_adds_epu8(from_first, _mm256_set1_epi8(0x70));
        for (octave, count) in self.nibbles.iter_mut().enumerate() {
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
fn lanes_u32(x: __m256i) -> [u32; 8] {
    let mut out = [0u32; 8];
    // SAFETY: `out` has room for the register's eight lanes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) };
    out
}
