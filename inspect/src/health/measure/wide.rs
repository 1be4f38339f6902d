//! Elements that f32 cannot hold exactly: f64 and integers. Rare in checkpoints, so clarity comes before speed.

use super::{BLOCK, Measured, Moments, Plan, Seen, measure_as_f32, trimmed};
use crate::Result;
use crate::health::measures::Accumulators;
use crate::meaning::elements::{Elements, in_chunks};

/// Beyond these magnitudes fourth powers of elements, or of differences in their last bits, leave the range of f64, and
/// elements are scaled first.
const LARGE: f64 = 1e60;
const SMALL: f64 = 1e-60;

/// Measures `elements` in f64.
pub(super) fn measure(elements: &Elements<'_>, plan: &Plan) -> Measured {
    let scan = |factor| scans(elements, factor).into_iter().fold(Scan::empty(), Scan::join);
    let measured = finish(scan(1.0), plan.histogram, |factor| Ok(scan(factor)));
    let mut measured = measured.expect("elements that are in memory can be looked at again");
    // A BitLinear computes in f32, so its codes come from f32 values.
    if plan.ternary.is_some() && measured.seen.unit == 1.0 {
        let plan = Plan { histogram: false, ..*plan };
        measured.ternary = measure_as_f32(elements, &plan).ternary;
    }
    measured
}

/// What was measured in one `scan` of all elements; where they have to be scaled, `again` looks at them once more.
///
/// # Errors
/// Those of `again`.
pub(super) fn finish(
    mut scan: Scan,
    histogram: bool,
    again: impl FnOnce(f64) -> Result<Scan>,
) -> Result<Measured> {
    let largest = scan.moments.max.abs().max(scan.moments.min.abs());
    let extreme = largest > LARGE || (largest > 0.0 && largest < SMALL);
    if scan.moments.count > 0.0 && extreme {
        // A power of two, so that scaling rounds nothing.
        let factor = (-largest.log2().floor()).clamp(-1000.0, 1000.0).exp2();
        let Scan { moments, computed, .. } = again(factor)?;
        scan.moments.sum = moments.sum / factor;
        scan.moments.abs = moments.abs / factor;
        let mut stats = scan.moments.stats(scan.count, scan.nan, scan.inf);
        stats.mean = Some(moments.sum / moments.count / factor);
        stats.abs_mean = Some(moments.abs / moments.count / factor);
        stats.std = (moments.count >= 2.0).then(|| (moments.m2 / (moments.count - 1.0)).sqrt() / factor);
        stats.histogram = histogram.then(|| trimmed(&scan.bins, -1023));
        return Ok(Measured::new(stats, None, Seen { moments, computed, unit: 1.0 / factor }));
    }
    let mut stats = scan.moments.stats(scan.count, scan.nan, scan.inf);
    stats.histogram = histogram.then(|| trimmed(&scan.bins, -1023));
    Ok(Measured::new(stats, None, Seen { moments: scan.moments, computed: scan.computed, unit: 1.0 }))
}

/// What one look at elements gives.
pub(super) struct Scan {
    count: u64,
    moments: Moments,
    computed: Accumulators,
    nan: u64,
    inf: u64,
    /// By exponent field, zeros left out.
    bins: Vec<u64>,
}

/// One look at each chunk of `elements`, multiplied by `factor`.
pub(super) fn scans(elements: &Elements<'_>, factor: f64) -> Vec<Scan> {
    let chunk = |range: std::ops::Range<usize>| {
        let mut scan = Scan::empty();
        let mut buffer = [0.0; BLOCK];
        for start in range.clone().step_by(BLOCK) {
            let block = &mut buffer[..BLOCK.min(range.end - start)];
            elements.read_f64(start, block);
            scan.add(block, factor);
        }
        scan
    };
    in_chunks(elements.len(), 1, chunk)
}

impl Scan {
    pub fn empty() -> Self {
        Scan {
            count: 0,
            moments: Moments::EMPTY,
            computed: Accumulators::default(),
            nan: 0,
            inf: 0,
            bins: vec![0; 2047],
        }
    }

    /// That of these elements, and those of `one` after them.
    pub fn join(mut self, one: Scan) -> Self {
        self.count += one.count;
        self.moments.join(&one.moments);
        self.computed.join(&one.computed);
        self.nan += one.nan;
        self.inf += one.inf;
        self.bins.iter_mut().zip(&one.bins).for_each(|(a, b)| *a += b);
        self
    }

    /// Two passes over the block, whose finite elements it leaves scaled: the mean, then differences from it.
    fn add(&mut self, block: &mut [f64], factor: f64) {
        let mut moments = Moments::EMPTY;
        let mut finite = 0;
        self.count += block.len() as u64;
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
