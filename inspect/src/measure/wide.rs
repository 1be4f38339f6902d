//! Elements that f32 cannot hold exactly: f64 and integers. Rare in checkpoints, so clarity comes before speed.

use rayon::prelude::*;

use super::{BLOCK, CHUNK, Elements, Measured, Moments, Plan, Seen, measure as measure_f32, trimmed};
use crate::DType;
use crate::health::measures::Accumulators;

/// Beyond these magnitudes fourth powers of elements, or of differences in their last bits, leave the range of f64, and
/// elements are scaled first.
const LARGE: f64 = 1e60;
const SMALL: f64 = 1e-60;

/// Every element of a plain real dtype; `None` for complex and packed ones.
pub(super) fn to_f64(dtype: DType, bytes: &[u8]) -> Option<Vec<f64>> {
    let size = dtype.element_size()?;
    let mut out = vec![0.0; bytes.len() / size];
    decoder(dtype)?(bytes, 0, &mut out);
    Some(out)
}

/// Reads elements `start..start + out.len()` of a dtype that needs f64; `false` for any other.
pub(super) fn read_f64(dtype: DType, bytes: &[u8], start: usize, out: &mut [f64]) -> bool {
    let Some(decode) = decoder(dtype) else { return false };
    decode(bytes, start, out);
    true
}

pub(super) type Decode = fn(&[u8], usize, &mut [f64]);

macro_rules! integers {
    ($type:ty) => {
        |bytes, start, out| {
            const SIZE: usize = size_of::<$type>();
            for (slot, word) in out.iter_mut().zip(bytes[SIZE * start..].as_chunks::<SIZE>().0) {
                *slot = <$type>::from_le_bytes(*word) as f64;
            }
        }
    };
}

pub(super) fn decoder(dtype: DType) -> Option<Decode> {
    Some(match dtype {
        DType::F64 => integers!(f64),
        DType::I64 => integers!(i64),
        DType::I32 => integers!(i32),
        DType::I16 => integers!(i16),
        DType::I8 => integers!(i8),
        DType::U64 => integers!(u64),
        DType::U32 => integers!(u32),
        DType::U16 => integers!(u16),
        DType::U8 => integers!(u8),
        DType::Bool => |bytes, start, out| {
            for (slot, &byte) in out.iter_mut().zip(&bytes[start..]) {
                *slot = f64::from(byte != 0);
            }
        },
        _ => return None,
    })
}

/// Measures plain elements of a dtype that needs f64; of any other, nothing but their number.
pub(super) fn measure_plain(dtype: DType, bytes: &[u8], plan: &Plan) -> Measured {
    let Some(decode) = decoder(dtype) else { return Measured::default() };
    let len = bytes.len() / dtype.element_size().unwrap_or(1);
    measure(len, &|start, out| decode(bytes, start, out), plan)
}

/// Measures `len` elements that `read` gives.
pub(super) fn measure(len: usize, read: &(dyn Fn(usize, &mut [f64]) + Sync), plan: &Plan) -> Measured {
    let mut scan = scan(len, read, 1.0);
    let largest = scan.moments.max.abs().max(scan.moments.min.abs());
    let extreme = largest > LARGE || (largest > 0.0 && largest < SMALL);
    if scan.moments.count > 0.0 && extreme {
        // A power of two, so that scaling rounds nothing.
        let factor = (-largest.log2().floor()).clamp(-1000.0, 1000.0).exp2();
        let Scan { moments, computed, .. } = self::scan(len, read, factor);
        scan.moments.sum = moments.sum / factor;
        scan.moments.abs = moments.abs / factor;
        let mut stats = scan.moments.stats(len as u64, scan.nan, scan.inf);
        stats.mean = Some(moments.sum / moments.count / factor);
        stats.abs_mean = Some(moments.abs / moments.count / factor);
        stats.std = (moments.count >= 2.0).then(|| (moments.m2 / (moments.count - 1.0)).sqrt() / factor);
        stats.histogram = plan.histogram.then(|| trimmed(&scan.bins, -1023));
        return Measured::new(stats, None, Seen { moments, computed, unit: 1.0 / factor });
    }
    let mut stats = scan.moments.stats(len as u64, scan.nan, scan.inf);
    stats.histogram = plan.histogram.then(|| trimmed(&scan.bins, -1023));
    // A BitLinear computes in f32, so that is what its codes come from.
    let narrow = |start: usize, out: &mut [f32]| {
        let mut wide = [0.0; 256];
        for (i, part) in out.chunks_mut(256).enumerate() {
            let wide = &mut wide[..part.len()];
            read(start + 256 * i, wide);
            part.iter_mut().zip(wide).for_each(|(slot, &mut x)| *slot = x as f32);
        }
    };
    let ternary = plan.ternary.and_then(|_| {
        let plan = Plan { histogram: false, ..*plan };
        measure_f32(&Elements::Decoded32 { len, granule: 1, read: &narrow }, &plan).ternary
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

fn scan(len: usize, read: &(dyn Fn(usize, &mut [f64]) + Sync), factor: f64) -> Scan {
    let empty = || Scan {
        moments: Moments::EMPTY,
        computed: Accumulators::default(),
        nan: 0,
        inf: 0,
        bins: vec![0; 2047],
    };
    let chunk = |index: usize| {
        let mut scan = empty();
        let mut buffer = [0.0; BLOCK];
        let end = len.min((index + 1) * CHUNK);
        for start in (index * CHUNK..end).step_by(BLOCK) {
            let block = &mut buffer[..BLOCK.min(end - start)];
            read(start, block);
            scan.add(block, factor);
        }
        scan
    };
    let chunks: Vec<Scan> = (0..len.div_ceil(CHUNK)).into_par_iter().map(chunk).collect();
    chunks.into_iter().fold(empty(), |mut all, one| {
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
