//! Elementary functions and sums over rows, written so that the compiler turns loops over them into vector
//! instructions, and the dispatch that lets it use those of this processor. Sums run over a fixed number of lanes, so
//! a result does not depend on the width of the vectors.

/// Runs `f` compiled for the widest vectors that this processor has. What `f` calls must be inlined into it.
#[inline]
pub(crate) fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

const LANES: usize = 32;

/// Folds `f(a, b)` over two rows of the same length, lane by lane, then over lanes.
#[inline(always)]
fn fold2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (blocks_a, rest_a) = a.as_chunks::<LANES>();
    let (blocks_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in blocks_a.iter().zip(blocks_b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    rest_a.iter().zip(rest_b).fold(over_lanes(lanes), |sum, (&a, &b)| sum + f(a, b))
}

#[inline(always)]
fn over_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of products.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    fold2(a, b, |a, b| a * b)
}

/// Sum of a * b * c.
#[inline(always)]
pub(crate) fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (blocks_a, rest_a) = a.as_chunks::<LANES>();
    let (blocks_b, rest_b) = b.as_chunks::<LANES>();
    let (blocks_c, rest_c) = c.as_chunks::<LANES>();
    for ((a, b), c) in blocks_a.iter().zip(blocks_b).zip(blocks_c) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i] * c[i];
        }
    }
    let rest = rest_a.iter().zip(rest_b).zip(rest_c);
    rest.fold(over_lanes(lanes), |sum, ((&a, &b), &c)| sum + a * b * c)
}

/// Sum of elements.
#[inline(always)]
pub(crate) fn sum(a: &[f32]) -> f32 {
    fold2(a, a, |a, _| a)
}

/// Sum of f of elements.
#[inline(always)]
pub(crate) fn sum_of(a: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    fold2(a, a, |a, _| f(a))
}

/// Largest element; negative infinity for an empty row. NaN is ignored.
#[inline(always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = a.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

/// Largest magnitude; 0 for an empty row. NaN is ignored.
#[inline(always)]
pub(crate) fn max_abs(a: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (blocks, rest) = a.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            let x = block[i].abs();
            lanes[i] = if x > lanes[i] { x } else { lanes[i] };
        }
    }
    lanes.iter().chain(rest).fold(0.0, |m, &x| if x.abs() > m { x.abs() } else { m })
}

/// `1.5 * 2^23`: added to an f32 it leaves no fraction bits, and the sum's low bits are the integer.
const SHIFT: f32 = 12_582_912.0;

/// Rounds to the nearest integer, ties to even, for |x| < 2^22.
#[inline(always)]
pub(crate) fn round(x: f32) -> f32 {
    (x + SHIFT) - SHIFT
}

/// e^x within 2 units in the last place, from 2^-126 to 2^127 (inputs beyond give those); the polynomial of Cephes'
/// `expf` (Moshier 1989).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let power = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23;
    (p * r * r + r + 1.0) * f32::from_bits(power)
}

/// tanh x within 2 units in the last place: Cephes' polynomial (Moshier 1989) near zero, else `1 - 2 / (e^2x + 1)`.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let s = x * x;
    let mut p = -5.704_988_6e-3;
    for c in [2.063_908_8e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = p * s + c;
    }
    let near = p * s * x + x;
    let far = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_agree_with_f64() {
        let ulps = |got: f32, want: f64| {
            let unit = (f64::from((want as f32).next_up()) - f64::from(want as f32)).abs();
            (f64::from(got) - want).abs() / unit.max(f64::from(f32::MIN_POSITIVE))
        };
        for i in -200_000..=200_000 {
            let x = i as f32 * 4e-4;
            let (e, t) = (ulps(exp(x), f64::from(x).exp()), ulps(tanh(x), f64::from(x).tanh()));
            assert!(e <= 2.0, "exp({x}): {e} units");
            assert!(t <= 2.0 || x == 0.0, "tanh({x}): {t} units");
        }
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
        assert_eq!((exp(0.0), tanh(0.0)), (1.0, 0.0));
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38 && exp(f32::INFINITY) > 1e38);
        for (x, even) in
            [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-126.5, -126.0), (0.49999997, 0.0)]
        {
            assert_eq!(round(x), even, "{x}");
        }
    }

    #[test]
    fn sums_over_rows_of_any_length() {
        for len in [0, 1, 31, 32, 33, 64, 100] {
            let row: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() - 0.1).collect();
            let exact: f64 = row.iter().map(|&x| f64::from(x)).sum();
            assert!((f64::from(sum(&row)) - exact).abs() < 1e-5);
            let exact: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
            assert!((f64::from(dot(&row, &row)) - exact).abs() < 1e-5);
            assert_eq!(max(&row), row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            assert_eq!(max_abs(&row), row.iter().fold(0.0, |m: f32, x| m.max(x.abs())));
        }
    }
}
