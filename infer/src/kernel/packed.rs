//! Matrices laid out for the kernels.
//!
//! Packed matrices come in tiles of sixteen rows. A tile is a run of 64-byte blocks, read in order; lane r (bytes 4r
//! to 4r + 3) of a block belongs to row r of the tile. One register then holds sixteen rows' sums, no sum is ever
//! added across lanes, and the activations of a block are broadcast. Columns beyond the last are multiplied by
//! activations of zero; rows beyond the last are not written.

use std::sync::{Mutex, PoisonError};

use ckpt_inspect::measure::Floor;
use half::{bf16, f16};

use super::Kernel;
use super::activation::Forms;
use super::coded::Coded;
use super::float::{Element, abs_max, vectors};
use super::memory::{Aligned, Block};
use super::pool::{Pool, cuts};
use super::simd::{LANES, Simd, Work};

/// Rows that one task packs at a time.
const PACK_ROWS: usize = 64;

/// A ternary matrix of `rows` x `cols` with a scale for each row: bits 2p and 2p + 1 of byte 4r + i of block b hold
/// the code (value + 1) of row r, column 16b + 4p + i.
#[derive(Debug)]
pub struct Ternary {
    blocks: Vec<Block>,
    /// The factor of each row's codes; padded to whole tiles.
    scales: Vec<f32>,
    rows: usize,
    cols: usize,
}

/// An int8 matrix of `rows` x `cols` with a scale for each row: byte 4r + i of block b is row r, column 4b + i.
#[derive(Debug)]
pub struct Bytes {
    blocks: Vec<Block>,
    scales: Vec<f32>,
    /// Sums of each row's bytes.
    sums: Vec<i32>,
    rows: usize,
    cols: usize,
}

/// A matrix of `rows` x `cols` floats, rows padded to whole vectors.
#[derive(Debug)]
pub struct Dense<E> {
    elements: Aligned<E>,
    rows: usize,
    cols: usize,
}

/// A weight matrix [out, in] in one of the forms that kernels can multiply.
#[derive(Debug)]
#[allow(missing_docs)] // the variants are their contents' names
pub enum Matrix {
    Ternary(Ternary),
    F32(Dense<f32>),
    F16(Dense<f16>),
    BF16(Dense<bf16>),
    Int8(Bytes),
    Coded(Coded),
}

impl Ternary {
    /// Packs weights by the absmean rule, clamp(round(W / ws), -1, 1) with ws = mean|W|, kept from zero, of the matrix or
    /// of each row. The mean is taken in f64 and the quotient in f32. `weights` is row-major. `None` where
    /// one is NaN or infinite: its code would not show it.
    pub fn absmean(
        kernel: Kernel,
        pool: &Pool,
        weights: &[f32],
        (rows, cols): (usize, usize),
        floor: Floor,
        per_row: bool,
    ) -> Option<Self> {
        use ckpt_inspect::measure::{absmean_scale, zero_line};
        let chunk = PACK_ROWS * cols;
        let parts = pool.map(rows.div_ceil(PACK_ROWS), |i| {
            let rows = &weights[i * chunk..weights.len().min((i + 1) * chunk)];
            let row_sums = rows.chunks_exact(cols.max(1)).map(|row| kernel.run(AbsSum(row)));
            row_sums.collect::<Vec<f64>>()
        });
        let sums = parts.concat();
        if !sums.iter().all(|sum| sum.is_finite()) {
            return None;
        }
        let scales: Vec<f32> = if per_row {
            sums.iter().map(|sum| absmean_scale(sum / cols as f64, floor)).collect()
        } else {
            vec![absmean_scale(sums.iter().sum::<f64>() / weights.len() as f64, floor); rows]
        };
        let lines = |i: usize| zero_line(scales[i]);
        let row = |i: usize, out: &mut [f32]| out.copy_from_slice(&weights[i * cols..][..cols]);
        let blocks = pack(kernel, pool, (rows, cols), row, lines);
        Some(Ternary { blocks, scales: padded(scales), rows, cols })
    }

    /// Packs the signs of rows that `row(i, out)` gives, each with its scale.
    pub fn of_signs(
        kernel: Kernel,
        pool: &Pool,
        (rows, cols): (usize, usize),
        scales: Vec<f32>,
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let blocks = pack(kernel, pool, (rows, cols), row, |_| 0.0);
        Ternary { blocks, scales: padded(scales), rows, cols }
    }
}

/// Codes of the rows that `row(i, out)` gives: 2 above `line(i)`, 0 below its negative, else 1.
fn pack(
    kernel: Kernel,
    pool: &Pool,
    (rows, cols): (usize, usize),
    row: impl Fn(usize, &mut [f32]) + Sync,
    line: impl Fn(usize) -> f32 + Sync,
) -> Vec<Block> {
    let tile_blocks = cols.div_ceil(LANES);
    let mut blocks = zeroed_blocks(rows.div_ceil(LANES) * tile_blocks);
    let tiles = cuts(0..rows.div_ceil(LANES), PACK_ROWS / LANES);
    pool.blocks(&mut blocks, tile_blocks, &tiles, &[0, tile_blocks], |first, _, mut out| {
        let mut values = vec![0.0; cols];
        for t in 0..out.rows() {
            let start = (first + t) * LANES;
            let tile = out.row(t);
            for lane in 0..LANES.min(rows - start) {
                row(start + lane, &mut values);
                kernel.run(PackRow { row: &values, line: line(start + lane), lane, tile });
            }
        }
    });
    blocks
}

impl Ternary {
    /// The tile that begins with row `first`, and its rows' scales.
    #[inline(always)]
    pub fn tile(&self, first: usize) -> (&[Block], &[f32; LANES]) {
        let (tile, blocks) = (first / LANES, self.cols.div_ceil(LANES));
        (&self.blocks[tile * blocks..][..blocks], &vectors(&self.scales)[tile])
    }
}

/// Sum of |w| in f64.
struct AbsSum<'a>(&'a [f32]);

impl Work for AbsSum<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let mut sums = [0.0f64; LANES];
        let (whole, rest) = self.0.as_chunks::<LANES>();
        for w in whole {
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum += f64::from(w.abs());
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|w| f64::from(w.abs())).sum::<f64>()
    }
}

/// Writes one row's codes into its lane of a tile.
struct PackRow<'a> {
    row: &'a [f32],
    line: f32,
    lane: usize,
    tile: &'a mut [Block],
}

impl Work for PackRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (whole, rest) = self.row.as_chunks::<LANES>();
        let mut tail = [0.0; LANES];
        tail[..rest.len()].copy_from_slice(rest);
        let tail = if rest.is_empty() { &[][..] } else { std::slice::from_ref(&tail) };
        for (w, block) in whole.iter().chain(tail).zip(self.tile) {
            let [a, b, c, d] = s.codes(s.load(w), self.line);
            block.0[4 * self.lane..][..4].copy_from_slice(&(a | b << 2 | c << 4 | d << 6).to_le_bytes());
        }
    }
}

impl Bytes {
    /// Rounds each row to int8 with scale max|w| / 127. `row(i, out)` gives row i.
    pub fn quantize(
        kernel: Kernel,
        pool: &Pool,
        (rows, cols): (usize, usize),
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let tile_blocks = cols.div_ceil(4);
        let tiles = rows.div_ceil(LANES);
        let mut blocks = zeroed_blocks(tiles * tile_blocks);
        // Blocks are written in place, a tile a task; scales and sums come back by value.
        let of_tiles: Vec<Mutex<[(f32, i32); LANES]>> = (0..tiles).map(|_| Mutex::default()).collect();
        pool.blocks(&mut blocks, tile_blocks, &cuts(0..tiles, 1), &[0, tile_blocks], |tile, _, mut out| {
            let mut values = vec![0.0; cols.next_multiple_of(LANES)];
            let mut of_tile = [(0.0, 0); LANES];
            for (lane, of_row) in of_tile.iter_mut().enumerate().take(rows - tile * LANES) {
                row(tile * LANES + lane, &mut values[..cols]);
                *of_row = kernel.run(QuantizeRow { row: &values, lane, tile: out.row(0) });
            }
            *of_tiles[tile].lock().unwrap_or_else(PoisonError::into_inner) = of_tile;
        });
        let of_rows =
            of_tiles.into_iter().flat_map(|t| t.into_inner().unwrap_or_else(PoisonError::into_inner));
        let (scales, sums) = of_rows.unzip();
        Bytes { blocks, scales, sums, rows, cols }
    }
}

impl Bytes {
    /// The tile that begins with row `first`, its rows' scales, and the sums of their bytes.
    #[inline(always)]
    pub fn tile(&self, first: usize) -> (&[Block], &[f32; LANES], &[i32; LANES]) {
        let (tile, blocks) = (first / LANES, self.cols.div_ceil(4));
        (&self.blocks[tile * blocks..][..blocks], &vectors(&self.scales)[tile], &vectors(&self.sums)[tile])
    }
}

/// Writes one row's bytes into its lane of a tile; returns the row's scale and the sum of its bytes.
struct QuantizeRow<'a> {
    /// Padded with zeros.
    row: &'a [f32],
    lane: usize,
    tile: &'a mut [Block],
}

impl Work for QuantizeRow<'_> {
    type Output = (f32, i32);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, i32) {
        let largest = abs_max(s, self.row);
        let inverse = s.splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let (least, most) = (s.splat(-127.0), s.splat(127.0));
        let mut sum = 0;
        for (w, blocks) in vectors(self.row).iter().zip(self.tile.chunks_mut(4)) {
            let mut bytes = [0; LANES];
            s.store_i8(s.max(s.min(s.mul(s.load(w), inverse), most), least), &mut bytes);
            for (four, block) in bytes.as_chunks::<4>().0.iter().zip(blocks) {
                block.0[4 * self.lane..][..4].copy_from_slice(&four.map(|b| b as u8));
                sum += four.iter().map(|&b| i32::from(b)).sum::<i32>();
            }
        }
        (largest / 127.0, sum)
    }
}

impl<E: Element> Dense<E> {
    /// Lays out rows that `row(i, out)` gives.
    pub fn new(pool: &Pool, (rows, cols): (usize, usize), row: impl Fn(usize, &mut [E]) + Sync) -> Self {
        let stride = cols.next_multiple_of(LANES);
        let mut elements = Aligned::zeroed(rows.saturating_mul(stride));
        pool.blocks(&mut elements, stride, &cuts(0..rows, PACK_ROWS), &[0, cols], |first, _, mut out| {
            for r in 0..out.rows() {
                row(first + r, out.row(r));
            }
        });
        Dense { elements, rows, cols }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// One row, padded.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &[E] {
        let stride = self.cols.next_multiple_of(LANES);
        &self.elements[row * stride..][..stride]
    }
}

fn zeroed_blocks(n: usize) -> Vec<Block> {
    bytemuck::zeroed_vec(n)
}

fn padded(mut scales: Vec<f32>) -> Vec<f32> {
    scales.resize(scales.len().next_multiple_of(LANES), 0.0);
    scales
}

impl Matrix {
    /// Output features.
    pub fn rows(&self) -> usize {
        match self {
            Matrix::Ternary(m) => m.rows,
            Matrix::F32(m) => m.rows,
            Matrix::F16(m) => m.rows,
            Matrix::BF16(m) => m.rows,
            Matrix::Int8(m) => m.rows,
            Matrix::Coded(m) => m.rows,
        }
    }

    /// Bytes that one token's product reads.
    pub fn bytes(&self) -> usize {
        match self {
            Matrix::Ternary(m) => 64 * m.blocks.len() + 4 * m.scales.len(),
            Matrix::F32(m) => 4 * m.elements.len(),
            Matrix::F16(m) => 2 * m.elements.len(),
            Matrix::BF16(m) => 2 * m.elements.len(),
            Matrix::Int8(m) => 64 * m.blocks.len() + 8 * m.scales.len(),
            Matrix::Coded(m) => 64 * m.blocks.len(),
        }
    }

    /// The forms of activations that its product needs.
    pub fn forms(&self) -> Forms {
        Forms {
            int8: matches!(self, Matrix::Ternary(_)),
            int16: matches!(self, Matrix::Int8(_)),
            digits: match self {
                Matrix::Coded(m) => Some(m.rounding),
                _ => None,
            },
        }
    }

    /// What defines its products, for a fingerprint.
    pub fn parts(&self) -> Vec<&[u8]> {
        use bytemuck::{bytes_of, cast_slice};
        match self {
            Matrix::Ternary(m) => vec![cast_slice(&m.blocks), cast_slice(&m.scales)],
            Matrix::F32(m) => vec![cast_slice(&m.elements)],
            Matrix::F16(m) => vec![cast_slice(&m.elements)],
            Matrix::BF16(m) => vec![cast_slice(&m.elements)],
            Matrix::Int8(m) => vec![cast_slice(&m.blocks), cast_slice(&m.scales)],
            Matrix::Coded(m) => {
                vec![cast_slice(&m.blocks), bytes_of(&m.factor), m.rounding.name().as_bytes()]
            }
        }
    }

    /// Row `row` in f32, as an embedding.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        fn dense<E: Element>(m: &Dense<E>, row: usize, out: &mut [f32]) {
            out.iter_mut().zip(m.row(row)).for_each(|(out, x)| *out = x.widen());
        }
        match self {
            Matrix::F32(m) => dense(m, row, out),
            Matrix::F16(m) => dense(m, row, out),
            Matrix::BF16(m) => dense(m, row, out),
            Matrix::Coded(m) => m.row(row, out),
            Matrix::Int8(m) => {
                let (tile, scales, _) = m.tile(row);
                for (c, out) in out.iter_mut().enumerate().take(m.cols) {
                    let byte = tile[c / 4].0[row % LANES * 4 + c % 4];
                    *out = f32::from(byte as i8) * scales[row % LANES];
                }
            }
            Matrix::Ternary(m) => {
                let (tile, scales) = m.tile(row);
                for (c, out) in out.iter_mut().enumerate().take(m.cols) {
                    let byte = tile[c / 16].0[row % LANES * 4 + c % 4];
                    *out = f32::from((byte >> (2 * (c / 4 % 4)) & 3) as i8 - 1) * scales[row % LANES];
                }
            }
        }
    }
}
