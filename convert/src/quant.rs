//! GGML's tensor types, for writing. The blocks' bytes, decoders and encoders are in
//! [`ckpt_inspect::ggml::blocks`]; their bytes are those of llama.cpp and of `gguf.quants`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ckpt_inspect::DType;
use ckpt_inspect::ggml::GgmlType;
pub use ckpt_inspect::ggml::blocks::Codes;
use ckpt_inspect::ggml::blocks::round::largest;
use ckpt_inspect::ggml::blocks::{
    Encode, Pack, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Tq1_0, Tq2_0,
    encode as encode_blocks, encode_ternary,
};
pub use ckpt_inspect::packing::tail as i2_s_tail;
use ckpt_inspect::packing::{I2_S_BLOCK, X86Block};

use crate::encode::Losses;
use crate::simd::with_avx2;
use crate::{Error, Result};

/// A row of the table of types.
struct Row {
    quant: Quant,
    /// Name on the command line.
    name: &'static str,
    /// Type in the file.
    ggml: GgmlType,
    /// `general.file_type` of files that are mostly of it.
    file_type: Option<u32>,
    encoder: Encoder,
}

/// The encoder of a type's blocks. `f32` to `bf16` have none, nor do types whose blocks are only copied from files that have
/// them.
type Encoder = Option<fn(Codes, &[f32], &mut [u8])>;

macro_rules! quants {
    ($($(#[$doc:meta])* $quant:ident = $name:literal: $ggml:ident, $file_type:expr, $encoder:expr;)*) => {
        /// Types of GGUF tensors that are written.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // GGML's own names
        #[non_exhaustive]
        pub enum Quant {
            $($(#[$doc])* $quant,)*
        }

        static TABLE: [Row; [$($name),*].len()] = [$(Row {
            quant: Quant::$quant,
            name: $name,
            ggml: GgmlType::$ggml,
            file_type: $file_type,
            encoder: $encoder,
        }),*];
    };
}

// A type, its name on the command line, its number in GGML, the number of `general.file_type` for files that are mostly
// of it (`llama_ftype` in llama.h; bitnet.cpp has 40 for I2_S, which llama.cpp uses for another type), and its encoder.
quants! {
    F32 = "f32": F32, Some(0), None;
    F16 = "f16": F16, Some(1), None;
    BF16 = "bf16": BF16, Some(32), None;
    Q8_0 = "q8_0": Q8_0, Some(7), Some(|_, values, out| blocks::<32, Q8_0>(values, out));
    Q4_0 = "q4_0": Q4_0, Some(2), Some(|_, values, out| blocks::<32, Q4_0>(values, out));
    Q4_1 = "q4_1": Q4_1, Some(3), Some(|_, values, out| blocks::<32, Q4_1>(values, out));
    Q5_0 = "q5_0": Q5_0, Some(8), Some(|_, values, out| blocks::<32, Q5_0>(values, out));
    Q5_1 = "q5_1": Q5_1, Some(9), Some(|_, values, out| blocks::<32, Q5_1>(values, out));
    Q2K = "q2_k": Q2_K, Some(10), Some(|_, values, out| blocks::<256, Q2K>(values, out));
    Q3K = "q3_k": Q3_K, Some(11), Some(|_, values, out| blocks::<256, Q3K>(values, out));
    Q4K = "q4_k": Q4_K, Some(14), Some(|_, values, out| blocks::<256, Q4K>(values, out));
    Q5K = "q5_k": Q5_K, Some(16), Some(|_, values, out| blocks::<256, Q5K>(values, out));
    Q6K = "q6_k": Q6_K, Some(18), Some(|_, values, out| blocks::<256, Q6K>(values, out));
    Tq1_0 = "tq1_0": TQ1_0, Some(36), Some(ternary_blocks::<256, Tq1_0>);
    Tq2_0 = "tq2_0": TQ2_0, Some(37), Some(ternary_blocks::<256, Tq2_0>);
    /// The type of bitnet.cpp, in the layout of its x86 builds.
    I2S = "i2_s": I2_S, None, Some(ternary_blocks::<I2_S_BLOCK, X86Block>);
    Q8_1 = "q8_1": Q8_1, None, None;
    Q8K = "q8_k": Q8_K, None, None;
    Iq1S = "iq1_s": IQ1_S, Some(24), None;
    Iq1M = "iq1_m": IQ1_M, Some(31), None;
    Iq2Xxs = "iq2_xxs": IQ2_XXS, Some(19), None;
    Iq2Xs = "iq2_xs": IQ2_XS, Some(20), None;
    Iq2S = "iq2_s": IQ2_S, Some(28), None;
    Iq3Xxs = "iq3_xxs": IQ3_XXS, Some(23), None;
    Iq3S = "iq3_s": IQ3_S, Some(26), None;
    Iq4Nl = "iq4_nl": IQ4_NL, Some(25), None;
    Iq4Xs = "iq4_xs": IQ4_XS, Some(30), None;
    Mxfp4 = "mxfp4": MXFP4, Some(38), None;
    Nvfp4 = "nvfp4": NVFP4, Some(39), None;
    Q1_0 = "q1_0": Q1_0, Some(40), None;
    Q2_0 = "q2_0": Q2_0, Some(41), None;
}

impl Quant {
    /// All that values can be written as.
    pub fn all() -> impl Iterator<Item = Quant> {
        Quant::every().filter(|quant| quant.is_made())
    }

    /// All of them.
    pub(crate) fn every() -> impl Iterator<Item = Quant> {
        TABLE.iter().map(|row| row.quant)
    }

    /// Whether values can be written as it. Blocks of other types are copied from files that have them.
    pub fn is_made(self) -> bool {
        !self.is_packed() || self.row().encoder.is_some()
    }

    fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.quant == self).expect("every type is in the table")
    }

    /// Its name on the command line, such as `tq2_0`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Its type in the file.
    pub fn ggml(self) -> GgmlType {
        self.row().ggml
    }

    /// The value of `general.file_type` for a file that is mostly of this type; `None` if llama.cpp has none.
    pub fn file_type(self) -> Option<u32> {
        self.row().file_type
    }

    /// The element type of a tensor of it.
    pub fn dtype(self) -> DType {
        self.ggml().dtype()
    }

    /// The type whose tensors have this element type.
    pub fn of(dtype: DType) -> Option<Quant> {
        Quant::every().find(|q| q.dtype() == dtype)
    }

    /// Elements that a row must be a multiple of.
    pub fn block(self) -> usize {
        match self {
            Quant::I2S => I2_S_BLOCK,
            other => other.ggml().block_elements(),
        }
    }

    /// Whether it can only hold -1, 0 and +1 times a scale.
    pub fn is_ternary(self) -> bool {
        self.ggml().is_ternary()
    }

    /// Whether it is stored in blocks, which [`encode`] makes.
    pub fn is_packed(self) -> bool {
        self.dtype().element_size().is_none()
    }

    /// Whether rows of `shape` fill whole blocks.
    pub fn fits(self, shape: &[usize]) -> bool {
        shape.last().is_none_or(|row| row.is_multiple_of(self.block()))
    }

    /// The type of a tensor whose rows do not fill its blocks: one of like size in blocks of 32 elements, as llama.cpp
    /// chooses them (`tensor_type_fallback`), else f16. Ternary values go where -1, 0 and +1 times a scale are all exact.
    pub fn fallback(self, shape: &[usize]) -> Quant {
        let smaller = match self {
            Quant::Q2K | Quant::Q3K => Quant::Q4_0,
            Quant::Q4K => Quant::Q5_0,
            Quant::Q5K => Quant::Q5_1,
            Quant::Q6K | Quant::Tq1_0 | Quant::Tq2_0 | Quant::I2S => Quant::Q8_0,
            _ => Quant::F16,
        };
        if smaller.fits(shape) { smaller } else { Quant::F16 }
    }

    /// Bytes of a block's worth of elements, [`Quant::block`] of them.
    pub fn block_bytes(self) -> usize {
        match self {
            Quant::I2S => I2_S_BLOCK / 4,
            other => other.ggml().block_bytes().unwrap_or(1),
        }
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Quant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        match Quant::every().find(|q| q.name() == lower) {
            Some(quant) if quant.is_made() => Ok(quant),
            Some(quant) => Err(not_made(quant.name())),
            None => {
                let names: Vec<&str> = Quant::all().map(Quant::name).collect();
                Err(format!("`{}` is not one of {}", text.escape_debug(), names.join(", ")))
            }
        }
    }
}

/// Why a type cannot be chosen.
fn not_made(name: &str) -> String {
    format!("`{name}` can only be copied from a GGUF file, not made from other values")
}

/// Appends the blocks of `values`, which fill whole ones. Types without blocks, and those that are only copied, are not
/// encoded here.
///
/// Values must be finite in the ternary types; in other types a NaN or infinity spoils its block, as it does in
/// llama.cpp.
///
/// # Errors
/// `Target` for types that are not encoded and for a count of values that is not a whole number of blocks.
pub fn encode(quant: Quant, codes: Codes, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    let encoder = quant.row().encoder.filter(|_| values.len().is_multiple_of(quant.block()));
    let Some(encode) = encoder else {
        return Err(Error::target(format!("{} values do not fill whole blocks of {quant}", values.len())));
    };
    let start = out.len();
    out.resize(start + values.len() / quant.block() * quant.block_bytes(), 0);
    encode(codes, values, &mut out[start..]);
    Ok(())
}

/// Values lost to the f16 scale and minimum of their block: too small for it, so that the block is all zeros, or too
/// large.
pub(crate) fn losses(quant: Quant, values: &[f32], blocks: &[u8]) -> Result<Losses> {
    // Between these any scale is representable.
    const SAFE: RangeInclusive<f32> = 1.0 / 1024.0..=1024.0;
    let nonzero = |values: &[f32]| values.iter().filter(|x| **x != 0.0).count() as u64;
    let mut back = vec![0.0; quant.block()];
    let mut losses = Losses::default();
    for (values, block) in values.chunks(quant.block()).zip(blocks.chunks(quant.block_bytes())) {
        let largest = magnitude(values);
        if largest == 0.0 || SAFE.contains(&largest) {
            continue;
        }
        quant.ggml().decoder(block, values.len())?.read(0, &mut back);
        if nonzero(&back) == 0 {
            losses.flushed += nonzero(values);
        }
        let overflowed = values.iter().zip(&back).filter(|(x, y)| x.is_finite() && !y.is_finite());
        losses.overflowed += overflowed.count() as u64;
    }
    Ok(losses)
}

with_avx2!(magnitude(values: &[f32]) -> f32 = largest);
with_avx2!(blocks<const N: usize, B: Encode<N>>(values: &[f32], out: &mut [u8]) = encode_blocks);
with_avx2!(ternary_blocks<const N: usize, B: Pack<N>>(codes: Codes, values: &[f32], out: &mut [u8]) = encode_ternary);

#[cfg(test)]
mod tests {
    use ckpt_inspect::TernaryPacking;
    use half::f16;

    use super::*;

    #[test]
    fn names_and_numbers_are_distinguished() {
        for quant in Quant::every() {
            let parsed = if quant.is_made() { Ok(quant) } else { Err(not_made(quant.name())) };
            assert_eq!(quant.name().parse(), parsed);
            assert_eq!(Quant::of(quant.dtype()), Some(quant));
            assert_eq!(quant.ggml().name().to_lowercase(), quant.name());
        }
        // Whatever is decoded can be kept.
        let decoded = (0..100).map(GgmlType).filter(|ggml| ggml.decodes());
        decoded.for_each(|ggml| assert!(Quant::of(ggml.dtype()).is_some(), "{ggml}"));
        assert_eq!("TQ2_0".parse(), Ok(Quant::Tq2_0));
        assert!("q9".parse::<Quant>().unwrap_err().contains("tq1_0"));
        assert_eq!(Quant::I2S.dtype(), DType::Ternary(TernaryPacking::BitnetX86));
    }

    /// Both compilations of the kernels give the same bytes.
    #[test]
    fn versions_agree() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.1
        };
        let mut values: Vec<f32> = (0..256 * 64).map(|_| random()).collect();
        values[..256].fill(0.0);
        values[256..512].fill(-0.25);
        let mut outs = [vec![0; 2 * values.len()], vec![0; 2 * values.len()]];
        macro_rules! agree {
            ($run:ident, $portable:ident, $n:literal, $block:ty $(, $codes:expr)?) => {
                let len = values.len() / $n * size_of::<$block>();
                $run::<$n, $block>($($codes,)? &values, &mut outs[0][..len]);
                $portable::<$n, $block>($($codes,)? &values, &mut outs[1][..len]);
                assert_eq!(outs[0][..len], outs[1][..len], stringify!($block));
            };
        }
        agree!(blocks, encode_blocks, 32, Q8_0);
        agree!(blocks, encode_blocks, 32, Q4_0);
        agree!(blocks, encode_blocks, 32, Q4_1);
        agree!(blocks, encode_blocks, 32, Q5_0);
        agree!(blocks, encode_blocks, 32, Q5_1);
        agree!(blocks, encode_blocks, 256, Q2K);
        agree!(blocks, encode_blocks, 256, Q3K);
        agree!(blocks, encode_blocks, 256, Q4K);
        agree!(blocks, encode_blocks, 256, Q5K);
        agree!(blocks, encode_blocks, 256, Q6K);
        for rule in [Codes::ByBlock, Codes::Whole { line: 0.03, scale: 0.06 }] {
            agree!(ternary_blocks, encode_ternary, 256, Tq1_0, rule);
            agree!(ternary_blocks, encode_ternary, 256, Tq2_0, rule);
            agree!(ternary_blocks, encode_ternary, 128, X86Block, rule);
        }
    }

    #[test]
    fn a_whole_matrix_shares_one_scale() {
        let mut values = vec![0.0f32; 512];
        (values[3], values[4], values[5]) = (0.5, -0.500_001, 0.3);
        let mut out = Vec::new();
        encode(Quant::Tq2_0, Codes::Whole { line: 0.5, scale: 1.0 }, &values, &mut out).unwrap();
        let mut codes = vec![0; 512];
        GgmlType::TQ2_0.ternary_codes(&out, &mut codes).unwrap();
        assert_eq!((codes[3], codes[4], codes[5]), (0, -1, 0));
        assert_eq!((&out[64..66], &out[130..132]), (&f16::ONE.to_le_bytes()[..], &[0, 0][..]));
        assert!(encode(Quant::Tq2_0, Codes::ByBlock, &values[..100], &mut out).is_err());
        assert!(encode(Quant::F32, Codes::ByBlock, &values, &mut out).is_err());
    }
}
