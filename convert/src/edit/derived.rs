//! Tensors that are computed from others: piece by piece, when what writes the output asks for their bytes, so that memory does
//! not grow with them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ckpt_inspect::contiguous_strides;
use ckpt_inspect::{Compute, DType, Error as ReadError, Result as ReadResult, Storage, TensorInfo};
use rayon::prelude::*;

use crate::round;

/// Elements that are computed, checked and remembered together.
pub(crate) const PIECE: usize = 1 << 16;

/// Marks a piece that was computed, above the 32 bits of its checksum.
const KNOWN: u64 = 1 << 32;

/// What computes the elements of a tensor.
pub(crate) trait Make: fmt::Debug + Send + Sync {
    /// Passes the elements `range`, which is within one piece, to `take`, in order, in as many parts as it likes.
    fn make(&self, range: Range<usize>, take: &mut dyn FnMut(&[f64])) -> ReadResult<()>;
}

/// The elements that `make` computes in f64, each rounded to the tensor's type once. It remembers a checksum of each piece, so that a
/// copy can be verified without computing everything again.
#[derive(Debug)]
pub(crate) struct Derived {
    make: Box<dyn Make>,
    dtype: DType,
    /// Bytes of an element.
    size: usize,
    len: usize,
    /// For each piece, its checksum and [`KNOWN`], once it has been computed.
    pieces: Vec<AtomicU64>,
    not_finite: AtomicU64,
}

/// Whether elements of this type can be computed: floating-point numbers that are written by rounding.
pub(crate) fn is_made(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
}

impl Derived {
    /// `tensor`, with the elements of `make` in `dtype`, and what computes them.
    pub fn tensor(
        tensor: &TensorInfo,
        dtype: DType,
        make: Box<dyn Make>,
    ) -> ReadResult<(TensorInfo, Arc<Derived>)> {
        let overflows = || ReadError::damaged("its size overflows").in_tensor(&tensor.name);
        let size = dtype.element_size().filter(|_| is_made(dtype)).ok_or_else(|| {
            ReadError::unsupported(format!("{dtype} elements are not computed")).in_tensor(&tensor.name)
        })?;
        let bytes = dtype.bytes_for(&tensor.shape).ok_or_else(overflows)?;
        let len = usize::try_from(tensor.numel()).map_err(|_| overflows())?;
        let pieces = (0..len.div_ceil(PIECE)).map(|_| AtomicU64::new(0)).collect();
        let derived = Arc::new(Derived { make, dtype, size, len, pieces, not_finite: AtomicU64::new(0) });
        let mut made = tensor.clone();
        made.storage = Some(Storage::computed(derived.clone(), bytes));
        (made.dtype, made.byte_offset, made.strides) = (dtype, 0, contiguous_strides(&tensor.shape));
        (made.scale, made.scales, made.quantizer, made.sparse, made.quantized) =
            (None, None, None, None, None);
        Ok((made, derived))
    }

    /// Elements that came out as NaN or infinite, of all that have been computed.
    pub fn not_finite(&self) -> u64 {
        self.not_finite.load(Ordering::Relaxed)
    }

    /// The elements of a piece.
    fn elements(&self, piece: usize) -> Range<usize> {
        piece * PIECE..self.len.min((piece + 1) * PIECE)
    }

    /// Fills `out` with the bytes of a piece.
    fn compute(&self, piece: usize, out: &mut [u8]) -> ReadResult<()> {
        let (mut not_finite, mut made) = (0, 0);
        self.make.make(self.elements(piece), &mut |values| {
            not_finite += round::not_finite(values, self.dtype);
            let end = made + self.size * values.len();
            round::round_f64(values, self.dtype, &mut out[made..end]);
            made = end;
        })?;
        debug_assert_eq!(made, out.len());
        let checksum = KNOWN | u64::from(crc32fast::hash(out));
        if self.pieces[piece].swap(checksum, Ordering::Relaxed) == 0 {
            self.not_finite.fetch_add(not_finite, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Compute for Derived {
    fn bytes(&self, range: Range<u64>) -> ReadResult<Vec<u8>> {
        let (start, end) = (range.start as usize, range.end as usize);
        let unit = PIECE * self.size;
        let (first, last) = (start / unit, end.div_ceil(unit));
        let from = first * unit;
        let mut bytes = vec![0; (last * unit).min(self.len * self.size) - from];
        let work = |(i, out): (usize, &mut [u8])| self.compute(first + i, out);
        match last - first {
            0 => {}
            // Small tensors are many, and made side by side.
            1 => work((0, &mut bytes))?,
            _ => bytes.par_chunks_mut(unit).enumerate().try_for_each(work)?,
        }
        bytes.truncate(end - from);
        if start > from {
            bytes.drain(..start - from);
        }
        Ok(bytes)
    }

    fn gave(&self, start: u64, bytes: &[u8]) -> Option<bool> {
        let unit = PIECE * self.size;
        let start = usize::try_from(start).ok()?;
        let whole = start.is_multiple_of(unit)
            && (bytes.len().is_multiple_of(unit) || start + bytes.len() == self.len * self.size);
        let pieces = self.pieces.get(start / unit..).filter(|_| whole)?;
        let known: Option<Vec<u64>> = bytes
            .chunks(unit)
            .zip(pieces)
            .map(|(_, piece)| Some(piece.load(Ordering::Relaxed)).filter(|known| *known != 0))
            .collect();
        let same = |(bytes, known): (&[u8], &u64)| KNOWN | u64::from(crc32fast::hash(bytes)) == *known;
        Some(bytes.par_chunks(unit).zip(known?.par_iter()).all(same))
    }
}
