//! The ternary packer's form: row-major, four values per byte, the first in bits 7-6, the tail padded with code 1. The
//! shape and, in PyTorch's containers, the scale are stored next to it.

use super::{Layout, ReadCodes, numel, value};

/// Consecutive values.
pub struct RowMajor;

impl Layout for RowMajor {
    fn bytes_for(shape: &[usize]) -> Option<u64> {
        Some(numel(shape)?.div_ceil(4))
    }

    fn decode(packed: &[u8], _shape: &[usize], start: usize, out: &mut [i8]) {
        for (i, slot) in (start..).zip(out) {
            *slot = value(packed[i / 4], 6 - 2 * (i % 4));
        }
    }

    #[inline(always)]
    fn encode(shape: &[usize], start: usize, out: &mut [u8], codes: &mut ReadCodes<'_>) {
        let numel: usize = shape.iter().product();
        let mut line = vec![0i8; 4 * out.len()];
        let n = line.len().min(numel.saturating_sub(4 * start));
        if n > 0 {
            codes(4 * start, &mut line[..n]);
        }
        for (byte, four) in out.iter_mut().zip(line.as_chunks::<4>().0) {
            let digits = u32::from_le_bytes(four.map(|code| (code + 1) as u8));
            // In the highest byte of the product are only the terms that bring a digit to its place.
            *byte = (digits.wrapping_mul(1 << 30 | 1 << 20 | 1 << 10 | 1) >> 24) as u8;
        }
    }
}
