//! A tensor seen from afar: norms of its rows and columns, a coarse map of it, and its first values. For showing, not
//! for judging.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::meaning::elements::{CodeRule, Elements, in_chunks};
use crate::tensor::TensorInfo;
use crate::{Error, Result};

/// What a tensor looks like as a matrix: rows are its first dimension, columns all others. A vector is one row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Survey {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Euclidean norm of each row, over finite elements; empty when there are more than 2^20.
    pub row_norms: Vec<f64>,
    /// Euclidean norm of each column, over finite elements; empty for a vector and when there are more than 2^20.
    pub col_norms: Vec<f64>,
    /// Cells of the map, row-major, `map_rows` by `map_cols`; cell (i, j) covers the rows from
    /// `rows * i / map_rows` up to `rows * (i + 1) / map_rows`, and columns likewise.
    pub map: Vec<Cell>,
    /// Rows of the map: at most [`MAP_ROWS`], and no more than the matrix has.
    pub map_rows: usize,
    /// Columns of the map: at most [`MAP_COLS`], and no more than the matrix has.
    pub map_cols: usize,
    /// Whether the cells' codes mean anything: the matrix is ternary, or a BitLinear makes it so.
    pub ternary: bool,
    /// The first values of the first rows.
    pub corner: Vec<Vec<f64>>,
}

/// One cell of a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cell {
    /// Elements.
    pub count: u64,
    /// Elements that quantize to -1.
    pub neg: u64,
    /// Elements that quantize to +1.
    pub pos: u64,
    /// Sum of the finite magnitudes.
    pub abs: f64,
}

/// Most rows of a map.
pub const MAP_ROWS: usize = 96;
/// Most columns of a map.
pub const MAP_COLS: usize = 192;
/// Longer lists of norms are left out.
const MOST_NORMS: usize = 1 << 20;
/// Parts that a large tensor is surveyed in, each with norms and a map of its own.
const PARTS: usize = 16;
/// Rows and columns of the corner.
const CORNER: (usize, usize) = (32, 32);

impl Cell {
    /// Both cells as one.
    pub fn join(self, other: Cell) -> Cell {
        Cell {
            count: self.count + other.count,
            neg: self.neg + other.neg,
            pos: self.pos + other.pos,
            abs: self.abs + other.abs,
        }
    }
}

/// Surveys `tensor` in one pass, and one before it where codes depend on mean|W|.
///
/// # Errors
/// `Damaged` when its bytes cannot be read, `Unsupported` for sparse and complex tensors and block formats that are
/// not decoded.
pub fn survey(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Result<Survey> {
    survey_inner(checkpoint, tensor).map_err(|e| e.in_tensor(&tensor.name).in_file(&checkpoint.path))
}

fn survey_inner(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Result<Survey> {
    if tensor.dtype.is_complex() {
        return Err(Error::unsupported("complex numbers have no map"));
    }
    let values = checkpoint.elements(tensor)?;
    values.check_codes()?;
    let unscaled = values.unscaled();
    let block = values.step();
    if values.is_empty() {
        return Ok(Survey::default());
    }
    let (rows, cols) = match tensor.shape.as_slice() {
        [] | [_] => (1, values.len()),
        [rows, ..] => (*rows, values.len() / rows),
    };
    let ternary = checkpoint.model.is_ternary(tensor);
    let codes = ternary.then(|| {
        let sums = in_chunks(values.len(), block, |range| {
            let mut sum = (0.0, 0);
            blocks(&values, range, block, |_, x| {
                if x.is_finite() {
                    sum = (sum.0 + x.abs(), sum.1 + 1);
                }
            });
            sum
        });
        let abs = sums.into_iter().fold((0.0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        CodeRule::of(checkpoint, tensor, &values, abs)
    });
    let (map_rows, map_cols) = (rows.min(MAP_ROWS), cols.min(MAP_COLS));
    // A vector's columns are its elements, and so long a list of norms shows nothing.
    let row_limit = if rows <= MOST_NORMS { rows } else { 0 };
    let col_limit = if rows > 1 && cols <= MOST_NORMS { cols } else { 0 };
    let col_cells: Vec<usize> = (0..cols.min(MOST_NORMS)).map(|c| cell_of(c, cols, map_cols)).collect();
    let unit = values.len().div_ceil(PARTS).next_multiple_of(block);
    let parts = in_chunks(values.len(), unit, |range| {
        let first_row = (range.start / cols).min(row_limit);
        let mut row_squares = vec![0.0; ((range.end - 1) / cols + 1).min(row_limit) - first_row];
        let mut col_squares = vec![0.0; col_limit];
        let mut map = vec![Cell::default(); map_rows * map_cols];
        let (mut row, mut col) = (range.start / cols, range.start % cols);
        let mut line = cell_of(row, rows, map_rows) * map_cols;
        // What the codes are told from, of the block that is visited.
        let mut signs = vec![0.0; block];
        let mut signs_from = usize::MAX;
        blocks(&values, range.clone(), block, |i, x| {
            let place = col_cells.get(col).copied().unwrap_or_else(|| cell_of(col, cols, map_cols));
            let cell = &mut map[line + place];
            cell.count += 1;
            if x.is_finite() {
                if let Some(square) = row_squares.get_mut(row - first_row) {
                    *square += x * x;
                }
                if let Some(square) = col_squares.get_mut(col) {
                    *square += x * x;
                }
                cell.abs += x.abs();
            }
            if let Some(codes) = &codes {
                let start = i - (i - range.start) % block;
                if start != signs_from {
                    unscaled.read_f64(start, &mut signs[..block.min(range.end - start)]);
                    signs_from = start;
                }
                let code = codes.code(i, signs[i - start]);
                cell.neg += u64::from(code < 0);
                cell.pos += u64::from(code > 0);
            }
            col += 1;
            if col == cols {
                (row, col) = (row + 1, 0);
                line = cell_of(row.min(rows - 1), rows, map_rows) * map_cols;
            }
        });
        (first_row, row_squares, col_squares, map)
    });
    let mut survey = Survey {
        rows,
        cols,
        row_norms: vec![0.0; row_limit],
        col_norms: vec![0.0; col_limit],
        map: vec![Cell::default(); map_rows * map_cols],
        map_rows,
        map_cols,
        ternary,
        corner: corner(&values, rows, cols, block),
    };
    for (first_row, row_squares, col_squares, map) in parts {
        survey.row_norms[first_row..].iter_mut().zip(row_squares).for_each(|(all, one)| *all += one);
        survey.col_norms.iter_mut().zip(col_squares).for_each(|(all, one)| *all += one);
        survey.map.iter_mut().zip(map).for_each(|(all, one)| *all = all.join(one));
    }
    for norm in survey.row_norms.iter_mut().chain(&mut survey.col_norms) {
        *norm = norm.sqrt();
    }
    Ok(survey)
}

/// The cell, of `cells` that share `len` lines evenly, that line `i` is in.
fn cell_of(i: usize, len: usize, cells: usize) -> usize {
    ((i as u64 + 1).saturating_mul(cells as u64) - 1) as usize / len
}

fn blocks(
    values: &Elements<'_>,
    range: std::ops::Range<usize>,
    block: usize,
    mut visit: impl FnMut(usize, f64),
) {
    let mut buffer = vec![0.0; block];
    for start in range.clone().step_by(block) {
        let part = &mut buffer[..block.min(range.end - start)];
        values.read_f64(start, part);
        part.iter().zip(start..).for_each(|(&x, i)| visit(i, x));
    }
}

fn corner(values: &Elements<'_>, rows: usize, cols: usize, block: usize) -> Vec<Vec<f64>> {
    let mut buffer = vec![0.0; block];
    let mut read_from = usize::MAX;
    let mut at = |i: usize| {
        let start = i / block * block;
        if start != read_from {
            let part = block.min(values.len() - start);
            values.read_f64(start, &mut buffer[..part]);
            read_from = start;
        }
        buffer[i - start]
    };
    (0..rows.min(CORNER.0))
        .map(|row| (0..cols.min(CORNER.1)).map(|col| at(row * cols + col)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shared_out_as_documented() {
        for (len, cells) in [(7, 3), (96, 96), (97, 96), (32_000, 192), (1, 1)] {
            for i in 0..len {
                let cell = cell_of(i, len, cells);
                assert!(
                    (len * cell / cells..len * (cell + 1) / cells).contains(&i),
                    "{i} of {len} in {cells}"
                );
            }
        }
    }
}
