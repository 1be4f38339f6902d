//! Rounding values to narrower types, and what that loses.

use ckpt_inspect::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::encode::Losses;
use crate::round::to_odd;

/// Appends `values` rounded to `dtype` (half to even, as IEEE 754 and PyTorch do).
pub(crate) fn narrow(values: &[f32], dtype: DType, out: &mut Vec<u8>) -> Losses {
    match dtype {
        DType::F16 => narrow_pieces::<f16, { f16::INFINITY.to_bits() }>(values, out),
        DType::BF16 => narrow_pieces::<bf16, { bf16::INFINITY.to_bits() }>(values, out),
        DType::F64 => {
            append(values.iter().map(|v| f64::from(*v).to_le_bytes()), out);
            Losses::default()
        }
        _ => {
            append(values.iter().map(|v| v.to_le_bytes()), out);
            Losses::default()
        }
    }
}

/// Appends the bytes of `words`.
fn append<const N: usize>(words: impl ExactSizeIterator<Item = [u8; N]>, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + N * words.len(), 0);
    out[start..].as_chunks_mut::<N>().0.iter_mut().zip(words).for_each(|(slot, word)| *slot = word);
}

/// Appends `values` rounded to a type of 16 bits whose infinity has the bits `INFINITY`.
fn narrow_pieces<W: bytemuck::Pod, const INFINITY: u16>(values: &[f32], out: &mut Vec<u8>) -> Losses
where
    [W]: HalfFloatSliceExt,
{
    // Few enough to stay in the first-level cache, and for counts to fit the vector lanes that compare them.
    const PIECE: usize = 1024;
    let mut words = [W::zeroed(); PIECE];
    let mut losses = Losses::default();
    out.reserve(2 * values.len());
    for values in values.chunks(PIECE) {
        let words = &mut words[..values.len()];
        words.convert_from_f32_slice(values);
        let words: &mut [u16] = bytemuck::cast_slice_mut(words);
        let (mut over, mut zero) = (0u32, 0u32);
        for (value, word) in values.iter().zip(&*words) {
            let magnitude = word & 0x7fff;
            over += u32::from((magnitude == INFINITY) & (value.abs() < f32::INFINITY));
            zero += u32::from((magnitude == 0) & (*value != 0.0));
        }
        losses += Losses { overflowed: over.into(), flushed: zero.into() };
        words.iter_mut().for_each(|word| *word = word.to_le());
        out.extend_from_slice(bytemuck::cast_slice(words));
    }
    losses
}

/// Appends f64 as they are, or in a narrower type in one rounding; going to 16 bits through the nearest f32 would round twice.
pub(crate) fn narrow_f64(values: &[f64], dtype: DType, out: &mut Vec<u8>) -> Losses {
    if dtype == DType::F64 {
        append(values.iter().map(|v| v.to_le_bytes()), out);
        return Losses::default();
    }
    if dtype == DType::F32 {
        let mut losses = Losses::default();
        for &value in values {
            let single = value as f32;
            losses.overflowed += u64::from(single.is_infinite() && value.is_finite());
            losses.flushed += u64::from(single == 0.0 && value != 0.0);
            out.extend(single.to_le_bytes());
        }
        return losses;
    }
    let odd: Vec<f32> = values.iter().map(|&value| to_odd(value)).collect();
    narrow(&odd, dtype, out)
}
