//! Weighted sums in f64.

use std::borrow::Cow;

use ckpt_inspect::DType;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::simd::{prefetch, with_avx2};

/// Elements that are widened at a time: they stay in the first-level cache.
const BLOCK: usize = 1024;

/// Adds `weight` times each element in `bytes`, little-endian ones of the type `dtype`, to `sums`.
pub(crate) fn add(bytes: &[u8], dtype: DType, weight: f64, sums: &mut [f64]) {
    match dtype {
        DType::F64 => add_f64(bytes, weight, sums),
        DType::F32 => add_f32(bytes, weight, sums),
        DType::BF16 => add_bf16(bytes, weight, sums),
        _ => {
            let (mut words, mut wide) = ([0u16; BLOCK], [0f32; BLOCK]);
            for (bytes, sums) in bytes.chunks(2 * BLOCK).zip(sums.chunks_mut(BLOCK)) {
                let (words, wide) = (&mut words[..sums.len()], &mut wide[..sums.len()]);
                let stored = bytes.as_chunks::<2>().0.iter();
                words.iter_mut().zip(stored).for_each(|(word, &bytes)| *word = u16::from_le_bytes(bytes));
                words.reinterpret_cast::<f16>().convert_to_f32_slice(wide);
                add_numbers(wide, weight, sums);
            }
        }
    }
}

with_avx2!(add_f64(bytes: &[u8], weight: f64, sums: &mut [f64]) = portable_f64);
with_avx2!(add_f32(bytes: &[u8], weight: f64, sums: &mut [f64]) = portable_f32);
with_avx2!(add_bf16(bytes: &[u8], weight: f64, sums: &mut [f64]) = portable_bf16);
with_avx2!(add_numbers(values: &[f32], weight: f64, sums: &mut [f64]) = portable_numbers);

/// Adds `weight` times each of `values` to `sums`.
#[inline(always)]
fn portable_numbers(values: &[f32], weight: f64, sums: &mut [f64]) {
    sums.iter_mut().zip(values).for_each(|(sum, &x)| *sum += weight * f64::from(x));
}

#[inline(always)]
fn portable_f64(bytes: &[u8], weight: f64, sums: &mut [f64]) {
    let words = bytes.as_chunks::<8>().0.iter();
    sums.iter_mut().zip(words).for_each(|(sum, &word)| *sum += weight * f64::from_le_bytes(word));
}

#[inline(always)]
fn portable_f32(bytes: &[u8], weight: f64, sums: &mut [f64]) {
    let words = bytes.as_chunks::<4>().0.iter();
    sums.iter_mut().zip(words).for_each(|(sum, &word)| *sum += weight * f64::from(f32::from_le_bytes(word)));
}

#[inline(always)]
fn portable_bf16(bytes: &[u8], weight: f64, sums: &mut [f64]) {
    let words = bytes.as_chunks::<2>().0.iter();
    sums.iter_mut().zip(words).for_each(|(sum, &word)| {
        *sum += weight * f64::from(wide_bf16(word));
    });
}

/// Elements of a source, and what they count in a mean.
#[derive(Debug)]
pub(crate) struct Term<'a> {
    /// Little-endian ones of the type `dtype`.
    pub bytes: Cow<'a, [u8]>,
    pub dtype: DType,
    pub weight: f64,
}

/// Fills `out` with means from element `start` on: the sum of the weighted elements of `terms`, in their order, divided by
/// `by`.
pub(crate) fn mean(terms: &[Term<'_>], start: usize, by: f64, out: &mut [f64]) {
    let dtype = terms.first().map(|term| term.dtype).filter(|dtype| terms.iter().all(|t| t.dtype == *dtype));
    match dtype {
        Some(DType::F64) => mean_f64(terms, start, by, out),
        Some(DType::F32) => mean_f32(terms, start, by, out),
        Some(DType::BF16) => mean_bf16(terms, start, by, out),
        Some(DType::F16) => mean_f16(terms, start, by, out),
        _ => {
            // To which adding keeps the sign of a zero.
            out.fill(-0.0);
            for Term { bytes, dtype, weight } in terms {
                let size = dtype.element_size().unwrap_or(1);
                add(&bytes[size * start..][..size * out.len()], *dtype, *weight, out);
            }
            divide(out, by);
        }
    }
}

with_avx2!(mean_f64(terms: &[Term<'_>], start: usize, by: f64, out: &mut [f64]) = portable_mean_f64);
with_avx2!(mean_f32(terms: &[Term<'_>], start: usize, by: f64, out: &mut [f64]) = portable_mean_f32);
with_avx2!(mean_bf16(terms: &[Term<'_>], start: usize, by: f64, out: &mut [f64]) = portable_mean_bf16);
with_avx2!(mean_f16(terms: &[Term<'_>], start: usize, by: f64, out: &mut [f64]) = portable_mean_f16);

#[inline(always)]
fn portable_mean_f64(terms: &[Term<'_>], start: usize, by: f64, out: &mut [f64]) {
    portable_mean(terms, start, by, out, f64::from_le_bytes);
}

#[inline(always)]
fn portable_mean_f32(terms: &[Term<'_>], start: usize, by: f64, out: &mut [f64]) {
    portable_mean(terms, start, by, out, |word| f64::from(f32::from_le_bytes(word)));
}

#[inline(always)]
fn portable_mean_bf16(terms: &[Term<'_>], start: usize, by: f64, out: &mut [f64]) {
    portable_mean(terms, start, by, out, |word| f64::from(wide_bf16(word)));
}

#[inline(always)]
fn portable_mean_f16(terms: &[Term<'_>], start: usize, by: f64, out: &mut [f64]) {
    portable_mean(terms, start, by, out, |word| f64::from(wide_f16(word)));
}

#[inline(always)]
fn portable_mean<const N: usize>(
    terms: &[Term<'_>],
    start: usize,
    by: f64,
    out: &mut [f64],
    wide: impl Fn([u8; N]) -> f64,
) {
    /// Elements whose sums stay in registers while the sources pass.
    const TOGETHER: usize = 32;
    /// Bytes of a source that are asked for ahead: their pages are apart, so that a processor does not see what comes.
    const AHEAD: usize = 1024;
    /// Bytes that come into the cache together.
    const LINE: usize = 64;
    let (runs, rest) = out.as_chunks_mut::<TOGETHER>();
    for (i, out) in runs.iter_mut().enumerate() {
        let at = N * (start + TOGETHER * i);
        // To which adding keeps the sign of a zero.
        let mut sums = [-0.0; TOGETHER];
        for Term { bytes, weight, .. } in terms {
            for line in 0..N * TOGETHER / LINE {
                prefetch(bytes, at + AHEAD + LINE * line);
            }
            let words = &bytes[at..at + N * TOGETHER].as_chunks::<N>().0[..TOGETHER];
            for j in 0..TOGETHER {
                sums[j] += weight * wide(words[j]);
            }
        }
        *out = sums.map(|sum| sum / by);
    }
    let first = start + TOGETHER * runs.len();
    for (i, out) in rest.iter_mut().enumerate() {
        let mut sum = -0.0;
        for Term { bytes, weight, .. } in terms {
            sum += weight * wide(bytes[N * first..].as_chunks::<N>().0[i]);
        }
        *out = sum / by;
    }
}

#[inline(always)]
fn wide_bf16(word: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(word)) << 16)
}

/// What half's own conversion gives, in operations that compilers make vectors of.
#[inline(always)]
fn wide_f16(word: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(word));
    // The exponent and the fraction where f32 has them, of a number that is 2^112 times too small.
    let small = f32::from_bits((bits & 0x7fff) << 13) * 5192296858534827628530496329220096.0;
    // The largest exponent is that of infinity and NaN.
    let beyond = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(small.to_bits() | beyond | (bits & 0x8000) << 16)
}

with_avx2!(pub(crate) divide(values: &mut [f64], by: f64) = portable_divide);

/// Divides each of `values`.
#[inline(always)]
fn portable_divide(values: &mut [f64], by: f64) {
    values.iter_mut().for_each(|x| *x /= by);
}

with_avx2!(pub(crate) add_products(factors: &[f32], rows: &[f32], width: usize, first: usize, sums: &mut [f64]) = portable_products);

/// Adds the sum of `rows`, of `width` numbers each and times their `factors`, to `sums`, which are of the columns from `first` on.
#[inline(always)]
fn portable_products(factors: &[f32], rows: &[f32], width: usize, first: usize, sums: &mut [f64]) {
    for (&factor, row) in factors.iter().zip(rows.chunks_exact(width.max(1))) {
        let factor = f64::from(factor);
        sums.iter_mut().zip(&row[first..]).for_each(|(sum, &x)| *sum += factor * f64::from(x));
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn bits(values: &[f64]) -> Vec<u64> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn every_f16_is_widened() {
        for word in 0..=u16::MAX {
            let (got, want) = (wide_f16(word.to_le_bytes()), f16::from_bits(word).to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{word:x}");
        }
    }

    /// Of any length, from any element on, for sources of one type and of several.
    #[test]
    fn means_are_sums_in_their_order() {
        let values: Vec<f32> = (0..500).map(|i| (i * 7919 % 1013) as f32 / 64.0 - 8.0).collect();
        let stored = |dtype: DType, from: usize| -> Vec<u8> {
            let values = &values[from..from + 300];
            match dtype {
                DType::F64 => values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect(),
                DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                DType::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            }
        };
        use DType::{BF16, F16, F32, F64};
        for dtypes in [[F64; 3], [F32; 3], [BF16; 3], [F16; 3], [F32, BF16, F16]] {
            let term = |i: usize| Term {
                bytes: stored(dtypes[i], 50 * i).into(),
                dtype: dtypes[i],
                weight: [1.0, 0.3, 2.5][i],
            };
            let terms = [term(0), term(1), term(2)];
            for (start, len) in [(0, 300), (3, 64), (7, 31), (299, 1), (150, 0)] {
                let mut want = vec![-0.0; len];
                for Term { bytes, dtype, weight } in &terms {
                    let size = dtype.element_size().unwrap();
                    add(&bytes[size * start..][..size * len], *dtype, *weight, &mut want);
                }
                divide(&mut want, 3.8);
                let mut got = vec![0.0; len];
                mean(&terms, start, 3.8, &mut got);
                assert_eq!(bits(&got), bits(&want), "{dtypes:?} from {start}");
            }
        }
    }
}
