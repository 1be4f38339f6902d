//! Bytes of bf16 that are called f16: sixteen bits of which the exponent is three bits longer are read with its lowest bits
//! as the first of the mantissa, so that magnitudes over eight octaves land in one, and nearly all between a half and two.
//! No initialization and no training does that. Quantized weights that do have few magnitudes; pruning and ternary weights
//! leave zeros.

use super::{Check, PLAIN, Rule, Ruling};
use crate::DType;
use crate::ggml::GgmlType;
use crate::record::Histogram;
use crate::verdict::{Finding, Verdict};

/// The share of nonzero elements from a half up to two.
const SHARE: f64 = 0.98;
/// Fewer elements are no evidence.
const ENOUGH: u64 = 1024;
/// Of so many elements one is zero at most.
const NONZERO: u64 = 50;

pub(super) const RULE: Rule = Rule {
    name: "misread",
    summary: "All magnitudes of a matrix lie within a factor of four about 1, as when bf16 is read as f16.",
    levels: &[Verdict::Corrupt],
    roles: PLAIN,
    check: Check::Matrix(|matrix, _| {
        let Histogram { first, counts } = matrix.stats.histogram.as_ref()?;
        let all: u64 = counts.iter().sum();
        let of_octave = |octave: i32| counts.get(usize::try_from(octave - first).ok()?);
        let about_one: u64 = [-1, 0].into_iter().filter_map(of_octave).sum();
        let share = about_one as f64 / all as f64;
        let varied = matrix.stats.abs_max? > 1.01 * matrix.stats.abs_mean?;
        let binary = matrix.tensor.dtype == DType::Ggml(GgmlType::Q1_0);
        let full = matrix.stats.zeros <= matrix.stats.count / NONZERO;
        let flat = matrix.tensor.structure.as_ref().is_some_and(|s| 2 * s.flat_rows > s.sampled_rows);
        let judged = matrix.is_plain() && !binary && !flat && full && all >= ENOUGH;
        (judged && share >= SHARE && varied && matrix.min < 0.0)
            .then(|| Ruling::new(Verdict::Corrupt, Finding::Misread { share }))?
    }),
};
