//! The bytes of planned tensors: read piece by piece, converted, and passed to the writer, in parallel.

use std::cell::RefCell;
use std::io::Write;
use std::ops::AddAssign;
use std::sync::Arc;

use ckpt_inspect::staged::{Control, Error as OutputError, OutputFile};
use ckpt_inspect::{
    Checkpoint, DType, Elements as Values, Error as ReadError, Factors, Repacked, Storage, TensorInfo,
};
use crc32fast::Hasher;
use rayon::prelude::*;

use crate::narrow::{narrow, narrow_f64};
use crate::note::Remedy;
use crate::plan::{Blob, Content, Elements};
use crate::quant::{self, Codes, Quant};
use crate::ternary::Grid;
use crate::{Error, Result, ternary};

/// Bytes written at a time if they need no conversion.
const COPIED: usize = 1 << 20;
/// Elements converted at a time.
const CONVERTED: usize = 1 << 16;
/// Tensors that allocate at most this much are processed in parallel, larger ones one at a time.
const SMALL: u64 = 1 << 20;

/// Tensors that lie in several places are gathered this many bytes at a time.
pub(crate) const GATHERED: u64 = 4 << 20;
/// The same of those that lie elsewhere: several requests.
const FETCHED: u64 = 32 << 20;

/// Bytes of `tensors` that are gathered at a time.
pub(crate) fn gathered(tensors: &[&TensorInfo]) -> u64 {
    let fetched = |t: &&TensorInfo| t.storage.as_ref().is_some_and(Storage::is_fetched);
    if tensors.iter().any(fetched) { FETCHED } else { GATHERED }
}

/// Values that the narrower type could not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Losses {
    /// Finite values that became infinite.
    pub overflowed: u64,
    /// Nonzero values that became zero.
    pub flushed: u64,
}

impl AddAssign for Losses {
    fn add_assign(&mut self, other: Losses) {
        self.overflowed += other.overflowed;
        self.flushed += other.flushed;
    }
}

/// Bytes that [`Checkpoint::spread`] allocates.
fn allocated(source: &Checkpoint, tensor: &TensorInfo) -> u64 {
    match &tensor.sparse {
        Some(_) => tensor.byte_len().unwrap_or(0),
        None => source.copied_bytes(tensor),
    }
}

/// A tensor's values in the order they are to be written.
pub(crate) struct Decoded<'b> {
    latent: Values<'b>,
    shift: f32,
    grid: Option<Grid>,
    double: bool,
}

impl<'b> Decoded<'b> {
    /// The values of `elements`, whose bytes are `bytes`.
    pub fn new(
        source: &Checkpoint,
        elements: &'b Elements<'b>,
        bytes: &'b [u8],
    ) -> Result<Decoded<'b>, ReadError> {
        let tensor = &elements.tensor;
        let values = source.elements_in(elements.dense(), bytes)?.real();
        let mut latent = values.map_err(|e| e.in_tensor(&tensor.name).in_file(&source.path))?;
        if let Some(rotary) = elements.rotary {
            let cols = tensor.shape.iter().skip(1).product();
            latent = latent.with_rows(cols, Arc::new(move |row| rotary.source_row(row)));
        }
        if let Some((rows, cols)) = elements.transposed {
            latent = latent.with_transposed(rows, cols);
        }
        let double = tensor.dtype == DType::F64 && elements.grid.is_none();
        Ok(Decoded { latent, shift: elements.shift, grid: elements.grid, double })
    }

    /// The same, refusing packed values with the invalid code 3.
    pub fn checked(
        source: &Checkpoint,
        elements: &'b Elements<'b>,
        bytes: &'b [u8],
    ) -> Result<Decoded<'b>, ReadError> {
        let decoded = Decoded::new(source, elements, bytes)?;
        decoded.latent.check_codes().map_err(|e| e.in_tensor(&elements.tensor.name))?;
        Ok(decoded)
    }

    /// Values `start..start + n` in their written form, in `buffer` if they must be converted.
    pub fn get<'v>(&'v self, start: usize, n: usize, buffer: &'v mut Vec<f32>) -> &'v [f32] {
        if self.grid.is_none() {
            return self.get_latent(start, n, buffer);
        }
        buffer.resize(n, 0.0);
        self.read(start, buffer);
        buffer
    }

    /// Values `start..start + n` as the source has them, in `buffer` if they must be decoded.
    pub fn get_latent<'v>(&'v self, start: usize, n: usize, buffer: &'v mut Vec<f32>) -> &'v [f32] {
        if let Some(ready) = self.latent.as_f32().filter(|_| self.shift == 0.0) {
            return &ready[start..start + n];
        }
        buffer.resize(n, 0.0);
        self.read_latent(start, buffer);
        buffer
    }

    fn read_latent(&self, start: usize, out: &mut [f32]) {
        self.latent.read_f32(start, out);
        if self.shift != 0.0 {
            out.iter_mut().for_each(|x| *x += self.shift);
        }
    }

    /// Whether they are f64, which f32 would round.
    pub fn are_double(&self) -> bool {
        self.double
    }

    /// Values `start..start + n` in f64, where [`are_double`](Self::are_double).
    pub fn get_f64(&self, start: usize, n: usize) -> Vec<f64> {
        let mut values = vec![0.0; n];
        self.latent.read_f64(start, &mut values);
        if self.shift != 0.0 {
            values.iter_mut().for_each(|x| *x += f64::from(self.shift));
        }
        values
    }

    /// The blocks of GGML that hold the codes and scales of the values, as they lie in `source`.
    pub fn repacked(&self, source: &Checkpoint, tensor: &TensorInfo) -> Result<Repacked<'_>> {
        self.latent.repacked().map_err(|why| {
            Error::of_source(source, format!("`{}` cannot be kept: {why}", tensor.name.escape_debug()))
                .remedied_by(Remedy::Quant(&[Quant::Q8_0]))
        })
    }

    /// What the values are without the factors of whole matrices, and these.
    pub fn unfactored(&self) -> (Values<'_>, Factors) {
        self.latent.unfactored()
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.latent.len()
    }

    /// Fills `out` with the values from `start`, in their ternary form if that is written.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        self.read_latent(start, out);
        if let Some(grid) = self.grid {
            let (line, scale) = (grid.line(), grid.scale.unwrap_or(1.0));
            out.iter_mut().for_each(|x| *x = if x.abs() > line { scale.copysign(*x) } else { 0.0 });
        }
    }
}

/// The order of query and key rows in GGUF files of architecture `llama`: the halves of each head are interleaved, so
/// that llama.cpp can rotate neighbouring pairs (`permute` in its convert_hf_to_gguf.py).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotary {
    /// Rows of one head.
    pub head_dim: usize,
    /// Whether rows are put into that order; if not, they are put back from it.
    pub interleave: bool,
}

impl Rotary {
    /// The row of the source that is row `row` of the output.
    pub fn source_row(self, row: usize) -> usize {
        let (head, within) = (row / self.head_dim, row % self.head_dim);
        let half = self.head_dim / 2;
        let within = match self.interleave {
            true => half * (within % 2) + within / 2,
            false => 2 * (within % half) + within / half,
        };
        head * self.head_dim + within
    }
}

/// The output of blobs, and what to record about them.
pub(crate) struct Writer<'w> {
    pub source: &'w Checkpoint,
    pub blobs: &'w [Blob<'w>],
    pub control: Control<'w>,
    /// Whether checksums are wanted.
    pub crc: bool,
}

/// Where the bytes of a blob go.
enum To<'o> {
    /// At an offset of a file, in any order.
    Places(&'o OutputFile, u64),
    /// At the end of a file that is written as a stream.
    Stream(&'o OutputFile, RefCell<&'o mut dyn Write>),
}

/// Appends the bytes of some units, given the first and how many.
type Piece<'p> = dyn Fn(usize, usize, &mut Vec<u8>) -> Result<Losses> + Sync + 'p;

/// The outcome of writing one blob.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    pub losses: Losses,
    /// CRC-32 of its bytes, if wanted.
    pub crc: u32,
}

/// The outcome of writing parts of a blob, one after another.
#[derive(Default)]
struct Joined {
    losses: Losses,
    crc: Hasher,
}

impl Joined {
    fn add(&mut self, part: &Written, bytes: u64) {
        self.losses += part.losses;
        self.crc.combine(&Hasher::new_with_initial_len(part.crc, bytes));
    }

    fn written(self) -> Written {
        Written { losses: self.losses, crc: self.crc.finalize() }
    }
}

impl Writer<'_> {
    /// Writes blobs to their offsets of `output`: those that need little memory in parallel, the rest one at a time.
    /// Returns the outcome of each, in the order of `places`.
    pub fn write(&self, output: &OutputFile, places: &[(usize, u64)]) -> Result<Vec<Written>> {
        output.flushing(|| self.write_all(output, places))
    }

    fn write_all(&self, output: &OutputFile, places: &[(usize, u64)]) -> Result<Vec<Written>> {
        let heavy = |blob: &Blob<'_>| self.allocated(blob) > SMALL;
        let mut written = places
            .par_iter()
            .map(|&(blob, offset)| match &self.blobs[blob] {
                blob if heavy(blob) => Ok(Written::default()),
                blob => self.write_blob(blob, &To::Places(output, offset)),
            })
            .collect::<Result<Vec<_>>>()?;
        for (written, &(blob, offset)) in written.iter_mut().zip(places) {
            if heavy(&self.blobs[blob]) {
                *written = self.write_blob(&self.blobs[blob], &To::Places(output, offset))?;
            }
        }
        Ok(written)
    }

    /// Writes the bytes of `blob` one after another to `stream`, which goes into `output`. Checksums are the stream's.
    pub fn stream(&self, blob: usize, output: &OutputFile, stream: &mut dyn Write) -> Result<Written> {
        self.write_blob(&self.blobs[blob], &To::Stream(output, RefCell::new(stream)))
    }

    fn allocated(&self, blob: &Blob<'_>) -> u64 {
        match &blob.content {
            Content::Bytes(_) => 0,
            Content::Elements(elements)
            | Content::Codes { elements, .. }
            | Content::Blocks { elements, .. }
            | Content::Repacked(elements) => allocated(self.source, &elements.tensor),
        }
    }

    fn write_blob(&self, blob: &Blob<'_>, to: &To<'_>) -> Result<Written> {
        match &blob.content {
            Content::Bytes(bytes) => self.copy(bytes, to),
            Content::Elements(elements)
                if self.allocated(blob) > gathered(&[&elements.tensor])
                    && elements.is_source()
                    && elements.tensor.stretch(0, 0).is_some() =>
            {
                let width = blob.dtype.element_size().unwrap_or(1) as u64;
                self.write_stretches(
                    &elements.tensor,
                    to,
                    |count| count * width,
                    |part, bytes, to| {
                        self.write_blob(&Blob::new(blob.dtype, bytes, Content::Elements(part)), to)
                    },
                )
            }
            Content::Elements(elements) => {
                let tensor = &elements.tensor;
                let bytes = self.source.spread(tensor)?;
                if tensor.dtype == blob.dtype && elements.is_source() {
                    return self.copy(&bytes, to);
                }
                let size = blob.dtype.element_size().unwrap_or(1);
                let decoded = Decoded::checked(self.source, elements, &bytes)?;
                let piece = |start: usize, n: usize, out: &mut Vec<u8>| -> Result<Losses> {
                    if decoded.are_double() {
                        return Ok(narrow_f64(&decoded.get_f64(start, n), blob.dtype, out));
                    }
                    Ok(narrow(decoded.get(start, n, &mut Vec::new()), blob.dtype, out))
                };
                let numel = tensor.numel() as usize;
                self.convert(numel, CONVERTED, size, &piece, to)
            }
            Content::Codes { elements, packing, grid } => {
                let bytes = self.source.spread(&elements.tensor)?;
                let values = Decoded::checked(self.source, elements, &bytes)?;
                let shape = &elements.tensor.shape;
                let piece = |start: usize, n: usize, out: &mut Vec<u8>| -> Result<Losses> {
                    out.resize(n, 0);
                    let mut buffer = Vec::new();
                    ternary::pack(*packing, shape, start, out, &mut |at, codes| {
                        let values = values.get_latent(at, codes.len(), &mut buffer);
                        ternary::codes_beyond(grid.line(), values, codes);
                    });
                    Ok(Losses::default())
                };
                self.convert(blob.bytes as usize, CONVERTED / 4, 1, &piece, to)
            }
            Content::Blocks { elements, quant, unit_scale }
                if self.allocated(blob) > gathered(&[&elements.tensor])
                    && elements.is_source()
                    && elements.tensor.stretch(0, 0).is_some()
                    && gathered(&[&elements.tensor]).is_multiple_of((8 * quant.block()) as u64) =>
            {
                let bytes = |count: u64| count / quant.block() as u64 * quant.block_bytes() as u64;
                let write = |part, _, to: &To<'_>| self.write_blocks(&part, *quant, *unit_scale, to);
                self.write_stretches(&elements.tensor, to, bytes, write)
            }
            Content::Blocks { elements, quant, unit_scale } => {
                self.write_blocks(elements, *quant, *unit_scale, to)
            }
            Content::Repacked(elements) => {
                let bytes = self.source.spread(&elements.tensor)?;
                let values = Decoded::new(self.source, elements, &bytes)?;
                let repacked = values.repacked(self.source, &elements.tensor)?;
                let size = repacked.ggml().block_bytes().unwrap_or(1);
                let piece = |start: usize, n: usize, out: &mut Vec<u8>| -> Result<Losses> {
                    out.resize(n * size, 0);
                    repacked.read(start, out);
                    Ok(Losses::default())
                };
                let elements = repacked.ggml().block_elements();
                self.convert(values.len() / elements, CONVERTED / elements, size, &piece, to)
            }
        }
    }

    /// Writes `tensor`, which has to be gathered or computed, some elements at a time: `write` writes a stretch, of which so
    /// many elements are `bytes` bytes. What is computed is so by all threads, each of which writes what it has made.
    fn write_stretches(
        &self,
        tensor: &TensorInfo,
        to: &To<'_>,
        bytes: impl Fn(u64) -> u64 + Sync,
        write: impl Fn(Elements<'static>, u64, &To<'_>) -> Result<Written> + Sync,
    ) -> Result<Written> {
        let part = |start: u64, count: u64| -> Result<Elements<'static>> {
            let stretch = tensor.stretch(start, count);
            let stretch =
                stretch.ok_or_else(|| ReadError::damaged("its size overflows").in_tensor(&tensor.name))?;
            Ok(Elements::new(stretch, None))
        };
        let mut whole = Joined::default();
        let computed = tensor.storage.as_ref().is_some_and(Storage::is_computed);
        if let (To::Places(output, offset), true) = (to, computed) {
            let step = CONVERTED as u64;
            let parts = (0..tensor.numel().div_ceil(step)).into_par_iter().map(|i| {
                let start = i * step;
                let count = step.min(tensor.numel() - start);
                let to = To::Places(output, offset + bytes(start));
                Ok((write(part(start, count)?, bytes(count), &to)?, bytes(count)))
            });
            for (written, bytes) in parts.collect::<Result<Vec<_>>>()? {
                whole.add(&written, bytes);
            }
            return Ok(whole.written());
        }
        let step = gathered(&[tensor]) / tensor.dtype.element_size().unwrap_or(1) as u64;
        let mut start = 0;
        while start < tensor.numel() {
            let count = step.min(tensor.numel() - start);
            let part = part(start, count)?;
            let written = match to {
                To::Places(output, offset) => {
                    write(part, bytes(count), &To::Places(output, offset + bytes(start)))?
                }
                To::Stream(..) => write(part, bytes(count), to)?,
            };
            whole.add(&written, bytes(count));
            start += count;
        }
        Ok(whole.written())
    }

    fn write_blocks(
        &self,
        elements: &Elements<'_>,
        quant: Quant,
        unit_scale: bool,
        to: &To<'_>,
    ) -> Result<Written> {
        let tensor = &elements.tensor;
        let bytes = self.source.spread(tensor)?;
        let values = Decoded::checked(self.source, elements, &bytes)?;
        let scale = elements.grid.and_then(|g| g.scale).unwrap_or(1.0).abs();
        let codes = match elements.grid {
            Some(grid) => Codes::Whole { line: grid.line(), scale: if unit_scale { 1.0 } else { scale } },
            None => Codes::ByBlock,
        };
        let piece = |start: usize, n: usize, out: &mut Vec<u8>| -> Result<Losses> {
            let mut buffer = Vec::new();
            let (start, n) = (start * quant.block(), n * quant.block());
            let values = match quant.is_ternary() {
                true => values.get_latent(start, n, &mut buffer),
                false => values.get(start, n, &mut buffer),
            };
            quant::encode(quant, codes, values, out)?;
            if quant.is_ternary() {
                return Ok(Losses::default());
            }
            quant::losses(quant, values, out)
        };
        let blocks = values.len() / quant.block();
        let step = CONVERTED / quant.block();
        let written = self.convert(blocks, step, quant.block_bytes(), &piece, to)?;
        if quant == Quant::I2S {
            let tail = quant::i2_s_tail(scale);
            match to {
                To::Places(output, offset) => {
                    self.put(&tail, output, offset + (blocks * quant.block_bytes()) as u64)?;
                }
                To::Stream(output, stream) => self.append(&tail, output, stream)?,
            }
        }
        Ok(written)
    }

    fn copy(&self, bytes: &[u8], to: &To<'_>) -> Result<Written> {
        let (output, offset) = match to {
            To::Places(output, offset) => (*output, *offset),
            To::Stream(output, stream) => {
                bytes.chunks(COPIED).try_for_each(|chunk| self.append(chunk, output, stream))?;
                return Ok(Written::default());
            }
        };
        let hashers = bytes
            .par_chunks(COPIED)
            .enumerate()
            .map(|(i, chunk)| self.put(chunk, output, offset + (i * COPIED) as u64))
            .collect::<Result<Vec<Hasher>>>()?;
        Ok(Written { losses: Losses::default(), crc: combine(hashers) })
    }

    /// Converts `len` units, `step` at a time, with `piece`, which makes `size` bytes per unit.
    fn convert(
        &self,
        len: usize,
        step: usize,
        size: usize,
        piece: &Piece<'_>,
        to: &To<'_>,
    ) -> Result<Written> {
        let count = len.div_ceil(step);
        let made = |i: usize| {
            let start = i * step;
            let mut out = Vec::new();
            Ok((piece(start, step.min(len - start), &mut out)?, out))
        };
        let mut losses = Losses::default();
        let (output, offset) = match to {
            To::Places(output, offset) => (*output, *offset),
            To::Stream(output, stream) => {
                // As many at a time as there are threads, written in their order.
                let beside = rayon::current_num_threads();
                for first in (0..count).step_by(beside) {
                    let pieces = (first..count.min(first + beside)).into_par_iter().map(made);
                    for (more, out) in pieces.collect::<Result<Vec<(Losses, Vec<u8>)>>>()? {
                        losses += more;
                        self.append(&out, output, stream)?;
                    }
                }
                return Ok(Written { losses, crc: 0 });
            }
        };
        let pieces = (0..count)
            .into_par_iter()
            .map(|i| {
                let (losses, out) = made(i)?;
                Ok((losses, self.put(&out, output, offset + (i * step * size) as u64)?))
            })
            .collect::<Result<Vec<(Losses, Hasher)>>>()?;
        pieces.iter().for_each(|(more, _)| losses += *more);
        Ok(Written { losses, crc: combine(pieces.into_iter().map(|(_, hasher)| hasher)) })
    }

    fn append(&self, bytes: &[u8], output: &OutputFile, stream: &RefCell<&mut dyn Write>) -> Result<()> {
        self.control.check(output.path())?;
        stream.borrow_mut().write_all(bytes).map_err(|source| cannot(output, source))?;
        (self.control.progress)(bytes.len() as u64);
        Ok(())
    }

    fn put(&self, bytes: &[u8], output: &OutputFile, offset: u64) -> Result<Hasher> {
        self.control.check(output.path())?;
        output.write_at(offset, bytes)?;
        let mut hasher = Hasher::new();
        if self.crc {
            hasher.update(bytes);
        }
        (self.control.progress)(bytes.len() as u64);
        Ok(hasher)
    }
}

/// The error of a stream into `output` that cannot be written.
pub(crate) fn cannot(output: &OutputFile, source: std::io::Error) -> OutputError {
    OutputError::Write { path: output.path().to_path_buf(), source }
}

/// The CRC-32 of pieces that follow each other.
fn combine(pieces: impl IntoIterator<Item = Hasher>) -> u32 {
    let mut whole = Hasher::new();
    pieces.into_iter().for_each(|piece| whole.combine(&piece));
    whole.finalize()
}
