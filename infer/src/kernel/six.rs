//! Six-bit matrices, for embeddings and heads: a scale for each row and 32 columns.
//!
//! Tiles of sixteen rows are a run of spans of 64 columns, each [`SPAN`] blocks. The first block holds the scales in
//! f16, those of the sixteen rows for the first 32 columns, then for the others. Three blocks follow for every 16
//! columns; in each, bytes 4r to 4r + 3 belong to row r. Byte i of the first holds the low four bits of columns i and
//! 4 + i, of the second those of columns 8 + i and 12 + i; byte i of the third holds at bits 2p and 2p + 1 the high
//! two bits of column 4p + i. A code is value + 32.

use std::sync::{Mutex, PoisonError};

use half::f16;

use super::Kernel;
use super::float::{abs_max, vectors};
use super::memory::Block;
use super::pool::{Pool, cuts};
use super::simd::{LANES, Simd, Work};

/// Blocks of 64 columns.
pub const SPAN: usize = 13;
/// Columns of a span.
pub const SPAN_COLS: usize = 64;
/// Columns that share a scale.
pub const GROUP: usize = 32;
/// The largest value.
const MOST: f32 = 31.0;

/// A matrix of `rows` x `cols` in six bits.
#[derive(Debug)]
pub struct Six {
    pub(super) blocks: Vec<Block>,
    /// The factor of the scales: max|W| / 31, so that they fit f16 for weights of any size.
    pub scale: f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// One token's activations for [`Simd::six`]: x / scale = 256 * high + low, rounded to within ±32639.
#[derive(Clone, Copy)]
pub struct Halves<'a> {
    /// Whole spans.
    pub high: &'a [i8],
    /// Whole spans.
    pub low: &'a [i8],
    /// 32 * the sum of each group's x / scale, which corrects for codes being 32 too large.
    pub excess: &'a [i32],
}

impl Six {
    /// Rounds each row's groups to six bits with scale max|w| / 31. `row(i, out)` gives row i.
    pub fn quantize(
        kernel: Kernel,
        pool: &Pool,
        (rows, cols): (usize, usize),
        row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let (spans, tiles) = (cols.div_ceil(SPAN_COLS), rows.div_ceil(LANES));
        let tile_blocks = SPAN * spans;
        let mut blocks: Vec<Block> = bytemuck::zeroed_vec(tiles * tile_blocks);
        let largest = Mutex::new(0.0f32);
        let padded = || vec![0.0; spans * SPAN_COLS];
        pool.run(tiles, &|tile| {
            let (mut values, mut of_tile) = (padded(), 0.0f32);
            for i in tile * LANES..rows.min((tile + 1) * LANES) {
                row(i, &mut values[..cols]);
                let of_row = kernel.run(AbsMax(&values));
                of_tile = if of_row > of_tile || of_row.is_nan() { of_row } else { of_tile };
            }
            let mut largest = largest.lock().unwrap_or_else(PoisonError::into_inner);
            *largest = if of_tile > *largest || of_tile.is_nan() { of_tile } else { *largest };
        });
        let scale = largest.into_inner().unwrap_or_else(PoisonError::into_inner) / MOST;
        pool.blocks(&mut blocks, tile_blocks, &cuts(0..tiles, 1), &[0, tile_blocks], |tile, _, mut out| {
            let mut values = padded();
            for lane in 0..LANES.min(rows - tile * LANES) {
                row(tile * LANES + lane, &mut values[..cols]);
                for (values, span) in values.chunks_exact(SPAN_COLS).zip(out.row(0).chunks_exact_mut(SPAN)) {
                    kernel.run(Pack { values, scale, lane, span });
                }
            }
        });
        Six { blocks, scale, rows, cols }
    }

    /// The tile that begins with row `first`.
    #[inline(always)]
    pub fn tile(&self, first: usize) -> &[Block] {
        let blocks = SPAN * self.cols.div_ceil(SPAN_COLS);
        &self.blocks[first / LANES * blocks..][..blocks]
    }

    /// Row `row` in f32.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (tile, lane) = (self.tile(row), row % LANES);
        for (c, out) in out.iter_mut().enumerate().take(self.cols) {
            let (span, column) = (&tile[c / SPAN_COLS * SPAN..][..SPAN], c % SPAN_COLS);
            *out =
                (code(span, lane, column) - 32) as f32 * (scale_of(span, lane, column / GROUP) * self.scale);
        }
    }
}

struct AbsMax<'a>(&'a [f32]);

impl Work for AbsMax<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        abs_max(s, self.0)
    }
}

/// Packs 64 columns of one row into its lane of a span.
struct Pack<'a> {
    values: &'a [f32],
    scale: f32,
    lane: usize,
    span: &'a mut [Block],
}

impl Work for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pack { values, scale, lane, span } = self;
        for (group, values) in values.chunks_exact(GROUP).enumerate() {
            let largest = abs_max(s, values);
            let relative = f16::from_f32(if scale > 0.0 { largest / MOST / scale } else { 0.0 });
            span[0].0[32 * group + 2 * lane..][..2].copy_from_slice(&relative.to_le_bytes());
            let step = relative.to_f32() * scale;
            let inverse = s.splat(if step > 0.0 { 1.0 / step } else { 0.0 });
            for (sixteen, values) in vectors(values).iter().enumerate() {
                let mut codes = [0; LANES];
                let within = s.max(s.min(s.mul(s.load(values), inverse), s.splat(MOST)), s.splat(-32.0));
                s.store_i8(within, &mut codes);
                let fours = codes.as_chunks::<4>().0;
                let [a, b, c, d] =
                    std::array::from_fn(|p| u32::from_le_bytes(fours[p].map(|code| (code + 32) as u8)));
                let (low, high) = (0x0f0f_0f0f, 0x0303_0303);
                let words = [
                    a & low | (b & low) << 4,
                    c & low | (d & low) << 4,
                    a >> 4 & high | (b >> 4 & high) << 2 | (c >> 4 & high) << 4 | (d >> 4 & high) << 6,
                ];
                let blocks = &mut span[1 + 3 * (2 * group + sixteen)..][..3];
                for (block, word) in blocks.iter_mut().zip(words) {
                    block.0[4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
}

/// The code of one row and column of a span.
#[inline(always)]
pub(super) fn code(span: &[Block], lane: usize, column: usize) -> i32 {
    let (blocks, c) = (&span[1 + 3 * (column / 16)..][..3], column % 16);
    let low = blocks[c / 8].0[4 * lane + c % 4] >> (4 * (c / 4 % 2)) & 15;
    let high = blocks[2].0[4 * lane + c % 4] >> (2 * (c / 4)) & 3;
    i32::from(low | high << 4)
}

/// The scale of one row and group of a span, to be multiplied by the matrix's.
#[inline(always)]
pub(super) fn scale_of(span: &[Block], lane: usize, group: usize) -> f32 {
    let at = 32 * group + 2 * lane;
    f16::from_le_bytes([span[0].0[at], span[0].0[at + 1]]).to_f32()
}

/// Activations' halves of `x`, with the scale they were divided by; `x` is padded to whole vectors.
#[inline(always)]
pub(super) fn halve<S: Simd>(
    s: S,
    x: &[f32],
    largest: f32,
    (high, low, excess): (&mut [i8], &mut [i8], &mut [i32]),
) -> f32 {
    const MOST: f32 = 32639.0;
    let inverse = s.splat(if largest > 0.0 { MOST / largest } else { 0.0 });
    excess.fill(0);
    for (i, x) in vectors(x).iter().enumerate() {
        let mut rounded = [0.0; LANES];
        s.store(s.round(s.mul(s.load(x), inverse)), &mut rounded);
        let mut sum = 0;
        for (lane, rounded) in rounded.into_iter().enumerate() {
            let q = rounded as i32;
            let l = q as i8;
            low[LANES * i + lane] = l;
            high[LANES * i + lane] = ((q - i32::from(l)) >> 8) as i8;
            sum += q;
        }
        excess[LANES * i / GROUP] += 32 * sum;
    }
    high[x.len()..].fill(0);
    low[x.len()..].fill(0);
    largest / MOST
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Tile<'a>(&'a [Block], [Halves<'a>; 3]);

    impl Work for Tile<'_> {
        type Output = [[f32; LANES]; 3];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let one = s.six::<1>(self.0, [self.1[0]]);
            let three = s.six::<3>(self.0, self.1);
            assert_eq!(one[0], three[0]);
            three
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Every kernel gives what the plain loop over codes gives, in the same order of groups, up to the largest
        /// codes and activations.
        #[test]
        fn tiles_are_exact(spans in 0usize..5, seed in any::<u64>(), extreme in any::<bool>()) {
            let mut state = seed | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 24) as u8
            };
            let mut tile: Vec<Block> =
                (0..SPAN * spans).map(|_| Block(std::array::from_fn(|_| if extreme { 255 } else { next() }))).collect();
            for span in tile.chunks_exact_mut(SPAN) {
                // Powers of two, so that fused and separate multiplication agree.
                for scale in span[0].0.as_chunks_mut::<2>().0 {
                    *scale = f16::from_f32([1.0, 0.5, 0.0, 4.0][usize::from(next() % 4)]).to_le_bytes();
                }
            }
            let mut bytes = |most: i8| -> Vec<i8> {
                (0..SPAN_COLS * spans).map(|_| if extreme { most } else { (next() as i8).max(-127) }).collect()
            };
            let tokens: Vec<(Vec<i8>, Vec<i8>)> =
                [127, -127, 0].map(|most| (bytes(most), bytes(if most > 0 { 127 } else { -128 }))).into();
            let value = |(high, low): &(Vec<i8>, Vec<i8>), c: usize| 256 * i32::from(high[c]) + i32::from(low[c]);
            let excess: Vec<Vec<i32>> = tokens.iter().map(|token| {
                let sum = |g: usize| (GROUP * g..GROUP * (g + 1)).map(|c| 32 * value(token, c)).sum();
                (0..SPAN_COLS / GROUP * spans).map(sum).collect()
            }).collect();
            let halves: [Halves<'_>; 3] =
                std::array::from_fn(|m| Halves { high: &tokens[m].0, low: &tokens[m].1, excess: &excess[m] });
            let mut want = [[0.0f32; LANES]; 3];
            for (token, want) in tokens.iter().zip(&mut want) {
                for (lane, want) in want.iter_mut().enumerate() {
                    for g in 0..SPAN_COLS / GROUP * spans {
                        let span = &tile[g / 2 * SPAN..][..SPAN];
                        let columns = GROUP * g..GROUP * (g + 1);
                        let total: i32 =
                            columns.map(|c| (code(span, lane, c % SPAN_COLS) - 32) * value(token, c)).sum();
                        *want += scale_of(span, lane, g % 2) * total as f32;
                    }
                }
            }
            for kernel in Kernel::available() {
                prop_assert_eq!(kernel.run(Tile(&tile, halves)), want, "{}", kernel.name());
            }
        }
    }

    /// Scales are relative to the largest weight, so small matrices lose nothing to f16.
    #[test]
    fn size_does_not_matter() {
        let pool = Pool::new(2);
        for size in [1e-9f32, 1.0, 1e9] {
            let row = |i: usize, out: &mut [f32]| {
                out.iter_mut().enumerate().for_each(|(c, w)| *w = size * ((i * 70 + c) as f32 / 700.0 - 0.5));
            };
            let matrix = Six::quantize(Kernel::best(), &pool, (10, 70), row);
            let (mut want, mut got) = ([0.0; 70], [0.0; 70]);
            for i in 0..10 {
                row(i, &mut want);
                matrix.row(i, &mut got);
                for (want, got) in want.iter().zip(&got) {
                    assert!((want - got).abs() <= size * 0.51 / 62.0, "{size}: {got} for {want}");
                }
            }
        }
    }
}
