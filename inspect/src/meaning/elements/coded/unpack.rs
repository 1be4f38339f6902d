//! Codes out of their packed words.

use std::cell::RefCell;

use super::Coded;
use crate::quantized::form::{AWQ_SHIFTS, Packed, down};

/// Rows of a transposed matrix that are unpacked together: the words of a cache line.
const TILE_ROWS: usize = 16;
/// Columns of them, at most.
const TILE_COLS: usize = 1 << 16;

/// Some rows of a transposed matrix, which a thread keeps because it reads row after row.
struct Tile {
    /// Of which weight.
    id: u64,
    row: usize,
    col: usize,
    cols: usize,
    codes: Vec<u8>,
}

thread_local! {
    static TILE: RefCell<Tile> =
        const { RefCell::new(Tile { id: 0, row: 0, col: 0, cols: 0, codes: Vec::new() }) };
}

impl Coded<'_> {
    /// The codes of `row` from `col` on, as many as `buffer` has room for: in it, or where they are bytes anyway.
    pub(super) fn codes<'b>(&'b self, row: usize, col: usize, buffer: &'b mut [u8]) -> &'b [u8] {
        let packed = self.quantized.form.codes;
        let bytes: &[u8] = &self.bytes[0];
        match packed {
            Packed::Rows { bits: 8, stride } => return &bytes[row * stride + col..][..buffer.len()],
            Packed::Rows { bits: 4, stride } => nibbles(&bytes[row * stride..], col, 0, buffer),
            Packed::HighFirst { stride } => nibbles(&bytes[row * stride..], col, 4, buffer),
            Packed::Rows { bits, stride } => stream(&bytes[row * stride..], bits, col, buffer),
            Packed::Down { .. } | Packed::Awq { .. } => self.read_tile(row, col, buffer),
            Packed::LessOne { .. } | Packed::Words { .. } | Packed::AwqRows { .. } => {
                let codes = buffer.iter_mut().enumerate();
                codes.for_each(|(i, slot)| *slot = packed.get(bytes, row, col + i));
            }
        }
        buffer
    }

    fn read_tile(&self, row: usize, col: usize, out: &mut [u8]) {
        let first = row / TILE_ROWS * TILE_ROWS;
        TILE.with_borrow_mut(|tile| {
            let mut done = 0;
            while done < out.len() {
                let at = col + done;
                let start = at / TILE_COLS * TILE_COLS;
                if (tile.id, tile.row, tile.col) != (self.id, first, start) {
                    self.fill(tile, first, start);
                }
                let n = (tile.cols - (at - start)).min(out.len() - done);
                let from = (row - first) * tile.cols + at - start;
                out[done..done + n].copy_from_slice(&tile.codes[from..from + n]);
                done += n;
            }
        });
    }

    /// Unpacks the rows from `row` and columns from `col` on.
    fn fill(&self, tile: &mut Tile, row: usize, col: usize) {
        let form = &self.quantized.form;
        let rows = TILE_ROWS.min(form.rows - row);
        let cols = TILE_COLS.min(form.cols - col);
        let bytes: &[u8] = &self.bytes[0];
        // All of them are written below.
        tile.codes.resize(rows * cols, 0);
        let codes = &mut tile.codes[..];
        match form.codes {
            Packed::Down { bits: 4, width, .. } => {
                let words = &bytes[4 * (col / 8 * width + row)..];
                nibbles_down(words, width, rows, cols, codes);
            }
            Packed::Down { bits, width, whole } => {
                let bits = usize::from(bits);
                let mask = ((1u32 << bits) - 1) as u8;
                let line = |nth: usize| bytes[4 * (nth * width + row)..].as_chunks::<4>().0;
                for c in 0..cols {
                    let (nth, shift) = down(bits, whole, col + c);
                    let (low, high) = (line(nth), if shift + bits > 32 { line(nth + 1) } else { line(nth) });
                    for (r, (&low, &high)) in low.iter().zip(high).take(rows).enumerate() {
                        let [low, high] = [low, high].map(|word| u64::from(u32::from_le_bytes(word)));
                        codes[r * cols + c] = ((low | high << 32) >> shift) as u8 & mask;
                    }
                }
            }
            Packed::Awq { stride } => {
                let word = |c: usize, nth: usize| {
                    let word = &bytes[(col + c) * stride + (row / 8 + nth) * 4..];
                    word.first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
                };
                // Rows of a weight are a multiple of eight.
                let squares = if rows.is_multiple_of(8) { cols / 8 * 8 } else { 0 };
                for c in (0..squares).step_by(8) {
                    for nth in 0..rows / 8 {
                        let mut square = std::array::from_fn(|i| spread(word(c + i, nth)));
                        transpose(&mut square);
                        for (r, shift) in AWQ_SHIFTS.iter().enumerate() {
                            let own = square[*shift as usize / 4].to_le_bytes();
                            codes[(8 * nth + r) * cols + c..][..8].copy_from_slice(&own);
                        }
                    }
                }
                for c in squares..cols {
                    let words = bytes[(col + c) * stride + row / 8 * 4..].as_chunks::<4>().0;
                    for r in 0..rows {
                        let word = u32::from_le_bytes(words[r / 8]);
                        codes[r * cols + c] = (word >> AWQ_SHIFTS[r % 8]) as u8 & 15;
                    }
                }
            }
            _ => {}
        }
        (tile.id, tile.row, tile.col, tile.cols) = (self.id, row, col, cols);
    }
}

/// Lines of words that are gathered before they are unpacked.
const LINES: usize = 32;

/// Unpacks `rows` rows of `cols` codes into `codes`, eight of a row in a word and the next eight `width` words further on.
/// Lines are gathered first, because loads from far apart wait for each other where there is work between them.
fn nibbles_down(words: &[u8], width: usize, rows: usize, cols: usize, codes: &mut [u8]) {
    let mut near = [[0u8; 4 * TILE_ROWS]; LINES];
    for first in (0..cols.div_ceil(8)).step_by(LINES) {
        let lines = LINES.min(cols.div_ceil(8) - first);
        for (nth, line) in near[..lines].iter_mut().enumerate() {
            let far = &words[4 * (first + nth) * width..];
            match far.first_chunk::<{ 4 * TILE_ROWS }>().filter(|_| rows == TILE_ROWS) {
                Some(whole) => *line = *whole,
                None => line[..4 * rows].copy_from_slice(&far[..4 * rows]),
            }
        }
        for (row, codes) in codes.chunks_exact_mut(cols).enumerate() {
            let end = cols.min(8 * (first + lines));
            let (whole, rest) = codes[8 * first..end].as_chunks_mut::<8>();
            let word = |line: &[u8; 4 * TILE_ROWS]| {
                let word = line.as_chunks::<4>().0[row];
                spread(u32::from_le_bytes(word)).to_le_bytes()
            };
            whole.iter_mut().zip(&near).for_each(|(codes, line)| *codes = word(line));
            if !rest.is_empty() {
                rest.copy_from_slice(&word(&near[lines - 1])[..rest.len()]);
            }
        }
    }
}

/// Makes columns of the rows of a square of bytes.
fn transpose(square: &mut [u64; 8]) {
    for (step, mask) in [(4, 0x0000_0000_ffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)] {
        for i in (0..8).filter(|i| i & step == 0) {
            let swapped = (square[i] >> (8 * step) ^ square[i + step]) & mask;
            square[i + step] ^= swapped;
            square[i] ^= swapped << (8 * step);
        }
    }
}

/// The eight codes of `word` in the bytes of the result, the lowest first.
fn spread(word: u32) -> u64 {
    let wide = u64::from(word);
    let wide = (wide | wide << 16) & 0x0000_ffff_0000_ffff;
    let wide = (wide | wide << 8) & 0x00ff_00ff_00ff_00ff;
    (wide | wide << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// Codes of four bits from the one at `col`; `first` is the shift of the first in a byte.
fn nibbles(bytes: &[u8], col: usize, first: u32, out: &mut [u8]) {
    let second = 4 - first;
    let odd = (col % 2).min(out.len());
    let (head, out) = out.split_at_mut(odd);
    let bytes = &bytes[col / 2..];
    head.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte >> second & 15);
    let bytes = &bytes[odd..];
    let (pairs, rest) = out.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = [byte >> first & 15, byte >> second & 15];
    }
    if let ([slot], Some(byte)) = (rest, bytes.get(pairs.len())) {
        *slot = byte >> first & 15;
    }
}

/// Codes of `bits` bits that follow each other from the lowest bit on, from the one at `col`.
fn stream(bytes: &[u8], bits: u8, col: usize, out: &mut [u8]) {
    let bits = usize::from(bits);
    let mask = ((1u32 << bits) - 1) as u8;
    for (i, slot) in out.iter_mut().enumerate() {
        let bit = (col + i) * bits;
        let low = bytes.get(bit / 8).copied().unwrap_or(0);
        let high = bytes.get(bit / 8 + 1).copied().unwrap_or(0);
        *slot = (u16::from_le_bytes([low, high]) >> (bit % 8)) as u8 & mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_of_bytes_is_turned() {
        let mut square: [u64; 8] =
            std::array::from_fn(|row| u64::from_le_bytes(std::array::from_fn(|col| (16 * row + col) as u8)));
        transpose(&mut square);
        for (row, bytes) in square.iter().enumerate() {
            assert_eq!(bytes.to_le_bytes(), std::array::from_fn(|col| (16 * col + row) as u8));
        }
    }
}
