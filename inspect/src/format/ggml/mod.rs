//! GGML's tensor types: numbers, names and block sizes as `ggml.h` and `ggml-common.h` of llama.cpp define them
//! (<https://github.com/ggml-org/llama.cpp/tree/master/ggml>), and decoders for those in everyday use. The blocks
//! themselves are in [`blocks`], for readers and writers alike: a new one is a file there, and a line in the table
//! below.

pub mod blocks;
mod scales;

use std::fmt;
use std::ops::Range;

use crate::tensor::numel;
use crate::{DType, DamageKind, Error, Result, TernaryPacking};
use blocks::Block;
pub use blocks::{Loss, Parts};
pub use scales::OddScales;
use scales::odd_scales;

/// A tensor type of GGML by its number in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GgmlType(pub u32);

/// The name of types with an unknown number.
const UNKNOWN: &str = "unknown";

/// What is known about one type.
struct Facts {
    name: &'static str,
    /// Elements per block; 0 where the size is not known.
    elements: usize,
    /// Bytes per block.
    bytes: usize,
    /// Words of a block that a big-endian machine reads in its own order: (offset, width, how many).
    words: &'static [(usize, usize, usize)],
}

macro_rules! types {
    ($($name:ident = $number:literal: $elements:literal, $bytes:literal, [$($words:expr),*];)*) => {
        #[allow(missing_docs)] // GGML's own names
        impl GgmlType {
            $(pub const $name: GgmlType = GgmlType($number);)*

            /// The type of this name; a type without a known number for `unknown`.
            pub(crate) fn named(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(GgmlType($number)),)*
                    UNKNOWN => Some(GgmlType(u32::MAX)),
                    _ => None,
                }
            }
        }

        fn facts(ggml: GgmlType) -> Option<Facts> {
            Some(match ggml.0 {
                $($number => Facts {
                    name: stringify!($name),
                    elements: $elements,
                    bytes: $bytes,
                    words: &[$($words),*],
                },)*
                _ => return None,
            })
        }
    };
}

// llama.cpp no longer uses numbers 4, 5 and 31 to 33. It never wrote 36 to 38 to a file, and bitnet.cpp uses them for
// its own types; bitnet.cpp's TL2 is 39 in a file, which is MXFP4 in llama.cpp, and has a number here that no file uses.
types! {
    F32 = 0: 1, 4, [(0, 4, 1)];
    F16 = 1: 1, 2, [(0, 2, 1)];
    Q4_0 = 2: 32, 18, [(0, 2, 1)];
    Q4_1 = 3: 32, 20, [(0, 2, 2)];
    Q4_2 = 4: 16, 10, [(0, 2, 1)];
    Q4_3 = 5: 16, 12, [(0, 2, 2)];
    Q5_0 = 6: 32, 22, [(0, 2, 1), (2, 4, 1)];
    Q5_1 = 7: 32, 24, [(0, 2, 2), (4, 4, 1)];
    Q8_0 = 8: 32, 34, [(0, 2, 1)];
    Q8_1 = 9: 32, 36, [(0, 2, 2)];
    Q2_K = 10: 256, 84, [(80, 2, 2)];
    Q3_K = 11: 256, 110, [(108, 2, 1)];
    Q4_K = 12: 256, 144, [(0, 2, 2)];
    Q5_K = 13: 256, 176, [(0, 2, 2)];
    Q6_K = 14: 256, 210, [(208, 2, 1)];
    Q8_K = 15: 256, 292, [(0, 4, 1), (260, 2, 16)];
    IQ2_XXS = 16: 256, 66, [(0, 2, 1), (2, 4, 16)];
    IQ2_XS = 17: 256, 74, [(0, 2, 33)];
    IQ3_XXS = 18: 256, 98, [(0, 2, 1), (66, 4, 8)];
    IQ1_S = 19: 256, 50, [(0, 2, 1), (34, 2, 8)];
    IQ4_NL = 20: 32, 18, [(0, 2, 1)];
    IQ3_S = 21: 256, 110, [(0, 2, 1)];
    IQ2_S = 22: 256, 82, [(0, 2, 1)];
    IQ4_XS = 23: 256, 136, [(0, 2, 2)];
    I8 = 24: 1, 1, [];
    I16 = 25: 1, 2, [(0, 2, 1)];
    I32 = 26: 1, 4, [(0, 4, 1)];
    I64 = 27: 1, 8, [(0, 8, 1)];
    F64 = 28: 1, 8, [(0, 8, 1)];
    IQ1_M = 29: 256, 56, [(48, 2, 4)];
    BF16 = 30: 1, 2, [(0, 2, 1)];
    Q4_0_4_4 = 31: 32, 18, [(0, 2, 1)];
    Q4_0_4_8 = 32: 32, 18, [(0, 2, 1)];
    Q4_0_8_8 = 33: 32, 18, [(0, 2, 1)];
    TQ1_0 = 34: 256, 54, [(52, 2, 1)];
    TQ2_0 = 35: 256, 66, [(64, 2, 1)];
    I2_S = 36: 4, 1, [];
    I8_S = 37: 1, 1, [];
    TL1 = 38: 4, 1, [];
    MXFP4 = 39: 32, 17, [];
    NVFP4 = 40: 64, 36, [];
    Q1_0 = 41: 128, 18, [(0, 2, 1)];
    Q2_0 = 42: 64, 18, [(0, 2, 1)];
    TL2 = 0xffff_0027: 1, 1, [];
}

pub use crate::format::packing::I2_S_TAIL;

/// Bytes of a matrix in TL2: five bits for three elements but for the last 256 of each row, which take four bits for two;
/// padded, and the tail after them (`ggml_nbytes` of bitnet.cpp).
fn tl2_bytes(shape: &[usize]) -> Option<u64> {
    let &[rows, cols] = shape else { return None };
    let threes = (cols as u64).checked_sub(256)?.checked_mul(rows as u64)?;
    let twos = (rows as u64).checked_mul(64)?;
    (threes / 3)
        .checked_mul(5)?
        .checked_div(8)?
        .checked_add(twos)?
        .checked_next_multiple_of(32)?
        .checked_add(I2_S_TAIL)
}

/// Evaluates `$run::<ELEMENTS, Block>` for the block type of `$ggml`, `$otherwise` for types that are not decoded.
macro_rules! with_block {
    ($ggml:expr, $run:ident, $otherwise:expr) => {
        match $ggml {
            GgmlType::Q4_0 => $run::<32, blocks::Q4_0>,
            GgmlType::Q4_1 => $run::<32, blocks::Q4_1>,
            GgmlType::Q5_0 => $run::<32, blocks::Q5_0>,
            GgmlType::Q5_1 => $run::<32, blocks::Q5_1>,
            GgmlType::Q8_0 => $run::<32, blocks::Q8_0>,
            GgmlType::Q8_1 => $run::<32, blocks::Q8_1>,
            GgmlType::Q2_K => $run::<256, blocks::Q2K>,
            GgmlType::Q3_K => $run::<256, blocks::Q3K>,
            GgmlType::Q4_K => $run::<256, blocks::Q4K>,
            GgmlType::Q5_K => $run::<256, blocks::Q5K>,
            GgmlType::Q6_K => $run::<256, blocks::Q6K>,
            GgmlType::Q8_K => $run::<256, blocks::Q8K>,
            GgmlType::TQ1_0 => $run::<256, blocks::Tq1_0>,
            GgmlType::TQ2_0 => $run::<256, blocks::Tq2_0>,
            GgmlType::IQ1_S => $run::<256, blocks::Iq1S>,
            GgmlType::IQ1_M => $run::<256, blocks::Iq1M>,
            GgmlType::IQ2_XXS => $run::<256, blocks::Iq2Xxs>,
            GgmlType::IQ2_XS => $run::<256, blocks::Iq2Xs>,
            GgmlType::IQ2_S => $run::<256, blocks::Iq2S>,
            GgmlType::IQ3_XXS => $run::<256, blocks::Iq3Xxs>,
            GgmlType::IQ3_S => $run::<256, blocks::Iq3S>,
            GgmlType::IQ4_NL => $run::<32, blocks::Iq4Nl>,
            GgmlType::IQ4_XS => $run::<256, blocks::Iq4Xs>,
            GgmlType::MXFP4 => $run::<32, blocks::Mxfp4>,
            GgmlType::NVFP4 => $run::<64, blocks::Nvfp4>,
            GgmlType::Q1_0 => $run::<128, blocks::Q1_0>,
            GgmlType::Q2_0 => $run::<64, blocks::Q2_0>,
            _ => $otherwise,
        }
    };
}

/// Decodes whole blocks; the remainder on either side is left unchanged.
fn decode_blocks<const N: usize, B: Block<N>>(bytes: &[u8], out: &mut [f32]) {
    let whole = bytes.len() / size_of::<B>() * size_of::<B>();
    let blocks: &[B] = bytemuck::cast_slice(&bytes[..whole]);
    blocks.iter().zip(out.as_chunks_mut::<N>().0).for_each(|(block, out)| block.decode(out));
}

type DecodeBlocks = fn(&[u8], &mut [f32]);

fn loss<const N: usize, B: Block<N>>() -> Option<Loss> {
    B::LOSS
}

impl GgmlType {
    /// GGML's own name, such as `Q4_K`; `unknown` for a number without a name.
    pub fn name(self) -> &'static str {
        facts(self).map_or(UNKNOWN, |f| f.name)
    }

    /// Whether the number is that of any type.
    pub fn is_known(self) -> bool {
        facts(self).is_some()
    }

    /// Elements per block; 1 for plain types and unknown ones.
    pub fn block_elements(self) -> usize {
        facts(self).map_or(1, |f| f.elements)
    }

    /// Bytes per block; `None` for an unknown type.
    pub fn block_bytes(self) -> Option<usize> {
        facts(self).map(|f| f.bytes)
    }

    /// Bytes of a contiguous tensor of `shape` (row-major, so the last dimension is GGML's first). `None` on overflow,
    /// for an unknown type, and where a row does not fill whole blocks.
    pub fn bytes_for(self, shape: &[usize]) -> Option<u64> {
        let facts = facts(self)?;
        let numel = numel(shape)?;
        if self == GgmlType::TL2 {
            return tl2_bytes(shape);
        }
        let packed_whole = matches!(self, GgmlType::I2_S | GgmlType::TL1);
        let run = if packed_whole { numel } else { shape.last().map_or(1, |&row| row as u64) };
        let elements = facts.elements as u64;
        if !run.is_multiple_of(elements) {
            return None;
        }
        let bytes = (numel / elements).checked_mul(facts.bytes as u64)?;
        bytes.checked_add(if packed_whole { I2_S_TAIL } else { 0 })
    }

    /// The type as a [`DType`]: plain types are their own, I2_S is a [`TernaryPacking`] (bitnet.cpp's x86
    /// layout, unless another one is known), the rest stay GGML's.
    pub fn dtype(self) -> DType {
        match self {
            GgmlType::F32 => DType::F32,
            GgmlType::F16 => DType::F16,
            GgmlType::BF16 => DType::BF16,
            GgmlType::F64 => DType::F64,
            GgmlType::I8 => DType::I8,
            GgmlType::I16 => DType::I16,
            GgmlType::I32 => DType::I32,
            GgmlType::I64 => DType::I64,
            GgmlType::I2_S => DType::Ternary(TernaryPacking::BitnetX86),
            block => DType::Ggml(block),
        }
    }

    /// Whether every value is -1, 0 or +1 times a scale.
    pub fn is_ternary(self) -> bool {
        matches!(self, GgmlType::TQ1_0 | GgmlType::TQ2_0 | GgmlType::I2_S | GgmlType::TL1 | GgmlType::TL2)
    }

    /// Whether [`GgmlType::decoder`] decodes its blocks.
    pub fn decodes(self) -> bool {
        self.decode_blocks().is_some()
    }

    /// How far its blocks may be from the values that they encode; `None` if they do not encode values, and for types
    /// that are not decoded.
    pub fn loss(self) -> Option<Loss> {
        let of_block: fn() -> Option<Loss> = with_block!(self, loss, return None);
        of_block()
    }

    fn decode_blocks(self) -> Option<DecodeBlocks> {
        Some(with_block!(self, decode_blocks, return None))
    }

    /// How a block of it is taken apart, given its bytes; `None` for types whose elements are not whole numbers with
    /// scales.
    pub fn splitter(self) -> Option<fn(&[u8], &mut Parts)> {
        use blocks::split;
        Some(match self {
            GgmlType::Q4_0 => split::<32, blocks::Q4_0>,
            GgmlType::Q4_1 => split::<32, blocks::Q4_1>,
            GgmlType::Q5_0 => split::<32, blocks::Q5_0>,
            GgmlType::Q5_1 => split::<32, blocks::Q5_1>,
            GgmlType::Q8_0 => split::<32, blocks::Q8_0>,
            GgmlType::Q2_K => split::<256, blocks::Q2K>,
            GgmlType::Q3_K => split::<256, blocks::Q3K>,
            GgmlType::Q4_K => split::<256, blocks::Q4K>,
            GgmlType::Q5_K => split::<256, blocks::Q5K>,
            GgmlType::Q6_K => split::<256, blocks::Q6K>,
            _ => return None,
        })
    }

    /// How its blocks are decoded.
    ///
    /// # Errors
    /// `Unsupported` for a type whose blocks are not.
    pub(crate) fn blocks(self) -> Result<Blocks> {
        let not_decoded = || {
            let why = match self {
                GgmlType::TL1 | GgmlType::TL2 => {
                    ": how its bytes are arranged follows from the kernels that bitnet.cpp was built with, which no file records"
                }
                _ => "",
            };
            Error::unsupported(format!("{self} blocks are listed but not decoded{why}"))
        };
        let (run, facts) = self.decode_blocks().zip(facts(self)).ok_or_else(not_decoded)?;
        let odd: fn(&[u8]) -> OddScales = with_block!(self, odd_scales, return Err(not_decoded()));
        Ok(Blocks { elements: facts.elements, size: facts.bytes, run, odd })
    }

    /// A decoder of the first `len` elements that `bytes` hold, little-endian and contiguous.
    ///
    /// # Errors
    /// `Unsupported` for a type whose blocks are not decoded; `Damaged` when `bytes` are too few, or `len` elements
    /// are not whole blocks.
    pub fn decoder(self, bytes: &[u8], len: usize) -> Result<Decoder<'_>> {
        let blocks = self.blocks()?;
        match blocks.bytes_for(len).and_then(|n| bytes.get(..n)) {
            Some(bytes) => Ok(Decoder { bytes, len, blocks }),
            None => {
                Err(Error::damaged(format!("{} bytes do not hold {len} elements of {self}", bytes.len())))
            }
        }
    }

    /// The codes -1, 0, +1 of TQ1_0 or TQ2_0 blocks, one for each of `out`.
    ///
    /// # Errors
    /// `Unsupported` for any other type; `Damaged` when `bytes` do not hold as many, or one is the fourth code of
    /// TQ2_0, which is not a ternary value.
    pub fn ternary_codes(self, bytes: &[u8], out: &mut [i8]) -> Result<()> {
        fn run<B: blocks::TernaryBlock>(bytes: &[u8], out: &mut [i8]) -> bool {
            let whole = bytes.len() / size_of::<B>() * size_of::<B>();
            let blocks: &[B] = bytemuck::cast_slice(&bytes[..whole]);
            let (chunks, rest) = out.as_chunks_mut();
            if blocks.len() < chunks.len() || !rest.is_empty() {
                return false;
            }
            blocks.iter().zip(chunks).for_each(|(block, out)| block.codes(out));
            true
        }
        let filled = match self {
            GgmlType::TQ1_0 => run::<blocks::Tq1_0>(bytes, out),
            GgmlType::TQ2_0 => run::<blocks::Tq2_0>(bytes, out),
            _ => return Err(Error::unsupported(format!("{self} has no ternary codes"))),
        };
        if !filled {
            return Err(Error::damaged(format!("{} bytes do not hold {} codes", bytes.len(), out.len())));
        }
        match out.iter().position(|&code| code > 1) {
            None => Ok(()),
            Some(at) => Err(code_3(at)),
        }
    }

    /// Refuses TQ2_0 blocks with the fourth code, of which GGML's decoders make twice the scale, and which no encoder
    /// writes. Other types have no code without a meaning.
    ///
    /// # Errors
    /// `Damaged`, with the first such element.
    pub fn check_codes(self, bytes: &[u8]) -> Result<()> {
        if self != GgmlType::TQ2_0 {
            return Ok(());
        }
        let blocks = bytes.chunks_exact(size_of::<blocks::Tq2_0>());
        let threes =
            |block: &[u8]| block[..64].iter().fold(0, |found, &q| found | (q & (q >> 1) & 0x55)) != 0;
        let Some((nth, block)) = blocks.enumerate().find(|(_, block)| threes(block)) else { return Ok(()) };
        let mut codes = [0; 256];
        self.ternary_codes(block, &mut codes)
            .map_err(|_| code_3(256 * nth + codes.iter().position(|&code| code > 1).unwrap_or(0)))
    }

    /// Turns blocks as a big-endian machine writes them into little-endian ones: scales and other words are reversed,
    /// packed bytes stay. Where gguf-py converts a type, this is its convention; for the others a word is what GGML
    /// reads in the machine's own order.
    pub fn to_little_endian(self, bytes: &mut [u8]) {
        let Some(facts) = facts(self).filter(|f| !f.words.is_empty()) else { return };
        for block in bytes.chunks_exact_mut(facts.bytes) {
            for &(offset, width, count) in facts.words {
                block[offset..offset + width * count].chunks_exact_mut(width).for_each(<[u8]>::reverse);
            }
        }
    }
}

fn code_3(at: usize) -> Error {
    Error::damaged(format!(
        "element {at} is the code 3, which is not a ternary value (codes are 0, 1 and 2 for -1, 0 and +1)"
    ))
    .because(DamageKind::UnknownCode)
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_known() { f.pad(self.name()) } else { write!(f, "type {}", self.0) }
    }
}

/// How blocks of one type are decoded.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    /// Elements of a block.
    pub elements: usize,
    /// Bytes of a block.
    size: usize,
    run: DecodeBlocks,
    odd: fn(&[u8]) -> OddScales,
}

impl Blocks {
    /// Bytes of `len` elements; `None` on overflow and if they do not fill whole blocks.
    pub fn bytes_for(self, len: usize) -> Option<usize> {
        len.is_multiple_of(self.elements).then(|| (len / self.elements).checked_mul(self.size))?
    }

    /// How many of the blocks in `range` have scales that no encoder writes.
    ///
    /// # Panics
    /// When they are not all within `bytes`.
    pub fn odd_scales(self, bytes: &[u8], range: Range<usize>) -> OddScales {
        (self.odd)(&bytes[range.start * self.size..range.end * self.size])
    }

    /// Fills `out` with the elements from `start`, times `scale`. Whole blocks are written in place.
    ///
    /// # Panics
    /// When they are not all within `bytes`.
    pub fn read(self, bytes: &[u8], start: usize, out: &mut [f32], scale: f32) {
        let (mut at, mut left) = (start, &mut *out);
        while !left.is_empty() {
            let (block, within) = (at / self.elements, at % self.elements);
            let bytes = &bytes[block * self.size..];
            let n = if within == 0 && left.len() >= self.elements {
                let n = left.len() / self.elements * self.elements;
                (self.run)(&bytes[..n / self.elements * self.size], &mut left[..n]);
                n
            } else {
                let n = left.len().min(self.elements - within);
                let mut whole = [0.0; blocks::LARGEST];
                (self.run)(&bytes[..self.size], &mut whole[..self.elements]);
                left[..n].copy_from_slice(&whole[within..within + n]);
                n
            };
            at += n;
            left = &mut left[n..];
        }
        if scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

/// Decodes the elements of a block-quantized tensor to f32.
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    bytes: &'a [u8],
    len: usize,
    blocks: Blocks,
}

impl Decoder<'_> {
    /// Fills `out` with the elements from `start`. Whole blocks are written in place.
    ///
    /// # Panics
    /// When `start + out.len()` is more than the decoder's elements.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        assert!(out.len() <= self.len && start <= self.len - out.len(), "elements out of range");
        self.blocks.read(self.bytes, start, out, 1.0);
    }
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<const N: usize, B: Block<N>>() -> (usize, usize) {
        (N, size_of::<B>())
    }

    #[test]
    fn blocks_have_the_sizes_of_the_table() {
        for number in 0..64 {
            let ggml = GgmlType(number);
            let of_block: fn() -> (usize, usize) = with_block!(ggml, size, continue);
            assert_eq!(of_block(), (ggml.block_elements(), ggml.block_bytes().unwrap()), "{ggml}");
        }
    }

    #[test]
    fn words_lie_within_their_block_and_apart() {
        for number in 0..64 {
            let Some(facts) = facts(GgmlType(number)) else { continue };
            let mut end = 0;
            for &(offset, width, count) in facts.words {
                assert!(offset >= end, "{}", facts.name);
                end = offset + width * count;
            }
            assert!(end <= facts.bytes, "{}", facts.name);
        }
    }
}
