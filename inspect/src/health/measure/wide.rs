//! Elements that f32 cannot hold exactly: f64 and integers. Rare in checkpoints, so clarity comes before speed.

use super::{BLOCK, Measured, Moments, Plan, Seen, measure_as_f32, trimmed};
use crate::health::measures::Accumulators;
use crate::meaning::elements::{Elements, in_chunks};

/// Beyond these magnitudes fourth powers of elements, or of differences in their last bits, leave the range of f64, and
/// elements are scaled first.
const LARGE: f64 = 1e60;
const SMALL: f64 = 1e-60;

/// Measures `elements` in f64.
pub(super) fn measure(elements: &Elements<'_>, plan: &Plan) -> Measured {
    let len = elements.len() as u64;
    let mut scan = scan(elements, 1.0);
    let largest = scan.moments.max.abs().max(scan.moments.min.abs());
    let extreme = largest > LARGE || (largest > 0.0 && largest < SMALL);
    if scan.moments.count > 0.0 && extreme {
        // A power of two, so that scaling rounds nothing.
        let factor = (-largest.log2().floor()).clamp(-1000.0, 1000.0).exp2();
        let Scan { moments, computed, .. } = self::scan(elements, factor);
        scan.moments.sum = moments.sum / factor;
        scan.moments.abs = moments.abs / factor;
        let mut stats = scan.moments.stats(len, scan.nan, scan.inf);
        stats.mean = Some(moments.sum / moments.count / factor);
        stats.abs_mean = Some(moments.abs / moments.count / factor);
        stats.std = (moments.count >= 2.0).then(|| (moments.m2 / (moments.count - 1.0)).sqrt() / factor);
        stats.histogram = plan.histogram.then(|| trimmed(&scan.bins, -1023));
        return Measured::new(stats, None, Seen { moments, computed, unit: 1.0 / factor });
    }
    let mut stats = scan.moments.stats(len, scan.nan, scan.inf);
    stats.histogram = plan.histogram.then(|| trimmed(&scan.bins, -1023));
    // A BitLinear computes in f32, so its codes come from f32 values.
    let ternary = plan.ternary.and_then(|_| {
        let plan = Plan { histogram: false, ..*plan };
        measure_as_f32(elements, &plan).ternary
    });
    Measured::new(stats, ternary, Seen { moments: scan.moments, computed: scan.computed, unit: 1.0 })
}

struct Scan {
    moments: Moments,
    computed: Accumulators,
    nan: u64,
    inf: u64,
    /// By exponent field, zeros left out.
    bins: Vec<u64>,
}

fn scan(elements: &Elements<'_>, factor: f64) -> Scan {
    let empty = || Scan {
        moments: Moments::EMPTY,
        computed: Accumulators::default(),
        nan: 0,
        inf: 0,
        bins: vec![0; 2047],
    };
    let chunk = |range: std::ops::Range<usize>| {
        let mut scan = empty();
        let mut buffer = [0.0; BLOCK];
        for start in range.clone().step_by(BLOCK) {
            let block = &mut buffer[..BLOCK.min(range.end - start)];
            elements.read_f64(start, block);
            scan.add(block, factor);
        }
        scan
    };
    in_chunks(elements.len(), 1, chunk).into_iter().fold(empty(), |mut all, one| {
        all.moments.join(&one.moments);
        all.computed.join(&one.computed);
        all.nan += one.nan;
        all.inf += one.inf;
        all.bins.iter_mut().zip(&one.bins).for_each(|(a, b)| *a += b);
        all
    })
}

impl Scan {
    /// Two passes over the block, whose finite elements it leaves scaled: the mean, then differences from it.
    fn add(&mut self, block: &mut [f64], factor: f64) {
        let mut moments = Moments::EMPTY;
        let mut finite = 0;
        for i in 0..block.len() {
            let x = block[i];
            if !x.is_finite() {
                self.nan += u64::from(x.is_nan());
                self.inf += u64::from(x.is_infinite());
                continue;
            }
            let scaled = x * factor;
            moments.count += 1.0;
            moments.min = moments.min.min(scaled);
            moments.max = moments.max.max(scaled);
            moments.sum += scaled;
            moments.abs += scaled.abs();
            moments.zeros += u64::from(x == 0.0);
            if x != 0.0 {
                self.bins[(x.to_bits() >> 52) as usize & 0x7ff] += 1;
            }
            block[finite] = scaled;
            finite += 1;
        }
        let block = &block[..finite];
        let mean = moments.sum / moments.count;
        let (mut squares, mut rest) = (0.0, 0.0);
        for x in block {
            let d = x - mean;
            squares += d * d;
            rest += d;
        }
        if moments.count > 0.0 {
            moments.m2 = (squares - rest * rest / moments.count).max(0.0);
        }
        self.moments.join(&moments);
        self.computed.add_f64(block, &moments);
    }
}
