//! Codes of a quantized weight that are the same all over a block, in many of its blocks: nothing but their scales is left.
//! Outliers leave the rest of a block on one level too, but not the whole block, and zeros are zeros.

use super::{Check, MATRICES, Rule, Ruling};
use crate::DType;
use crate::health::measures::{FLAT, REPEATED};
use crate::verdict::{Finding, Verdict};

/// The share of elements in such blocks from which on it is no matrix that was learnt.
const MANY: f64 = 0.25;
/// Fewer elements may be so by chance.
const ENOUGH: u64 = 256;
/// The share of elements, and how many, that stand where whole stretches repeat those before them. By chance none does.
const SOME: f64 = 0.01;
const FEW: f64 = 2048.0;

pub(super) const RULE: Rule = Rule {
    name: "quant-blocks",
    summary: "The codes of a quantized weight are the same all over a block, in a quarter of its blocks or more, or blocks repeat those before them.",
    levels: &[Verdict::Dead],
    roles: MATRICES,
    check: Check::Matrix(|matrix, _| {
        let is_coded = matches!(matrix.tensor.dtype, DType::Ggml(_) | DType::Quantized(_));
        let count = matrix.stats.count;
        if !is_coded || count < ENOUGH || matrix.is_constant() {
            return None;
        }
        if let Some(share) = matrix.stats.computed.get(FLAT).filter(|share| *share >= MANY) {
            return Ruling::new(Verdict::Dead, Finding::FlatBlocks { share });
        }
        let share = matrix.stats.computed.get(REPEATED)?;
        let found = share >= SOME && share * count as f64 >= FEW;
        found.then(|| Ruling::new(Verdict::Dead, Finding::RepeatedBlocks { share }))?
    }),
};
