//! Rounding that encoders share.

/// 1 / d, and 0 for 0.
#[inline(always)]
pub fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The largest magnitude of a multiple of 16 values.
#[inline(always)]
pub fn largest(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for chunk in values.as_chunks::<16>().0 {
        for i in 0..16 {
            let value = chunk[i].abs();
            lanes[i] = if value > lanes[i] { value } else { lanes[i] };
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
    }
    lanes[0]
}

/// The first value of the largest magnitude, with its sign.
#[inline(always)]
pub fn extreme(values: &[f32; 32]) -> f32 {
    values.iter().fold(0.0f32, |most, &value| if value.abs() > most.abs() { value } else { most })
}

/// The smallest and the largest value.
#[inline(always)]
pub fn range(values: &[f32; 32]) -> (f32, f32) {
    values.iter().fold((f32::MAX, -f32::MAX), |(low, high), &value| {
        (if value < low { value } else { low }, if value > high { value } else { high })
    })
}

/// Quants 0 to `most`: values times `factor` plus `shift`, truncated to integers.
#[inline(always)]
pub fn cut(values: &[f32; 32], factor: f32, shift: f32, most: u8) -> [u8; 32] {
    values.map(|x| ((x * factor + shift) as u8).min(most))
}
