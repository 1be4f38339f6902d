//! The elements of any tensor as numbers, in any packing: decoded piece by piece on request, so that no
//! decoded copy of a tensor is made, and borrowed if they need no decoding. All code that measures, compares, shows,
//! converts or runs a tensor reads it through [`Elements`].
//!
//! An encoding is a file here, or next to a format's blocks, and a variant of `Encoding`.

mod affine;
pub(crate) mod coded;
mod codes;
mod float;
mod float8;
mod packed;
mod sparse;
mod wide;
pub(crate) mod windows;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::format::packing;
use crate::ggml::{Blocks, OddScales};
use crate::tensor::TensorInfo;
use crate::{DType, Error, Result};
use affine::Affine;
pub use coded::repacked::{NotHeld, Repacked};
use coded::{Coded, Scaled};
pub(crate) use codes::CodeRule;
pub use codes::{Floor, absmean_scale, zero_line};
use float::Float;
use packed::Packed;
pub(crate) use sparse::lists_twice;

/// Elements that are decoded at a time: 16 kB of f32, which stay in the first-level cache.
pub(crate) const BLOCK: usize = 4096;
/// Elements per unit of parallel work, at least.
const CHUNK: usize = 1 << 18;

/// Gives the place of a row in the file.
pub type RowOrder = Arc<dyn Fn(usize) -> usize + Send + Sync>;

/// The elements of a tensor, row-major. Complex ones are pairs of real ones.
///
/// Code 3 of a ternary packing, which is not a ternary value, reads as 2 times the scale: see
/// [`Elements::check_codes`]. The same holds for GGML's ternary blocks, as in llama.cpp and gguf-py.
#[derive(Clone)]
pub struct Elements<'a> {
    len: usize,
    dtype: DType,
    bytes: Cow<'a, [u8]>,
    encoding: Encoding<'a>,
    order: Option<Order>,
}

/// How bytes encode elements.
#[derive(Clone)]
enum Encoding<'a> {
    /// Floating-point numbers that are exactly f32 values.
    Float(Float),
    /// GGML's blocks, and a further factor of their elements.
    Blocks(Blocks, Factor),
    /// Ternary codes and their scale.
    Packed(Packed),
    /// Types that f32 cannot hold exactly: f64, integers.
    Wide(wide::Decode),
    /// Integers with a scale and a zero point.
    Affine(Affine),
    /// Codes with scales in other tensors, whose bytes it has, and what the codes are multiplied by.
    Coded(Arc<Coded<'a>>, Scaled),
}

/// What the elements of blocks are multiplied by.
#[derive(Clone)]
enum Factor {
    One(f32),
    /// One factor for each run of so many elements.
    Each(Arc<[f32]>, usize),
}

impl Factor {
    /// The factor of the elements of `tensor`.
    fn of(tensor: &TensorInfo) -> Self {
        let elements = usize::try_from(tensor.numel()).unwrap_or(0);
        match &tensor.scales {
            Some(scales) if elements > 0 && elements.is_multiple_of(scales.len()) => {
                Factor::Each(scales.clone(), elements / scales.len())
            }
            _ => Factor::One(tensor.scale.unwrap_or(1.0)),
        }
    }

    /// Calls `read` for the parts of `out`, which is what begins at `start`, that have one factor.
    fn each(&self, start: usize, out: &mut [f32], read: impl Fn(usize, &mut [f32], f32)) {
        let (factors, run) = match self {
            Factor::One(factor) => return read(start, out, *factor),
            Factor::Each(factors, run) => (factors, *run),
        };
        let mut done = 0;
        while done < out.len() {
            let (matrix, within) = ((start + done) / run, (start + done) % run);
            let n = (run - within).min(out.len() - done);
            read(start + done, &mut out[done..done + n], factors[matrix]);
            done += n;
        }
    }
}

/// What elements are multiplied or divided by, besides the scales of their groups or blocks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Factors {
    /// One for all, or one for each matrix; none where there is no such factor.
    pub numbers: Vec<f32>,
    /// Whether elements are divided by them.
    pub divide: bool,
}

/// Elements in another order than they lie in.
#[derive(Clone)]
enum Order {
    /// Rows of `cols` elements, of which row `r` is row `source(r)`.
    Rows { cols: usize, source: RowOrder },
    /// Matrices of `rows` by `cols`, transposed.
    Transposed { rows: usize, cols: usize },
}

impl Order {
    /// Fills `out` with the elements from `start` out of the runs that `read` gives of them as they lie.
    fn each<T: Copy + Default>(&self, start: usize, out: &mut [T], read: impl Fn(usize, &mut [T])) {
        match self {
            Order::Rows { cols, source } => {
                let mut done = 0;
                while done < out.len() {
                    let (row, col) = ((start + done) / cols, (start + done) % cols);
                    let n = (cols - col).min(out.len() - done);
                    read(source(row) * cols + col, &mut out[done..done + n]);
                    done += n;
                }
            }
            Order::Transposed { rows, cols } => {
                let size = rows * cols;
                let mut done = 0;
                while done < out.len() {
                    let (matrix, within) = ((start + done) / size, (start + done) % size);
                    let n = (size - within).min(out.len() - done);
                    let place = (matrix * size, within);
                    transposed((*rows, *cols), place, &mut out[done..done + n], &read);
                    done += n;
                }
            }
        }
    }
}

/// Fills `out` with the elements from `within` of the transposed matrix that lies from `begin` on as `rows` by `cols`.
fn transposed<T: Copy + Default>(
    (rows, cols): (usize, usize),
    (begin, within): (usize, usize),
    out: &mut [T],
    read: &impl Fn(usize, &mut [T]),
) {
    let (first, last) = (within / rows, (within + out.len() - 1) / rows);
    let mut run = vec![T::default(); last - first + 1];
    let begins = within % rows;
    // Of one column, only the rows that are asked for.
    let asked = if first == last { begins..begins + out.len() } else { 0..rows };
    for row in asked {
        read(begin + row * cols + first, &mut run);
        for (nth, &x) in run.iter().enumerate() {
            if let Some(slot) = (nth * rows + row).checked_sub(begins).and_then(|at| out.get_mut(at)) {
                *slot = x;
            }
        }
    }
}

/// `read`, which gives f64, rounded to f32.
fn narrowed(start: usize, out: &mut [f32], read: impl Fn(usize, &mut [f64])) {
    let mut wide = [0.0; 256];
    for (i, part) in out.chunks_mut(wide.len()).enumerate() {
        let wide = &mut wide[..part.len()];
        read(start + 256 * i, wide);
        part.iter_mut().zip(wide).for_each(|(slot, &mut x)| *slot = x as f32);
    }
}

impl Encoding<'_> {
    fn read_f32(&self, bytes: &[u8], start: usize, out: &mut [f32]) {
        match self {
            Encoding::Float(float) => float.read(bytes, start, out),
            Encoding::Blocks(blocks, factor) => {
                factor.each(start, out, |at, out, factor| blocks.read(bytes, at, out, factor));
            }
            Encoding::Packed(packed) => packed.read(bytes, start, out),
            Encoding::Wide(decode) => narrowed(start, out, |at, wide| decode(bytes, at, wide)),
            Encoding::Affine(affine) => narrowed(start, out, |at, wide| affine.read(bytes, at, wide)),
            Encoding::Coded(coded, scaled) => coded.read(*scaled, start, out),
        }
    }

    fn read_f64(&self, bytes: &[u8], start: usize, out: &mut [f64]) {
        match self {
            Encoding::Wide(decode) => decode(bytes, start, out),
            Encoding::Affine(affine) => affine.read(bytes, start, out),
            _ => {
                let mut buffer = [0.0f32; BLOCK];
                for (i, part) in out.chunks_mut(BLOCK).enumerate() {
                    let block = &mut buffer[..part.len()];
                    self.read_f32(bytes, start + i * BLOCK, block);
                    part.iter_mut().zip(block).for_each(|(slot, &mut x)| *slot = x.into());
                }
            }
        }
    }
}

impl<'a> Elements<'a> {
    /// Contiguous little-endian elements of a plain dtype, which need not be aligned: numbers, or bool as 0 and 1.
    ///
    /// # Errors
    /// `Unsupported` for packed and quantized dtypes.
    pub fn plain(dtype: DType, bytes: impl Into<Cow<'a, [u8]>>) -> Result<Self> {
        let bytes = bytes.into();
        let (encoding, size) = plain(dtype)?;
        Ok(Elements { len: bytes.len() / size, dtype, bytes, encoding, order: None })
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements per block of the encoding, 1 if it has no blocks. Any range can be read; ranges that begin and end
    /// with a block are read fastest.
    pub fn granule(&self) -> usize {
        match &self.encoding {
            Encoding::Blocks(blocks, _) => blocks.elements.max(1),
            _ => 1,
        }
    }

    /// Whether f32 cannot hold them exactly.
    pub fn is_wide(&self) -> bool {
        matches!(self.encoding, Encoding::Wide(_) | Encoding::Affine(_))
    }

    /// Fills `out` with the elements from `start`; f64, wide integers and quantized ones rounded.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        self.check_range(start, out.len());
        let read = |at: usize, out: &mut [f32]| self.encoding.read_f32(&self.bytes, at, out);
        match &self.order {
            None => read(start, out),
            Some(order) => order.each(start, out, read),
        }
    }

    /// Fills `out` with the elements from `start`; integers beyond 2^53 rounded.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn read_f64(&self, start: usize, out: &mut [f64]) {
        self.check_range(start, out.len());
        let read = |at: usize, out: &mut [f64]| self.encoding.read_f64(&self.bytes, at, out);
        match &self.order {
            None => read(start, out),
            Some(order) => order.each(start, out, read),
        }
    }

    fn check_range(&self, start: usize, n: usize) {
        assert!(n <= self.len && start <= self.len - n, "elements out of range");
    }

    /// All elements, if they can be borrowed without decoding.
    pub fn as_f32(&self) -> Option<&[f32]> {
        let ready = cfg!(target_endian = "little")
            && self.order.is_none()
            && matches!(self.encoding, Encoding::Float(Float::F32));
        if !ready {
            return None;
        }
        bytemuck::try_cast_slice(&self.bytes).ok()
    }

    /// The elements `start..start + buffer.len()`, in `buffer` if they must be decoded.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn block<'b>(&'b self, start: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        if let Some(all) = self.as_f32() {
            return &all[start..start + buffer.len()];
        }
        self.read_f32(start, buffer);
        buffer
    }

    /// All elements in f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len];
        self.read_f32(0, &mut out);
        out
    }

    /// The same elements, if they are real numbers.
    ///
    /// # Errors
    /// `Unsupported` for complex ones.
    pub fn real(self) -> Result<Self> {
        match self.dtype.is_complex() {
            true => Err(Error::unsupported(format!("{} elements are not real numbers", self.dtype))),
            false => Ok(self),
        }
    }

    /// Refuses a packed matrix, and ternary blocks, with the code 3, which no packer writes.
    ///
    /// # Errors
    /// `Damaged`, with the first such byte or element.
    pub fn check_codes(&self) -> Result<()> {
        match (&self.encoding, self.dtype) {
            (Encoding::Packed(_), _) => packing::check_codes(&self.bytes),
            (Encoding::Blocks(..), DType::Ggml(ggml)) => ggml.check_codes(&self.bytes),
            _ => Ok(()),
        }
    }

    /// The codes -1, 0, +1 of a packed ternary matrix or of ternary blocks, whatever their scales; `None` where there
    /// are none.
    ///
    /// # Errors
    /// `Damaged` for the code 3, which is not a ternary value.
    pub fn codes(&self) -> Result<Option<Vec<i8>>> {
        let mut codes = vec![0; self.len];
        match (&self.encoding, self.dtype) {
            (Encoding::Packed(packed), _) => {
                self.check_codes()?;
                packed.codes(&self.bytes, 0, &mut codes);
            }
            (Encoding::Blocks(..), DType::Ggml(ggml)) if ggml.is_ternary() => {
                ggml.ternary_codes(&self.bytes, &mut codes)?;
            }
            _ => return Ok(None),
        }
        let Some(order) = &self.order else { return Ok(Some(codes)) };
        let mut ordered = vec![0; codes.len()];
        order.each(0, &mut ordered, |at, out: &mut [i8]| out.copy_from_slice(&codes[at..at + out.len()]));
        Ok(Some(ordered))
    }

    /// GGML's blocks with scales that no encoder writes.
    pub(crate) fn odd_scales(&self) -> OddScales {
        match &self.encoding {
            Encoding::Blocks(blocks, _) => {
                let unit = blocks.elements;
                let count = |range: Range<usize>| {
                    blocks.odd_scales(&self.bytes, range.start / unit..range.end / unit)
                };
                in_chunks(self.len, unit, count).into_iter().fold(OddScales::default(), OddScales::with)
            }
            _ => OddScales::default(),
        }
    }

    /// The elements without scales: a packed matrix's are its codes, which a scale that is not positive would hide, and a
    /// quantized weight's are what its codes stand for, less their zero points.
    pub fn unscaled(&self) -> Elements<'_> {
        let encoding = match &self.encoding {
            Encoding::Packed(packed) => Encoding::Packed(packed.unscaled()),
            Encoding::Blocks(blocks, _) => Encoding::Blocks(*blocks, Factor::One(1.0)),
            Encoding::Coded(coded, _) => Encoding::Coded(coded.clone(), Scaled::Bare),
            other => other.clone(),
        };
        Elements { encoding, bytes: Cow::Borrowed(&self.bytes), order: self.order.clone(), ..*self }
    }

    /// The elements without the factor that all of them, or those of each matrix, have besides the scales of their groups
    /// or blocks; and these factors, one, one for each matrix, or none.
    pub fn unfactored(&self) -> (Elements<'_>, Factors) {
        let none = Factors { numbers: Vec::new(), divide: false };
        let (encoding, factors) = match &self.encoding {
            Encoding::Blocks(blocks, factor) => {
                let numbers = match factor {
                    Factor::One(factor) if *factor == 1.0 => Vec::new(),
                    Factor::One(factor) => vec![*factor],
                    Factor::Each(factors, _) => factors.to_vec(),
                };
                (Encoding::Blocks(*blocks, Factor::One(1.0)), Factors { numbers, divide: false })
            }
            Encoding::Coded(coded, Scaled::Whole) => {
                let (numbers, divide) = coded.factors();
                let factors = Factors { numbers: numbers.to_vec(), divide };
                (Encoding::Coded(coded.clone(), Scaled::ByGroup), factors)
            }
            other => (other.clone(), none),
        };
        let elements =
            Elements { encoding, bytes: Cow::Borrowed(&self.bytes), order: self.order.clone(), ..*self };
        (elements, factors)
    }

    /// The codes and scales that they are made of, where they are a quantized weight's.
    pub(crate) fn coded(&self) -> Option<&Coded<'a>> {
        match &self.encoding {
            Encoding::Coded(coded, _) => Some(coded),
            _ => None,
        }
    }

    /// The same elements with rows of `cols` in another order: row `r` is row `source(r)` of these.
    pub fn with_rows(self, cols: usize, source: RowOrder) -> Self {
        Elements { order: Some(Order::Rows { cols: cols.max(1), source }), ..self }
    }

    /// The same elements with each of their matrices of `rows` by `cols` transposed.
    pub fn with_transposed(self, rows: usize, cols: usize) -> Self {
        Elements { order: Some(Order::Transposed { rows: rows.max(1), cols: cols.max(1) }), ..self }
    }

    /// Elements to read at once.
    pub(crate) fn step(&self) -> usize {
        (BLOCK / self.granule()).max(1) * self.granule()
    }

    /// Elements to read at once from both.
    pub(crate) fn step_with(&self, other: &Elements<'_>) -> usize {
        let granule = lcm(self.granule(), other.granule());
        (BLOCK / granule).max(1) * granule
    }
}

impl<'a> From<&'a [f32]> for Elements<'a> {
    fn from(values: &'a [f32]) -> Self {
        let bytes = match cfg!(target_endian = "little") {
            true => Cow::Borrowed(bytemuck::cast_slice(values)),
            false => Cow::Owned(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        let encoding = Encoding::Float(Float::F32);
        Elements { len: values.len(), dtype: DType::F32, bytes, encoding, order: None }
    }
}

impl fmt::Debug for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elements").field("dtype", &self.dtype).field("len", &self.len).finish_non_exhaustive()
    }
}

/// The encoding of a plain dtype, and the bytes of one number.
fn plain(dtype: DType) -> Result<(Encoding<'static>, usize)> {
    let number = match dtype {
        DType::C32 => DType::F16,
        DType::C64 => DType::F32,
        DType::C128 => DType::F64,
        real => real,
    };
    let encoding = match Float::of(number) {
        Some(float) => Some(Encoding::Float(float)),
        None => wide::decoder(number).map(Encoding::Wide),
    };
    encoding
        .zip(number.element_size())
        .ok_or_else(|| Error::unsupported(format!("{dtype} elements are listed but not decoded")))
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x.max(1) * b
}

/// Calls `work` on consecutive ranges of `0..len`, in parallel, each but the last a multiple of `block`; results in
/// order, so that what is made of them does not depend on the number of threads.
pub(crate) fn in_chunks<T: Send>(
    len: usize,
    block: usize,
    work: impl Fn(Range<usize>) -> T + Sync,
) -> Vec<T> {
    let unit = CHUNK.div_ceil(block).saturating_mul(block);
    let chunk = |i: usize| work(i * unit..len.min((i + 1).saturating_mul(unit)));
    match len.div_ceil(unit) {
        // Small tensors are many: a task for each would cost more than it saves.
        0 | 1 => (len > 0).then(|| chunk(0)).into_iter().collect(),
        chunks => (0..chunks).into_par_iter().map(chunk).collect(),
    }
}

impl Checkpoint {
    /// The elements of `tensor`.
    ///
    /// # Errors
    /// Those of [`Checkpoint::tensor_bytes`]; `Unsupported` for sparse tensors, and for elements that are named and not
    /// decoded.
    pub fn elements<'a>(&'a self, tensor: &'a TensorInfo) -> Result<Elements<'a>> {
        // Checked before its bytes are read, which may have to be inflated.
        refuse_sparse(tensor).map_err(|e| e.in_tensor(&tensor.name).in_file(&self.path))?;
        self.elements_in(tensor, self.tensor_bytes(tensor)?)
    }

    /// The elements of `tensor` in `bytes`, which [`Checkpoint::tensor_bytes`] gave.
    ///
    /// # Errors
    /// `Damaged` when they do not fill its shape, or when other parts of a quantized weight cannot be read;
    /// `Unsupported` for sparse tensors, and for elements that are named and not decoded.
    pub fn elements_in<'a>(
        &self,
        tensor: &'a TensorInfo,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Result<Elements<'a>> {
        self.elements_inner(tensor, bytes.into()).map_err(|e| e.in_tensor(&tensor.name).in_file(&self.path))
    }

    fn elements_inner<'a>(&self, tensor: &'a TensorInfo, bytes: Cow<'a, [u8]>) -> Result<Elements<'a>> {
        refuse_sparse(tensor)?;
        let len = usize::try_from(tensor.numel())
            .map_err(|_| Error::unsupported("more elements than this machine can address"))?;
        if let Some(quantized) = &tensor.quantized {
            if quantized.form.numel() != Some(len) {
                return Err(Error::unsupported("a part of a quantized weight"));
            }
            let coded = Coded::new(quantized, bytes)?;
            let encoding = Encoding::Coded(Arc::new(coded), Scaled::Whole);
            return Ok(Elements {
                len,
                dtype: tensor.dtype,
                bytes: Cow::Borrowed(&[]),
                encoding,
                order: None,
            });
        }
        let encoding = match tensor.dtype {
            DType::Ternary(packing) => Encoding::Packed(Packed::new(packing, &tensor.shape, tensor.scale)),
            DType::Ggml(ggml) => Encoding::Blocks(ggml.blocks()?, Factor::of(tensor)),
            DType::QI8 | DType::QU8 | DType::QI32 => Encoding::Affine(Affine::of(self, tensor)?),
            other => plain(other)?.0,
        };
        if tensor.byte_len() != Some(bytes.len() as u64) {
            return Err(Error::damaged("its bytes do not fill its shape"));
        }
        let parts = if tensor.dtype.is_complex() { 2 } else { 1 };
        Ok(Elements { len: len.saturating_mul(parts), dtype: tensor.dtype, bytes, encoding, order: None })
    }

    /// Elements as real numbers in f32, row-major: packed and quantized ones decoded.
    ///
    /// # Errors
    /// Those of [`Checkpoint::elements`], and of [`Elements::check_codes`]; `Unsupported` for complex numbers.
    pub fn values(&self, tensor: &TensorInfo) -> Result<Vec<f32>> {
        let elements = self.elements(tensor)?;
        let values = || {
            let elements = elements.real()?;
            elements.check_codes()?;
            Ok(elements.to_f32())
        };
        values().map_err(|e: Error| e.in_tensor(&tensor.name).in_file(&self.path))
    }

    /// The codes -1, 0, +1 of a packed ternary matrix, row-major; `None` for any other tensor.
    ///
    /// # Errors
    /// Those of [`Checkpoint::elements`], and of [`Elements::codes`].
    pub fn ternary_codes(&self, tensor: &TensorInfo) -> Result<Option<Vec<i8>>> {
        if !tensor.dtype.is_ternary() {
            return Ok(None);
        }
        let codes = self.elements(tensor)?.codes();
        codes.map_err(|e| e.in_tensor(&tensor.name).in_file(&self.path))
    }
}

fn refuse_sparse(tensor: &TensorInfo) -> Result<()> {
    match &tensor.sparse {
        Some(sparse) => {
            Err(Error::unsupported(format!("a sparse tensor ({}) has not been made dense", sparse.layout)))
        }
        None => Ok(()),
    }
}
