//! Ternary occupancy in the same pass as the moments. Where a weight becomes zero depends on mean|W|, which is only
//! known at the end: so the line is first estimated from a sample, elements close to it are set aside and counted
//! at the end, and only if the estimate was off is there a second pass.

use super::{BLOCK, Line, Reader, Tally, TernaryRule};
use crate::record::Ternary;

/// Elements in the sample that places the line.
const SAMPLE: usize = 1 << 15;
/// Elements read at each place of the sample.
const RUN: usize = 64;

/// The line for the first pass; `None` where each row has its own.
pub(super) fn first_line(reader: &Reader<'_>, rule: TernaryRule) -> Option<Line> {
    match rule {
        // Codes are told by their sign alone: nothing is near.
        TernaryRule::Codes => Some(Line { at: 0.0, margin: -1.0 }),
        TernaryRule::Absmean { per_row: true, .. } => None,
        TernaryRule::Absmean { eps, per_row: false } => {
            let (mean, error) = sample(reader)?;
            let at = zero_line(absmean_scale(mean, eps));
            // Five standard errors, and never narrower than rounding could move the line.
            Some(Line { at, margin: at * (5.0 * error).clamp(1e-5, 0.1) as f32 })
        }
    }
}

/// mean|W| of elements spread evenly over the tensor, and its relative standard error; `None` if nothing finite was
/// found.
fn sample(reader: &Reader<'_>) -> Option<(f64, f64)> {
    let run = RUN.next_multiple_of(reader.granule());
    let runs = (SAMPLE / run).clamp(1, (reader.len() / run).max(1));
    let mut buffer = vec![0.0f32; run.min(reader.len())];
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for i in 0..runs {
        let at = (reader.len() / run) * i / runs * run;
        let room = buffer.len().min(reader.len() - at);
        let block = reader.block(at, &mut buffer[..room]);
        let mean = block.iter().map(|x| f64::from(x.abs())).sum::<f64>() / block.len() as f64;
        if mean.is_finite() {
            n += 1.0;
            sum += mean;
            squares += mean * mean;
        }
    }
    let mean = sum / n;
    let variance = (squares / n - mean * mean).max(0.0) / f64::max(n - 1.0, 1.0);
    (n > 0.0 && mean > 0.0).then(|| (mean, variance.sqrt() / mean))
}

/// mean|W| + eps as PyTorch has it, in f32: what a BitLinear divides its weights by.
pub fn absmean_scale(mean: f64, eps: f64) -> f32 {
    mean as f32 + eps as f32
}

/// The largest |w| that rounds to zero: w / scale, in f32, is at most one half.
pub fn zero_line(scale: f32) -> f32 {
    let mut line = 0.5 * scale;
    while line.next_up() / scale <= 0.5 {
        line = line.next_up();
    }
    while line > 0.0 && line / scale > 0.5 {
        line = line.next_down();
    }
    line
}

/// The occupancy, once the first pass has told mean|W|.
pub(super) fn resolve(
    reader: &Reader<'_>,
    rule: TernaryRule,
    cols: usize,
    line: Option<Line>,
    tally: &Tally,
) -> Ternary {
    let count = tally.moments.count;
    let (final_line, scale) = match rule {
        TernaryRule::Codes => (0.0, None),
        TernaryRule::Absmean { per_row: true, eps } => return by_row(reader, cols, eps),
        TernaryRule::Absmean { per_row: false, eps } => {
            let scale = absmean_scale(if count > 0.0 { tally.moments.abs / count } else { 0.0 }, eps);
            (zero_line(scale), Some(f64::from(scale)))
        }
    };
    let settled = line.filter(|line| (final_line - line.at).abs() <= line.margin.max(0.0));
    let Some(line) = settled else { return second_pass(reader, cols, final_line, scale) };
    // What lay near was counted against the estimated line; count it again against the true one.
    let (mut above, mut below) = (tally.above, tally.below);
    for x in &tally.near {
        above = above - u64::from(*x > line.at) + u64::from(*x > final_line);
        below = below - u64::from(*x < -line.at) + u64::from(*x < -final_line);
    }
    let dead_rows =
        tally.quiet_rows.iter().filter(|&&row| row_is_dead(reader, row, cols, final_line)).count();
    let quiet_cols = tally.live_cols.iter().filter(|live| !**live).count();
    let dead_cols = if quiet_cols == 0 { 0 } else { dead_columns(reader, cols, final_line) };
    record(above, below, tally.count - tally.nan, scale, dead_rows as u64, dead_cols)
}

fn record(above: u64, below: u64, total: u64, scale: Option<f64>, dead_rows: u64, dead_cols: u64) -> Ternary {
    let share = |n: u64| if total > 0 { n as f64 / total as f64 } else { 0.0 };
    let (neg, pos) = (share(below), share(above));
    let zero = share(total.saturating_sub(above + below));
    // + 0.0 turns the -0 of an empty sum into 0.
    let entropy_bits =
        [neg, zero, pos].iter().filter(|p| **p > 0.0).map(|p| -p * p.log2()).sum::<f64>() + 0.0;
    Ternary { neg, zero, pos, entropy_bits, scale, dead_rows, dead_cols }
}

/// Calls `visit(first element, block)` over elements `start..end`.
fn blocks(reader: &Reader<'_>, start: usize, end: usize, mut visit: impl FnMut(usize, &[f32])) {
    let granule = reader.granule();
    let mut buffer = [0.0f32; BLOCK];
    // Blocks of an encoding must be read from their beginning.
    let mut at = start / granule * granule;
    let step = (BLOCK / granule).max(1) * granule;
    while at < end {
        let n = step.min(reader.len() - at);
        let block = reader.block(at, &mut buffer[..n]);
        let (from, to) = (start.max(at), end.min(at + n));
        visit(from, &block[from - at..to - at]);
        at += n;
    }
}

fn row_is_dead(reader: &Reader<'_>, row: usize, cols: usize, line: f32) -> bool {
    let mut dead = true;
    blocks(reader, row * cols, (row + 1) * cols, |_, block| dead &= !block.iter().any(|x| x.abs() > line));
    dead
}

fn dead_columns(reader: &Reader<'_>, cols: usize, line: f32) -> u64 {
    let mut live = vec![false; cols];
    blocks(reader, 0, reader.len(), |at, block| {
        let mut col = at % cols;
        for x in block {
            live[col] |= x.abs() > line;
            col = if col + 1 == cols { 0 } else { col + 1 };
        }
    });
    live.iter().filter(|live| !**live).count() as u64
}

/// Counts everything against a line that the estimate missed.
fn second_pass(reader: &Reader<'_>, cols: usize, line: f32, scale: Option<f64>) -> Ternary {
    let (mut above, mut below, mut nan) = (0, 0, 0);
    let mut dead_rows = 0;
    let mut row_lives = false;
    blocks(reader, 0, reader.len(), |at, block| {
        for (i, x) in block.iter().enumerate() {
            if (at + i).is_multiple_of(cols) {
                row_lives = false;
            }
            above += u64::from(*x > line);
            below += u64::from(*x < -line);
            nan += u64::from(x.is_nan());
            row_lives |= x.abs() > line;
            if (at + i + 1).is_multiple_of(cols) && !row_lives {
                dead_rows += 1;
            }
        }
    });
    let total = reader.len() as u64 - nan;
    record(above, below, total, scale, dead_rows, dead_columns(reader, cols, line))
}

/// Each row against its own scale; the reported scale is the mean of the rows'.
fn by_row(reader: &Reader<'_>, cols: usize, eps: f64) -> Ternary {
    let rows = reader.len() / cols;
    let (mut above, mut below, mut nan, mut dead_rows, mut scales) = (0, 0, 0, 0, 0.0);
    let mut live = vec![false; cols];
    for row in 0..rows {
        let (start, end) = (row * cols, (row + 1) * cols);
        let (mut sum, mut finite) = (0.0, 0u64);
        blocks(reader, start, end, |_, block| {
            sum += block.iter().filter(|x| x.is_finite()).map(|x| f64::from(x.abs())).sum::<f64>();
            finite += block.iter().filter(|x| x.is_finite()).count() as u64;
        });
        let scale = absmean_scale(if finite > 0 { sum / finite as f64 } else { 0.0 }, eps);
        let line = zero_line(scale);
        let mut row_lives = false;
        blocks(reader, start, end, |at, block| {
            for (i, x) in block.iter().enumerate() {
                above += u64::from(*x > line);
                below += u64::from(*x < -line);
                nan += u64::from(x.is_nan());
                let lives = x.abs() > line;
                row_lives |= lives;
                live[(at + i) % cols] |= lives;
            }
        });
        dead_rows += u64::from(!row_lives);
        scales += f64::from(scale);
    }
    let dead_cols = live.iter().filter(|live| !**live).count() as u64;
    let scale = (rows > 0).then(|| scales / rows as f64);
    record(above, below, reader.len() as u64 - nan, scale, dead_rows, dead_cols)
}
