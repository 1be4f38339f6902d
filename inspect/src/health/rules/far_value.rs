//! A few values far beyond all others: a flipped bit of an exponent, in a weight or in the scale of a block. The largest
//! weights of released language models are some hundred times the mean magnitude, and there are others between; what a
//! flipped bit made stands alone, with octaves of nothing beneath it. Flipping the highest bit of an exponent makes a value
//! of 2 or more, whatever it was: 65 536 times as much in f16.

use super::{Check, Matrix, Rule, Ruling};
use crate::DType;
use crate::meaning::role::Role;
use crate::record::{Histogram, Stats, TensorRecord};
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Times the mean magnitude of the others that are not zero.
const FAR: f64 = 1e4;
/// What a flipped bit makes is at least this.
const LEAST: f64 = 2.0;
/// Empty octaves beneath few values: of f16, which flips by 16 octaves; of blocks, whose values reach over some; of
/// vectors, in which one may well stand out; and of anything else.
const OF_F16: usize = 6;
const OF_BLOCKS: usize = 5;
const OF_VECTORS: usize = 8;
const OF_OTHERS: usize = 13;
/// The same in blocks whose values are this many times the mean of the others: larger than any outlier, whatever is between.
const OF_FAR_BLOCKS: usize = 4;
const FAR_BLOCKS: f64 = 2e3;
/// The same beneath one or two values of a large matrix.
const BENEATH_ONE: usize = 8;
const LARGE: u64 = 1024;
/// The share that is few.
const FEW: f64 = 0.02;
/// Fewer others are no evidence.
const ENOUGH: u64 = 16;

pub(super) const RULE: Rule = Rule {
    name: "far-value",
    summary: "A few values are far beyond all others, as a flipped bit makes them.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Elements(|tensor, stats| {
        let found = match Matrix::of(tensor, None) {
            Some(_) if tensor.role == Role::Codes => None,
            Some(_) => times_the_mean(stats)
                .or_else(|| apart(stats, gap(tensor), true))
                .or_else(|| far_block(tensor, stats)),
            None => is_f16_vector(tensor).then(|| apart(stats, OF_VECTORS, false))?,
        };
        let (value, typical) = found?;
        Ruling::new(Verdict::Corrupt, Finding::FarValue { value, typical })
    }),
};

fn gap(tensor: &TensorRecord) -> usize {
    match tensor.dtype {
        DType::F16 => OF_F16,
        DType::Ggml(_) => OF_BLOCKS,
        _ => OF_OTHERS,
    }
}

fn is_f16_vector(tensor: &TensorRecord) -> bool {
    let judged = matches!(
        tensor.role,
        Role::Bias
            | Role::NormGain
            | Role::LayerScale
            | Role::Scale
            | Role::RunningMean
            | Role::RunningVariance
    );
    judged && tensor.group == Group::Weights && tensor.dtype == DType::F16
}

/// The largest magnitude where it is far beyond the mean of the others, and that mean.
fn times_the_mean(stats: &Stats) -> Option<(f64, f64)> {
    let (mean, largest) = (stats.abs_mean?, stats.abs_max?);
    let finite = (stats.count - stats.nan - stats.inf) as f64;
    let others = finite - stats.zeros as f64 - 1.0;
    let typical = ((mean * finite - largest) / others).max(0.0);
    // Others that are not zero and leave no trace in the sum are further below it than f64 can tell.
    (others >= ENOUGH as f64 && largest > FAR * typical).then_some((largest, typical))
}

/// The largest magnitude where few values stand above so many empty octaves, and the mean of those beneath.
fn apart(stats: &Stats, gap: usize, lone: bool) -> Option<(f64, f64)> {
    let largest = stats.abs_max.filter(|largest| *largest >= LEAST)?;
    let histogram = stats.histogram.as_ref()?;
    let (above, at, empty) = above_a_gap(histogram, gap.min(BENEATH_ONE))?;
    let others = &histogram.counts[..=at];
    let count: u64 = others.iter().sum();
    let few = empty >= gap && (above as f64 <= FEW * count as f64 || above == 1);
    let one = lone && empty >= BENEATH_ONE && above <= 2 && count >= LARGE;
    let middle = |i: usize| 1.5 * f64::from(histogram.first + i as i32).exp2();
    let sum: f64 = others.iter().enumerate().map(|(i, &n)| n as f64 * middle(i)).sum();
    (count >= ENOUGH && (few || one)).then_some((largest, sum / count as f64))
}

/// The same of blocks with a scale that is far too large.
fn far_block(tensor: &TensorRecord, stats: &Stats) -> Option<(f64, f64)> {
    let is_of_blocks = matches!(tensor.dtype, DType::Ggml(_));
    let found = is_of_blocks.then(|| apart(stats, OF_FAR_BLOCKS, false))??;
    (found.0 > FAR_BLOCKS * found.1).then_some(found)
}

/// How many values stand above the first `gap` empty octaves from above, the place of the highest octave beneath, and how
/// many are empty.
fn above_a_gap(histogram: &Histogram, gap: usize) -> Option<(u64, usize, usize)> {
    let (mut above, mut empty) = (0, 0);
    for (i, &n) in histogram.counts.iter().enumerate().rev() {
        if n == 0 {
            empty += 1;
            continue;
        }
        if empty >= gap {
            return Some((above, i, empty));
        }
        above += n;
        empty = 0;
    }
    None
}
