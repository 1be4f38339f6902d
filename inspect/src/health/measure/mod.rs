//! Measures the elements of a tensor: exact moments, extremes, special values, a log-magnitude histogram, and ternary
//! occupancy. Elements are taken in blocks that stay in the first-level cache while everything about them is
//! computed, so each byte crosses memory once; large tensors are divided among threads, always in the same way, so
//! results do not depend on how many there are.
//!
//! Moments: sums in f64 per block, with a second look at a block whose mean dwarfs its spread, and blocks joined by
//! the update of Chan, Golub and LeVeque (1983, <https://doi.org/10.1080/00031305.1983.10483115>).

pub(crate) mod kernel;
pub(crate) mod quantized;
pub(crate) mod structure;
mod ternary;
mod wide;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Result;
use crate::health::measures::{Accumulators, Computed};
use crate::meaning::elements::windows::{Window, Windows};
use crate::meaning::elements::{BLOCK, Elements, in_chunks};
pub use crate::meaning::elements::{Floor, absmean_scale, zero_line};
use crate::record::{Histogram, Stats, Ternary};
use kernel::{Line, Octaves, Sums};

/// Elements per block that is read in place.
const BORROWED_BLOCK: usize = 1 << 14;

/// How a matrix becomes ternary.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum TernaryRule {
    /// clamp(round(W / mean|W|), -1, 1), rounding half to even, in f32 as PyTorch computes it: zero where
    /// |W / scale| <= 0.5.
    Absmean {
        /// What keeps mean|W| from zero.
        floor: Floor,
        /// One scale per row instead of one for the matrix.
        per_row: bool,
    },
    /// The signs of the values are the codes: packed tensors.
    Codes,
}

/// What to measure besides the moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Plan {
    /// Row length, for a matrix.
    pub cols: Option<usize>,
    /// Ternary occupancy, for a matrix.
    pub ternary: Option<TernaryRule>,
    /// The log-magnitude histogram.
    pub histogram: bool,
}

impl Plan {
    /// A plan to measure the elements of a matrix with rows of `cols`, and its ternary occupancy by a rule.
    pub fn matrix(cols: usize, ternary: Option<TernaryRule>) -> Self {
        Plan { cols: Some(cols), ternary, histogram: false }
    }

    /// This plan, with the log-magnitude histogram.
    pub fn with_histogram(self) -> Self {
        Plan { histogram: true, ..self }
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Statistics of all elements.
    pub stats: Stats,
    /// Set if the plan asked for it and there are rows and columns. `scale` is set by the caller under
    /// [`TernaryRule::Codes`].
    pub ternary: Option<Ternary>,
    seen: Seen,
}

impl Measured {
    fn new(stats: Stats, ternary: Option<Ternary>, seen: Seen) -> Self {
        Measured { stats: Stats { computed: seen.computed(), ..stats }, ternary, seen }
    }

    /// Adds `more` zeros to the statistics: the elements that a sparse tensor does not list.
    pub(crate) fn add_zeros(&mut self, more: u64) {
        if more == 0 {
            return;
        }
        let stats = &mut self.stats;
        let finite = (stats.count - stats.nan - stats.inf) as f64;
        let added = more as f64;
        let total = finite + added;
        let mean = stats.mean.unwrap_or(0.0);
        let sum_of_squares =
            stats.std.map_or(0.0, |s| s * s * (finite - 1.0)) + mean * mean * finite * added / total;
        stats.count += more;
        stats.zeros += more;
        stats.mean = Some(mean * finite / total);
        stats.std = (total >= 2.0).then(|| (sum_of_squares / (total - 1.0)).sqrt());
        stats.min = Some(stats.min.unwrap_or(0.0).min(0.0));
        stats.max = Some(stats.max.unwrap_or(0.0).max(0.0));
        stats.abs_mean = Some(stats.abs_mean.unwrap_or(0.0) * finite / total);
        stats.abs_max = Some(stats.abs_max.unwrap_or(0.0));
        self.seen.moments.join(&Moments::of_zeros(more));
        self.seen.computed.add_zeros(more);
        stats.computed = self.seen.computed();
    }
}

/// What the measures of the table are computed from, once all elements have been seen.
#[derive(Debug)]
struct Seen {
    moments: Moments,
    computed: Accumulators,
    /// The unit that elements were divided by before they were given to both.
    unit: f64,
}

impl Default for Seen {
    fn default() -> Self {
        Seen { moments: Moments::EMPTY, computed: Accumulators::default(), unit: 1.0 }
    }
}

impl Seen {
    fn computed(&self) -> Computed {
        self.computed.values(&self.moments, self.unit)
    }
}

/// Measures `elements`, real numbers, as `plan` says.
pub fn measure(elements: &Elements<'_>, plan: &Plan) -> Measured {
    match elements.is_wide() {
        true => wide::measure(elements, plan),
        false => measure_as_f32(elements, plan),
    }
}

/// Measures `elements`, rounded to f32 where they are something else.
fn measure_as_f32(elements: &Elements<'_>, plan: &Plan) -> Measured {
    let len = elements.len();
    let cols = plan.cols.filter(|&cols| cols > 0 && len > 0 && len.is_multiple_of(cols));
    let rule = plan.ternary.zip(cols);
    let line = rule.and_then(|(rule, _)| ternary::first_line(elements, rule));
    let scan = Scan { elements, cols, line, histogram: plan.histogram, cols_live: AtomicBool::new(false) };
    let tally = scan.run();
    let ternary = rule.map(|(rule, cols)| ternary::resolve(elements, rule, cols, line, &tally));
    let stats = tally.stats(plan.histogram);
    Measured::new(stats, ternary, Seen { moments: tally.moments, computed: tally.computed, unit: 1.0 })
}

/// Measures the elements of `windows` with a histogram or without, as [`measure`] does those of a whole tensor. `also` sees
/// each window too.
///
/// # Errors
/// Those of [`Windows::each`].
pub(crate) fn measure_windows(
    windows: &Windows<'_>,
    histogram: bool,
    mut also: impl FnMut(&Window<'_>),
) -> Result<Measured> {
    if windows.are_wide() {
        let look = |factor: f64, also: &mut dyn FnMut(&Window<'_>)| {
            let mut all = Some(wide::Scan::empty());
            windows.each(|window| {
                also(window);
                let scans = wide::scans(&window.elements, factor);
                all = all.take().map(|all| scans.into_iter().fold(all, wide::Scan::join));
                Ok(())
            })?;
            Ok(all.unwrap_or_else(wide::Scan::empty))
        };
        let scan = look(1.0, &mut also)?;
        return wide::finish(scan, histogram, |factor| look(factor, &mut |_| ()));
    }
    let mut all: Option<Tally> = None;
    windows.each(|window| {
        also(window);
        let elements = &window.elements;
        let scan = Scan { elements, cols: None, line: None, histogram, cols_live: AtomicBool::new(false) };
        for tally in scan.tallies() {
            all = Some(match all.take() {
                None => tally.joinable(),
                Some(before) => before.join(tally),
            });
        }
        Ok(())
    })?;
    let tally = all.unwrap_or_else(|| Tally::new(0));
    let stats = tally.stats(histogram);
    Ok(Measured::new(stats, None, Seen { moments: tally.moments, computed: tally.computed, unit: 1.0 }))
}

/// One pass over all elements.
struct Scan<'r, 'a> {
    elements: &'r Elements<'a>,
    cols: Option<usize>,
    line: Option<Line>,
    histogram: bool,
    /// Whether some chunk has found a nonzero code in every column, so that others need not look.
    cols_live: AtomicBool,
}

/// The sums of a pass so far.
#[derive(Debug)]
struct Tally {
    count: u64,
    nan: u64,
    inf: u64,
    moments: Moments,
    computed: Accumulators,
    octaves: Octaves,
    above: u64,
    below: u64,
    /// Elements near the ternary line, which are counted once it is known.
    near: Vec<f32>,
    /// The same for chunks that were joined.
    near_joined: Vec<Vec<f32>>,
    /// Whether too many elements were near the line to set them aside.
    crowded: bool,
    /// Rows in which no element was beyond the line.
    quiet_rows: Vec<usize>,
    /// Columns in which some element was beyond the line; empty without a line.
    live_cols: Vec<bool>,
}

/// Moments of finite elements.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Moments {
    /// Their number.
    pub count: f64,
    /// Their sum.
    pub sum: f64,
    /// Sum of squared differences from the mean.
    pub m2: f64,
    /// Sum of the magnitudes.
    pub abs: f64,
    /// The smallest; infinity where there are none.
    pub min: f64,
    /// The largest; minus infinity where there are none.
    pub max: f64,
    /// How many are 0.
    pub zeros: u64,
}

impl Moments {
    const EMPTY: Moments = Moments {
        count: 0.0,
        sum: 0.0,
        m2: 0.0,
        abs: 0.0,
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        zeros: 0,
    };

    fn of_zeros(count: u64) -> Moments {
        Moments { count: count as f64, min: 0.0, max: 0.0, zeros: count, ..Moments::EMPTY }
    }

    fn join(&mut self, other: &Moments) {
        if other.count == 0.0 {
            return;
        }
        if self.count > 0.0 {
            let delta = other.sum / other.count - self.sum / self.count;
            self.m2 += delta * delta * (self.count * other.count / (self.count + other.count));
        }
        self.m2 += other.m2;
        self.count += other.count;
        self.sum += other.sum;
        self.abs += other.abs;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.zeros += other.zeros;
    }

    /// The record of these moments.
    fn stats(&self, count: u64, nan: u64, inf: u64) -> Stats {
        let some = |value: f64| (self.count > 0.0).then_some(value);
        Stats {
            count,
            mean: some(self.sum / self.count),
            std: (self.count >= 2.0).then(|| (self.m2 / (self.count - 1.0)).sqrt()),
            min: some(self.min),
            max: some(self.max),
            abs_mean: some(self.abs / self.count),
            abs_max: some(self.max.abs().max(self.min.abs())),
            zeros: self.zeros,
            nan,
            inf,
            odd_scales: None,
            computed: Computed::default(),
            histogram: None,
        }
    }
}

impl Tally {
    fn new(live_cols: usize) -> Self {
        Tally {
            count: 0,
            nan: 0,
            inf: 0,
            moments: Moments::EMPTY,
            computed: Accumulators::default(),
            octaves: Octaves::new(),
            above: 0,
            below: 0,
            near: Vec::new(),
            near_joined: Vec::new(),
            crowded: false,
            quiet_rows: Vec::new(),
            live_cols: vec![false; live_cols],
        }
    }

    /// This one as that of all chunks so far.
    fn joinable(mut self) -> Tally {
        self.near_joined.push(std::mem::take(&mut self.near));
        self
    }

    fn join(mut self, mut other: Tally) -> Tally {
        self.count += other.count;
        self.nan += other.nan;
        self.inf += other.inf;
        self.moments.join(&other.moments);
        self.computed.join(&other.computed);
        self.octaves.bins.iter_mut().zip(other.octaves.bins.iter()).for_each(|(a, b)| *a += b);
        self.above += other.above;
        self.below += other.below;
        self.near_joined.push(other.near);
        self.crowded |= other.crowded;
        self.quiet_rows.append(&mut other.quiet_rows);
        self.live_cols.iter_mut().zip(&other.live_cols).for_each(|(a, &b)| *a |= b);
        self
    }

    /// Adds a block of finite elements, of which `sums` are the sums.
    fn add(&mut self, block: &[f32], sums: &Sums) {
        let moments = moments(block, sums);
        self.moments.join(&moments);
        self.computed.add_f32(block, &moments);
    }

    fn stats(&self, histogram: bool) -> Stats {
        let mut stats = self.moments.stats(self.count, self.nan, self.inf);
        if histogram {
            let mut bins = *self.octaves.bins;
            // Exponent field 0 is zeros and subnormals, 255 is NaN and infinity.
            bins[0] -= self.moments.zeros;
            stats.histogram = Some(trimmed(&bins[..255], -127));
        }
        stats
    }
}

/// `bins` without empty ones at the ends; the first one is the octave of 2^`first`.
fn trimmed(bins: &[u64], first: i32) -> Histogram {
    let Some(start) = bins.iter().position(|&n| n > 0) else { return Histogram::default() };
    let end = bins.iter().rposition(|&n| n > 0).unwrap_or(start);
    Histogram { first: first + start as i32, counts: bins[start..=end].to_vec() }
}

impl Scan<'_, '_> {
    fn run(&self) -> Tally {
        let mut chunks = self.tallies().into_iter();
        match chunks.next() {
            Some(first) => chunks.fold(first.joinable(), Tally::join),
            None => Tally::new(self.live_cols()),
        }
    }

    fn live_cols(&self) -> usize {
        if self.line.is_some() { self.cols.unwrap_or(0) } else { 0 }
    }

    /// That of each chunk, in order.
    fn tallies(&self) -> Vec<Tally> {
        let live_cols = self.live_cols();
        let unit = unit(self.cols.filter(|_| live_cols > 0), self.elements.granule());
        in_chunks(self.elements.len(), unit, |range| self.chunk(range, live_cols))
    }

    fn chunk(&self, range: Range<usize>, live_cols: usize) -> Tally {
        let mut tally = Tally::new(live_cols);
        let mut buffer = [0.0f32; BLOCK];
        let mut row_is_live = false;
        let ready = self.elements.as_f32();
        let step = if ready.is_some() { BORROWED_BLOCK } else { self.elements.step() };
        let (start, end) = (range.start, range.end);
        let mut at = start;
        while at < end {
            let n = step.min(end - at);
            let block = match ready {
                Some(all) => &all[at..at + n],
                None => self.elements.block(at, &mut buffer[..n]),
            };
            if at == start && self.histogram {
                tally.octaves.expect_like(&block[..n.min(BLOCK)]);
            }
            self.block(block, &mut tally);
            if let (Some(line), false) = (self.line, tally.crowded) {
                self.rows_and_cols(block, at, line, &mut row_is_live, &mut tally);
            }
            at += n;
        }
        tally.near.shrink_to_fit();
        tally
    }

    fn block(&self, block: &[f32], tally: &mut Tally) {
        let line = self.line.filter(|_| !tally.crowded);
        let near_before = tally.near.len();
        let octaves = self.histogram.then_some(&mut tally.octaves);
        let mut sums = kernel::scan(block, line, octaves, &mut tally.near);
        tally.count += block.len() as u64;
        if sums.squares.is_finite() {
            tally.add(block, &sums);
        } else {
            // NaN or infinity: measure the finite elements alone. An infinite weight still has a ternary code.
            tally.near.truncate(near_before);
            let finite: Vec<f32> = block.iter().copied().filter(|x| x.is_finite()).collect();
            sums = kernel::scan(&finite, line, None, &mut tally.near);
            tally.add(&finite, &sums);
            tally.nan += block.iter().filter(|x| x.is_nan()).count() as u64;
            for x in block.iter().filter(|x| x.is_infinite()) {
                tally.inf += 1;
                sums.above += u64::from(*x > 0.0);
                sums.below += u64::from(*x < 0.0);
            }
        }
        tally.octaves.expect(sums.max.max(-sums.min));
        (tally.above, tally.below) = (tally.above + sums.above, tally.below + sums.below);
        tally.crowded |= tally.near.len() as u64 > BLOCK as u64 + tally.count / 8;
    }

    /// Records which rows have only zero codes so far and which columns have nonzero ones. In a healthy matrix every
    /// column has one after a few rows, and every row after a few elements.
    fn rows_and_cols(&self, block: &[f32], start: usize, line: Line, live: &mut bool, tally: &mut Tally) {
        let cols = tally.live_cols.len();
        // NaN has no code; its bits would be beyond any line.
        let lives = |x: &f32| line.is_beyond(*x) && !x.is_nan();
        for (row, col, piece) in row_pieces(block, start, cols) {
            if col == 0 {
                *live = false;
            }
            *live = *live || piece.iter().any(lives);
            if !self.cols_live.load(Ordering::Relaxed) {
                for (x, live_col) in piece.iter().zip(&mut tally.live_cols[col..]) {
                    *live_col |= lives(x);
                }
                if tally.live_cols.iter().all(|live| *live) {
                    self.cols_live.store(true, Ordering::Relaxed);
                }
            }
            if col + piece.len() == cols && !*live {
                tally.quiet_rows.push(row);
            }
        }
    }
}

/// The unit of parallel work in elements: whole rows and whole blocks of the encoding.
fn unit(cols: Option<usize>, granule: usize) -> usize {
    match cols {
        // Rows of a block-quantized matrix are whole blocks, so a multiple of rows is one of blocks.
        Some(cols) if cols % granule == 0 => cols,
        Some(cols) => cols.saturating_mul(granule),
        None => granule,
    }
}

/// Moments of a block from its sums, recomputed about the mean if the mean is much larger than the spread: there the
/// difference of two large sums would cancel.
fn moments(block: &[f32], sums: &Sums) -> Moments {
    const DWARFED: f64 = 1e4;
    let n = block.len() as f64;
    let mut m2 = if block.is_empty() { 0.0 } else { sums.squares - sums.sum * (sums.sum / n) };
    if sums.squares > DWARFED * m2 {
        let mean = sums.sum / n;
        let (mut squares, mut rest) = ([0.0; 8], [0.0; 8]);
        for chunk in block.chunks(8) {
            for ((&x, squares), rest) in chunk.iter().zip(&mut squares).zip(&mut rest) {
                let d = f64::from(x) - mean;
                *squares += d * d;
                *rest += d;
            }
        }
        let (squares, rest) = (squares.iter().sum::<f64>(), rest.iter().sum::<f64>());
        m2 = squares - rest * rest / n;
    }
    Moments {
        count: n,
        sum: sums.sum,
        m2: m2.max(0.0),
        abs: sums.abs,
        min: sums.min.into(),
        max: sums.max.into(),
        zeros: sums.zeros,
    }
}

/// The rows in a block that begins at element `start`, whole or cut at its ends: row, first column, elements.
fn row_pieces(block: &[f32], start: usize, cols: usize) -> impl Iterator<Item = (usize, usize, &[f32])> {
    let (mut row, mut col, mut rest) = (start / cols, start % cols, block);
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(rest.len().min(cols - col));
        let found = (!piece.is_empty()).then_some((row, col, piece));
        (row, col, rest) = (row + 1, 0, after);
        found
    })
}
