//! Quantized integers with a scale and a zero point, per tensor or per channel.

use crate::checkpoint::Checkpoint;
use crate::tensor::{Quantizer, TensorInfo};
use crate::{DType, Error, Result};

/// How integers become real numbers.
#[derive(Clone)]
pub(super) struct Affine {
    integer: Integer,
    /// Scale and zero point of each channel; a single pair for the whole tensor if there are no channels.
    channels: Vec<(f64, f64)>,
    /// Consecutive elements of one channel.
    run: usize,
}

#[derive(Clone, Copy)]
enum Integer {
    I8,
    U8,
    I32,
}

impl Affine {
    /// The quantization of `tensor`, whose scales may be tensors of `checkpoint`.
    pub fn of(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Result<Self> {
        let integer = match tensor.dtype {
            DType::QI8 => Integer::I8,
            DType::QU8 => Integer::U8,
            _ => Integer::I32,
        };
        let whole =
            |scale: f64, zero: f64| Affine { integer, channels: vec![(scale, zero)], run: usize::MAX };
        let (scales, zero_points, axis) = match &tensor.quantizer {
            None => return Ok(whole(1.0, 0.0)),
            Some(Quantizer::PerTensor { scale, zero_point }) => {
                // PyTorch multiplies by the scale in 32 bits.
                return Ok(whole((*scale as f32).into(), *zero_point as f64));
            }
            Some(Quantizer::PerChannel { scales, zero_points, axis }) => (scales, zero_points, *axis),
        };
        let sizes = tensor.shape.get(axis + 1..).unwrap_or(&[]);
        let run = sizes.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        let channels =
            *tensor.shape.get(axis).ok_or_else(|| Error::damaged("its channel axis is out of range"))?;
        if [scales, zero_points].iter().any(|t| t.numel() != channels as u64) {
            return Err(Error::damaged("its scales do not match its channels"));
        }
        let read = |tensor: &TensorInfo| -> Result<Vec<f64>> {
            let elements = checkpoint.elements(tensor)?.real()?;
            let mut out = vec![0.0; elements.len()];
            elements.read_f64(0, &mut out);
            Ok(out)
        };
        let (scales, zeros) = (read(scales)?, read(zero_points)?);
        Ok(Affine { integer, channels: scales.into_iter().zip(zeros).collect(), run: run.max(1) })
    }

    /// Fills `out` with the elements from `start`.
    pub fn read(&self, bytes: &[u8], start: usize, out: &mut [f64]) {
        let mut done = 0;
        while done < out.len() {
            let at = start + done;
            let n = (self.run - at % self.run).min(out.len() - done);
            let part = &mut out[done..done + n];
            self.integer.read(bytes, at, part);
            let (scale, zero) = self.channels[at / self.run % self.channels.len()];
            part.iter_mut().for_each(|x| *x = (*x - zero) * scale);
            done += n;
        }
    }
}

impl Integer {
    fn read(self, bytes: &[u8], start: usize, out: &mut [f64]) {
        let bytes = match self {
            Integer::I8 | Integer::U8 => &bytes[start..][..out.len()],
            Integer::I32 => &bytes[4 * start..][..4 * out.len()],
        };
        match self {
            Integer::I8 => out.iter_mut().zip(bytes).for_each(|(x, &b)| *x = f64::from(b as i8)),
            Integer::U8 => out.iter_mut().zip(bytes).for_each(|(x, &b)| *x = f64::from(b)),
            Integer::I32 => {
                let words = bytes.as_chunks::<4>().0;
                out.iter_mut().zip(words).for_each(|(x, &word)| *x = f64::from(i32::from_le_bytes(word)));
            }
        }
    }
}
