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
        let mut sample = Sample::new(cols);
        let mut buffer = vec![0.0f32; cols];
        for i in 0..count {
            let start = spread(i, count, rows) * cols;
            let row = match elements.as_f32() {
                Some(all) => &all[start..start + cols],
                None => {
                    elements.read_f32(start, &mut buffer);
                    &buffer[..]
                }
            };
            sample.add(row, count);
        }
        Some(sample.finish(count))
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

struct Sample {
    /// Of each column over the rows that are not zero.
    least: Vec<f32>,
    most: Vec<f32>,
    norms: Vec<f64>,
    /// The hashes of rows that are not zero.
    seen: Vec<u64>,
    zero_rows: u64,
    flat_rows: u64,
    whole: bool,
    /// Some of the rows that are neither zero nor equal to one before, scaled to the norm 1.
    compared: Vec<Vec<f32>>,
    others: usize,
}

impl Sample {
    fn new(cols: usize) -> Self {
        Sample {
            least: vec![f32::INFINITY; cols],
            most: vec![f32::NEG_INFINITY; cols],
            norms: Vec::new(),
            seen: Vec::new(),
            zero_rows: 0,
            flat_rows: 0,
            whole: true,
            compared: Vec::new(),
            others: 0,
        }
    }

    fn add(&mut self, row: &[f32], count: usize) {
        let mut look = Look { row, least: &mut self.least, most: &mut self.most, squares: 0.0 };
        vectorized(&mut look);
        let squares = look.squares;
        self.norms.push(squares.sqrt());
        if squares == 0.0 {
            self.zero_rows += 1;
            return;
        }
        self.seen.push(hash(row));
        self.flat_rows += u64::from(is_flat(row));
        self.whole = self.whole && row.iter().all(|x| x.fract() == 0.0);
        // Every so many rows, so that those compared are from all over.
        let every = count.div_ceil(COMPARED);
        if self.others.is_multiple_of(every) && squares.is_finite() {
            self.compared.push(row.to_vec());
        }
        self.others += 1;
    }

    fn finish(mut self, count: usize) -> Structure {
        let nonzero = count as u64 - self.zero_rows;
        let hashes = self.seen.len();
        self.seen.sort_unstable();
        self.seen.dedup();
        let mut structure = Structure {
            sampled_rows: count as u64,
            zero_rows: self.zero_rows,
            equal_rows: (hashes - self.seen.len()) as u64,
            flat_rows: self.flat_rows,
            whole: self.whole && nonzero > 0,
            compared_rows: self.compared.len() as u64,
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
        if self.compared.len() >= 2 {
            let gram = gram(&self.compared);
            structure.effective_rank = effective_rank(&gram, self.compared.len());
            structure.rank = rank(gram, self.compared.len());
        }
        structure
    }
}

/// One look at a row: its squares, and the extremes of the columns so far.
struct Look<'a> {
    row: &'a [f32],
    least: &'a mut [f32],
    most: &'a mut [f32],
    squares: f64,
}

impl Vectorized for &mut Look<'_> {
    #[inline(always)]
    fn run(self) {
        let mut sums = [0.0f64; 8];
        for chunk in self.row.chunks(8) {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        self.squares = sums.iter().sum();
        if self.squares == 0.0 {
            return;
        }
        for ((&x, least), most) in self.row.iter().zip(&mut *self.least).zip(&mut *self.most) {
            *least = least.min(x);
            *most = most.max(x);
        }
    }
}

/// Whether the elements of `row` that are not zero have one magnitude.
fn is_flat(row: &[f32]) -> bool {
    let mut magnitudes = row.iter().map(|x| x.abs()).filter(|&x| x != 0.0);
    let first = magnitudes.next();
    magnitudes.all(|x| Some(x) == first)
}

/// A hash of the bits of `row`, in which zeros of either sign are alike.
fn hash(row: &[f32]) -> u64 {
    let mut hash = Hash { row, lanes: [0x811c_9dc5; 8] };
    vectorized(&mut hash);
    hash.lanes.iter().fold(row.len() as u64, |hash, &lane| {
        (hash.rotate_left(5) ^ u64::from(lane)).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

struct Hash<'a> {
    row: &'a [f32],
    /// One for every eighth element.
    lanes: [u32; 8],
}

impl Vectorized for &mut Hash<'_> {
    #[inline(always)]
    fn run(self) {
        let mut lanes = self.lanes;
        let (eights, rest) = self.row.as_chunks::<8>();
        // The rotation brings the sign to where the product spreads it.
        let mix = |lane: u32, x: f32| (lane.rotate_left(5) ^ (x + 0.0).to_bits()).wrapping_mul(0x9e37_79b1);
        for eight in eights {
            for (lane, &x) in lanes.iter_mut().zip(eight) {
                *lane = mix(*lane, x);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane = mix(*lane, x);
        }
        self.lanes = lanes;
    }
}

/// The inner products of rows with each other, a square of them.
struct Gram<'a> {
    rows: &'a [Vec<f32>],
    products: Vec<f64>,
}

/// Inner products of `rows` with each other.
fn gram(rows: &[Vec<f32>]) -> Vec<f64> {
    let mut gram = Gram { rows, products: vec![0.0; rows.len() * rows.len()] };
    vectorized(&mut gram);
    gram.products
}

impl Vectorized for &mut Gram<'_> {
    #[inline(always)]
    fn run(self) {
        let n = self.rows.len();
        for i in 0..n {
            for j in 0..=i {
                let (a, rest_a) = self.rows[i].as_chunks::<8>();
                let (b, rest_b) = self.rows[j].as_chunks::<8>();
                let mut sums = [0.0f64; 8];
                for (a, b) in a.iter().zip(b) {
                    for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
                        *sum += f64::from(a) * f64::from(b);
                    }
                }
                let rest: f64 = rest_a.iter().zip(rest_b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let product = sums.iter().sum::<f64>() + rest;
                self.products[i * n + j] = product;
                self.products[j * n + i] = product;
            }
        }
    }
}

/// Of `n` rows with inner products `gram`.
fn effective_rank(gram: &[f64], n: usize) -> Option<f64> {
    let trace: f64 = gram.iter().step_by(n + 1).sum();
    let squares: f64 = gram.iter().map(|g| (g / trace) * (g / trace)).sum();
    Some(1.0 / squares).filter(|rank| rank.is_finite())
}

/// The pivots of a Cholesky decomposition of `gram`, the inner products of `n` rows, that are needed until less than
/// [`RESIDUE`] is left.
fn rank(mut gram: Vec<f64>, n: usize) -> Option<u64> {
    let trace: f64 = gram.iter().step_by(n + 1).sum();
    if !(trace > 0.0 && trace.is_finite()) {
        return None;
    }
    for step in 0..n {
        let diagonal = |i: usize| gram[i * (n + 1)];
        let left: f64 = (step..n).map(|i| diagonal(i).max(0.0)).sum();
        if left <= RESIDUE * trace {
            return Some(step as u64);
        }
        let pivot = (step..n).max_by(|&a, &b| diagonal(a).total_cmp(&diagonal(b)))?;
        // The pivot's row and column come first of those that are left.
        for i in step..n {
            gram.swap(step * n + i, pivot * n + i);
        }
        for i in step..n {
            gram.swap(i * n + step, i * n + pivot);
        }
        vectorized(Elimination { rest: &mut gram[step * n..], n, step });
    }
    Some(n as u64)
}

/// Takes what the first of the rows in `rest` has in common with the others from them, from column `step` on.
struct Elimination<'a> {
    rest: &'a mut [f64],
    n: usize,
    step: usize,
}

impl Vectorized for Elimination<'_> {
    #[inline(always)]
    fn run(self) {
        let (first, others) = self.rest.split_at_mut(self.n);
        let first = &first[self.step..];
        for other in others.chunks_mut(self.n) {
            let other = &mut other[self.step..];
            let factor = other[0] / first[0];
            other.iter_mut().zip(first).for_each(|(other, first)| *other -= factor * first);
        }
    }
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
