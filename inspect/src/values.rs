//! Elements of any tensor as real numbers, block by block: plain, quantized and packed ones alike. What compares or
//! surveys tensors reads them through this, so that no decoded copy of a tensor is ever made.

use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::ggml::Decoder;
use crate::measure::{BLOCK, absmean_scale, read_f64, zero_line};
use crate::tensor::TensorInfo;
use crate::{DType, Error, Result, ternary};

/// Elements per unit of parallel work, at least.
const CHUNK: usize = 1 << 18;

/// The elements of a tensor, row-major. Complex ones are pairs of real ones.
pub(crate) struct Values<'a> {
    pub len: usize,
    /// Elements per block of the encoding.
    granule: usize,
    read: Box<Read<'a>>,
    /// For packed matrices with one scale: the codes, whatever the scale.
    codes: Option<Box<Read<'a>>>,
}

/// Fills a slice with the elements from an index on.
type Read<'a> = dyn Fn(usize, &mut [f64]) + Sync + 'a;

impl<'a> Values<'a> {
    /// The elements of `tensor`, whose bytes are `bytes`.
    pub fn new(checkpoint: &Checkpoint, tensor: &'a TensorInfo, bytes: &'a [u8]) -> Result<Self> {
        if let Some(sparse) = &tensor.sparse {
            return Err(Error::unsupported(format!(
                "elements of a sparse tensor ({}) are not spread out",
                sparse.layout
            )));
        }
        let len = usize::try_from(tensor.numel())
            .map_err(|_| Error::unsupported("more elements than this machine can address"))?;
        let mut values = Values { len, granule: 1, read: Box::new(|_, _| ()), codes: None };
        match tensor.dtype {
            DType::Ternary(packing) => {
                ternary::check_codes(bytes)?;
                let factor = f64::from(tensor.scale.unwrap_or(1.0));
                let decode = move |start: usize, out: &mut [f64], factor: f64| {
                    let mut codes = [0i8; 1024];
                    for (i, part) in out.chunks_mut(codes.len()).enumerate() {
                        let codes = &mut codes[..part.len()];
                        ternary::decode(packing, bytes, &tensor.shape, start + i * 1024, codes);
                        part.iter_mut().zip(codes).for_each(|(slot, c)| *slot = f64::from(*c) * factor);
                    }
                };
                values.read = Box::new(move |start, out| decode(start, out, factor));
                values.codes = Some(Box::new(move |start, out| decode(start, out, 1.0)));
            }
            DType::Ggml(ggml) => {
                let decoder = ggml.decoder(bytes, len)?;
                values.granule = ggml.block_elements().max(1);
                let scaled = decoder.scaled(tensor.scale.unwrap_or(1.0));
                let widened = |decoder: Decoder<'a>| -> Box<Read<'a>> {
                    Box::new(move |start, out| {
                        let mut buffer = vec![0.0f32; out.len()];
                        decoder.read(start, &mut buffer);
                        out.iter_mut().zip(buffer).for_each(|(slot, x)| *slot = x.into());
                    })
                };
                values.read = widened(scaled);
                values.codes = ggml.is_ternary().then(|| widened(decoder));
            }
            DType::QI8 | DType::QU8 | DType::QI32 => {
                let real = checkpoint.dequantizer(tensor, bytes)?;
                values.read = Box::new(move |start, out| {
                    out.iter_mut().zip(start..).for_each(|(slot, i)| *slot = real(i));
                });
            }
            dtype if dtype.is_sub_byte() => {
                return Err(Error::unsupported(format!("{dtype} elements are named and not decoded")));
            }
            dtype => {
                let (real, parts) = match dtype {
                    DType::C32 => (DType::F16, 2),
                    DType::C64 => (DType::F32, 2),
                    DType::C128 => (DType::F64, 2),
                    real => (real, 1),
                };
                values.len = len.saturating_mul(parts);
                values.read = Box::new(move |start, out| {
                    read_f64(real, bytes, start, out);
                });
            }
        }
        Ok(values)
    }

    /// The same elements with rows of `cols` in another order: row `r` is row `source(r)` of these. Rows must be whole
    /// blocks of the encoding.
    pub fn with_rows(self, cols: usize, source: impl Fn(usize) -> usize + Clone + Sync + 'a) -> Self {
        let reorder = |read: Box<Read<'a>>| -> Box<Read<'a>> {
            let source = source.clone();
            Box::new(move |start, out| {
                let mut done = 0;
                while done < out.len() {
                    let (row, col) = ((start + done) / cols, (start + done) % cols);
                    let n = (cols - col).min(out.len() - done);
                    read(source(row) * cols + col, &mut out[done..done + n]);
                    done += n;
                }
            })
        };
        Values { read: reorder(self.read), codes: self.codes.map(reorder), ..self }
    }

    /// Reads elements `start..start + out.len()`; `start` must be a multiple of the granule, and so must the length
    /// unless it reaches the end.
    pub fn read(&self, start: usize, out: &mut [f64]) {
        (self.read)(start, out);
    }

    /// Reads what [`Codes`] are told from: the elements, or for packed matrices the codes themselves, which a scale
    /// that is not positive would hide.
    pub fn read_for_codes(&self, start: usize, out: &mut [f64]) {
        self.codes.as_ref().unwrap_or(&self.read)(start, out);
    }

    /// Elements per block to read at once, for tensors of these encodings.
    pub fn block(&self, other: &Values<'_>) -> usize {
        let granule = lcm(self.granule, other.granule);
        (BLOCK / granule).max(1) * granule
    }
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
    work: impl Fn(std::ops::Range<usize>) -> T + Sync,
) -> Vec<T> {
    let unit = CHUNK.div_ceil(block) * block;
    let chunk = |i: usize| work(i * unit..len.min((i + 1) * unit));
    match len.div_ceil(unit) {
        // Small tensors are many: a task for each would cost more than it brings.
        0 | 1 => (len > 0).then(|| chunk(0)).into_iter().collect(),
        chunks => (0..chunks).into_par_iter().map(chunk).collect(),
    }
}

/// How the elements of a matrix become codes -1, 0, +1.
pub(crate) enum Codes {
    /// By their sign: packed ternary matrices.
    Sign,
    /// Zero up to this magnitude.
    Line(f32),
    /// Zero up to this magnitude of its row, for rows of so many elements.
    Lines(Vec<f32>, usize),
}

impl Codes {
    /// The rule for `tensor`; `abs` is the sum of its finite magnitudes and their number. One look at every row where
    /// each has its own scale.
    pub fn of(checkpoint: &Checkpoint, tensor: &TensorInfo, values: &Values<'_>, abs: (f64, u64)) -> Codes {
        if tensor.dtype.is_ternary() {
            return Codes::Sign;
        }
        let student = checkpoint.model.student.as_ref();
        let eps = checkpoint.model.quantization_eps();
        let line = |sum: f64, n: u64| zero_line(absmean_scale(if n > 0 { sum / n as f64 } else { 0.0 }, eps));
        let cols: usize = tensor.shape.get(1..).unwrap_or(&[]).iter().product();
        if !student.is_some_and(|s| s.bitlinear_per_channel) || cols == 0 {
            return Codes::Line(line(abs.0, abs.1));
        }
        let mut row = vec![0.0; cols];
        let lines = (0..values.len / cols).map(|r| {
            values.read(r * cols, &mut row);
            let finite = row.iter().filter(|x| x.is_finite());
            line(finite.clone().map(|x| x.abs()).sum(), finite.count() as u64)
        });
        Codes::Lines(lines.collect(), cols)
    }

    /// The code of element `i`, which is `x`.
    pub fn code(&self, i: usize, x: f64) -> i8 {
        let line = match self {
            Codes::Sign => 0.0,
            Codes::Line(line) => *line,
            Codes::Lines(lines, cols) => lines.get(i / cols).copied().unwrap_or(0.0),
        };
        // A BitLinear computes in f32.
        let x = x as f32;
        i8::from(x > line) - i8::from(x < -line)
    }
}
