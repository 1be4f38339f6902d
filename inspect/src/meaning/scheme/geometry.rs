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
    /// Whether the size of blocks is only one of those that the shape allows.
    pub guessed: bool,
}

/// What was assumed where it is.
pub(super) const GUESSED: &str =
    "no configuration says how large their blocks are; sizes that divide their matrices were assumed";

/// Which elements may share a number.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// What the configuration or the format says, one way of them; empty where neither does.
    said: &'a [Blocking],
    /// The usual rows and columns of a block.
    usual: (usize, usize),
}

impl<'a> Asked<'a> {
    /// One of `said`; where that is empty, by the shape, which is mostly that of blocks of `usual`.
    pub fn of(said: &'a [Blocking], usual: (usize, usize)) -> Self {
        Asked { said, usual }
    }

    /// By the shape.
    pub fn usual(rows: usize, cols: usize) -> Self {
        Asked { said: &[], usual: (rows, cols) }
    }

    /// Whether one number for a whole matrix, which its shape does not even give as a matrix's, is no surprise: blocks
    /// that the configuration gives are those of the weights that have any.
    fn may_be_of_whole(&self) -> bool {
        self.said.iter().all(|said| matches!(said, Blocking::Tensor | Blocking::Block(..)))
            || self.said.contains(&Blocking::Tensor)
    }

    /// What is said, if `rows` by `cols` numbers are right for a weight of `sizes`.
    fn fitting(&self, sizes: Sizes, stacked: bool, (rows, cols): (usize, usize)) -> Option<Blocking> {
        let fits = |said: &&Blocking| match **said {
            Blocking::Tensor => (rows, cols) == (1, 1),
            // Stacks of experts may lie with their inputs first.
            Blocking::Channel => {
                (rows, cols) == (sizes.rows, 1) || (stacked && (rows, cols) == (1, sizes.cols))
            }
            Blocking::Group(n) => rows == sizes.rows && cols == sizes.cols.div_ceil(n.max(1) as usize),
            Blocking::Block(r, c) => {
                rows == sizes.rows.div_ceil(r.max(1) as usize)
                    && cols == sizes.cols.div_ceil(c.max(1) as usize)
            }
        };
        self.said.iter().find(fits).copied()
    }

    /// What `tensor`, which is none of what is said, has for a fault.
    fn misfit(&self, tensor: &TensorInfo, codes: &TensorInfo) -> QuantFault {
        match self.said {
            [] => QuantFault::shape(tensor, codes),
            said => QuantFault::configured(tensor, in_words(said)),
        }
    }
}

/// "blocks of 128x128".
pub(super) fn in_words(said: &[Blocking]) -> String {
    let word = |blocking: &Blocking| match blocking {
        Blocking::Tensor => "one number for a matrix".to_string(),
        Blocking::Channel => "one number for a row".to_string(),
        Blocking::Group(n) => format!("groups of {n}"),
        Blocking::Block(rows, cols) => format!("blocks of {rows}x{cols}"),
    };
    said.iter().map(word).collect::<Vec<_>>().join(" or ")
}

/// What was assumed where blocks have a size that follows from shapes.
pub(super) const IMPLIED: &str =
    "no configuration says how large their blocks are; the size that fits all of them was assumed";

/// The sizes of blocks, from and to, of which `size` elements have `count`; `None` if there are none.
fn sizes_of(size: usize, count: usize) -> Option<(usize, usize)> {
    let range = match count {
        0 => return None,
        // Of one block nothing is beyond the end.
        1 => (size, usize::MAX),
        count => (size.div_ceil(count), size.div_ceil(count - 1) - 1),
    };
    (range.0 <= range.1 && range.0 > 0).then_some(range)
}

/// The rows and columns of blocks of numbers that lie as `shape` says, of which a weight of `sizes` has some.
pub(super) fn counts(sizes: Sizes, shape: &[usize]) -> Option<(usize, usize)> {
    let counts = match *shape {
        [slices, rows, cols] if slices == sizes.slices && slices > 1 => (rows, cols),
        [rows, cols] | [rows, 1, cols, 1] if sizes.slices == 1 => (rows, cols),
        _ => return None,
    };
    // A number for each row, or a part of one, is none of a block.
    (counts.0 != sizes.rows && counts != (1, 1)).then_some(counts)
}

/// The rows and columns of blocks that all weights of `all` may have, with how many blocks each has: `usual`, or the only one of the
/// roundest that fit. `None` where several are as good. Where none fits all, one weight has the numbers of another, and the rest
/// are mostly of the `usual` ones.
pub(super) fn common_blocks(
    all: impl Iterator<Item = (Sizes, (usize, usize))>,
    usual: (usize, usize),
) -> (Option<usize>, Option<usize>) {
    let mut ranges = [(1, usize::MAX); 2];
    for (sizes, counts) in all {
        let [rows, cols] =
            [(sizes.rows, counts.0), (sizes.cols, counts.1)].map(|(size, n)| sizes_of(size, n));
        let (Some(rows), Some(cols)) = (rows, cols) else { continue };
        for (range, own) in ranges.iter_mut().zip([rows, cols]) {
            *range = (range.0.max(own.0), range.1.min(own.1));
        }
    }
    let only = |(from, to): (usize, usize), usual: usize| {
        if (from..=to).contains(&usual) || to == usize::MAX || from > to {
            return Some(usual);
        }
        let multiples = |step: usize| to / step - (from - 1) / step;
        match [32, 16].into_iter().find(|&step| multiples(step) > 0) {
            Some(step) => (multiples(step) == 1).then(|| to / step * step),
            // Nobody has such blocks, unless they divide their matrices.
            None => Some(0),
        }
    };
    (only(ranges[0], usual.0), only(ranges[1], usual.1))
}

/// The size of blocks of which `size` elements have `count`, and whether others are as likely: `usual` if it is one, else
/// one that divides them, else a power of two.
fn block(size: usize, count: usize, usual: usize) -> Option<(usize, bool)> {
    if count == 0 || count > size {
        return None;
    }
    if usual > 0 && size.div_ceil(usual) == count {
        return Some((usual, false));
    }
    if size.is_multiple_of(count) {
        return Some((size / count, true));
    }
    let found = (0..usize::BITS - 1).map(|n| 1usize << n).find(|&n| size.div_ceil(n) == count);
    found.map(|found| (found, true))
}

/// Which elements of a weight of `shape` share the numbers of the tensor at `at`, which is its part `part`, where it is said
/// how many of each dimension do: `block`. The numbers lie row after row, whatever shape they have.
pub(super) fn in_blocks(
    stored: &Stored<'_>,
    (part, at): (usize, usize),
    numbers: Numbers,
    shape: &[usize],
    block: &[usize],
) -> Result<Shared, QuantFault> {
    let tensor = stored.tensor(at);
    let misfit = || {
        let sizes: Vec<String> = block.iter().map(usize::to_string).collect();
        QuantFault::configured(tensor, format!("blocks of {}", sizes.join("x")))
    };
    let sizes = Sizes::of(shape).filter(|_| block.len() == shape.len() && !block.contains(&0));
    let sizes = sizes.ok_or_else(misfit)?;
    let &[.., tall, wide] = block else { return Err(misfit()) };
    let (tall, wide) = (tall.min(sizes.rows).max(1), wide.min(sizes.cols).max(1));
    let (rows, cols) = (sizes.rows.div_ceil(tall), sizes.cols.div_ceil(wide));
    let slices = match block {
        [deep, _, _] => sizes.slices.div_ceil(*deep),
        _ => 1,
    };
    let of_slice = rows.checked_mul(cols).ok_or_else(misfit)?;
    // Numbers of as many dimensions as the weight has are as many along each.
    let along = [slices, rows, cols];
    let is_turned = tensor.shape.len() == shape.len() && tensor.shape[..] != along[3 - shape.len()..];
    if is_turned {
        return Err(misfit());
    }
    // Slices have numbers of their own, or all of them the same.
    let right = of_slice.checked_mul(slices).map(|n| n as u64) == Some(tensor.numel());
    if !right || !(slices == 1 || slices == sizes.slices) {
        return Err(misfit());
    }
    let narrow = |n: usize| u32::try_from(n).map_err(|_| misfit());
    let blocking = match (rows, cols) {
        (1, 1) if sizes.rows > 1 => Blocking::Tensor,
        (_, 1) if tall == 1 => Blocking::Channel,
        _ if tall == 1 => Blocking::Group(narrow(wide)?),
        _ => Blocking::Block(narrow(tall)?, narrow(wide)?),
    };
    let grid = Grid {
        part,
        numbers,
        row_block: tall,
        row_stride: cols,
        group_stride: 1,
        slice_stride: if slices == 1 { 0 } else { of_slice },
    };
    Ok(Shared { blocking, group: wide, grid, guessed: false })
}

/// Which elements of a weight share the numbers of the tensor at `at`, which is its part `part`.
pub(super) fn shared(
    stored: &Stored<'_>,
    (part, at): (usize, usize),
    numbers: Numbers,
    sizes: Sizes,
    asked: Asked<'_>,
    codes: &TensorInfo,
) -> Result<Shared, QuantFault> {
    let tensor = stored.tensor(at);
    let misfit = || asked.misfit(tensor, codes);
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
        guessed: false,
    };
    let numel = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(misfit)?;
    let stacked = sizes.slices > 1 || codes.shape.len() == 3;
    let right = |counts| asked.said.is_empty() || asked.fitting(sizes, stacked, counts).is_some();
    if numel == 1 && sizes.slices * sizes.rows != 1 {
        let bare = tensor.shape.len() < 2 && asked.may_be_of_whole();
        return if bare || right((1, 1)) { Ok(whole(0)) } else { Err(misfit()) };
    }
    if stacked && numel == sizes.slices && !matches!(tensor.shape[..], [1, ..]) {
        let bare = tensor.shape.len() < 2 && asked.may_be_of_whole();
        return if bare || right((1, 1)) { Ok(whole(1)) } else { Err(misfit()) };
    }
    let (rows, cols) = match (&tensor.shape[..], stacked) {
        (&[slices, rows, cols], true) if slices == sizes.slices => (rows, cols),
        (&[slices, rows], true) if slices == sizes.slices => (rows, 1),
        // ModelOpt's blocks.
        (&[rows, cols] | &[rows, 1, cols, 1], false) => (rows, cols),
        (&[rows], false) => (rows, 1),
        ([], false) => (1, 1),
        _ => return Err(misfit()),
    };
    if !right((rows, cols)) {
        return Err(misfit());
    }
    let usual = match asked.fitting(sizes, stacked, (rows, cols)) {
        Some(Blocking::Group(n)) => (1, n as usize),
        Some(Blocking::Block(rows, cols)) => (rows as usize, cols as usize),
        _ => asked.usual,
    };
    let slice = rows.checked_mul(cols).ok_or_else(misfit)?;
    if rows == sizes.rows && cols == 1 {
        let (blocking, group) = (Blocking::Channel, sizes.cols.max(1));
        return Ok(Shared { blocking, group, grid: grid(1, 1, 0, slice), guessed: false });
    }
    let narrow = |n: usize| u32::try_from(n).map_err(|_| misfit());
    let (group, unsure) = block(sizes.cols, cols, usual.1).ok_or_else(misfit)?;
    if rows == sizes.rows {
        // Groups that divide a row are mostly the right ones.
        let guessed = unsure && !sizes.cols.is_multiple_of(group);
        let blocking = Blocking::Group(narrow(group)?);
        return Ok(Shared { blocking, group, grid: grid(1, cols, 1, slice), guessed });
    }
    let (row_block, rows_unsure) = block(sizes.rows, rows, usual.0).ok_or_else(misfit)?;
    let blocking = Blocking::Block(narrow(row_block)?, narrow(group)?);
    // One number for a column of all rows leaves no choice.
    let guessed = (unsure && cols != sizes.cols) || (rows_unsure && rows != 1);
    Ok(Shared { blocking, group, grid: grid(row_block, cols, 1, slice), guessed })
}
