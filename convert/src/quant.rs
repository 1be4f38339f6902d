//! GGML's tensor types as they are written. The blocks' bytes are described at [`ckpt_inspect::ggml::blocks`], each
//! beside its decoder; here are the encoders.
//!
//! Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, TQ1_0 and TQ2_0 follow `ggml-quants.c` operation by operation in f32, so the bytes are
//! those of llama.cpp and of `gguf.quants`. The K types are candle's, whose search for scales is its own: their bytes
//! differ from llama.cpp's and mean nearly the same.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use bytemuck::Pod;
use ckpt_inspect::DType;
use ckpt_inspect::ggml::blocks::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Tq1_0, Tq2_0};
use ckpt_inspect::ggml::{GgmlType, I2_S_TAIL};
use half::f16;

use crate::encode::Losses;
use crate::simd::with_avx2;
use crate::{Error, Result};

/// Types of GGUF tensors that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // GGML's own names
pub enum Quant {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Tq1_0,
    Tq2_0,
    /// bitnet.cpp's, in the layout of its x86 builds.
    I2S,
}

/// A type beside its name on the command line, its number in GGML, and the number of `general.file_type` for files that
/// are mostly of it (`llama_ftype` in llama.h; bitnet.cpp has 40 for I2_S, which llama.cpp uses for another type).
const TABLE: [(Quant, &str, GgmlType, Option<u32>); 16] = [
    (Quant::F32, "f32", GgmlType::F32, Some(0)),
    (Quant::F16, "f16", GgmlType::F16, Some(1)),
    (Quant::BF16, "bf16", GgmlType::BF16, Some(32)),
    (Quant::Q8_0, "q8_0", GgmlType::Q8_0, Some(7)),
    (Quant::Q4_0, "q4_0", GgmlType::Q4_0, Some(2)),
    (Quant::Q4_1, "q4_1", GgmlType::Q4_1, Some(3)),
    (Quant::Q5_0, "q5_0", GgmlType::Q5_0, Some(8)),
    (Quant::Q5_1, "q5_1", GgmlType::Q5_1, Some(9)),
    (Quant::Q2K, "q2_k", GgmlType::Q2_K, Some(10)),
    (Quant::Q3K, "q3_k", GgmlType::Q3_K, Some(11)),
    (Quant::Q4K, "q4_k", GgmlType::Q4_K, Some(14)),
    (Quant::Q5K, "q5_k", GgmlType::Q5_K, Some(16)),
    (Quant::Q6K, "q6_k", GgmlType::Q6_K, Some(18)),
    (Quant::Tq1_0, "tq1_0", GgmlType::TQ1_0, Some(36)),
    (Quant::Tq2_0, "tq2_0", GgmlType::TQ2_0, Some(37)),
    (Quant::I2S, "i2_s", GgmlType::I2_S, None),
];

impl Quant {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Quant> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Quant, &'static str, GgmlType, Option<u32>) {
        TABLE.iter().find(|row| row.0 == self).expect("every type is in the table")
    }

    /// Its name on the command line, such as `tq2_0`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Its type in the file.
    pub fn ggml(self) -> GgmlType {
        self.row().2
    }

    /// The value of `general.file_type` for a file that is mostly of this type; `None` where llama.cpp has none.
    pub fn file_type(self) -> Option<u32> {
        self.row().3
    }

    /// The element type of a tensor of it.
    pub fn dtype(self) -> DType {
        self.ggml().dtype()
    }

    /// The type whose tensors have this element type.
    pub fn of(dtype: DType) -> Option<Quant> {
        Quant::all().find(|q| q.dtype() == dtype)
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

    /// Whether it is a type of blocks, whose encoder is [`encode`].
    pub fn is_packed(self) -> bool {
        self.dtype().element_size().is_none()
    }

    /// Whether this build makes tensors of it: the K types need the feature `k-quants`.
    pub fn is_made(self) -> bool {
        use Quant::*;
        cfg!(feature = "k-quants") || !matches!(self, Q2K | Q3K | Q4K | Q5K | Q6K)
    }

    /// Why a build that does not make it refuses it.
    pub(crate) fn not_made(self) -> Error {
        Error::Target(format!(
            "{self} blocks are not made by this build, which is without its feature k-quants; q4_0 to q8_0 are"
        ))
    }

    /// Whether rows of `shape` fill whole blocks.
    pub fn fits(self, shape: &[usize]) -> bool {
        shape.last().is_none_or(|row| row.is_multiple_of(self.block()))
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
        Quant::all().find(|q| q.name() == lower).ok_or_else(|| {
            let names: Vec<&str> = Quant::all().map(Quant::name).collect();
            format!("`{}` is none of {}", text.escape_debug(), names.join(", "))
        })
    }
}

/// What makes a value's code in the ternary types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Codes {
    /// Each block by itself, as llama.cpp does: its largest magnitude is the scale, and half of it rounds away from
    /// zero.
    ByBlock,
    /// By one scale for the whole matrix: the code is the sign of what is larger in magnitude than `line`, else 0.
    Whole {
        /// The largest magnitude whose code is 0.
        line: f32,
        /// What codes are multiplied by. A block without a nonzero code has the scale 0, as llama.cpp gives it.
        scale: f32,
    },
}

/// Appends the blocks of `values`, whole ones. Types that are not packed are not encoded here.
///
/// Values must be finite in the ternary types; elsewhere a NaN or infinity spoils its block, as it does in llama.cpp.
///
/// # Errors
/// `Target` for types without blocks and for a count of values that is not a whole number of blocks.
pub fn encode(quant: Quant, codes: Codes, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    if !quant.is_packed() || !values.len().is_multiple_of(quant.block()) {
        return Err(Error::Target(format!("{} values are no whole blocks of {quant}", values.len())));
    }
    let start = out.len();
    out.resize(start + values.len() / quant.block() * quant.block_bytes(), 0);
    let place = &mut out[start..];
    match quant {
        Quant::Q8_0 => blocks::<32, Q8_0>(values, place),
        Quant::Q4_0 => blocks::<32, Q4_0>(values, place),
        Quant::Q4_1 => blocks::<32, Q4_1>(values, place),
        Quant::Q5_0 => blocks::<32, Q5_0>(values, place),
        Quant::Q5_1 => blocks::<32, Q5_1>(values, place),
        Quant::Tq1_0 => ternary_blocks::<256, Tq1_0>(codes, values, place),
        Quant::Tq2_0 => ternary_blocks::<256, Tq2_0>(codes, values, place),
        Quant::I2S => ternary_blocks::<I2_S_BLOCK, I2sBlock>(codes, values, place),
        _ => place.copy_from_slice(&k_blocks(quant, values)?),
    }
    Ok(())
}

/// Values lost to the f16 scale and minimum of their block: too small for it, so that the block says nothing but zeros,
/// or too large.
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

/// What follows the packed values of an I2_S tensor.
pub fn i2_s_tail(scale: f32) -> [u8; I2_S_TAIL as usize] {
    let mut tail = [0; I2_S_TAIL as usize];
    tail[..4].copy_from_slice(&scale.to_le_bytes());
    tail
}

#[cfg(feature = "k-quants")]
fn k_blocks(quant: Quant, values: &[f32]) -> Result<Vec<u8>> {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    let dtype = match quant {
        Quant::Q2K => GgmlDType::Q2K,
        Quant::Q3K => GgmlDType::Q3K,
        Quant::Q4K => GgmlDType::Q4K,
        Quant::Q5K => GgmlDType::Q5K,
        _ => GgmlDType::Q6K,
    };
    let quantize = || {
        let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
        Ok(QTensor::quantize(&tensor, dtype)?.data()?.into_owned())
    };
    quantize()
        .map_err(|e: candle_core::Error| Error::Target(format!("{quant} blocks could not be made: {e}")))
}

#[cfg(not(feature = "k-quants"))]
fn k_blocks(quant: Quant, _: &[f32]) -> Result<Vec<u8>> {
    Err(quant.not_made())
}

with_avx2!(magnitude(values: &[f32]) -> f32 = largest);
with_avx2!(blocks<const N: usize, B: Encode<N>>(values: &[f32], out: &mut [u8]) = portable_blocks);
with_avx2!(ternary_blocks<const N: usize, B: Pack<N>>(codes: Codes, values: &[f32], out: &mut [u8]) = portable_ternary);

#[inline(always)]
fn portable_blocks<const N: usize, B: Encode<N>>(values: &[f32], out: &mut [u8]) {
    let out: &mut [B] = bytemuck::cast_slice_mut(out);
    for (values, out) in values.as_chunks::<N>().0.iter().zip(out) {
        *out = B::encode(values);
    }
}

#[inline(always)]
fn portable_ternary<const N: usize, B: Pack<N>>(rule: Codes, values: &[f32], out: &mut [u8]) {
    let out: &mut [B] = bytemuck::cast_slice_mut(out);
    for (values, out) in values.as_chunks::<N>().0.iter().zip(out) {
        let (scale, factor, at) = match rule {
            Codes::ByBlock => {
                let largest = largest(values);
                (largest, inverse(largest), 0.5)
            }
            Codes::Whole { line, scale } => (scale, 1.0, line.next_up()),
        };
        let mut codes = [1u8; N];
        let mut live = 0;
        for (code, value) in codes.iter_mut().zip(values) {
            let value = value * factor;
            *code = 1 + u8::from(value >= at) - u8::from(value <= -at);
            live |= *code ^ 1;
        }
        *out = B::pack(&codes, if live == 0 { 0.0 } else { scale });
    }
}

/// 1 / d, and 0 for 0.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The largest magnitude of a multiple of 16 values.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for chunk in values.as_chunks::<16>().0 {
        for i in 0..16 {
            let value = chunk[i].abs();
            lanes[i] = if value > lanes[i] { value } else { lanes[i] };
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
    }
    lanes[0]
}

/// The first value of the largest magnitude, with its sign.
#[inline(always)]
fn extreme(values: &[f32; 32]) -> f32 {
    values.iter().fold(0.0f32, |most, &value| if value.abs() > most.abs() { value } else { most })
}

/// The smallest and the largest value.
#[inline(always)]
fn range(values: &[f32; 32]) -> (f32, f32) {
    values.iter().fold((f32::MAX, -f32::MAX), |(low, high), &value| {
        (if value < low { value } else { low }, if value > high { value } else { high })
    })
}

fn half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// A block that is made from values.
trait Encode<const N: usize>: Pod {
    fn encode(values: &[f32; N]) -> Self;
}

impl Encode<32> for Q8_0 {
    #[inline(always)]
    fn encode(values: &[f32; 32]) -> Self {
        let d = largest(values) / 127.0;
        let factor = inverse(d);
        let mut qs = [0; 32];
        for i in 0..32 {
            // Halves round away from zero: adding what is next below a half and cutting does so, and nothing else.
            let q = (values[i] * factor).clamp(-127.0, 127.0);
            let whole = (q + JUST_BELOW_HALF.copysign(q)).trunc();
            // Here the last bits of an f32 are those of the integer it holds.
            qs[i] = (whole + 1.5 * (1 << 23) as f32).to_bits() as i8;
        }
        Q8_0 { d: half(d), qs }
    }
}

/// The largest f32 below 0.5.
const JUST_BELOW_HALF: f32 = 0.5f32.next_down();

/// Quants 0 to `most` of values times `factor` plus `shift`, cut to integers.
#[inline(always)]
fn cut(values: &[f32; 32], factor: f32, shift: f32, most: u8) -> [u8; 32] {
    values.map(|x| ((x * factor + shift) as u8).min(most))
}

#[inline(always)]
fn low_halves(q: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| (q[i] & 15) | (q[i + 16] << 4))
}

#[inline(always)]
fn fifth_bits(q: &[u8; 32]) -> [u8; 4] {
    q.iter().enumerate().fold(0u32, |bits, (i, q)| bits | u32::from(q >> 4) << i).to_le_bytes()
}

impl Encode<32> for Q4_0 {
    #[inline(always)]
    fn encode(values: &[f32; 32]) -> Self {
        let d = extreme(values) / -8.0;
        Q4_0 { d: half(d), qs: low_halves(&cut(values, inverse(d), 8.5, 15)) }
    }
}

impl Encode<32> for Q4_1 {
    #[inline(always)]
    fn encode(values: &[f32; 32]) -> Self {
        let (low, high) = range(values);
        let d = (high - low) / 15.0;
        let q = cut(&values.map(|x| x - low), inverse(d), 0.5, 15);
        Q4_1 { d: half(d), m: half(low), qs: low_halves(&q) }
    }
}

impl Encode<32> for Q5_0 {
    #[inline(always)]
    fn encode(values: &[f32; 32]) -> Self {
        let d = extreme(values) / -16.0;
        let q = cut(values, inverse(d), 16.5, 31);
        Q5_0 { d: half(d), qh: fifth_bits(&q), qs: low_halves(&q) }
    }
}

impl Encode<32> for Q5_1 {
    #[inline(always)]
    fn encode(values: &[f32; 32]) -> Self {
        let (low, high) = range(values);
        let d = (high - low) / 31.0;
        let q = cut(&values.map(|x| x - low), inverse(d), 0.5, 31);
        Q5_1 { d: half(d), m: half(low), qh: fifth_bits(&q), qs: low_halves(&q) }
    }
}

/// A block of ternary codes, each value + 1.
trait Pack<const N: usize>: Pod {
    fn pack(codes: &[u8; N], scale: f32) -> Self;
}

impl Pack<256> for Tq2_0 {
    #[inline(always)]
    fn pack(codes: &[u8; 256], scale: f32) -> Self {
        let mut qs = [0; 64];
        for (codes, qs) in codes.as_chunks::<128>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
            for (i, q) in qs.iter_mut().enumerate() {
                *q = codes[i] | codes[i + 32] << 2 | codes[i + 64] << 4 | codes[i + 96] << 6;
            }
        }
        Tq2_0 { qs, d: half(scale) }
    }
}

/// Five base-3 digits, the first the highest, as a byte that multiplication decodes.
#[inline(always)]
fn five_digits(digits: [u8; 5]) -> u8 {
    let number = digits.into_iter().fold(0, |number, digit| 3 * number + digit);
    (u16::from(number) * 256).div_ceil(243) as u8
}

impl Pack<256> for Tq1_0 {
    #[inline(always)]
    fn pack(codes: &[u8; 256], scale: f32) -> Self {
        let mut qs = [0; 48];
        let (first, second) = qs.split_at_mut(32);
        for (i, q) in first.iter_mut().enumerate() {
            *q = five_digits(std::array::from_fn(|n| codes[32 * n + i]));
        }
        for (i, q) in second.iter_mut().enumerate() {
            *q = five_digits(std::array::from_fn(|n| codes[160 + 16 * n + i]));
        }
        let qh = std::array::from_fn(|i| {
            five_digits([codes[240 + i], codes[244 + i], codes[248 + i], codes[252 + i], 0])
        });
        Tq1_0 { qs, qh, d: half(scale) }
    }
}

/// Elements that share bytes in I2_S: the packing is [`ckpt_inspect::TernaryPacking::BitnetX86`].
const I2_S_BLOCK: usize = 128;

type I2sBlock = [u8; I2_S_BLOCK / 4];

impl Pack<I2_S_BLOCK> for I2sBlock {
    #[inline(always)]
    fn pack(codes: &[u8; I2_S_BLOCK], _scale: f32) -> Self {
        std::array::from_fn(|i| codes[i] << 6 | codes[i + 32] << 4 | codes[i + 64] << 2 | codes[i + 96])
    }
}

#[cfg(test)]
mod tests {
    use ckpt_inspect::TernaryPacking;

    use super::*;

    #[test]
    fn names_and_numbers_are_told_apart() {
        for quant in Quant::all() {
            assert_eq!(quant.name().parse(), Ok(quant));
            assert_eq!(Quant::of(quant.dtype()), Some(quant));
            assert_eq!(quant.ggml().name().to_lowercase(), quant.name());
        }
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
        agree!(blocks, portable_blocks, 32, Q8_0);
        agree!(blocks, portable_blocks, 32, Q4_0);
        agree!(blocks, portable_blocks, 32, Q4_1);
        agree!(blocks, portable_blocks, 32, Q5_0);
        agree!(blocks, portable_blocks, 32, Q5_1);
        for rule in [Codes::ByBlock, Codes::Whole { line: 0.03, scale: 0.06 }] {
            agree!(ternary_blocks, portable_ternary, 256, Tq1_0, rule);
            agree!(ternary_blocks, portable_ternary, 256, Tq2_0, rule);
            agree!(ternary_blocks, portable_ternary, 128, I2sBlock, rule);
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
        assert_eq!((&out[64..66], &out[130..132]), (&half(1.0)[..], &half(0.0)[..]));
        assert!(encode(Quant::Tq2_0, Codes::ByBlock, &values[..100], &mut out).is_err());
        assert!(encode(Quant::F32, Codes::ByBlock, &values, &mut out).is_err());
    }
}
