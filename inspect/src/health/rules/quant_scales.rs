//! Scales of quantized weights that nothing can be multiplied by.

use super::{Check, Rule, Ruling};
use crate::DType;
use crate::quantized::{Code, Maker};
use crate::record::TensorRecord;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "quant-scales",
    summary: "A quantized weight has scales that are NaN, infinite, zero beside codes that are not, or negative, or zero points that no code can be.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Tensor(check),
};

fn check(tensor: &TensorRecord) -> Option<Ruling> {
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
