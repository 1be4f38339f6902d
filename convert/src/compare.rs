//! Fast passes over the bytes or values of both sides, which in most cases show that nothing differs.

use ckpt_inspect::{Checkpoint, DType, TensorInfo};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use crate::Result;
use crate::encode::gathered;
use crate::simd::with_avx2;

/// Whether `theirs` is, byte for byte, what computing `ours` gave when it was written; false where that is not known.
pub(crate) fn was_given(ours: &TensorInfo, b: &Checkpoint, theirs: &TensorInfo) -> Result<bool> {
    let (Some(storage), Some(size)) = (&ours.storage, ours.dtype.element_size()) else { return Ok(false) };
    if !ours.is_contiguous() {
        return Ok(false);
    }
    let (step, mut start) = (gathered(&[ours, theirs]) / size as u64, 0);
    while start < theirs.numel() {
        let count = step.min(theirs.numel() - start);
        let Some(part) = theirs.stretch(start, count) else { return Ok(false) };
        let at = ours.byte_offset + start * size as u64;
        if storage.gave(at, &b.tensor_bytes(&part)?) != Some(true) {
            return Ok(false);
        }
        start += count;
    }
    // Of no elements nothing was computed.
    Ok(theirs.numel() > 0)
}

/// Elements of 16 bits as f32.
pub(crate) fn widen(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let words: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|&word| u16::from_le_bytes(word)).collect();
    let mut wide = vec![0.0; words.len()];
    match dtype {
        DType::BF16 => words.reinterpret_cast::<bf16>().convert_to_f32_slice(&mut wide),
        _ => words.reinterpret_cast::<f16>().convert_to_f32_slice(&mut wide),
    }
    wide
}

with_avx2!(pub(crate) largest_difference(x: &[f32], y: &[f32]) -> f64 = portable_difference);
with_avx2!(pub(crate) any_differs(x: &[f32], y: &[f32]) -> bool = portable_differs);

with_avx2!(pub(crate) same_codes(x: &[f32], line_x: (f32, f32), y: &[f32], line_y: (f32, f32)) -> bool = portable_codes);

/// Whether all codes are equal, and no value is beyond its limit. Each row has the largest magnitude whose code is 0,
/// and the limit.
#[inline(always)]
fn portable_codes(
    x: &[f32],
    (line_x, limit_x): (f32, f32),
    y: &[f32],
    (line_y, limit_y): (f32, f32),
) -> bool {
    let mut wrong = 0u32;
    for (&x, &y) in x.iter().zip(y) {
        let (up, down) = ((x > line_x) ^ (y > line_y), (x < -line_x) ^ (y < -line_y));
        let within = (x.abs() <= limit_x) & (y.abs() <= limit_y);
        wrong |= u32::from(up | down | !within);
    }
    wrong == 0
}

with_avx2!(pub(crate) all_within(x: &[f32], y: &[f32], share: f64, absolute: f64) -> bool = portable_within);

/// Whether no two values differ by more than a share of the largest magnitude plus a constant.
#[inline(always)]
fn portable_within(x: &[f32], y: &[f32], share: f64, absolute: f64) -> bool {
    let mut largest = 0.0f32;
    for (x, y) in x.iter().zip(y) {
        let larger = if x.abs() > y.abs() { x.abs() } else { y.abs() };
        largest = if larger > largest { larger } else { largest };
    }
    let limit = share * f64::from(largest) + absolute;
    let mut wrong = 0u32;
    for (x, y) in x.iter().zip(y) {
        wrong |= u32::from((f64::from(*x) - f64::from(*y)).abs() <= limit) ^ 1;
    }
    wrong == 0
}

/// The largest difference of two values where both are finite.
#[inline(always)]
fn portable_difference(x: &[f32], y: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (xs, ys) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    for (x, y) in xs.0.iter().zip(ys.0) {
        for i in 0..16 {
            // Infinite or NaN where either is not finite, as no two finite f32 are apart in f64.
            let difference = (f64::from(x[i]) - f64::from(y[i])).abs();
            let counts = (difference < f64::INFINITY) & (difference > lanes[i]);
            lanes[i] = if counts { difference } else { lanes[i] };
        }
    }
    let rest = xs.1.iter().zip(ys.1).map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs());
    rest.filter(|d| d.is_finite()).chain(lanes).fold(0.0, f64::max)
}

/// Whether any two values have different bits.
#[inline(always)]
fn portable_differs(x: &[f32], y: &[f32]) -> bool {
    let differences = x.iter().zip(y).map(|(x, y)| x.to_bits() ^ y.to_bits());
    differences.fold(0, |all, bits| all | bits) != 0
}
