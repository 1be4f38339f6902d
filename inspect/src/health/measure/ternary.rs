//! Ternary occupancy in the same pass as the moments. Where a weight becomes zero depends on mean|W|, which is only
//! known at the end: so the line is first estimated from a sample, elements close to it are set aside and counted
//! at the end, and only if the estimate was off is there a second pass.

use std::ops::Range;

use rayon::prelude::*;

use super::{BLOCK, Line, Tally, TernaryRule, row_pieces, unit};
use crate::meaning::elements::{Elements, Floor, absmean_scale, in_chunks, zero_line};
use crate::record::Ternary;

/// Positions in the sample from which the line is estimated.
const RUNS: usize = 512;
/// Elements read at each: a line of the cache.
const RUN: usize = 16;

/// The line for the first pass; `None` where each row has its own.
pub(super) fn first_line(elements: &Elements<'_>, rule: TernaryRule) -> Option<Line> {
    match rule {
        TernaryRule::Codes => Some(Line::SIGN),
        TernaryRule::Absmean { per_row: true, .. } => None,
        TernaryRule::Absmean { floor, per_row: false } => {
            let (mean, error) = sample(elements)?;
            let at = zero_line(absmean_scale(mean, floor));
            // Four standard errors: one matrix in 16 000 needs a second pass.
            let margin = at * (4.0 * error).min(0.1) as f32;
            (at - margin >= f32::MIN_POSITIVE).then(|| Line::around(at, margin))
        }
    }
}

/// mean|W| of elements spread evenly over the tensor, and its relative standard error; `None` if nothing finite was
/// found.
fn sample(elements: &Elements<'_>) -> Option<(f64, f64)> {
    let run = RUN.next_multiple_of(elements.granule());
    let runs = RUNS.min(elements.len() / run).max(1);
    let mut buffer = vec![0.0f32; run.min(elements.len())];
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for i in 0..runs {
        let at = (elements.len() / run) * i / runs * run;
        let room = buffer.len().min(elements.len() - at);
        let block = elements.block(at, &mut buffer[..room]);
        let mut lanes = [0.0; 4];
        for chunk in block.chunks(4) {
            chunk.iter().zip(&mut lanes).for_each(|(x, lane)| *lane += f64::from(x.abs()));
        }
        let mean = lanes.iter().sum::<f64>() / block.len() as f64;
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

/// The occupancy, once the first pass has computed mean|W|.
pub(super) fn resolve(
    elements: &Elements<'_>,
    rule: TernaryRule,
    cols: usize,
    line: Option<Line>,
    tally: &Tally,
) -> Ternary {
    let count = tally.moments.count;
    let (final_line, scale) = match rule {
        TernaryRule::Codes => (0.0, None),
        TernaryRule::Absmean { per_row: true, floor } => return by_row(elements, cols, floor),
        TernaryRule::Absmean { per_row: false, floor } => {
            let scale = absmean_scale(if count > 0.0 { tally.moments.abs / count } else { 0.0 }, floor);
            (zero_line(scale), Some(f64::from(scale)))
        }
    };
    let seen = |line: Line| match rule {
        TernaryRule::Codes => {
            let largest = tally.moments.max.max(-tally.moments.min);
            largest <= 0.0 || largest >= f32::MIN_POSITIVE.into()
        }
        TernaryRule::Absmean { .. } => line.encloses(final_line),
    };
    let quiet = tally.quiet_rows.len() > elements.len() / cols / 8;
    if tally.crowded || quiet || !line.is_some_and(seen) {
        return second_pass(elements, cols, final_line, scale);
    }
    let (mut above, mut below) = (tally.above, tally.below);
    for chunk in tally.near_joined.iter().flat_map(|near| near.chunks(1 << 12)) {
        above += u64::from(chunk.iter().map(|x| u32::from(*x > final_line)).sum::<u32>());
        below += u64::from(chunk.iter().map(|x| u32::from(*x < -final_line)).sum::<u32>());
    }
    let dead_rows =
        tally.quiet_rows.iter().filter(|&&row| row_is_dead(elements, row, cols, final_line)).count();
    let quiet_cols = tally.live_cols.iter().filter(|live| !**live).count();
    let dead_cols = if quiet_cols == 0 { 0 } else { dead_columns(elements, cols, final_line) };
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

/// Calls `visit(first element, block)` over the elements of `range`.
fn blocks(elements: &Elements<'_>, range: Range<usize>, mut visit: impl FnMut(usize, &[f32])) {
    let mut buffer = [0.0f32; BLOCK];
    let step = elements.step();
    let mut at = range.start;
    while at < range.end {
        // Up to the end of a block of the encoding, so that the next piece begins with a block.
        let n = (step - at % elements.granule()).min(range.end - at);
        visit(at, elements.block(at, &mut buffer[..n]));
        at += n;
    }
}

fn row_is_dead(elements: &Elements<'_>, row: usize, cols: usize, line: f32) -> bool {
    let mut dead = true;
    blocks(elements, row * cols..(row + 1) * cols, |_, block| dead &= !block.iter().any(|x| x.abs() > line));
    dead
}

fn dead_columns(elements: &Elements<'_>, cols: usize, line: f32) -> u64 {
    count(elements, cols, |_| line).dead_cols()
}

/// Counts everything against a line that the estimate missed.
fn second_pass(elements: &Elements<'_>, cols: usize, line: f32, scale: Option<f64>) -> Ternary {
    count(elements, cols, |_| line).record(elements.len(), scale)
}

/// Each row against its own scale; the reported scale is the mean of the rows'.
fn by_row(elements: &Elements<'_>, cols: usize, floor: Floor) -> Ternary {
    let rows = elements.len() / cols;
    let row_scale = |row: usize| {
        let (mut sum, mut finite) = (0.0, 0u64);
        blocks(elements, row * cols..(row + 1) * cols, |_, block| {
            sum += block.iter().filter(|x| x.is_finite()).map(|x| f64::from(x.abs())).sum::<f64>();
            finite += block.iter().filter(|x| x.is_finite()).count() as u64;
        });
        absmean_scale(if finite > 0 { sum / finite as f64 } else { 0.0 }, floor)
    };
    let scales: Vec<f32> = (0..rows).into_par_iter().map(row_scale).collect();
    let lines: Vec<f32> = scales.iter().map(|&scale| zero_line(scale)).collect();
    let mean = scales.iter().map(|&scale| f64::from(scale)).sum::<f64>() / rows as f64;
    count(elements, cols, |row| lines[row]).record(elements.len(), (rows > 0).then_some(mean))
}

/// Codes of a whole matrix, or of some rows.
#[derive(Default)]
struct CodeCounts {
    above: u64,
    below: u64,
    nan: u64,
    dead_rows: u64,
    live_cols: Vec<bool>,
}

impl CodeCounts {
    fn join(mut self, other: CodeCounts) -> CodeCounts {
        if self.live_cols.is_empty() {
            return other;
        }
        self.above += other.above;
        self.below += other.below;
        self.nan += other.nan;
        self.dead_rows += other.dead_rows;
        self.live_cols.iter_mut().zip(&other.live_cols).for_each(|(a, &b)| *a |= b);
        self
    }

    fn dead_cols(&self) -> u64 {
        self.live_cols.iter().filter(|live| !**live).count() as u64
    }

    fn record(&self, len: usize, scale: Option<f64>) -> Ternary {
        record(self.above, self.below, len as u64 - self.nan, scale, self.dead_rows, self.dead_cols())
    }
}

/// Counts every code, given the line of each row.
fn count(elements: &Elements<'_>, cols: usize, line: impl Fn(usize) -> f32 + Sync) -> CodeCounts {
    let chunk = |range: Range<usize>| {
        let mut codes = CodeCounts { live_cols: vec![false; cols], ..CodeCounts::default() };
        let mut row_lives = false;
        blocks(elements, range, |at, block| {
            for (row, col, piece) in row_pieces(block, at, cols) {
                let line = line(row);
                let above = piece.iter().filter(|x| **x > line).count() as u64;
                let below = piece.iter().filter(|x| **x < -line).count() as u64;
                codes.above += above;
                codes.below += below;
                codes.nan += piece.iter().filter(|x| x.is_nan()).count() as u64;
                for (x, live) in piece.iter().zip(&mut codes.live_cols[col..]) {
                    *live |= x.abs() > line;
                }
                row_lives = (row_lives && col > 0) || above + below > 0;
                codes.dead_rows += u64::from(col + piece.len() == cols && !row_lives);
            }
        });
        codes
    };
    let parts = in_chunks(elements.len(), unit(Some(cols), elements.granule()), chunk);
    parts.into_iter().fold(CodeCounts::default(), CodeCounts::join)
}
