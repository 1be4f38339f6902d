//! Where in the bytes of its parts the codes, scales and zero points of a quantized weight are. The weight is one or
//! several slices (experts) of `rows` by `cols` elements, one after another.

use crate::DType;

/// How stored parts become elements: (code - zero) * scale + offset.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// Rows of a slice.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
    /// Slices.
    pub slices: usize,
    /// Where codes are.
    pub codes: Packed,
    /// What a code stands for, before its zero point and scale.
    pub value: Value,
    /// Columns that share a scale, unless an index tells.
    pub group: usize,
    /// Scales; none where codes are the values.
    pub scale: Option<Grid>,
    /// A further factor of scales.
    pub global: Option<Global>,
    /// What scales are multiplied by that no tensor holds.
    pub constant: f32,
    /// What is subtracted from codes.
    pub zero: Zero,
    /// What is added to products.
    pub offset: Option<Grid>,
    /// The part that tells each column's group.
    pub index: Option<usize>,
    /// Whether an index of nothing but -1 tells none.
    pub index_may_be_unset: bool,
    /// The part that each column is multiplied by.
    pub columns: Option<usize>,
}

/// Where the numbers of a part are that belong to a row and a group of columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// The part.
    pub part: usize,
    /// How its bytes are numbers.
    pub numbers: Numbers,
    /// Rows that share a number.
    pub row_block: usize,
    /// From one block of rows to the next, in numbers.
    pub row_stride: usize,
    /// From one group to the next.
    pub group_stride: usize,
    /// From one slice to the next.
    pub slice_stride: usize,
}

/// How bytes are numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbers {
    /// By their type.
    Plain(DType),
    /// Codes of a codebook of 256 numbers times a scale for each `block` of them, plus an offset: nested scales of
    /// bitsandbytes.
    Nested {
        /// The part of the codebook.
        book: usize,
        /// The part of the scales.
        scale: usize,
        /// Codes that share one.
        block: usize,
        /// Added to the products; the bits of an f32.
        offset: u32,
    },
    /// By their type, in tiles of 128 rows and 4 columns, as NVIDIA's tensor cores read them: of 32 rows of 16 numbers, of which
    /// each holds 4 columns of 4 rows, 32 apart
    /// (<https://docs.nvidia.com/cuda/cublas/index.html#d-block-scaling-factors-layout>).
    Tiled {
        /// Their type.
        dtype: DType,
        /// Tiles next to each other.
        across: usize,
    },
}

impl Numbers {
    /// Rows and columns of a tile.
    pub const TILE: (usize, usize) = (128, 4);

    /// Where in the tensor the number is that lies at `at` of the matrix, row after row.
    pub fn place(self, at: usize) -> usize {
        let Numbers::Tiled { across, .. } = self else { return at };
        let (tile_rows, tile_cols) = Numbers::TILE;
        let cols = across.max(1) * tile_cols;
        let (row, col) = (at / cols, at % cols);
        let tile = row / tile_rows * across + col / tile_cols;
        let (row, col) = (row % tile_rows, col % tile_cols);
        tile * tile_rows * tile_cols + row % 32 * 16 + row / 32 * tile_cols + col
    }
}

/// A factor of all scales, or of those of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Global {
    /// The part.
    pub part: usize,
    /// Whether scales are divided by it.
    pub divides: bool,
}

/// What is subtracted from codes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Zero {
    /// Nothing but what all codes of the type lose.
    None,
    /// Packed whole numbers, more than the stored ones by `plus`.
    Packed {
        /// The part.
        part: usize,
        /// Where they are: of a matrix with a row for each group, or if `by_row` for each row.
        packed: Packed,
        /// Whether a row of that matrix is a row of the weight, not a group.
        by_row: bool,
        /// Added to each.
        plus: i32,
    },
    /// Numbers.
    Numbers(Grid),
}

/// Where codes of some bits are in bytes. Whole words are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packed {
    /// Codes of a row follow each other from the lowest bit on; a row begins every `stride` bytes.
    Rows {
        /// Bits of a code.
        bits: u8,
        /// Bytes of a row.
        stride: usize,
    },
    /// Two codes of four bits a byte, the first in the high ones.
    HighFirst {
        /// Bytes of a row.
        stride: usize,
    },
    /// Words of 32 bits hold as many whole codes as fit, from the lowest bit on.
    Words {
        /// Bits of a code.
        bits: u8,
        /// Bytes of a row.
        stride: usize,
    },
    /// Codes of a row follow each other down a column of a matrix of 32-bit words, which is `width` words wide.
    Down {
        /// Bits of a code.
        bits: u8,
        /// Words of a row of that matrix.
        width: usize,
        /// Whether only whole codes are in a word.
        whole: bool,
    },
    /// The matrix is stored transposed, eight codes of four bits a word in AWQ's order.
    Awq {
        /// Bytes of a stored row.
        stride: usize,
    },
    /// As `Rows`, each code stored less one: whole words of codes of 2, 4 and 8 bits had one taken from each code at once,
    /// so that a zero borrows from the code above it; codes of 3 bits are each for itself.
    LessOne {
        /// Bits of a code.
        bits: u8,
        /// Bytes of a row.
        stride: usize,
    },
    /// Rows of words in AWQ's order.
    AwqRows {
        /// Bytes of a row.
        stride: usize,
    },
}

/// The shift of each of eight neighbouring codes in a word of AWQ.
pub(crate) const AWQ_SHIFTS: [u32; 8] = [0, 16, 4, 20, 8, 24, 12, 28];

impl Packed {
    /// Bits of a code.
    pub fn bits(self) -> u8 {
        match self {
            Packed::Rows { bits, .. }
            | Packed::LessOne { bits, .. }
            | Packed::Words { bits, .. }
            | Packed::Down { bits, .. } => bits,
            Packed::HighFirst { .. } | Packed::Awq { .. } | Packed::AwqRows { .. } => 4,
        }
    }

    /// Bytes that `rows` rows of `cols` codes take; `None` on overflow and where they do not fit.
    pub fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        let bits = usize::from(self.bits());
        let (needed, stride, rows) = match self {
            Packed::Rows { stride, .. } | Packed::LessOne { stride, .. } => {
                (cols.checked_mul(bits)?.div_ceil(8), stride, rows)
            }
            Packed::HighFirst { stride } => (cols.div_ceil(2), stride, rows),
            Packed::Words { stride, .. } => (cols.div_ceil(32 / bits).checked_mul(4)?, stride, rows),
            Packed::AwqRows { stride } => (cols.div_ceil(8).checked_mul(4)?, stride, rows),
            Packed::Awq { stride } => (rows.div_ceil(8).checked_mul(4)?, stride, cols),
            Packed::Down { width, whole, .. } => {
                let words = match whole {
                    true => cols.div_ceil(32 / bits),
                    false => cols.checked_mul(bits)?.div_ceil(32),
                };
                (rows.checked_mul(4)?, width.checked_mul(4)?, words)
            }
        };
        (needed <= stride).then(|| stride.checked_mul(rows))?
    }

    /// One code of the matrix in `bytes`; 0 beyond them.
    pub fn get(self, bytes: &[u8], row: usize, col: usize) -> u8 {
        let byte = |at: usize| u32::from(bytes.get(at).copied().unwrap_or(0));
        let word = |at: usize| byte(at) | byte(at + 1) << 8 | byte(at + 2) << 16 | byte(at + 3) << 24;
        let bits = usize::from(self.bits());
        let mask = (1u64 << bits) - 1;
        let code = match self {
            Packed::Rows { stride, .. } => {
                let (at, shift) = (row * stride + col * bits / 8, col * bits % 8);
                u64::from(byte(at) | byte(at + 1) << 8) >> shift
            }
            Packed::LessOne { stride, .. } if 32 % bits == 0 => {
                let ones = u32::MAX / mask as u32;
                let (at, shift) = (row * stride + 4 * (col * bits / 32), col * bits % 32);
                u64::from(word(at).wrapping_add(ones) >> shift)
            }
            Packed::LessOne { bits, stride } => {
                u64::from(Packed::Rows { bits, stride }.get(bytes, row, col)) + 1
            }
            Packed::HighFirst { stride } => u64::from(byte(row * stride + col / 2) >> (4 * (1 - col % 2))),
            Packed::Words { stride, .. } => {
                let per = 32 / bits;
                u64::from(word(row * stride + 4 * (col / per))) >> (bits * (col % per))
            }
            Packed::Down { width, whole, .. } => {
                let (nth, shift) = down(bits, whole, col);
                let low = u64::from(word(4 * (nth * width + row)));
                let high = match shift + bits > 32 {
                    true => u64::from(word(4 * ((nth + 1) * width + row))),
                    false => 0,
                };
                (low | high << 32) >> shift
            }
            Packed::Awq { stride } => u64::from(word(col * stride + 4 * (row / 8))) >> AWQ_SHIFTS[row % 8],
            Packed::AwqRows { stride } => {
                u64::from(word(row * stride + 4 * (col / 8))) >> AWQ_SHIFTS[col % 8]
            }
        };
        (code & mask) as u8
    }
}

/// The word in its column that code `nth` begins in, and at which bit.
pub(crate) fn down(bits: usize, whole: bool, nth: usize) -> (usize, usize) {
    match whole {
        true => (nth / (32 / bits), bits * (nth % (32 / bits))),
        false => (nth * bits / 32, nth * bits % 32),
    }
}

/// What a code stands for, before its zero point and scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    /// The code less a number.
    Unsigned(i32),
    /// A whole number from -128 to 127.
    Signed,
    /// An 8-bit float of this type.
    Float(DType),
    /// A 4-bit float: sign, two bits of exponent, one of mantissa.
    E2m1,
    /// A number of the codebook in this part.
    Book(usize),
}

/// Of nothing: bytes, one each.
impl Default for Form {
    fn default() -> Self {
        Form {
            rows: 0,
            cols: 0,
            slices: 1,
            codes: Packed::Rows { bits: 8, stride: 0 },
            value: Value::Signed,
            group: 1,
            scale: None,
            global: None,
            constant: 1.0,
            zero: Zero::None,
            offset: None,
            index: None,
            index_may_be_unset: false,
            columns: None,
        }
    }
}

impl Form {
    /// Elements of all slices; `None` on overflow.
    pub fn numel(&self) -> Option<usize> {
        self.rows.checked_mul(self.cols)?.checked_mul(self.slices)
    }

    /// Groups of columns, where no index tells them.
    pub fn groups(&self) -> usize {
        self.cols.div_ceil(self.group.max(1))
    }

    /// The first part that is too small for what is read of it, given the groups of columns, the bytes of each part, and
    /// its numbers.
    pub fn too_small(&self, groups: usize, bytes: &[usize], numbers: &[usize]) -> Option<usize> {
        let short = |part: usize, needed: Option<usize>, has: &[usize]| {
            let has = has.get(part).copied().unwrap_or(0);
            needed.is_none_or(|needed| needed > has).then_some(part)
        };
        let grid = |grid: &Grid| {
            let last = |n: usize, stride: usize| n.saturating_sub(1).checked_mul(stride);
            let rows = self.rows.div_ceil(grid.row_block.max(1));
            let end = last(rows, grid.row_stride)
                .and_then(|end| end.checked_add(last(groups, grid.group_stride)?))
                .and_then(|end| end.checked_add(last(self.slices, grid.slice_stride)?))
                .and_then(|end| end.checked_add(1));
            let tile = Numbers::TILE.0 * Numbers::TILE.1;
            let end = match grid.numbers {
                // Whole rows of tiles.
                Numbers::Tiled { across, .. } => end.and_then(|end| {
                    let tiles = across.checked_mul(tile)?;
                    end.checked_next_multiple_of(tiles)
                }),
                _ => end,
            };
            let needed = if self.numel() == Some(0) { Some(0) } else { end };
            let nested = || match grid.numbers {
                Numbers::Plain(_) | Numbers::Tiled { .. } => None,
                Numbers::Nested { book, scale, block, .. } => short(book, Some(256), numbers)
                    .or_else(|| short(scale, needed.map(|n| n.div_ceil(block.max(1))), numbers)),
            };
            short(grid.part, needed, numbers).or_else(nested)
        };
        let rows = self.rows.checked_mul(self.slices);
        let codes = || short(0, rows.and_then(|rows| self.codes.bytes(rows, self.cols)), bytes);
        let zero = || match &self.zero {
            Zero::None => None,
            Zero::Numbers(zero) => grid(zero),
            Zero::Packed { part, packed, by_row, .. } => {
                let (rows, cols) = if *by_row { (self.rows, groups) } else { (groups, self.rows) };
                short(*part, packed.bytes(rows, cols), bytes)
            }
        };
        let book = || match self.value {
            Value::Book(part) => short(part, Some(16), numbers),
            _ => None,
        };
        let global = || self.global.and_then(|global| short(global.part, Some(1), numbers));
        let index = || self.index.and_then(|part| short(part, Some(self.cols), numbers));
        let columns = || self.columns.and_then(|part| short(part, Some(self.cols), numbers));
        codes()
            .or_else(|| self.scale.as_ref().and_then(grid))
            .or_else(zero)
            .or_else(|| self.offset.as_ref().and_then(grid))
            .or_else(book)
            .or_else(global)
            .or_else(index)
            .or_else(columns)
    }
}
