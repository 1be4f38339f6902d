//! I2_S of bitnet.cpp, in the three layouts that its builds write: blocks whose bytes hold values a quarter of a block
//! apart (of 128 values on x86, of 64 on ARM), or columns of four rows. The scale is in a tail after the values.

use bytemuck::{Pod, Zeroable};

use super::{Layout, ReadCodes, bits, decode_run, numel};
use crate::ggml::blocks::Pack;

/// Bytes after the packed values of an I2_S or TL1 tensor; the first four are an f32 scale.
pub const I2_S_TAIL: u64 = 32;

/// The tail after the packed values of an I2_S tensor.
pub fn tail(scale: f32) -> [u8; I2_S_TAIL as usize] {
    let mut tail = [0; I2_S_TAIL as usize];
    tail[..4].copy_from_slice(&scale.to_le_bytes());
    tail
}

/// Four values per byte, the first in bits 7-6.
#[inline(always)]
fn join(four: [u8; 4]) -> u8 {
    four[0] << 6 | four[1] << 4 | four[2] << 2 | four[3]
}

/// Blocks of `LANES` bytes, byte i of which holds values i, LANES + i, 2 * LANES + i and 3 * LANES + i from its high
/// bits to its low ones.
pub struct Lanes<const LANES: usize>;

impl<const LANES: usize> Layout for Lanes<LANES> {
    fn bytes_for(shape: &[usize]) -> Option<u64> {
        let numel = numel(shape)?;
        numel.is_multiple_of(4 * LANES as u64).then_some(numel / 4)
    }

    fn decode(packed: &[u8], _shape: &[usize], start: usize, out: &mut [i8]) {
        let mut done = 0;
        while done < out.len() {
            let at = start + done;
            let (block, lane, byte) = (at / (4 * LANES), at / LANES % 4, at % LANES);
            let n = (LANES - byte).min(out.len() - done);
            decode_run(&packed[block * LANES + byte..][..n], 6 - 2 * lane, &mut out[done..done + n]);
            done += n;
        }
    }

    #[inline(always)]
    fn encode(_shape: &[usize], start: usize, out: &mut [u8], codes: &mut ReadCodes<'_>) {
        let (first, end) = (start / LANES, (start + out.len()).div_ceil(LANES));
        let mut line = vec![0i8; 4 * LANES * end.saturating_sub(first)];
        codes(4 * LANES * first, &mut line);
        for (i, byte) in (start - first * LANES..).zip(out) {
            let at = i / LANES * 4 * LANES + i % LANES;
            *byte = join(std::array::from_fn(|lane| bits(line[at + lane * LANES])));
        }
    }
}

/// Values of a block of the x86 layout.
pub const I2_S_BLOCK: usize = 128;

/// A block of the x86 layout.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub struct X86Block([u8; I2_S_BLOCK / 4]);

impl Pack<I2_S_BLOCK> for X86Block {
    #[inline(always)]
    fn pack(codes: &[u8; I2_S_BLOCK], _scale: f32) -> Self {
        X86Block(std::array::from_fn(|i| join([codes[i], codes[i + 32], codes[i + 64], codes[i + 96]])))
    }
}

/// Byte c of row group g holds column c of rows 4g to 4g + 3, the first in bits 7-6.
pub struct FourRows;

impl Layout for FourRows {
    fn bytes_for(shape: &[usize]) -> Option<u64> {
        let numel = numel(shape)?;
        let rows = numel.checked_div(*shape.last()? as u64).unwrap_or(0);
        rows.is_multiple_of(4).then_some(numel / 4)
    }

    fn decode(packed: &[u8], shape: &[usize], start: usize, out: &mut [i8]) {
        let cols = *shape.last().unwrap_or(&1);
        let mut done = 0;
        while done < out.len() {
            let (row, col) = ((start + done) / cols, (start + done) % cols);
            let n = (cols - col).min(out.len() - done);
            let line = (row / 4) * cols + col;
            decode_run(&packed[line..line + n], 6 - 2 * (row % 4), &mut out[done..done + n]);
            done += n;
        }
    }

    #[inline(always)]
    fn encode(shape: &[usize], start: usize, out: &mut [u8], codes: &mut ReadCodes<'_>) {
        let cols = *shape.last().unwrap_or(&1);
        let mut line = vec![0i8; cols.min(out.len())];
        out.fill(0);
        let mut done = 0;
        while done < out.len() {
            let (group, col) = ((start + done) / cols, (start + done) % cols);
            let n = (cols - col).min(out.len() - done);
            for row in 0..4 {
                codes((4 * group + row) * cols + col, &mut line[..n]);
                for (byte, &code) in out[done..done + n].iter_mut().zip(&line[..n]) {
                    *byte |= bits(code) << (6 - 2 * row);
                }
            }
            done += n;
        }
    }
}
