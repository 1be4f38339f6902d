//! For AVX-512 as it is since Ice Lake and Zen 4. Groups of 64 elements: each is seen as f32, as f64 for the moments,
//! as its upper 16 bits for the ternary line, and as its exponent byte for the octaves.

use std::arch::x86_64::*;

use super::{Line, Octaves, SPARE, Sums, portable, set_aside};

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512bitalg")
        && is_x86_feature_detected!("gfni")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("bmi1")
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bitalg,gfni,popcnt,bmi1")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512bitalg,gfni,popcnt,bmi1")]
fn groups<const TERNARY: bool, const HISTOGRAM: bool>(
    block: &[f32],
    line: Line,
    mut octaves: Option<&mut Octaves>,
    near: &mut Vec<f32>,
) -> Sums {
    let (groups, tail) = block.as_chunks::<64>();
    let rest = portable::scan(tail, TERNARY.then_some(line), octaves.as_deref_mut(), near);
    let mut sum = [_mm512_setzero_pd(); 2];
    let mut squares = [_mm512_setzero_pd(); 2];
    let mut abs = [_mm512_setzero_pd(); 2];
    let mut min = _mm512_set1_ps(f32::INFINITY);
    let mut max = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut zeros = _mm512_setzero_si512();
    let (mut above, mut below) = (0, 0);
    let mut counter = Counter::new(octaves.as_ref().map_or(0, |o| o.first));
    // Elements 16..32 of an index pair select from the second register.
    let odd_words = _mm512_add_epi16(_mm512_slli_epi16::<1>(word_indices()), _mm512_set1_epi16(1));
    let magnitude = _mm512_set1_epi16(0x7fff);
    let low = _mm512_set1_epi16(line.low as i16);
    let high = _mm512_set1_epi16(line.high as i16);
    let negative_high = _mm512_set1_epi16((line.high | 0x8000) as i16);
    for part in groups.chunks(Counter::GROUPS) {
        near.reserve(if TERNARY { 64 * part.len() + SPARE } else { 0 });
        let spare = near.spare_capacity_mut();
        let mut aside = 0;
        for group in part {
            let p = group.as_ptr();
            for eighth in 0..8 {
                // SAFETY: a group has 64 elements.
                let x = _mm512_cvtps_pd(unsafe { _mm256_loadu_ps(p.add(8 * eighth)) });
                let i = eighth % 2;
                sum[i] = _mm512_add_pd(sum[i], x);
                squares[i] = _mm512_fmadd_pd(x, x, squares[i]);
                abs[i] = _mm512_add_pd(abs[i], _mm512_abs_pd(x));
            }
            // SAFETY: a group has 64 elements.
            let x = [0, 1, 2, 3].map(|quarter| unsafe { _mm512_loadu_ps(p.add(16 * quarter)) });
            for x in x {
                min = _mm512_min_ps(min, x);
                max = _mm512_max_ps(max, x);
                let is_zero = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(x, _mm512_setzero_ps());
                zeros = _mm512_mask_sub_epi32(zeros, is_zero, zeros, _mm512_set1_epi32(-1));
            }
            if !TERNARY && !HISTOGRAM {
                continue;
            }
            let upper =
                |a, b| _mm512_permutex2var_epi16(_mm512_castps_si512(a), odd_words, _mm512_castps_si512(b));
            let halves = [upper(x[0], x[1]), upper(x[2], x[3])];
            if TERNARY {
                let over = halves.map(|h| _mm512_cmpgt_epi16_mask(h, high));
                let under = halves.map(|h| _mm512_cmpgt_epu16_mask(h, negative_high));
                let from = halves.map(|h| _mm512_cmpge_epu16_mask(_mm512_and_si512(h, magnitude), low));
                let join = |masks: [__mmask32; 2]| u64::from(masks[0]) | u64::from(masks[1]) << 32;
                let (over, under, from) = (join(over), join(under), join(from));
                above += u64::from(over.count_ones());
                below += u64::from(under.count_ones());
                aside += set_aside(group, from & !(over | under), &mut spare[aside..]);
            }
            if HISTOGRAM && let Some(octaves) = &mut octaves {
                counter.add(halves, &mut octaves.bins);
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
        sum: _mm512_reduce_add_pd(_mm512_add_pd(sum[0], sum[1])) + rest.sum,
        squares: _mm512_reduce_add_pd(_mm512_add_pd(squares[0], squares[1])) + rest.squares,
        abs: _mm512_reduce_add_pd(_mm512_add_pd(abs[0], abs[1])) + rest.abs,
        min: _mm512_reduce_min_ps(min).min(rest.min),
        max: _mm512_reduce_max_ps(max).max(rest.max),
        zeros: _mm512_reduce_add_epi32(zeros) as u64 + rest.zeros,
        above: above + rest.above,
        below: below + rest.below,
    }
}

/// 0, 1, 2, … 31 in 16-bit lanes.
#[target_feature(enable = "avx512f")]
fn word_indices() -> __m512i {
    let indices: [u16; 32] = std::array::from_fn(|i| i as u16);
    // SAFETY: the array fills the register.
    unsafe { _mm512_loadu_si512(indices.as_ptr().cast()) }
}

/// Counts exponent bytes in a window of 16 octaves. A table turns each byte into one bit of two bytes, which the
/// transposition of 8 x 8 bits gathers by octave, to be counted as bits set.
struct Counter {
    first: u8,
    /// Octaves 0-7 and 8-15 of the window: byte i of every 8 counts octave i.
    bytes: [__m512i; 2],
    /// The same in 16 bits, even octaves and odd ones.
    words: [[__m512i; 2]; 2],
}

impl Counter {
    /// Groups that the byte counters hold: each adds at most 8 to one.
    const GROUPS: usize = 31;

    #[target_feature(enable = "avx512f")]
    fn new(first: u8) -> Self {
        let zero = _mm512_setzero_si512();
        Counter { first, bytes: [zero; 2], words: [[zero; 2]; 2] }
    }

    /// Adds 64 elements, given by their upper halves. Those outside the window go to `bins` one by one.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bitalg,gfni,popcnt,bmi1")]
    fn add(&mut self, halves: [__m512i; 2], bins: &mut [u64; 256]) {
        // The exponent moves to the upper byte of its half, and the sign out.
        let odd_bytes = {
            let indices: [u8; 64] = std::array::from_fn(|i| 2 * i as u8 + 1);
            // SAFETY: the array fills the register.
            unsafe { _mm512_loadu_si512(indices.as_ptr().cast()) }
        };
        let [a, b] = halves.map(|h| _mm512_slli_epi16::<1>(h));
        let fields = _mm512_permutex2var_epi8(a, odd_bytes, b);
        let from_first = _mm512_sub_epi8(fields, _mm512_set1_epi8(self.first as i8));
        // 0 to 15 keep their lower four bits; everything else gets bit 7, for which the table gives 0.
        let index = _mm512_adds_epu8(from_first, _mm512_set1_epi8(0x70));
        let tables = [i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]), 0];
        let table = [
            _mm512_broadcast_i32x4(_mm_set_epi64x(tables[1], tables[0])),
            _mm512_broadcast_i32x4(_mm_set_epi64x(tables[0], tables[1])),
        ];
        let unit_rows = _mm512_set1_epi64(tables[0]);
        for (count, table) in self.bytes.iter_mut().zip(table) {
            let one_hot = _mm512_shuffle_epi8(table, index);
            let by_octave = _mm512_gf2p8affine_epi64_epi8::<0>(unit_rows, one_hot);
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

    /// Empties the byte counters.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn flush(&mut self) {
        for (bytes, words) in self.bytes.iter_mut().zip(&mut self.words) {
            let even = _mm512_and_si512(*bytes, _mm512_set1_epi16(0xff));
            words[0] = _mm512_add_epi16(words[0], even);
            words[1] = _mm512_add_epi16(words[1], _mm512_srli_epi16::<8>(*bytes));
            *bytes = _mm512_setzero_si512();
        }
    }

    /// Adds what was flushed to `bins`.
    #[target_feature(enable = "avx512f,avx512dq")]
    fn finish(self, bins: &mut [u64; 256]) {
        for (half, words) in self.words.into_iter().enumerate() {
            for (odd, words) in words.into_iter().enumerate() {
                // In 32 bits, words of equal place in the upper and the lower half of every 8 bytes, and then over all 8.
                let low = _mm512_and_si512(words, _mm512_set1_epi32(0xffff));
                let high = _mm512_srli_epi32::<16>(words);
                for (place, words) in [low, high].into_iter().enumerate() {
                    let quads = [
                        _mm512_and_si512(words, _mm512_set1_epi64(0xffff_ffff)),
                        _mm512_srli_epi64::<32>(words),
                    ];
                    for (quad, counts) in quads.into_iter().enumerate() {
                        let octave = usize::from(self.first) + 8 * half + 4 * quad + 2 * place + odd;
                        bins[octave] += _mm512_reduce_add_epi64(counts) as u64;
                    }
                }
            }
        }
    }
}
