//! Hugging Face's BitNet (`pack_weights` of its integration): with P = ceil(rows / 4), row r lies in packed row r % P at
//! bits 2 * (r / P), so that the four values of a byte are a quarter of the matrix apart. Rows that are not there are
//! zero bits.

use super::{Layout, ReadCodes, bits, decode_run, numel};

/// Quarters of the rows over each other.
pub struct Quarters;

impl Layout for Quarters {
    fn bytes_for(shape: &[usize]) -> Option<u64> {
        numel(shape)?;
        let &[rows, cols] = shape else { return None };
        (rows.div_ceil(4) as u64).checked_mul(cols as u64)
    }

    fn stored(shape: &[usize]) -> Option<Vec<usize>> {
        let &[rows, cols] = shape else { return None };
        Some(vec![rows.div_ceil(4), cols])
    }

    fn decode(packed: &[u8], shape: &[usize], start: usize, out: &mut [i8]) {
        let (rows, cols) = (shape[0], shape[1]);
        let packed_rows = rows.div_ceil(4);
        let mut done = 0;
        while done < out.len() {
            let (row, col) = ((start + done) / cols, (start + done) % cols);
            let n = (cols - col).min(out.len() - done);
            let line = (row % packed_rows) * cols + col;
            decode_run(&packed[line..line + n], 2 * (row / packed_rows), &mut out[done..done + n]);
            done += n;
        }
    }

    #[inline(always)]
    fn encode(shape: &[usize], start: usize, out: &mut [u8], codes: &mut ReadCodes<'_>) {
        let numel: usize = shape.iter().product();
        let quarter = shape[0].div_ceil(4) * shape[1];
        let mut line = vec![0i8; out.len()];
        out.fill(0);
        for nth in 0..4 {
            let first = nth * quarter + start;
            let n = out.len().min(numel.saturating_sub(first));
            if n == 0 {
                break;
            }
            codes(first, &mut line[..n]);
            for (byte, &code) in out.iter_mut().zip(&line[..n]) {
                *byte |= bits(code) << (2 * nth);
            }
        }
    }

    /// The packed shape has ceil(rows / 4) rows, which says it only of whole fours.
    fn tells_rows(shape: &[usize]) -> bool {
        matches!(shape, [rows, _] if rows.is_multiple_of(4))
    }
}
