//! Quantized weights in the blocks of GGML that hold the same codes and scales: MXFP4, and NVFP4, whose further factor is
//! a tensor of its own beside them (`_nvfp4_pack` in llama.cpp's `conversion/base.py`).

use std::fmt;

use super::super::{Elements, Order, in_chunks};
use super::{Coded, number_type, read_numbers};
use crate::DType;
use crate::ggml::GgmlType;
use crate::ggml::blocks::{Mxfp4, Nvfp4};
use crate::quantized::form::{Grid, Numbers, Value, Zero};
use crate::quantized::{Blocking, Code};

/// A quantized weight as blocks of GGML with the same codes and scales, bit for bit. The factors of
/// [`Elements::unfactored`] are not in the blocks.
pub struct Repacked<'e> {
    coded: &'e Coded<'e>,
    order: Option<&'e Order>,
    ggml: GgmlType,
    scale: Grid,
}

/// Why no blocks of GGML hold the codes and scales of a weight. As text it is a sentence about the weight.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum NotHeld {
    /// They have no type for such codes and scales.
    Type(DType),
    /// Its rows are not whole blocks.
    Rows {
        /// Elements of a row.
        cols: usize,
        /// Elements of a block.
        block: usize,
    },
    /// Its columns have factors of their own.
    Columns,
    /// A scale is NaN, which they read as a number.
    NanScale,
    /// A scale has a sign, which they lack.
    SignedScale,
    /// A scale is no power of two, as those of the blocks are.
    NotAPower(f32),
}

impl fmt::Display for NotHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotHeld::Type(dtype) => write!(f, "GGUF has no type that holds {dtype}"),
            NotHeld::Rows { cols, block } => {
                write!(f, "its rows of {cols} are not a multiple of the {block} elements of a GGUF block")
            }
            NotHeld::Columns => {
                f.write_str("its columns have factors of their own, and those of GGUF have none")
            }
            NotHeld::NanScale => f.write_str("it has a scale that is NaN, which GGUF reads as a number"),
            NotHeld::SignedScale => f.write_str("it has a negative scale, and those of GGUF have no sign"),
            NotHeld::NotAPower(scale) => {
                write!(f, "it has the scale {scale:e}, and those of GGUF's MXFP4 are powers of two")
            }
        }
    }
}

impl<'a> Elements<'a> {
    /// The blocks of GGML that hold the same codes and scales.
    ///
    /// # Errors
    /// Why there are none.
    pub fn repacked(&self) -> Result<Repacked<'_>, NotHeld> {
        let coded = self.coded().ok_or(NotHeld::Type(self.dtype))?;
        Repacked::new(coded, self.dtype, self.order.as_ref())
    }
}

impl<'e> Repacked<'e> {
    fn new(coded: &'e Coded<'e>, dtype: DType, order: Option<&'e Order>) -> Result<Self, NotHeld> {
        let form = &coded.quantized.form;
        let not_held = NotHeld::Type(dtype);
        let DType::Quantized(kind) = dtype else { return Err(not_held) };
        let (ggml, group) = match (kind.code, kind.blocking) {
            (Code::Mxfp4, Blocking::Group(32)) => (GgmlType::MXFP4, 32),
            (Code::Nvfp4, Blocking::Group(16)) => (GgmlType::NVFP4, 16),
            _ => return Err(not_held),
        };
        if form.columns.is_some() {
            return Err(NotHeld::Columns);
        }
        let nothing_else = matches!(form.zero, Zero::None) && form.offset.is_none() && coded.index.is_none();
        let is_plain = form.value == Value::E2m1 && form.constant == 1.0 && form.group == group;
        let ordered =
            order.is_none_or(|order| matches!(order, Order::Rows { cols, .. } if *cols == form.cols));
        let scale = form.scale.filter(|_| nothing_else && is_plain && ordered).ok_or(not_held)?;
        let block = ggml.block_elements();
        if !form.cols.is_multiple_of(block) {
            return Err(NotHeld::Rows { cols: form.cols, block });
        }
        let repacked = Repacked { coded, order, ggml, scale };
        let (Numbers::Plain(stored) | Numbers::Tiled { dtype: stored, .. }) = scale.numbers else {
            return Err(not_held);
        };
        let size = number_type(stored).element_size().ok_or(not_held)?;
        let faults = in_chunks(coded.bytes[scale.part].len() / size, 1, |mut range| {
            range.find_map(|at| repacked.scale(at).err())
        });
        match faults.into_iter().flatten().next() {
            Some(fault) => Err(fault),
            None => Ok(repacked),
        }
    }

    /// The type of the blocks.
    pub fn ggml(&self) -> GgmlType {
        self.ggml
    }

    /// The byte that scale number `at` is in a block.
    fn scale(&self, at: usize) -> Result<u8, NotHeld> {
        let (Numbers::Plain(dtype) | Numbers::Tiled { dtype, .. }) = self.scale.numbers else {
            return Err(NotHeld::NanScale);
        };
        let (at, bytes) = (self.scale.numbers.place(at), &self.coded.bytes[self.scale.part]);
        match (self.ggml, number_type(dtype)) {
            (GgmlType::NVFP4, DType::F8E4M3FN) => match bytes[at] {
                byte if byte & 0x7f == 0x7f => Err(NotHeld::NanScale),
                0x80.. => Err(NotHeld::SignedScale),
                byte => Ok(byte),
            },
            (GgmlType::MXFP4, DType::F8E8M0FNU) => match bytes[at] {
                u8::MAX => Err(NotHeld::NanScale),
                byte => Ok(byte),
            },
            (GgmlType::MXFP4, other) if other.is_float() => {
                let mut number = [0.0];
                read_numbers(other, bytes, at, &mut number);
                exponent(number[0])
            }
            (_, other) => Err(NotHeld::Type(other)),
        }
    }

    /// Fills `out` with the blocks from block `start` on, row after row.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn read(&self, start: usize, out: &mut [u8]) {
        let form = &self.coded.quantized.form;
        let (elements, size) = (self.ggml.block_elements(), self.ggml.block_bytes().unwrap_or(1));
        let blocks_of_row = (form.cols / elements).max(1);
        let mut buffer = [0; 64];
        for (i, out) in out.chunks_exact_mut(size).enumerate() {
            let (row, block) = ((start + i) / blocks_of_row, (start + i) % blocks_of_row);
            let row = match self.order {
                Some(Order::Rows { source, .. }) => source(row),
                _ => row,
            };
            let codes = self.coded.codes(row, block * elements, &mut buffer[..elements]);
            let (slice, row) = (row / form.rows.max(1), row % form.rows.max(1));
            let first = slice * self.scale.slice_stride
                + row / self.scale.row_block.max(1) * self.scale.row_stride
                + block * (elements / form.group.max(1)) * self.scale.group_stride;
            // All were looked at before.
            let scale = |nth: usize| self.scale(first + nth * self.scale.group_stride).unwrap_or(u8::MAX);
            match (self.ggml, codes.first_chunk::<32>(), codes.first_chunk::<64>()) {
                (GgmlType::NVFP4, _, Some(codes)) => {
                    let block = Nvfp4::of(codes, std::array::from_fn(scale));
                    out.copy_from_slice(bytemuck::bytes_of(&block));
                }
                (_, Some(codes), _) => {
                    out.copy_from_slice(bytemuck::bytes_of(&Mxfp4::of(codes, scale(0))));
                }
                _ => {}
            }
        }
    }
}

/// The byte of E8M0 that is `scale`.
fn exponent(scale: f32) -> Result<u8, NotHeld> {
    let bits = scale.to_bits();
    match (bits >> 23, bits & 0x007f_ffff) {
        _ if scale.is_nan() => Err(NotHeld::NanScale),
        (1..=254, 0) => Ok((bits >> 23) as u8),
        // 2^-127 is subnormal in f32.
        (0, 0x0040_0000) => Ok(0),
        _ => Err(NotHeld::NotAPower(scale)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_two_is_its_exponent() {
        assert_eq!(exponent(1.0), Ok(127));
        assert_eq!(exponent(2f32.powi(-127)), Ok(0));
        assert_eq!(exponent(2f32.powi(127)), Ok(254));
        for wrong in [0.0, -1.0, 3.0, 2f32.powi(-128), f32::INFINITY] {
            assert_eq!(exponent(wrong), Err(NotHeld::NotAPower(wrong)));
        }
        assert_eq!(exponent(f32::NAN), Err(NotHeld::NanScale));
    }
}
