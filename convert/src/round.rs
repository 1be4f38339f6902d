//! f64 to narrower types in one rounding, half to even, as IEEE 754 and PyTorch do.

use ckpt_inspect::DType;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::simd::with_avx2;

/// Elements that are rounded at a time: they stay in the first-level cache.
const BLOCK: usize = 1024;

/// Writes `values` to `out`, little-endian and rounded to `dtype`, one of f64, f32, f16 and bf16.
pub(crate) fn round_f64(values: &[f64], dtype: DType, out: &mut [u8]) {
    let mut odd = [0.0; BLOCK];
    match dtype {
        DType::F64 => put(values.iter().map(|x| x.to_le_bytes()), out),
        DType::F32 => put(values.iter().map(|&x| (x as f32).to_le_bytes()), out),
        DType::BF16 => {
            for (values, out) in values.chunks(BLOCK).zip(out.chunks_mut(2 * BLOCK)) {
                let odd = &mut odd[..values.len()];
                round_to_odd(values, odd);
                round_to_bf16(odd, out);
            }
        }
        _ => {
            let mut words = [f16::ZERO; BLOCK];
            for (values, out) in values.chunks(BLOCK).zip(out.chunks_mut(2 * BLOCK)) {
                let (odd, words) = (&mut odd[..values.len()], &mut words[..values.len()]);
                round_to_odd(values, odd);
                words.convert_from_f32_slice(odd);
                put(words.iter().map(|word| word.to_le_bytes()), out);
            }
        }
    }
}

/// How many of `values` are not finite when they are rounded to `dtype`.
pub(crate) fn not_finite(values: &[f64], dtype: DType) -> u64 {
    // Up to the largest number of a type nothing is rounded beyond it.
    let largest = match dtype {
        DType::F32 => f64::from(f32::MAX),
        DType::F16 => f64::from(f16::MAX),
        DType::BF16 => f64::from(half::bf16::MAX),
        _ => f64::MAX,
    };
    match any_beyond(values, largest) {
        true => values.iter().map(|x| u64::from(!is_finite_in(*x, dtype))).sum(),
        false => 0,
    }
}

/// Whether `x` is a finite number also where it is rounded to `dtype`.
fn is_finite_in(x: f64, dtype: DType) -> bool {
    match dtype {
        DType::F32 => (x as f32).is_finite(),
        DType::F16 => f16::from_f64(x).is_finite(),
        DType::BF16 => half::bf16::from_f64(x).is_finite(),
        _ => x.is_finite(),
    }
}

/// Fills `out` with words.
fn put<const N: usize>(words: impl Iterator<Item = [u8; N]>, out: &mut [u8]) {
    out.as_chunks_mut::<N>().0.iter_mut().zip(words).for_each(|(slot, word)| *slot = word);
}

with_avx2!(any_beyond(values: &[f64], largest: f64) -> bool = portable_beyond);
with_avx2!(round_to_odd(values: &[f64], out: &mut [f32]) = portable_to_odd);
with_avx2!(round_to_bf16(values: &[f32], out: &mut [u8]) = portable_to_bf16);

/// Whether any of `values` is larger in magnitude, or NaN.
#[inline(always)]
fn portable_beyond(values: &[f64], largest: f64) -> bool {
    values.iter().fold(0, |beyond, x| beyond | u64::from(x.abs() <= largest) ^ 1) != 0
}

#[inline(always)]
fn portable_to_odd(values: &[f64], out: &mut [f32]) {
    out.iter_mut().zip(values).for_each(|(slot, &value)| *slot = to_odd(value));
}

#[inline(always)]
fn portable_to_bf16(values: &[f32], out: &mut [u8]) {
    for (value, out) in values.iter().zip(out.as_chunks_mut::<2>().0) {
        let bits = value.to_bits();
        // Half of the last place, less the least that is, where the last bit is even.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        let quiet = bits | 0x40_0000;
        let word = if value.is_nan() { quiet } else { rounded } >> 16;
        *out = (word as u16).to_le_bytes();
    }
}

/// `value` rounded to odd: towards zero, with the last bit set where that was not exact. A second rounding, to at
/// least two bits fewer, then gives what a single one would (Boldo and Melquiond, 2008,
/// <https://doi.org/10.1109/TC.2007.70819>).
#[inline(always)]
pub(crate) fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    let back = f64::from(near);
    let beyond = u32::from(back.abs() > value.abs());
    let towards_zero = near.to_bits().wrapping_sub(beyond) | 1;
    // A NaN is not less or greater than itself.
    let inexact = (back < value) | (back > value);
    f32::from_bits(if inexact { towards_zero } else { near.to_bits() })
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// Numbers of all sizes, about the borders of both types too, and what is no number.
    fn values() -> Vec<f64> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 16
        };
        let mut values =
            vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MAX, f64::MIN_POSITIVE];
        for word in 0..=u16::MAX {
            // A number of each type, halfway to the next one, and a little beside that.
            for (x, next) in [
                (bf16::from_bits(word).to_f64(), bf16::from_bits(word.wrapping_add(1)).to_f64()),
                (f16::from_bits(word).to_f64(), f16::from_bits(word.wrapping_add(1)).to_f64()),
            ] {
                let half = x + (next - x) / 2.0;
                values.extend([x, half, half * (1.0 + 1e-15), half * (1.0 - 1e-15)]);
            }
            values.push(f64::from_bits(next() << 48 | next()));
            values.push(f64::from(f32::from_bits(next() as u32)));
        }
        values
    }

    /// Whether `word` of 16 bits is the nearest number to `x`, of two the one with an even last bit. `number` is that of a
    /// word, and of infinity what would follow the largest one.
    fn is_nearest(x: f64, word: u16, number: impl Fn(u16) -> f64) -> bool {
        let magnitude = word & 0x7fff;
        let here = number(magnitude);
        let below = if magnitude == 0 { -number(1) } else { number(magnitude - 1) };
        let (least, most) = ((below + here) / 2.0, (here + number(magnitude + 1)) / 2.0);
        let within = match magnitude.is_multiple_of(2) {
            true => x.abs() >= least && x.abs() <= most,
            false => x.abs() > least && x.abs() < most,
        };
        let last = here == number(magnitude + 1);
        (within || last && x.abs() >= least) && (word >> 15 == 1) == x.is_sign_negative()
    }

    #[test]
    fn all_is_rounded_once() {
        let values = values();
        let (largest_bf16, largest_f16) = (bf16::INFINITY.to_bits(), f16::INFINITY.to_bits());
        let of_bf16 = |word: u16| match word >= largest_bf16 {
            true => 128f64.exp2(),
            false => bf16::from_bits(word).to_f64(),
        };
        let of_f16 = |word: u16| match word >= largest_f16 {
            true => 16f64.exp2(),
            false => f16::from_bits(word).to_f64(),
        };
        for dtype in [DType::BF16, DType::F16, DType::F32, DType::F64] {
            let size = dtype.element_size().unwrap();
            let mut got = vec![0; size * values.len()];
            round_f64(&values, dtype, &mut got);
            let mut not = 0;
            for (&x, got) in values.iter().zip(got.chunks(size)) {
                let word = || u16::from_le_bytes([got[0], got[1]]);
                let (right, finite) = match dtype {
                    DType::BF16 => (is_nearest(x, word(), of_bf16), bf16::from_bits(word()).is_finite()),
                    DType::F16 => (is_nearest(x, word(), of_f16), f16::from_bits(word()).is_finite()),
                    DType::F32 => (got == (x as f32).to_le_bytes(), (x as f32).is_finite()),
                    _ => (got == x.to_le_bytes(), x.is_finite()),
                };
                not += u64::from(!finite);
                assert!(right || x.is_nan() && !finite, "{x:e} in {dtype}: {got:x?}");
            }
            assert_eq!(not_finite(&values, dtype), not, "{dtype}");
        }
    }
}
