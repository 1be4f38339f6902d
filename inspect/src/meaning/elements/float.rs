//! Floating-point numbers that are exactly f32 values.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::float8;
use crate::DType;

/// Their type.
#[derive(Clone, Copy)]
pub(super) enum Float {
    F32,
    F16,
    BF16,
    /// 8 bits, with the value of each byte.
    Table(&'static [f32; 256]),
}

impl Float {
    /// The type of `dtype`'s elements; `None` for others.
    pub fn of(dtype: DType) -> Option<Float> {
        Some(match dtype {
            DType::F32 => Float::F32,
            DType::F16 => Float::F16,
            DType::BF16 => Float::BF16,
            other => Float::Table(float8::table(other)?),
        })
    }

    /// Fills `out` with the elements of `bytes` from `start`.
    pub fn read(self, bytes: &[u8], start: usize, out: &mut [f32]) {
        match self {
            Float::F32 => {
                for (slot, word) in out.iter_mut().zip(bytes[4 * start..].as_chunks::<4>().0) {
                    *slot = f32::from_le_bytes(*word);
                }
            }
            Float::F16 => {
                let mut words = [f16::ZERO; 256];
                for (i, part) in out.chunks_mut(256).enumerate() {
                    let words = &mut words[..part.len()];
                    let at = 2 * (start + 256 * i);
                    for (word, raw) in words.iter_mut().zip(bytes[at..].as_chunks::<2>().0) {
                        *word = f16::from_le_bytes(*raw);
                    }
                    words.convert_to_f32_slice(part);
                }
            }
            Float::BF16 => {
                for (slot, word) in out.iter_mut().zip(bytes[2 * start..].as_chunks::<2>().0) {
                    *slot = f32::from_bits(u32::from(u16::from_le_bytes(*word)) << 16);
                }
            }
            Float::Table(table) => {
                for (slot, &byte) in out.iter_mut().zip(&bytes[start..]) {
                    *slot = table[usize::from(byte)];
                }
            }
        }
    }
}
