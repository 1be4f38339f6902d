//! Variances and second moments are means of squares: never negative, and never so large that nothing comes through.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::optimizer::is_of_squares;
use crate::verdict::{Finding, Verdict};

/// Activations of a standard deviation of a million.
const HUGE: f64 = 1e12;

pub(super) const RULE: Rule = Rule {
    name: "impossible-variance",
    summary: "A running variance or a second moment is negative, or a running variance is above 1e12.",
    levels: &[Verdict::Corrupt],
    roles: &[Role::RunningVariance, Role::Moment],
    check: Check::Elements(|tensor, stats| {
        let (min, max) = (stats.min?, stats.max?);
        let is_moment =
            tensor.role == Role::Moment && is_of_squares(tensor.name.rsplit('.').next().unwrap_or_default());
        let is_variance = tensor.role == Role::RunningVariance;
        let wrong = (is_moment && min < 0.0) || (is_variance && (min < 0.0 || max > HUGE));
        let value = if min < 0.0 { min } else { max };
        wrong.then(|| Ruling::new(Verdict::Corrupt, Finding::ImpossibleVariance { value }))?
    }),
};
