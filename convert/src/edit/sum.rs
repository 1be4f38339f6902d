//! Weighted sums in f64.

use ckpt_inspect::DType;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::simd::with_avx2;

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
        let wide = f32::from_bits(u32::from(u16::from_le_bytes(word)) << 16);
        *sum += weight * f64::from(wide);
    });
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
