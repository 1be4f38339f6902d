//! How real numbers become codes -1, 0, +1.

use serde::{Deserialize, Serialize};

use super::Elements;
use crate::Checkpoint;
use crate::tensor::TensorInfo;

/// What keeps the scales of a BitLinear, mean|W| and max|x|, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Floor {
    /// Is added to them, as bitnet-student has it.
    Added(f64),
    /// Is the least that they count as, as in transformers' `BitLinear`.
    Least(f64),
}

impl Floor {
    /// The number that is added, or that is the least.
    pub fn number(self) -> f64 {
        match self {
            Floor::Added(number) | Floor::Least(number) => number,
        }
    }

    /// The same with another number.
    pub fn with_number(self, number: f64) -> Floor {
        match self {
            Floor::Added(_) => Floor::Added(number),
            Floor::Least(_) => Floor::Least(number),
        }
    }

    /// The scale for this magnitude, in f32.
    #[inline(always)]
    pub fn of(self, magnitude: f32) -> f32 {
        match self {
            Floor::Added(eps) => magnitude + eps as f32,
            Floor::Least(least) => magnitude.max(least as f32),
        }
    }
}

/// mean|W|, kept from zero, in f32 as PyTorch computes it: a BitLinear divides its weights by this.
pub fn absmean_scale(mean: f64, floor: Floor) -> f32 {
    floor.of(mean as f32)
}

/// The largest |w| that the absmean rule rounds to zero: w / scale, in f32, is at most one half.
pub fn zero_line(scale: f32) -> f32 {
    let mut line = 0.5 * scale;
    while line.next_up() / scale <= 0.5 {
        line = line.next_up();
    }
    while line > 0.0 && line / scale > 0.5 {
        line = line.next_down();
    }
    line
}

/// How the elements of a matrix become codes.
pub(crate) enum CodeRule {
    /// By their sign: packed ternary matrices.
    Sign,
    /// Zero up to this magnitude.
    Line(f32),
    /// Zero up to this magnitude of its row, for rows of so many elements.
    Lines(Vec<f32>, usize),
}

impl CodeRule {
    /// The rule for `tensor`; `abs` is the sum of its finite magnitudes and their number. One look at every row where
    /// each has its own scale.
    pub fn of(
        checkpoint: &Checkpoint,
        tensor: &TensorInfo,
        elements: &Elements<'_>,
        abs: (f64, u64),
    ) -> CodeRule {
        if tensor.dtype.is_ternary() {
            return CodeRule::Sign;
        }
        let student = checkpoint.model.student.as_ref();
        let floor = checkpoint.model.quantization_floor();
        let line =
            |sum: f64, n: u64| zero_line(absmean_scale(if n > 0 { sum / n as f64 } else { 0.0 }, floor));
        let cols: usize = tensor.shape.get(1..).unwrap_or(&[]).iter().product();
        if !student.is_some_and(|s| s.bitlinear_per_channel) || cols == 0 {
            return CodeRule::Line(line(abs.0, abs.1));
        }
        let mut row = vec![0.0; cols];
        let lines = (0..elements.len() / cols).map(|r| {
            elements.read_f64(r * cols, &mut row);
            let finite = row.iter().filter(|x| x.is_finite());
            line(finite.clone().map(|x| x.abs()).sum(), finite.count() as u64)
        });
        CodeRule::Lines(lines.collect(), cols)
    }

    /// The code of element `i`, which is `x`.
    pub fn code(&self, i: usize, x: f64) -> i8 {
        let line = match self {
            CodeRule::Sign => 0.0,
            CodeRule::Line(line) => *line,
            CodeRule::Lines(lines, cols) => lines.get(i / cols).copied().unwrap_or(0.0),
        };
        // A BitLinear computes in f32.
        let x = x as f32;
        i8::from(x > line) - i8::from(x < -line)
    }
}
