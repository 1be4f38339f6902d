//! One pass over a block of f32 that lies in the first-level cache: moments in f64, extremes, counts around the
//! ternary threshold, and magnitudes by octave. An AVX2 version and a portable one, chosen at run time.

/// Sums over one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    pub sum: f64,
    pub squares: f64,
    pub abs: f64,
    pub min: f32,
    pub max: f32,
    pub zeros: u64,
    /// Elements above the threshold, and below its negative.
    pub above: u64,
    pub below: u64,
}

/// Where ternary counting draws its line. Elements with `||w| - at| <= margin` are set aside, because the line
/// is only estimated while the block is seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub at: f32,
    pub margin: f32,
}

/// Sums over `block`, whose length is at most [`super::BLOCK`]. `near` receives the elements near the line.
/// With a NaN or infinity in the block, `squares` is not finite and the other sums mean nothing.
pub(super) fn sums(block: &[f32], line: Option<Line>, near: &mut Vec<f32>) -> Sums {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has AVX2 and FMA.
        return unsafe {
            match line {
                Some(line) => avx2::sums::<true>(block, line, near),
                None => avx2::sums::<false>(block, Line { at: 0.0, margin: 0.0 }, near),
            }
        };
    }
    portable_sums(block, line, near)
}

/// Adds to `bins[e]` the number of elements whose exponent field is `e`.
pub(super) fn exponents(block: &[f32], bins: &mut [u64; 256]) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::exponents(block, bins) };
    }
    portable_exponents(block, bins);
}

pub(super) fn portable_sums(block: &[f32], line: Option<Line>, near: &mut Vec<f32>) -> Sums {
    const LANES: usize = 8;
    let (mut sum, mut squares, mut abs) = ([0.0f64; LANES], [0.0f64; LANES], [0.0f64; LANES]);
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let (mut zeros, mut above, mut below) = (0, 0, 0);
    let Line { at, margin } = line.unwrap_or(Line { at: 0.0, margin: -1.0 });
    for chunk in block.chunks(LANES) {
        for (i, &x) in chunk.iter().enumerate() {
            let wide = f64::from(x);
            sum[i] += wide;
            squares[i] += wide * wide;
            abs[i] += wide.abs();
            min[i] = if x < min[i] { x } else { min[i] };
            max[i] = if x > max[i] { x } else { max[i] };
            zeros += u64::from(x == 0.0);
            above += u64::from(x > at);
            below += u64::from(x < -at);
        }
        if line.is_some() {
            near.extend(chunk.iter().filter(|x| (x.abs() - at).abs() <= margin));
        }
    }
    Sums {
        sum: sum.iter().sum(),
        squares: squares.iter().sum(),
        abs: abs.iter().sum(),
        min: min.into_iter().fold(f32::INFINITY, f32::min),
        max: max.into_iter().fold(f32::NEG_INFINITY, f32::max),
        zeros,
        above,
        below,
    }
}

pub(super) fn portable_exponents(block: &[f32], bins: &mut [u64; 256]) {
    for x in block {
        bins[(x.to_bits() >> 23) as usize & 0xff] += 1;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Line, Sums, portable_exponents, portable_sums};

    #[target_feature(enable = "avx2,fma")]
    pub fn sums<const TERNARY: bool>(block: &[f32], line: Line, near: &mut Vec<f32>) -> Sums {
        let chunks = block.chunks_exact(16);
        let rest = portable_sums(chunks.remainder(), TERNARY.then_some(line), near);
        let absolute = _mm256_castsi256_pd(_mm256_set1_epi64x(i64::MAX));
        let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
        let zero = _mm256_setzero_ps();
        let (at, minus_at) = (_mm256_set1_ps(line.at), _mm256_set1_ps(-line.at));
        let margin = _mm256_set1_ps(line.margin);
        let mut sum = [_mm256_setzero_pd(); 4];
        let mut squares = [_mm256_setzero_pd(); 4];
        let mut abs = [_mm256_setzero_pd(); 4];
        let mut min = [_mm256_set1_ps(f32::INFINITY); 2];
        let mut max = [_mm256_set1_ps(f32::NEG_INFINITY); 2];
        let mut zeros = _mm256_setzero_si256();
        let mut above = _mm256_setzero_si256();
        let mut below = _mm256_setzero_si256();
        for chunk in chunks {
            let p = chunk.as_ptr();
            for quarter in 0..4 {
                // SAFETY: a chunk has 16 elements.
                let x = _mm256_cvtps_pd(unsafe { _mm_loadu_ps(p.add(4 * quarter)) });
                sum[quarter] = _mm256_add_pd(sum[quarter], x);
                squares[quarter] = _mm256_fmadd_pd(x, x, squares[quarter]);
                abs[quarter] = _mm256_add_pd(abs[quarter], _mm256_and_pd(x, absolute));
            }
            let mut close = zero;
            for half in 0..2 {
                // SAFETY: a chunk has 16 elements.
                let x = unsafe { _mm256_loadu_ps(p.add(8 * half)) };
                min[half] = _mm256_min_ps(min[half], x);
                max[half] = _mm256_max_ps(max[half], x);
                let is_zero = _mm256_cmp_ps::<_CMP_EQ_OQ>(x, zero);
                zeros = _mm256_sub_epi32(zeros, _mm256_castps_si256(is_zero));
                if TERNARY {
                    let over = _mm256_cmp_ps::<_CMP_GT_OQ>(x, at);
                    let under = _mm256_cmp_ps::<_CMP_LT_OQ>(x, minus_at);
                    above = _mm256_sub_epi32(above, _mm256_castps_si256(over));
                    below = _mm256_sub_epi32(below, _mm256_castps_si256(under));
                    let distance = _mm256_and_ps(_mm256_sub_ps(_mm256_and_ps(x, magnitude), at), magnitude);
                    close = _mm256_or_ps(close, _mm256_cmp_ps::<_CMP_LE_OQ>(distance, margin));
                }
            }
            if TERNARY && _mm256_movemask_ps(close) != 0 {
                near.extend(chunk.iter().filter(|x| (x.abs() - line.at).abs() <= line.margin));
            }
        }
        Sums {
            sum: total(sum) + rest.sum,
            squares: total(squares) + rest.squares,
            abs: total(abs) + rest.abs,
            min: lanes_ps(_mm256_min_ps(min[0], min[1])).into_iter().fold(rest.min, f32::min),
            max: lanes_ps(_mm256_max_ps(max[0], max[1])).into_iter().fold(rest.max, f32::max),
            zeros: lanes_u64(zeros) + rest.zeros,
            above: lanes_u64(above) + rest.above,
            below: lanes_u64(below) + rest.below,
        }
    }

    /// Exponent fields are packed to bytes, 32 at a time, and counted by comparison for the twelve octaves below the
    /// block's largest exponent, which hold nearly all of a weight matrix. The rest is counted one by one.
    #[target_feature(enable = "avx2")]
    pub fn exponents(block: &[f32], bins: &mut [u64; 256]) {
        const OCTAVES: usize = 12;
        // A byte counter holds 255, one per 32 elements.
        for part in block.chunks(32 * 255) {
            let chunks = part.chunks_exact(32);
            portable_exponents(chunks.remainder(), bins);
            let mask = _mm256_set1_epi32(0xff);
            let fields = |chunk: &[f32]| {
                let word = |i: usize| {
                    // SAFETY: a chunk has 32 elements, and i < 4.
                    let x = unsafe { _mm256_loadu_si256(chunk.as_ptr().add(8 * i).cast()) };
                    _mm256_and_si256(_mm256_srli_epi32::<23>(x), mask)
                };
                let low = _mm256_packus_epi32(word(0), word(1));
                let high = _mm256_packus_epi32(word(2), word(3));
                _mm256_packus_epi16(low, high)
            };
            let top =
                chunks.clone().fold(_mm256_setzero_si256(), |top, chunk| _mm256_max_epu8(top, fields(chunk)));
            let largest = lanes_u8(top).into_iter().max().unwrap_or(0);
            let first = (largest as usize + 1).saturating_sub(OCTAVES);
            let mut counts = [_mm256_setzero_si256(); OCTAVES];
            let mut elements = 0;
            for chunk in chunks.clone() {
                let fields = fields(chunk);
                elements += 32;
                for (octave, count) in counts.iter_mut().enumerate() {
                    let wanted = _mm256_set1_epi8((first + octave) as u8 as i8);
                    *count = _mm256_sub_epi8(*count, _mm256_cmpeq_epi8(fields, wanted));
                }
            }
            let mut counted = 0;
            for (octave, count) in counts.iter().enumerate() {
                let n: u64 = lanes_u8(*count).into_iter().map(u64::from).sum();
                bins[first + octave] += n;
                counted += n;
            }
            if counted < elements {
                for x in &part[..elements as usize] {
                    let field = (x.to_bits() >> 23) as usize & 0xff;
                    if field < first {
                        bins[field] += 1;
                    }
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
    fn lanes_u64(x: __m256i) -> u64 {
        let mut out = [0u32; 8];
        // SAFETY: `out` has room for the register's eight lanes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) };
        out.into_iter().map(u64::from).sum()
    }

    #[target_feature(enable = "avx2")]
    fn lanes_u8(x: __m256i) -> [u8; 32] {
        let mut out = [0u8; 32];
        // SAFETY: `out` has room for the register's 32 lanes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) };
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the processor offers agrees with the portable version.
    #[test]
    fn versions_agree() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        for len in [0, 1, 15, 16, 17, 31, 32, 33, 100, 4095, 4096, 9001] {
            let block: Vec<f32> =
                (0..len).map(|i| if i % 7 == 0 { 0.0 } else { random() * random().powi(9) }).collect();
            let line = Line { at: 0.1, margin: 0.02 };
            for line in [None, Some(line)] {
                let (mut near_a, mut near_b) = (Vec::new(), Vec::new());
                let (a, b) = (sums(&block, line, &mut near_a), portable_sums(&block, line, &mut near_b));
                assert!((a.sum - b.sum).abs() <= 1e-12 * b.abs);
                assert!((a.squares - b.squares).abs() <= 1e-12 * b.squares);
                assert!((a.abs - b.abs).abs() <= 1e-12 * b.abs);
                assert_eq!((a.min, a.max, a.zeros), (b.min, b.max, b.zeros));
                if line.is_some() {
                    assert_eq!((a.above, a.below), (b.above, b.below));
                    near_a.sort_by(f32::total_cmp);
                    near_b.sort_by(f32::total_cmp);
                    assert_eq!(near_a, near_b);
                }
            }
            let (mut a, mut b) = ([0; 256], [0; 256]);
            exponents(&block, &mut a);
            portable_exponents(&block, &mut b);
            assert_eq!(a, b);
        }
    }
}
