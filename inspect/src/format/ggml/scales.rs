//! Scales in blocks that no encoder of GGML writes.

use serde::{Deserialize, Serialize};

use super::blocks::Block;

/// Numbers of blocks by what is wrong with their scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OddScales {
    /// A scale is NaN by the standard of its type, and a number for GGML's decoder.
    #[serde(rename = "nan_scales", default, skip_serializing_if = "is_zero")]
    pub nan: u64,
    /// All scales are zero, and the codes are not those of zeros.
    #[serde(rename = "lost_scales", default, skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// A scale is negative, and encoders write none for the type.
    #[serde(rename = "negative_scales", default, skip_serializing_if = "is_zero")]
    pub negative: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl OddScales {
    /// Both together.
    pub(crate) fn with(self, other: Self) -> Self {
        OddScales {
            nan: self.nan + other.nan,
            lost: self.lost + other.lost,
            negative: self.negative + other.negative,
        }
    }
}

/// Those of whole blocks.
pub(super) fn odd_scales<const N: usize, B: Block<N>>(bytes: &[u8]) -> OddScales {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    let mut odd = OddScales::default();
    for (block, bytes) in blocks.iter().zip(bytes.chunks_exact(size_of::<B>())) {
        odd.nan += u64::from(block.has_nan_scale());
        let is_zero = |at: &usize| bytes[*at] == 0 && bytes[at + 1] & 0x7f == 0;
        if !B::SCALES.is_empty() && B::SCALES.iter().all(is_zero) {
            odd.lost += u64::from(says_more(bytes, B::SCALES));
        }
        let sign = |at: &usize| bytes[at + 1] & 0x80 != 0 && !is_zero(at);
        odd.negative += u64::from(!B::IS_SIGNED && B::SCALES.first().is_some_and(sign));
    }
    odd
}

/// Whether what is beside the scales of a block has more than two values: encoders write one for zeros, and one for upper
/// bits beside it.
fn says_more(block: &[u8], scales: &[usize]) -> bool {
    let is_scale = |at: usize| scales.iter().any(|&scale| at == scale || at == scale + 1);
    let mut codes = block.iter().enumerate().filter(|(at, _)| !is_scale(*at)).map(|(_, byte)| *byte);
    let Some(first) = codes.next() else { return false };
    let Some(second) = codes.find(|&byte| byte != first) else { return false };
    codes.any(|byte| byte != first && byte != second)
}
