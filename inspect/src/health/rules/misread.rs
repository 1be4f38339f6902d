//! Bytes of bf16 that are called f16: sixteen bits of which the exponent is three bits longer are read with its lowest bits
//! as the first of the mantissa, so that magnitudes over eight octaves land in one. No initialization and no training
//! leaves all magnitudes within a factor of two to four; matrices of one magnitude (binary ones) are left out, also where it
//! is one for each block, and those with zeros, of which pruning and ternary weights leave only what is large.

use super::{Check, Rule, Ruling};
use crate::DType;
use crate::ggml::GgmlType;
use crate::verdict::{Finding, Verdict};

/// The share of nonzero elements within two neighbouring octaves.
const SHARE: f64 = 0.98;
/// Fewer elements are no evidence.
const ENOUGH: u64 = 1024;
/// Of so many elements one is zero at most.
const NONZERO: u64 = 50;

pub(super) const RULE: Rule = Rule {
    name: "misread",
    summary: "All magnitudes of a matrix lie within a factor of four, as when bf16 is read as f16.",
    check: Check::Matrix(|matrix, _| {
        let counts = &matrix.stats.histogram.as_ref()?.counts;
        let all: u64 = counts.iter().sum();
        let heaviest =
            counts.windows(2).map(|pair| pair[0] + pair[1]).chain(counts.first().copied()).max()?;
        let share = heaviest as f64 / all as f64;
        let varied = matrix.stats.abs_max? > 1.01 * matrix.stats.abs_mean?;
        let binary = matrix.tensor.dtype == DType::Ggml(GgmlType::Q1_0);
        let full = matrix.stats.zeros <= matrix.stats.count / NONZERO;
        let judged = matrix.is_plain() && !binary && full && all >= ENOUGH;
        (judged && share >= SHARE && varied && matrix.min < 0.0)
            .then(|| Ruling::new(Verdict::Corrupt, Finding::Misread { share }))?
    }),
};
