//! Scales of quantized weights that nothing can be multiplied by.

use super::{Check, Rule, Ruling};
use crate::DType;
use crate::quantized::{Code, Maker};
use crate::record::TensorRecord;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "quant-scales",
    summary: "A quantized weight has scales that are NaN, infinite, negative, or zero for codes that are not zero, or zero points that no code can be.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Tensor(check),
};

/// The share of GGML's blocks from which on lost scales are no blocks whose values f16 has no scale for.
const MANY: f64 = 0.01;

/// What is wrong with the scales of GGML's blocks.
fn of_blocks(tensor: &TensorRecord) -> Option<Ruling> {
    let (DType::Ggml(kind), Some(stats)) = (tensor.dtype, &tensor.stats) else { return None };
    let count = stats.count / kind.block_elements() as u64;
    let odd = stats.odd_scales.as_ref()?;
    // Where all of it is zero, that says more.
    let lost = odd.lost;
    let is_many = lost as f64 >= MANY * count as f64 && stats.zeros < stats.count;
    let zero = if is_many { lost } else { 0 };
    let negative = odd.negative;
    let finding = Finding::QuantScales { nan: 0, inf: 0, zero, negative, count };
    (zero + negative > 0).then(|| Ruling::new(Verdict::Corrupt, finding))?
}

fn check(tensor: &TensorRecord) -> Option<Ruling> {
    of_blocks(tensor).or_else(|| of_parts(tensor))
}

fn of_parts(tensor: &TensorRecord) -> Option<Ruling> {
    let scales = tensor.quantized.as_ref()?.scales?;
    let DType::Quantized(kind) = tensor.dtype else { return None };
    // MLX's groups may be stored upside down.
    let negative = if kind.maker == Maker::Mlx { 0 } else { scales.negative };
    let zero = if scales.silenced > 0 { scales.zero } else { 0 };
    if scales.nan + scales.inf + zero + negative == 0 {
        let outside = scales.zero_points_outside;
        return (outside > 0).then(|| Ruling::new(Verdict::Corrupt, Finding::ZeroPoints { outside }))?;
    }
    // A power of two is only NaN as the byte 255.
    let finding = match kind.code {
        Code::Mxfp4 | Code::Mxfp8 if scales.nan > 0 => Finding::NanScale,
        _ => Finding::QuantScales { nan: scales.nan, inf: scales.inf, zero, negative, count: scales.count },
    };
    Ruling::new(Verdict::Corrupt, finding)
}
