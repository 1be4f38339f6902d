//! A matrix's rows in f32, read from the file on demand.

use ckpt_inspect::{Checkpoint, Elements, TensorInfo};

use crate::Result;
use crate::kernel::Kernel;
use crate::kernel::pool::Pool;
use crate::kernel::simd::{Simd, Work};

/// Rows that one task looks through.
const TASK_ROWS: usize = 64;

/// The rows of a matrix of `cols` columns.
pub(crate) struct Rows<'a> {
    elements: Elements<'a>,
    pub rows: usize,
    pub cols: usize,
}

impl<'a> Rows<'a> {
    /// The rows of `tensor`, which is a matrix: borrowed from the file where that can be, and decoded a row at a time.
    ///
    /// # Errors
    /// Those of [`Checkpoint::values`].
    pub fn of(
        checkpoint: &'a Checkpoint,
        tensor: &'a TensorInfo,
        (rows, cols): (usize, usize),
    ) -> Result<Self> {
        let checked = |elements: Elements<'a>| {
            let elements = elements.real()?;
            elements.check_codes().map(|()| elements)
        };
        let elements = checked(checkpoint.elements(tensor)?)
            .map_err(|e| e.in_tensor(&tensor.name).in_file(&checkpoint.path))?;
        Ok(Rows { elements, rows, cols })
    }

    /// The rows of a packed matrix's codes.
    pub fn codes(&self) -> Rows<'_> {
        Rows { elements: self.elements.unscaled(), ..*self }
    }

    /// All elements, row-major, if they can be borrowed without decoding.
    pub fn whole(&self) -> Option<&[f32]> {
        self.elements.as_f32()
    }

    /// Row `i` into `out`.
    pub fn read(&self, i: usize, out: &mut [f32]) {
        self.elements.read_f32(i * self.cols, out);
    }

    /// The common magnitude of all nonzero elements, 0 if all are zero; `None` if there are several magnitudes, or NaN.
    pub fn magnitude(&self, kernel: Kernel, pool: &Pool) -> Option<f32> {
        let parts = pool.map(self.rows.div_ceil(TASK_ROWS), |part| {
            let mut row = vec![0.0; self.cols];
            let mut range = Magnitudes { least: f32::INFINITY, most: 0.0, nan: false };
            for i in part * TASK_ROWS..self.rows.min((part + 1) * TASK_ROWS) {
                self.read(i, &mut row);
                range = range.and(kernel.run(MagnitudesOf(&row)));
            }
            range
        });
        let all = parts.into_iter().reduce(Magnitudes::and)?;
        (!all.nan && (all.most == 0.0 || all.least == all.most)).then_some(all.most)
    }
}

/// The smallest |x| that is not zero, the largest, and whether some x is NaN.
#[derive(Clone, Copy)]
struct Magnitudes {
    least: f32,
    most: f32,
    nan: bool,
}

impl Magnitudes {
    fn and(self, other: Self) -> Self {
        Magnitudes {
            least: self.least.min(other.least),
            most: self.most.max(other.most),
            nan: self.nan || other.nan,
        }
    }
}

struct MagnitudesOf<'a>(&'a [f32]);

impl Work for MagnitudesOf<'_> {
    type Output = Magnitudes;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Magnitudes {
        const TOGETHER: usize = 32;
        let (mut least, mut most, mut nan) =
            ([f32::INFINITY; TOGETHER], [0.0f32; TOGETHER], [false; TOGETHER]);
        let (whole, rest) = self.0.as_chunks::<TOGETHER>();
        let mut last = [0.0; TOGETHER];
        last[..rest.len()].copy_from_slice(rest);
        for chunk in whole.iter().chain([&last]) {
            for i in 0..TOGETHER {
                let x = chunk[i].abs();
                let counted = if x == 0.0 { f32::INFINITY } else { x };
                least[i] = if counted < least[i] { counted } else { least[i] };
                most[i] = if x > most[i] { x } else { most[i] };
                nan[i] |= x.is_nan();
            }
        }
        Magnitudes {
            least: least.into_iter().fold(f32::INFINITY, f32::min),
            most: most.into_iter().fold(0.0, f32::max),
            nan: nan.contains(&true),
        }
    }
}
