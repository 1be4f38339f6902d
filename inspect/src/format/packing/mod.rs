//! The layouts of 2-bit ternary weights with one scale a matrix, a file each: what it is, the bytes it takes, its decoder
//! and its encoder. In all of them a code is value + 1, so a zero byte is four times -1, and code 3 stands for nothing.

mod hf_bitnet;
mod i2_s;
mod i2s;

pub use i2_s::{I2_S_BLOCK, I2_S_TAIL, X86Block, tail};

use crate::tensor::numel;
use crate::{DamageKind, Error, Result};

/// Fills a slice with the codes of consecutive values of a matrix, row-major, from an index on.
pub type ReadCodes<'a> = dyn FnMut(usize, &mut [i8]) + 'a;

/// One layout.
trait Layout {
    /// Bytes of a matrix of `shape`; `None` on overflow and for shapes that the layout does not hold.
    fn bytes_for(shape: &[usize]) -> Option<u64>;

    /// Decodes values `start..start + out.len()`.
    fn decode(packed: &[u8], shape: &[usize], start: usize, out: &mut [i8]);

    /// Makes bytes `start..start + out.len()`.
    fn encode(shape: &[usize], start: usize, out: &mut [u8], codes: &mut ReadCodes<'_>);

    /// The shape of the tensor of bytes that holds a matrix of `shape`, outside of GGUF.
    fn stored(shape: &[usize]) -> Option<Vec<usize>> {
        Some(vec![usize::try_from(Self::bytes_for(shape)?).ok()?])
    }

    /// Whether the number of rows can be told from the packed shape.
    fn tells_rows(_shape: &[usize]) -> bool {
        true
    }
}

macro_rules! packings {
    ($($(#[$doc:meta])* $packing:ident = $name:literal: $layout:ty;)*) => {
        /// The layouts of 2-bit ternary weights with one scale a matrix. In all of them a code is value + 1, and code 3
        /// stands for nothing. The last three are the I2_S type of bitnet.cpp's GGUF files, which do not say which one
        /// they hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum TernaryPacking {
            $($(#[$doc])* $packing,)*
        }

        impl TernaryPacking {
            /// All of them.
            pub const ALL: &[TernaryPacking] = &[$(TernaryPacking::$packing),*];

            /// The name that this suite gives it.
            pub fn name(self) -> &'static str {
                match self {
                    $(TernaryPacking::$packing => $name,)*
                }
            }

            /// Bytes of a matrix of `shape`; `None` on overflow and for shapes that the layout does not hold.
            pub fn bytes_for(self, shape: &[usize]) -> Option<u64> {
                match self {
                    $(TernaryPacking::$packing => <$layout>::bytes_for(shape),)*
                }
            }

            /// The shape of the tensor of bytes that holds a matrix of `shape`, outside of GGUF; `None` as for
            /// [`TernaryPacking::bytes_for`].
            pub fn stored(self, shape: &[usize]) -> Option<Vec<usize>> {
                match self {
                    $(TernaryPacking::$packing => <$layout>::stored(shape),)*
                }
            }

            /// Whether a reader can tell the number of rows of `shape` from the packed shape.
            pub fn tells_rows(self, shape: &[usize]) -> bool {
                match self {
                    $(TernaryPacking::$packing => <$layout>::tells_rows(shape),)*
                }
            }

            /// Decodes values `start..start + out.len()` (row-major over `shape`) of a packed matrix to -1, 0, +1. Code
            /// 3, which [`check_codes`] refuses, decodes to 2.
            ///
            /// # Panics
            /// When the values are not all within `packed`.
            pub fn decode(self, packed: &[u8], shape: &[usize], start: usize, out: &mut [i8]) {
                match self {
                    $(TernaryPacking::$packing => <$layout>::decode(packed, shape, start, out),)*
                }
            }

            /// Makes packed bytes `start..start + out.len()` of a matrix whose codes `codes` reads. For callers to
            /// compile for the processor's vectors.
            ///
            /// # Panics
            /// When the bytes are not all within the matrix.
            #[inline(always)]
            pub fn encode(self, shape: &[usize], start: usize, out: &mut [u8], codes: &mut ReadCodes<'_>) {
                match self {
                    $(TernaryPacking::$packing => <$layout>::encode(shape, start, out, codes),)*
                }
            }
        }
    };
}

packings! {
    /// Row-major, first value in bits 7-6, tail padded with code 1; `L_shape` and `L_scale` stand beside it.
    I2s = "i2s": i2s::RowMajor;
    /// The bits of [`TernaryPacking::I2s`] in SafeTensors, shape in a `__metadata__` tensor, scale lost.
    I2sUnscaled = "i2s_unscaled": i2s::RowMajor;
    /// Hugging Face BitNet: row r at packed row r % P, bits 2 * (r / P), with P = ceil(rows / 4).
    HfBitnet = "hf_bitnet": hf_bitnet::Quarters;
    /// I2_S of x86 builds: per 128 values 32 bytes, byte i holding values i, 32 + i, 64 + i, 96 + i in bits 7-6, 5-4,
    /// 3-2, 1-0.
    BitnetX86 = "i2_s": i2_s::Lanes<32>;
    /// I2_S of ARM builds: per 64 values 16 bytes, byte i holding values i, 16 + i, 32 + i, 48 + i.
    BitnetArm = "i2_s_arm": i2_s::Lanes<16>;
    /// I2_S of x86 builds that multiply four rows at a time: byte c of row group g holds column c of rows 4g to
    /// 4g + 3, the first in bits 7-6.
    BitnetRows = "i2_s_rows": i2_s::FourRows;
}

/// Refuses packed bytes with the code 3, which no packer writes.
///
/// # Errors
/// `Damaged`, with the first such byte.
pub fn check_codes(packed: &[u8]) -> Result<()> {
    let code_3_bits = |byte: u8| byte & (byte >> 1) & 0x55;
    if packed.iter().fold(0, |found, &byte| found | code_3_bits(byte)) == 0 {
        return Ok(());
    }
    let at = packed.iter().position(|&byte| code_3_bits(byte) != 0).unwrap_or(0);
    Err(Error::damaged(format!("byte {at} of its packed values has the code 3, which stands for nothing"))
        .because(DamageKind::UnknownCode))
}

/// The value of the two bits at `shift`.
#[inline(always)]
fn value(byte: u8, shift: usize) -> i8 {
    ((byte >> shift) & 3) as i8 - 1
}

/// Decodes values of one row of codes, which lie at the same bits of consecutive bytes.
#[inline(always)]
fn decode_run(bytes: &[u8], shift: usize, out: &mut [i8]) {
    out.iter_mut().zip(bytes).for_each(|(out, &byte)| *out = value(byte, shift));
}

/// The bits of a value.
#[inline(always)]
fn bits(code: i8) -> u8 {
    (code + 1) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sizes that every layout has room for, beside such as only some have.
    fn shapes() -> impl Strategy<Value = Vec<usize>> {
        let rows = prop::sample::select(vec![1usize, 2, 3, 4, 5, 7, 8, 12]);
        let cols = prop::sample::select(vec![1usize, 3, 5, 16, 64, 96, 128, 192, 256]);
        (rows, cols).prop_map(|(rows, cols)| vec![rows, cols])
    }

    fn encoded(packing: TernaryPacking, shape: &[usize], codes: &[i8], cuts: &[usize]) -> Vec<u8> {
        let mut packed = vec![0xaa; packing.bytes_for(shape).unwrap() as usize];
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (packed.len() + 1)).collect();
        ends.push(packed.len());
        ends.sort_unstable();
        let mut start = 0;
        for end in ends {
            packing.encode(shape, start, &mut packed[start..end], &mut |at, out| {
                out.copy_from_slice(&codes[at..at + out.len()]);
            });
            start = end;
        }
        packed
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_encoded_decodes_to_the_same_codes_and_the_same_bytes(
            shape in shapes(),
            noise in prop::collection::vec(-1i8..=1, 12 * 256),
            cuts in prop::collection::vec(any::<usize>(), 0..4),
            split in any::<usize>(),
        ) {
            let numel: usize = shape.iter().product();
            let codes = &noise[..numel];
            for &packing in TernaryPacking::ALL {
                if packing.bytes_for(&shape).is_none() {
                    continue;
                }
                let packed = encoded(packing, &shape, codes, &[]);
                prop_assert_eq!(check_codes(&packed).map_err(|e| e.what), Ok(()));
                prop_assert_eq!(&encoded(packing, &shape, codes, &cuts), &packed, "{}", packing.name());
                let mut back = vec![7; numel];
                let (first, second) = back.split_at_mut(split % (numel + 1));
                packing.decode(&packed, &shape, 0, first);
                packing.decode(&packed, &shape, first.len(), second);
                prop_assert_eq!(&back, codes, "{}", packing.name());
                prop_assert_eq!(encoded(packing, &shape, &back, &[]), packed, "{}", packing.name());
            }
        }
    }

    #[test]
    fn a_block_is_what_the_layout_makes_of_its_codes() {
        use crate::ggml::blocks::Pack;
        let codes: Vec<i8> = (0..I2_S_BLOCK).map(|i| (i * 7 / 3 % 3) as i8 - 1).collect();
        let block = X86Block::pack(&std::array::from_fn(|i| bits(codes[i])), 1.0);
        let packed = encoded(TernaryPacking::BitnetX86, &[1, I2_S_BLOCK], &codes, &[]);
        assert_eq!(bytemuck::bytes_of(&block), packed);
    }

    #[test]
    fn names_differ_and_sizes_are_refused_that_a_layout_does_not_hold() {
        let names: std::collections::HashSet<_> = TernaryPacking::ALL.iter().map(|p| p.name()).collect();
        assert_eq!(names.len(), TernaryPacking::ALL.len());
        assert_eq!(TernaryPacking::BitnetX86.bytes_for(&[1, 64]), None);
        assert_eq!(TernaryPacking::BitnetArm.bytes_for(&[1, 64]), Some(16));
        assert_eq!(TernaryPacking::BitnetRows.bytes_for(&[3, 64]), None);
        assert_eq!(TernaryPacking::HfBitnet.bytes_for(&[5, 2]), Some(4));
        assert_eq!(TernaryPacking::HfBitnet.bytes_for(&[8]), None);
        assert_eq!(TernaryPacking::I2s.bytes_for(&[usize::MAX, usize::MAX]), None);
        assert!(
            !TernaryPacking::HfBitnet.tells_rows(&[5, 2]) && TernaryPacking::HfBitnet.tells_rows(&[8, 2])
        );
    }
}
