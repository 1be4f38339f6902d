//! Bytes of bf16 that are called f16: sixteen bits of which the exponent is three bits longer are read with its lowest bits
//! as the first of the mantissa, so that magnitudes over eight octaves land in one, and nearly all between a half and two.
//! No initialization and no training does that. Quantized weights that do have few magnitudes; pruning and ternary weights
//! leave zeros.

use super::{Check, Rule, Ruling};
use crate::DType;
use crate::ggml::GgmlType;
use crate::meaning::role::Role;
use crate::record::Histogram;
use crate::verdict::{Finding, Verdict};

/// The share of nonzero elements from a half up to two.
const SHARE: f64 = 0.98;
/// What 8 becomes. What was from 2 to 8 is below it, of which there is some in tables that are drawn with a std of 1.
const BEYOND: f64 = 2.5;
/// The share from a half up to two of those that have some.
const MOST: f64 = 0.9;
/// Fewer elements are no evidence.
const ENOUGH: u64 = 1024;
/// Of so many elements one is zero at most.
const NONZERO: u64 = 50;

pub(super) const RULE: Rule = Rule {
    name: "misread",
    summary: "All magnitudes of a matrix lie within a factor of four about 1, as when bf16 is read as f16.",
    levels: &[Verdict::Corrupt],
    roles: &[
        Role::Matrix,
        Role::Convolution,
        Role::Head,
        Role::Router,
        Role::Embedding,
        Role::LoraA,
        Role::LoraB,
    ],
    check: Check::Matrix(|matrix, _| {
        let Histogram { first, counts } = matrix.stats.histogram.as_ref()?;
        let all: u64 = counts.iter().sum();
        let of_octave = |octave: i32| counts.get(usize::try_from(octave - first).ok()?);
        let about_one: u64 = [-1, 0].into_iter().filter_map(of_octave).sum();
        let two = if matrix.stats.abs_max? < BEYOND { of_octave(1).unwrap_or(&0) } else { &0 };
        let about_one = if about_one as f64 >= MOST * all as f64 { about_one + two } else { about_one };
        let share = about_one as f64 / all as f64;
        let varied = matrix.stats.abs_max? > 1.01 * matrix.stats.abs_mean?;
        let binary = matrix.tensor.dtype == DType::Ggml(GgmlType::Q1_0);
        let full = matrix.stats.zeros <= matrix.stats.count / NONZERO;
        let flat = matrix.tensor.structure.as_ref().is_some_and(|s| 2 * s.flat_rows > s.sampled_rows);
        let factor = matches!(matrix.role(), Role::Embedding | Role::LoraA | Role::LoraB);
        let real = matrix.ternary.is_none() && !matrix.tensor.dtype.is_complex();
        let judged = (matrix.is_plain() || (factor && real)) && !binary && !flat && full && all >= ENOUGH;
        (judged && share >= SHARE && varied && matrix.min < 0.0)
            .then(|| Ruling::new(Verdict::Corrupt, Finding::Misread { share }))?
    }),
};
