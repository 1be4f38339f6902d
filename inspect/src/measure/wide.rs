//! Elements that f32 cannot hold exactly: f64 and integers. Rare in checkpoints, so clarity comes before speed.

use super::{BLOCK, Measured, Moments, Plan, measure_as_f32, trimmed};
use crate::meaning::elements::{Elements, in_chunks};

/// Beyond these magnitudes squares leave the range of f64, and elements are scaled first.
const LARGE: f64 = 1e140;
const SMALL: f64 = 1e-140;

/// Measures `elements` in f64.
pub(super) fn measure(elements: &Elements<'_>, plan: &Plan) -> Measured {
    let len = elements.len() as u64;
    let mut scan = scan(elements, 1.0);
    let largest = scan.moments.max.abs().max(scan.moments.min.abs());
    let extreme = largest > LARGE || (largest > 0.0 && largest < SMALL);
    if scan.moments.count > 0.0 && extreme {
        // A power of two, so that scaling rounds nothing.
        let factor = (-largest.log2().floor()).clamp(-1000.0, 1000.0).exp2();
        let moments = self::scan(elements, factor).moments;
        scan.moments.sum = moments.sum / factor;
        scan.moments.abs = moments.abs / factor;
        let mut stats = scan.moments.stats(len, scan.nan, scan.inf);
        stats.mean = Some(moments.sum / moments.count / factor);
        stats.abs_mean = Some(moments.abs / moments.count / factor);
        stats.std = (moments.count >= 2.0).then(|| (moments.m2 / (moments.count - 1.0)).sqrt() / factor);
        stats.histogram = plan.histogram.then(|| trimmed(&scan.bins, -1023));
        return Measured { stats, ternary: None };
    }
    let mut stats = scan.moments.stats(len, scan.nan, scan.inf);
    stats.histogram = plan.histogram.then(|| trimmed(&scan.bins, -1023));
    // A BitLinear computes in f32, so that is what its codes come from.
    let ternary = plan.ternary.and_then(|_| {
        let plan = Plan { histogram: false, ..*plan };
        measure_as_f32(elements, &plan).ternary
    });
    Measured { stats, ternary }
}

struct Scan {
    moments: Moments,
    nan: u64,
    inf: u64,
    /// By exponent field, zeros left out.
    bins: Vec<u64>,
}

fn scan(elements: &Elements<'_>, factor: f64) -> Scan {
    let empty = || Scan { moments: Moments::EMPTY, nan: 0, inf: 0, bins: vec![0; 2047] };
    let chunk = |range: std::ops::Range<usize>| {
        let mut scan = empty();
        let mut buffer = [0.0; BLOCK];
        for start in range.clone().step_by(BLOCK) {
            let block = &mut buffer[..BLOCK.min(range.end - start)];
            elements.read_f64(start, block);
            block_moments(block, factor, &mut scan);
        }
        scan
    };
    in_chunks(elements.len(), 1, chunk).into_iter().fold(empty(), |mut all, one| {
        all.moments.join(&one.moments);
        all.nan += one.nan;
        all.inf += one.inf;
        all.bins.iter_mut().zip(&one.bins).for_each(|(a, b)| *a += b);
        all
    })
}

/// Two passes over the block: the mean, then differences from it.
fn block_moments(block: &[f64], factor: f64, scan: &mut Scan) {
    let mut moments = Moments::EMPTY;
    for &x in block {
        if !x.is_finite() {
            scan.nan += u64::from(x.is_nan());
            scan.inf += u64::from(x.is_infinite());
            continue;
        }
        moments.count += 1.0;
        moments.min = moments.min.min(x);
        moments.max = moments.max.max(x);
        moments.sum += x * factor;
        moments.abs += (x * factor).abs();
        moments.zeros += u64::from(x == 0.0);
        if x != 0.0 {
            scan.bins[(x.to_bits() >> 52) as usize & 0x7ff] += 1;
        }
    }
    let mean = moments.sum / moments.count;
    let (mut squares, mut rest) = (0.0, 0.0);
    for x in block.iter().filter(|x| x.is_finite()) {
        let d = x * factor - mean;
        squares += d * d;
        rest += d;
    }
    if moments.count > 0.0 {
        moments.m2 = (squares - rest * rest / moments.count).max(0.0);
    }
    scan.moments.join(&moments);
}
