//! How the shape of scales tells which elements share one.

use super::Stored;
use crate::quantized::form::{Grid, Numbers};
use crate::quantized::{Blocking, QuantFault};
use crate::tensor::TensorInfo;

/// A weight's slices (experts), rows and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub slices: usize,
    pub rows: usize,
    pub cols: usize,
}

impl Sizes {
    /// Those of a matrix, or of a stack of matrices.
    pub fn of(shape: &[usize]) -> Option<Self> {
        match *shape {
            [rows, cols] => Some(Sizes { slices: 1, rows, cols }),
            [slices, rows, cols] => Some(Sizes { slices, rows, cols }),
            _ => None,
        }
    }

    /// The same, of vectors and of kernels too: a row for each output.
    pub fn flat(shape: &[usize]) -> Option<Self> {
        match shape {
            [cols] => Some(Sizes { slices: 1, rows: 1, cols: *cols }),
            [rows, rest @ ..] if rest.len() > 2 => {
                let cols = rest.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
                Some(Sizes { slices: 1, rows: *rows, cols })
            }
            _ => Sizes::of(shape),
        }
    }

    /// The shape of the logical weight, of as many dimensions as `like` has.
    pub fn shape(self, like: &[usize]) -> Vec<usize> {
        match like.len() {
            3 => vec![self.slices, self.rows, self.cols],
            _ => vec![self.rows, self.cols],
        }
    }
}

/// Which elements share a number, and where it is.
pub(super) struct Shared {
    pub blocking: Blocking,
    /// Columns that share one.
    pub group: usize,
    pub grid: Grid,
}

/// The size of blocks of which `size` elements have `count`: `preferred` if it is one, else one that divides them, else a
/// power of two.
fn block(size: usize, count: usize, preferred: usize) -> Option<usize> {
    if count == 0 || count > size {
        return None;
    }
    if preferred > 0 && size.div_ceil(preferred) == count {
        return Some(preferred);
    }
    if size.is_multiple_of(count) {
        return Some(size / count);
    }
    (0..usize::BITS - 1).map(|n| 1usize << n).find(|&n| size.div_ceil(n) == count)
}

/// Which elements of a weight share the numbers of the tensor at `at`, which is its part `part`. `preferred` are the
/// rows and columns of a block where the shape leaves a choice.
pub(super) fn shared(
    stored: &Stored<'_>,
    (part, at): (usize, usize),
    numbers: Numbers,
    sizes: Sizes,
    preferred: (usize, usize),
    codes: &TensorInfo,
) -> Result<Shared, QuantFault> {
    let tensor = stored.tensor(at);
    let misfit = || QuantFault::shape(tensor, codes);
    let grid = |row_block, row_stride, group_stride, slice_stride| Grid {
        part,
        numbers,
        row_block,
        row_stride,
        group_stride,
        slice_stride,
    };
    let whole = |slice_stride| Shared {
        blocking: Blocking::Tensor,
        group: sizes.cols.max(1),
        grid: grid(1, 0, 0, slice_stride),
    };
    let numel = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(misfit)?;
    if numel == 1 && sizes.slices * sizes.rows != 1 {
        return Ok(whole(0));
    }
    let stacked = sizes.slices > 1 || codes.shape.len() == 3;
    if stacked && numel == sizes.slices && !matches!(tensor.shape[..], [1, ..]) {
        return Ok(whole(1));
    }
    let (rows, cols) = match (&tensor.shape[..], stacked) {
        (&[slices, rows, cols], true) if slices == sizes.slices => (rows, cols),
        (&[slices, rows], true) if slices == sizes.slices => (rows, 1),
        (&[rows, cols], false) => (rows, cols),
        (&[rows], false) => (rows, 1),
        ([], false) => (1, 1),
        _ => return Err(misfit()),
    };
    let slice = rows.checked_mul(cols).ok_or_else(misfit)?;
    if rows == sizes.rows && cols == 1 {
        let (blocking, group) = (Blocking::Channel, sizes.cols.max(1));
        return Ok(Shared { blocking, group, grid: grid(1, 1, 0, slice) });
    }
    let narrow = |n: usize| u32::try_from(n).map_err(|_| misfit());
    let group = block(sizes.cols, cols, preferred.1).ok_or_else(misfit)?;
    if rows == sizes.rows {
        return Ok(Shared {
            blocking: Blocking::Group(narrow(group)?),
            group,
            grid: grid(1, cols, 1, slice),
        });
    }
    let row_block = block(sizes.rows, rows, preferred.0).ok_or_else(misfit)?;
    let blocking = Blocking::Block(narrow(row_block)?, narrow(group)?);
    Ok(Shared { blocking, group, grid: grid(row_block, cols, 1, slice) })
}
