//! How the rows of a matrix relate to each other: rows and columns that say nothing or all say the same, and in how many
//! directions they go. What concerns all rows or many of them shows in a sample, so only a sample is looked at: rows
//! spread over the whole matrix, always the same ones.

use serde::{Deserialize, Serialize};

use super::kernel::{Vectorized, vectorized};
use crate::meaning::elements::Elements;

/// Rows that are looked at, at most.
const ROWS: usize = 256;
/// Elements that are looked at, at most, but for eight rows.
const ELEMENTS: usize = 1 << 21;
/// Rows of which the directions are compared.
const COMPARED: usize = 32;
/// A row is faint whose norm is this share of the median's, or less, and loud from this multiple on.
const FAINT: f64 = 1e-5;
const LOUD: f64 = 1e3;
/// What further directions may hold of all squares without counting as directions. The rounding of bf16 is a hundredth of
/// it.
const RESIDUE: f64 = 1e-4;

/// What a sample of a matrix's rows shows. Counts of rows are of the sampled ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Structure {
    /// Rows that were looked at.
    pub sampled_rows: u64,
    /// Rows that are all zero.
    pub zero_rows: u64,
    /// Rows that equal another one, zero ones left out.
    pub equal_rows: u64,
    /// Rows whose norm is far below the median row's, zero ones included.
    pub faint_rows: u64,
    /// Rows whose norm is far above the median row's.
    #[serde(default)]
    pub loud_rows: u64,
    /// Rows whose elements other than zero have one magnitude.
    #[serde(default)]
    pub flat_rows: u64,
    /// Whether all of the sampled elements are whole numbers.
    #[serde(default)]
    pub whole: bool,
    /// Columns that are zero in all sampled rows.
    pub zero_cols: u64,
    /// Columns with one value other than zero in all sampled rows that are not zero.
    pub constant_cols: u64,
    /// (Σσ²)² / Σσ⁴ of up to 32 sampled rows, σ being their singular values: 1 where one direction outweighs all others,
    /// the number of rows where all weigh the same.
    pub effective_rank: Option<f64>,
    /// The directions that these rows take to within a ten-thousandth of their squares.
    pub rank: Option<u64>,
    /// How many rows `effective_rank` and `rank` are of.
    pub compared_rows: u64,
}

impl Structure {
    /// Of `elements`, rows of `cols`. `None` where there is no matrix to speak of.
    pub(crate) fn of(elements: &Elements<'_>, cols: usize) -> Option<Structure> {
        let rows = elements.len().checked_div(cols)?;
        if rows < 2 || cols < 2 {
            return None;
        }
        let count = rows.min(ROWS).min((ELEMENTS / cols).max(8));
        let mut look = Look { elements, rows, count, sample: Sample::new(cols, count) };
        vectorized(&mut look);
        Some(look.sample.finish())
    }
}

/// The rows of a matrix that [`Structure::of`] looks at, kept of elements that come some at a time.
pub(crate) struct Rows {
    cols: usize,
    /// Where each begins.
    starts: Vec<usize>,
    kept: Vec<f32>,
}

impl Rows {
    /// More elements are not kept.
    const MOST: usize = 1 << 23;

    /// Those of a matrix of `len` elements, `cols` in a row; nothing where there is no matrix to speak of.
    ///
    /// # Errors
    /// How many elements they are, where they are too many.
    pub fn of(len: usize, cols: usize) -> Result<Option<Self>, usize> {
        let rows = len.checked_div(cols).unwrap_or(0);
        if rows < 2 || cols < 2 {
            return Ok(None);
        }
        let count = rows.min(ROWS).min((ELEMENTS / cols).max(8));
        let all = count.saturating_mul(cols);
        if all > Self::MOST {
            return Err(all);
        }
        let starts = (0..count).map(|i| spread(i, count, rows) * cols).collect();
        Ok(Some(Rows { cols, starts, kept: vec![0.0; all] }))
    }

    /// Keeps what of them is among `elements`, the first of which is element `start` of the whole.
    pub fn see(&mut self, start: usize, elements: &Elements<'_>) {
        let end = start + elements.len();
        for (&row, kept) in self.starts.iter().zip(self.kept.chunks_mut(self.cols)) {
            let (from, to) = (row.max(start), (row + self.cols).min(end));
            if from < to {
                elements.read_f32(from - start, &mut kept[from - row..to - row]);
            }
        }
    }

    /// What they show, once all elements have been seen.
    pub fn structure(&self) -> Option<Structure> {
        Structure::of(&Elements::from(&self.kept[..]), self.cols)
    }
}

/// The `i`th of `count` rows out of `rows`. Where not all are looked at they are those of one half, one out of each of
/// equal stretches at no regular distance, and those at the same places in the other half: what was written twice, and
/// heads that are copies, show in both.
fn spread(i: usize, count: usize, rows: usize) -> usize {
    if count == rows {
        return i;
    }
    let (half, of) = (rows / 2, count.div_ceil(2));
    let (i, offset) = if i < of { (i, 0) } else { (i - of, half) };
    let (start, end) = (i * half / of, (i + 1) * half / of);
    let hash = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    offset + start + hash as usize % (end - start).max(1)
}

/// One look at the sampled rows of a matrix.
struct Look<'a> {
    elements: &'a Elements<'a>,
    rows: usize,
    count: usize,
    sample: Sample,
}

impl Vectorized for &mut Look<'_> {
    #[inline(always)]
    fn run(self) {
        let cols = self.sample.cols;
        let ready = self.elements.as_f32();
        let mut buffer = vec![0.0f32; if ready.is_some() { 0 } else { cols }];
        for i in 0..self.count {
            let start = spread(i, self.count, self.rows) * cols;
            let row = match ready {
                Some(all) => &all[start..start + cols],
                None => {
                    self.elements.read_f32(start, &mut buffer);
                    &buffer[..]
                }
            };
            self.sample.add(row);
        }
    }
}

struct Sample {
    cols: usize,
    /// Rows that will have been added.
    count: usize,
    /// Of each column over the rows that are not zero.
    least: Vec<f32>,
    most: Vec<f32>,
    norms: Vec<f64>,
    /// The hashes of rows that are not zero.
    seen: Vec<u64>,
    zero_rows: u64,
    flat_rows: u64,
    whole: bool,
    /// Some of the rows that are neither zero nor equal to one before, one after the other.
    compared: Vec<f32>,
    others: usize,
}

impl Sample {
    fn new(cols: usize, count: usize) -> Self {
        Sample {
            cols,
            count,
            least: vec![f32::INFINITY; cols],
            most: vec![f32::NEG_INFINITY; cols],
            norms: Vec::with_capacity(count),
            seen: Vec::with_capacity(count),
            zero_rows: 0,
            flat_rows: 0,
            whole: true,
            compared: Vec::new(),
            others: 0,
        }
    }

    #[inline(always)]
    fn add(&mut self, row: &[f32]) {
        let squares = squares(row);
        self.norms.push(squares.sqrt());
        if squares == 0.0 {
            self.zero_rows += 1;
            return;
        }
        for ((&x, least), most) in row.iter().zip(&mut self.least).zip(&mut self.most) {
            *least = least.min(x);
            *most = most.max(x);
        }
        self.seen.push(hash(row));
        self.flat_rows += u64::from(is_flat(row));
        self.whole = self.whole && row.iter().all(|x| x.fract() == 0.0);
        // Every so many rows, so that those compared are from all over.
        let every = self.count.div_ceil(COMPARED);
        if self.others.is_multiple_of(every) && squares.is_finite() {
            self.compared.extend_from_slice(row);
        }
        self.others += 1;
    }

    fn finish(mut self) -> Structure {
        let nonzero = self.count as u64 - self.zero_rows;
        let compared = self.compared.len() / self.cols;
        let hashes = self.seen.len();
        self.seen.sort_unstable();
        self.seen.dedup();
        let mut structure = Structure {
            sampled_rows: self.count as u64,
            zero_rows: self.zero_rows,
            equal_rows: (hashes - self.seen.len()) as u64,
            flat_rows: self.flat_rows,
            whole: self.whole && nonzero > 0,
            compared_rows: compared as u64,
            ..Structure::default()
        };
        for (&least, &most) in self.least.iter().zip(&self.most) {
            let zero = nonzero == 0 || (least == 0.0 && most == 0.0);
            structure.zero_cols += u64::from(zero);
            structure.constant_cols += u64::from(!zero && least == most && nonzero > 1);
        }
        let middle = self.norms.len() / 2;
        let median = *self.norms.select_nth_unstable_by(middle, f64::total_cmp).1;
        structure.faint_rows = self.norms.iter().filter(|&&norm| norm <= median * FAINT).count() as u64;
        structure.loud_rows =
            self.norms.iter().filter(|&&norm| median > 0.0 && norm >= median * LOUD).count() as u64;
        if compared >= 2 {
            let gram = Gram::of(&self.compared, self.cols);
            structure.effective_rank = gram.effective_rank();
            structure.rank = gram.rank();
        }
        structure
    }
}

/// The sum of the squares of `row`.
#[inline(always)]
fn squares(row: &[f32]) -> f64 {
    let mut sums = [0.0f64; 16];
    for chunk in row.chunks(16) {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sum(sums)
}

/// The sum of `lanes`, whose number is a power of two: halves are added as long as there are some, since one addition
/// after the other would each wait for the last.
#[inline(always)]
fn sum<const N: usize>(mut lanes: [f64; N]) -> f64 {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Whether the elements of `row` that are not zero have one magnitude.
fn is_flat(row: &[f32]) -> bool {
    let mut magnitudes = row.iter().map(|x| x.abs()).filter(|&x| x != 0.0);
    let first = magnitudes.next();
    magnitudes.all(|x| Some(x) == first)
}

/// A hash of the bits of `row`, in which zeros of either sign are alike.
#[inline(always)]
fn hash(row: &[f32]) -> u64 {
    // One for every sixteenth element, so that few have to wait for another.
    let mut lanes = [0x811c_9dc5u32; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    // The rotation brings the sign to where the product spreads it.
    let mix = |lane: u32, x: u32| (lane.rotate_left(5) ^ x).wrapping_mul(0x9e37_79b1);
    let bits = |x: f32| (x + 0.0).to_bits();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = mix(*lane, bits(x));
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = mix(*lane, bits(x));
    }
    for i in 0..8 {
        lanes[i] = mix(lanes[i], lanes[i + 8]);
    }
    let fold = |hash: u64, pair: &[u32]| {
        let both = u64::from(pair[0]) << 32 | u64::from(pair[1]);
        (hash.rotate_left(5) ^ both).wrapping_mul(0x517c_c1b7_2722_0a95)
    };
    lanes[..8].chunks_exact(2).fold(row.len() as u64, fold)
}

/// Columns of which products are summed at a time, while they are in the first-level cache.
const TILE: usize = 64;

/// The inner products of rows with each other, a square of them.
struct Gram<'a> {
    rows: &'a [f32],
    cols: usize,
    products: [[f64; COMPARED]; COMPARED],
    /// The sum of the squares of all of them.
    squares: f64,
}

impl Gram<'_> {
    /// Of `rows` of `cols`.
    fn of(rows: &[f32], cols: usize) -> Gram<'_> {
        let mut gram = Gram { rows, cols, products: [[0.0; COMPARED]; COMPARED], squares: 0.0 };
        vectorized(&mut gram);
        gram
    }

    /// The sum of the products of rows with themselves.
    fn trace(&self) -> f64 {
        self.products.iter().enumerate().map(|(i, row)| row[i]).sum()
    }

    fn effective_rank(&self) -> Option<f64> {
        Some(self.trace().powi(2) / self.squares).filter(|rank| rank.is_finite())
    }

    /// The pivots of a Cholesky decomposition that are needed until less than [`RESIDUE`] is left.
    fn rank(&self) -> Option<u64> {
        let mut pivots = Pivots { gram: self, rank: None };
        vectorized(&mut pivots);
        pivots.rank
    }
}

impl Vectorized for &mut Gram<'_> {
    #[inline(always)]
    fn run(self) {
        let n = self.rows.len() / self.cols;
        let mut tile = [[0.0f64; COMPARED]; TILE];
        for start in (0..self.cols).step_by(TILE) {
            let width = TILE.min(self.cols - start);
            for i in 0..n {
                let row = &self.rows[i * self.cols + start..][..width];
                for (column, &x) in tile.iter_mut().zip(row) {
                    column[i] = x.into();
                }
            }
            for (i, products) in self.products[..n].iter_mut().enumerate() {
                let mut sums = *products;
                for column in &tile[..width] {
                    let factor = column[i];
                    for (sum, x) in sums.iter_mut().zip(column) {
                        *sum += factor * x;
                    }
                }
                *products = sums;
            }
        }
        let mut squares = [0.0f64; COMPARED];
        for row in &self.products {
            for (sum, x) in squares.iter_mut().zip(row) {
                *sum += x * x;
            }
        }
        self.squares = sum(squares);
    }
}

struct Pivots<'a> {
    gram: &'a Gram<'a>,
    rank: Option<u64>,
}

impl Vectorized for &mut Pivots<'_> {
    #[inline(always)]
    fn run(self) {
        let products = &self.gram.products;
        let n = self.gram.rows.len() / self.gram.cols;
        let trace = self.gram.trace();
        if !(trace > 0.0 && trace.is_finite()) {
            return;
        }
        // What is left of each row's square, and the columns of the triangle so far.
        let mut left = [0.0f64; COMPARED];
        for (i, (left, row)) in left.iter_mut().zip(products).enumerate() {
            *left = row[i];
        }
        let mut columns = [[0.0f64; COMPARED]; COMPARED];
        for step in 0..n {
            if sum(left) <= RESIDUE * trace {
                self.rank = Some(step as u64);
                return;
            }
            let most = most(left);
            let Some(pivot) = left.iter().position(|&x| x == most) else { return };
            let mut column = products[pivot];
            for earlier in &columns[..step] {
                let factor = earlier[pivot];
                for (x, e) in column.iter_mut().zip(earlier) {
                    *x -= factor * e;
                }
            }
            let scale = 1.0 / most.sqrt();
            for (x, left) in column.iter_mut().zip(&mut left) {
                *x *= scale;
                *left = (*left - *x * *x).max(0.0);
            }
            left[pivot] = 0.0;
            columns[step] = column;
        }
        self.rank = Some(n as u64);
    }
}

/// The largest of `lanes`, by halves.
#[inline(always)]
fn most(mut lanes: [f64; COMPARED]) -> f64 {
    let mut half = COMPARED / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = lanes[i].max(lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(n: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn of(values: &[f32], cols: usize) -> Structure {
        Structure::of(&Elements::from(values), cols).unwrap()
    }

    #[test]
    fn a_random_matrix_goes_in_all_directions() {
        let found = of(&random(512 * 128), 128);
        let nothing = Structure {
            sampled_rows: 256,
            compared_rows: 32,
            rank: Some(32),
            effective_rank: found.effective_rank,
            ..Structure::default()
        };
        assert_eq!(found, nothing);
        assert!((20.0..32.0).contains(&found.effective_rank.unwrap()), "{found:?}");
    }

    #[test]
    fn rows_of_zeros_and_equal_rows_are_counted() {
        let mut values = random(64 * 32);
        values[..8 * 32].fill(0.0);
        let row = values[20 * 32..21 * 32].to_vec();
        for at in [30, 40, 50] {
            values[at * 32..(at + 1) * 32].copy_from_slice(&row);
        }
        let found = of(&values, 32);
        assert_eq!((found.sampled_rows, found.zero_rows, found.faint_rows, found.equal_rows), (64, 8, 8, 3));
    }

    #[test]
    fn rows_that_differ_in_signs_alone_are_not_equal() {
        let values: Vec<f32> = random(256 * 64).into_iter().map(f32::signum).collect();
        assert_eq!(of(&values, 64).equal_rows, 0);
        let zeros: Vec<f32> = (0..64 * 32)
            .map(|i| if i % 2 == 0 { 1.0 } else { 0.0f32.copysign((i % 5) as f32 - 2.0) })
            .collect();
        assert_eq!(of(&zeros, 32).equal_rows, 63, "zeros of either sign are alike");
    }

    #[test]
    fn columns_of_one_value_are_counted_beside_rows_of_zeros() {
        let mut values = random(100 * 10);
        values[..10].fill(0.0);
        for row in values.chunks_mut(10).skip(1) {
            row[3] = 0.25;
            row[4] = 0.0;
        }
        let found = of(&values, 10);
        assert_eq!((found.constant_cols, found.zero_cols, found.zero_rows), (1, 1, 1));
    }

    #[test]
    fn a_product_of_thin_matrices_has_their_rank() {
        for rank in [1, 3] {
            let (a, b) = (random(200 * rank), random(rank * 64));
            let values: Vec<f32> = (0..200 * 64)
                .map(|i| (0..rank).map(|k| a[i / 64 * rank + k] * b[k * 64 + i % 64]).sum())
                .collect();
            let found = of(&values, 64);
            assert_eq!(found.rank, Some(rank as u64));
            assert!(found.effective_rank.unwrap() <= rank as f64 + 1e-9);
        }
    }

    #[test]
    fn not_a_number_spoils_nothing_else() {
        let mut values = random(64 * 32);
        values[5] = f32::NAN;
        values[40] = f32::INFINITY;
        let found = of(&values, 32);
        assert_eq!((found.zero_rows, found.equal_rows, found.constant_cols), (0, 0, 0));
    }
}
