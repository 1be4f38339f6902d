//! Measurements against a plain two-pass computation in f64, over dtypes, sizes, scales and special values.

use ckpt_inspect::measure::{Floor, Measured, Plan, TernaryRule, measure};
use ckpt_inspect::{DType, Elements};
use ckpt_kit::numbers::le;
use proptest::prelude::*;

fn plain(dtype: DType, bytes: &[u8], plan: Plan) -> Measured {
    measure(&Elements::plain(dtype, bytes).unwrap(), &plan)
}

struct Oracle {
    mean: f64,
    std: f64,
    abs_mean: f64,
    kurtosis: f64,
}

fn oracle(values: &[f64]) -> Oracle {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    let rest: f64 = values.iter().map(|v| v - mean).sum();
    let std = ((squares - rest * rest / n) / (n - 1.0)).sqrt();
    let power = |p: i32| values.iter().map(|v| ((v - mean) / std).powi(p)).sum::<f64>() / n;
    let kurtosis = power(4) / power(2).powi(2) - 3.0;
    Oracle { mean, std, abs_mean: values.iter().map(|v| v.abs()).sum::<f64>() / n, kurtosis }
}

#[track_caller]
fn assert_close(found: Option<f64>, wanted: f64, slack: f64) {
    let found = found.unwrap();
    assert!((found - wanted).abs() <= 1e-9 * wanted.abs() + slack, "{found} for {wanted}");
}

/// Normally distributed numbers from a fixed seed.
fn normal(n: usize, mean: f64, std: f64) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..n)
        .map(|_| {
            (mean + std * (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32
        })
        .collect()
}

#[test]
fn collapsed_and_offset_tensors_are_exact() {
    for (mean, std) in [(0.0, 5e-7), (1e6, 1.0), (0.0, 0.02), (-3e4, 1e-2), (1e30, 1e28), (0.0, 1e-42)] {
        let values = normal(700_001, mean, std);
        let wide: Vec<f64> = values.iter().map(|&v| v.into()).collect();
        let wanted = oracle(&wide);
        let stats = plain(DType::F32, &le(&values), Plan::default()).stats;
        assert_close(stats.std, wanted.std, 0.0);
        assert_close(stats.abs_mean, wanted.abs_mean, 0.0);
        // A mean of almost nothing is as exact as the sum of magnitudes allows.
        assert_close(stats.mean, wanted.mean, 1e-14 * wanted.abs_mean);
    }
}

#[test]
fn f64_is_measured_near_the_ends_of_its_range() {
    for scale in [1e200, 1e-200, 1.0] {
        let wide: Vec<f64> = normal(10_000, 0.5, 1.0).iter().map(|&v| f64::from(v) * scale).collect();
        let bytes = le(&wide);
        let stats = plain(DType::F64, &bytes, Plan::default()).stats;
        let wanted = oracle(&wide.iter().map(|v| v / scale).collect::<Vec<_>>());
        assert_close(stats.std, wanted.std * scale, 0.0);
        assert_close(stats.mean, wanted.mean * scale, 0.0);
    }
}

#[test]
fn no_element_and_one_have_no_std() {
    let stats = plain(DType::F32, &[], Plan::default().with_histogram()).stats;
    assert_eq!((stats.count, stats.mean, stats.std, stats.min), (0, None, None, None));
    let stats = plain(DType::F32, &le(&[-2.0f32]), Plan::default()).stats;
    assert_eq!((stats.count, stats.mean, stats.std, stats.abs_max), (1, Some(-2.0), None, Some(2.0)));
}

/// A zero from |w / scale| <= 0.5 in f32, as `torch.round` (half to even) gives it.
fn codes(values: &[f32], scale: f32) -> (usize, usize) {
    let code = |w: &f32| (w / scale).round_ties_even().clamp(-1.0, 1.0);
    (values.iter().filter(|w| code(w) < 0.0).count(), values.iter().filter(|w| code(w) > 0.0).count())
}

fn check_ternary(values: &[f32], cols: usize) {
    let plan = Plan::matrix(cols, Some(TernaryRule::Absmean { floor: Floor::Added(1e-8), per_row: false }));
    let ternary = plain(DType::F32, &le(values), plan).ternary.unwrap();
    let mean = values.iter().map(|v| f64::from(v.abs())).sum::<f64>() / values.len() as f64;
    let scale = mean as f32 + 1e-8;
    let (neg, pos) = codes(values, scale);
    let n = values.len() as f64;
    assert_eq!((ternary.neg, ternary.pos), (neg as f64 / n, pos as f64 / n));
    assert_close(ternary.scale, scale.into(), 0.0);
    let zero = |w: &f32| (w / scale).round_ties_even() == 0.0;
    let rows = values.chunks(cols).filter(|row| row.iter().all(zero)).count();
    let dead_cols = (0..cols).filter(|&c| values.iter().skip(c).step_by(cols).all(zero)).count();
    assert_eq!((ternary.dead_rows, ternary.dead_cols), (rows as u64, dead_cols as u64));
}

#[test]
fn ternary_occupancy_of_large_matrices_is_counted() {
    let cols = 768;
    let mut values = normal(cols * 1500, 0.0, 0.02);
    check_ternary(&values, cols);
    for (i, v) in values.iter_mut().enumerate() {
        if (i / cols).is_multiple_of(100) || i % cols == 5 {
            *v *= 1e-3;
        }
    }
    check_ternary(&values, cols);
    // The sample has another scale than the whole: the estimate is off, and a second pass is needed.
    let tail = values.len() / 3;
    values[tail..].iter_mut().enumerate().for_each(|(i, v)| *v *= if (i / 64) % 7 == 3 { 40.0 } else { 1.0 });
    check_ternary(&values, cols);
}

#[test]
fn ternary_occupancy_where_the_estimate_is_no_help() {
    // Four of five weights lie exactly at half of mean|W|: too many to set aside.
    let crowded: Vec<f32> = (0..768 * 700).map(|i| if i % 5 == 0 { -0.06 } else { 0.01 }).collect();
    check_ternary(&crowded, 768);
    // Rows of one element, and one row.
    let values = normal(600_000, 0.0, 0.02);
    check_ternary(&values, 1);
    check_ternary(&values, values.len());
    // Nearly every row dead.
    let sparse: Vec<f32> = (0..300 * 1000).map(|i| if i / 300 % 50 == 0 { 1.0 } else { 1e-4 }).collect();
    check_ternary(&sparse, 300);
    // All below eps.
    check_ternary(&normal(4096, 0.0, 1e-42), 64);
}

#[test]
fn codes_are_signs_however_small_the_scale() {
    for scale in [1.0f32, 1e-30, 1e-42, f32::from_bits(1)] {
        let values: Vec<f32> = (0..3000).map(|i| scale * [-1.0, 0.0, 1.0, 1.0][i % 4]).collect();
        let plan = Plan::matrix(60, Some(TernaryRule::Codes)).with_histogram();
        let ternary = plain(DType::F32, &le(&values), plan).ternary.unwrap();
        assert_eq!((ternary.neg, ternary.zero, ternary.pos), (0.25, 0.25, 0.5), "{scale:e}");
        // Columns 1, 5, 9, ... hold zeros alone.
        assert_eq!((ternary.dead_rows, ternary.dead_cols), (0, 15), "{scale:e}");
    }
}

#[test]
fn infinite_weights_have_codes_and_nan_has_none() {
    let mut values = normal(768 * 400, 0.0, 0.02);
    let plan = Plan::matrix(768, Some(TernaryRule::Absmean { floor: Floor::Added(1e-8), per_row: false }))
        .with_histogram();
    (values[70], values[9000], values[200_000]) = (f32::INFINITY, f32::NEG_INFINITY, f32::NAN);
    let measured = plain(DType::F32, &le(&values), plan);
    let finite: Vec<f32> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let mean = finite.iter().map(|v| f64::from(v.abs())).sum::<f64>() / finite.len() as f64;
    let (neg, pos) = codes(&finite, mean as f32 + 1e-8);
    let total = (values.len() - 1) as f64;
    let ternary = measured.ternary.unwrap();
    assert_eq!((ternary.neg, ternary.pos), ((neg + 1) as f64 / total, (pos + 1) as f64 / total));
    assert_eq!((measured.stats.nan, measured.stats.inf), (1, 2));
}

/// A row and a column in which only NaN stands out are dead, in one pass as in two.
#[test]
fn nan_keeps_no_row_alive() {
    let (cols, row, col) = (64, 3, 5);
    let mut values = normal(cols * 100, 0.0, 0.02);
    for (i, v) in values.iter_mut().enumerate() {
        if i / cols == row || i % cols == col {
            *v = 0.0;
        }
    }
    values[row * cols + col] = f32::NAN;
    for per_row in [false, true] {
        let ternary = Some(TernaryRule::Absmean { floor: Floor::Added(1e-8), per_row });
        let plan = Plan::matrix(cols, ternary);
        let ternary = plain(DType::F32, &le(&values), plan).ternary.unwrap();
        assert_eq!((ternary.dead_rows, ternary.dead_cols), (1, 1), "per row: {per_row}");
    }
}

#[test]
fn exact_halves_round_to_even() {
    // mean|W| is 1 up to eps, which f32 drops: the half is a zero, the next number is not.
    let values = [0.5f32, -0.5, 1.5, -1.5, 0.5f32.next_up(), -(0.5f32.next_down()), 2.0, 1.5 - f32::EPSILON];
    let plan = Plan::matrix(4, Some(TernaryRule::Absmean { floor: Floor::Added(0.0), per_row: false }));
    let mean = values.iter().map(|v| f64::from(v.abs())).sum::<f64>() / 8.0;
    let ternary = plain(DType::F32, &le(&values), plan).ternary.unwrap();
    let (neg, pos) = codes(&values, mean as f32);
    assert_eq!((ternary.neg, ternary.pos), (neg as f64 / 8.0, pos as f64 / 8.0));
}

#[test]
fn a_scale_per_row_gives_each_row_its_codes() {
    let mut values = normal(64 * 100, 0.0, 1.0);
    values
        .chunks_mut(100)
        .enumerate()
        .for_each(|(r, row)| row.iter_mut().for_each(|v| *v *= 10f32.powi(r as i32 % 9 - 4)));
    values[..100].fill(0.0);
    let plan = Plan::matrix(100, Some(TernaryRule::Absmean { floor: Floor::Added(1e-8), per_row: true }));
    let ternary = plain(DType::F32, &le(&values), plan).ternary.unwrap();
    let (mut neg, mut pos) = (0, 0);
    for row in values.chunks(100) {
        let mean = row.iter().map(|v| f64::from(v.abs())).sum::<f64>() / 100.0;
        let (n, p) = codes(row, mean as f32 + 1e-8);
        (neg, pos) = (neg + n, pos + p);
    }
    assert_eq!((ternary.neg, ternary.pos), (neg as f64 / 6400.0, pos as f64 / 6400.0));
    assert_eq!(ternary.dead_rows, 1);
}

/// Every 8-bit code against values that PyTorch 2.15 gives (tests/data/float8.py).
#[test]
fn every_float8_code_is_what_pytorch_says() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../data/float8.json")).unwrap();
    for (dtype, name) in [
        (DType::F8E4M3FN, "float8_e4m3fn"),
        (DType::F8E5M2, "float8_e5m2"),
        (DType::F8E4M3FNUZ, "float8_e4m3fnuz"),
        (DType::F8E5M2FNUZ, "float8_e5m2fnuz"),
        (DType::F8E8M0FNU, "float8_e8m0fnu"),
    ] {
        for (code, wanted) in golden[name].as_array().unwrap().iter().enumerate() {
            let stats = plain(dtype, &[code as u8], Plan::default()).stats;
            match wanted.as_str() {
                Some("nan") => assert_eq!(stats.nan, 1, "{name} {code}"),
                Some(_) => assert_eq!(stats.inf, 1, "{name} {code}"),
                None => assert_eq!(stats.mean, wanted.as_f64(), "{name} {code}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_two_passes(
        n in 0usize..20_000,
        exponent in -30i32..30,
        offset in prop::sample::select(vec![0.0, 1.0, -300.0]),
        specials in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0])), 0..6),
        dtype in prop::sample::select(vec![DType::F32, DType::F16, DType::BF16, DType::F64, DType::F8E5M2]),
        shift in 0usize..4,
    ) {
        let std = 10f64.powi(exponent / if dtype == DType::F16 || dtype == DType::F8E5M2 { 10 } else { 1 });
        let mut values = normal(n, offset * std, std);
        for (at, value) in specials {
            if n > 0 {
                values[at.index(n)] = value;
            }
        }
        let (bytes, values): (Vec<u8>, Vec<f64>) = match dtype {
            DType::F16 => {
                let half: Vec<half::f16> = values.iter().map(|&v| half::f16::from_f32(v)).collect();
                (half.iter().flat_map(|h| h.to_le_bytes()).collect(), half.iter().map(|h| h.to_f64()).collect())
            }
            DType::BF16 => {
                let half: Vec<half::bf16> = values.iter().map(|&v| half::bf16::from_f32(v)).collect();
                (half.iter().flat_map(|h| h.to_le_bytes()).collect(), half.iter().map(|h| h.to_f64()).collect())
            }
            // e5m2 is the upper byte of f16.
            DType::F8E5M2 => {
                let codes: Vec<u8> = values.iter().map(|&v| (half::f16::from_f32(v).to_bits() >> 8) as u8).collect();
                let values = codes.iter().map(|&c| half::f16::from_bits(u16::from(c) << 8).to_f64()).collect();
                (codes, values)
            }
            DType::F64 => {
                (values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(), values.iter().map(|&v| v.into()).collect())
            }
            _ => (le(&values), values.iter().map(|&v| v.into()).collect()),
        };
        let unaligned: Vec<u8> = std::iter::repeat_n(0, shift).chain(bytes).collect();
        let stats = plain(dtype, &unaligned[shift..], Plan::default().with_histogram()).stats;
        let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        prop_assert_eq!(stats.count, n as u64);
        prop_assert_eq!(stats.nan, values.iter().filter(|v| v.is_nan()).count() as u64);
        prop_assert_eq!(stats.inf, values.iter().filter(|v| v.is_infinite()).count() as u64);
        prop_assert_eq!(stats.zeros, finite.iter().filter(|v| **v == 0.0).count() as u64);
        if finite.len() >= 2 {
            let wanted = oracle(&finite);
            assert_close(stats.std, wanted.std, 0.0);
            assert_close(stats.mean, wanted.mean, 1e-14 * wanted.abs_mean);
            assert_close(stats.abs_mean, wanted.abs_mean, 0.0);
            let kurtosis = stats.computed.get("kurtosis");
            prop_assert_eq!(kurtosis.is_some(), stats.min != stats.max);
            if let Some(kurtosis) = kurtosis {
                prop_assert!((kurtosis - wanted.kurtosis).abs() <= 1e-9 * (wanted.kurtosis + 3.0), "{kurtosis} for {}", wanted.kurtosis);
            }
            prop_assert_eq!(stats.min, finite.iter().copied().reduce(f64::min));
            prop_assert_eq!(stats.max, finite.iter().copied().reduce(f64::max));
        }
        let histogram = stats.histogram.unwrap();
        let floor = if dtype == DType::F64 { -1023 } else { -127 };
        for (i, &count) in histogram.counts.iter().enumerate() {
            let octave = histogram.first + i as i32;
            let wanted = finite.iter().filter(|v| **v != 0.0 && (v.abs().log2().floor() as i32).max(floor) == octave).count();
            prop_assert_eq!(count, wanted as u64, "2^{}", octave);
        }
        prop_assert_eq!(histogram.counts.iter().sum::<u64>() + stats.zeros, finite.len() as u64);
    }
}
