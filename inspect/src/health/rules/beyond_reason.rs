//! A bound for every role: what is larger than anything that it can be. The highest bit of an exponent, flipped, makes
//! some 1e37 of any bias or mean in f32 and bf16.

use super::{Check, Rule, Ruling};
use crate::meaning::role::Role;
use crate::record::TensorRecord;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Features in any unit, and what comes of them, stay below.
const MOST: f64 = 1e18;
/// Gains of normalizations begin at 1.
const MOST_OF_GAINS: f64 = 1e5;
/// Moments hold squares of gradients of any loss.
const MOST_OF_MOMENTS: f64 = 1e24;
/// The largest finite f32 and bf16, which stand for infinity where that would make NaN.
const LIMITS: [f64; 2] = [f32::MAX as f64, 3.389_531_389_251_535_5e38];

pub(super) const RULE: Rule = Rule {
    name: "beyond-reason",
    summary: "A value is larger than anything of its role can be: a bias of 1e37, a gain of 1e6.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Elements(|tensor, stats| {
        let bound = bound(tensor)?;
        let value = stats.abs_max.filter(|largest| *largest >= bound && !is_filling(tensor, *largest))?;
        Ruling::new(Verdict::Corrupt, Finding::BeyondReason { value, bound })
    }),
};

fn bound(tensor: &TensorRecord) -> Option<f64> {
    if tensor.dtype.is_integer() || tensor.group == Group::Other || tensor.role.may_be_infinite() {
        return None;
    }
    Some(match tensor.role {
        Role::Count | Role::Index | Role::ZeroPoint => return None,
        Role::NormGain => MOST_OF_GAINS,
        Role::Moment => MOST_OF_MOMENTS,
        _ => MOST,
    })
}

/// Whether `value` is one that people write for infinity: the type's limit, or a power of ten.
fn is_filling(tensor: &TensorRecord, value: f64) -> bool {
    let is_power = || {
        let power = 10f64.powi(value.log10().round() as i32);
        power == value || power as f32 == value as f32
    };
    let number = tensor.shape.iter().all(|&size| size == 1);
    (number || matches!(tensor.role, Role::Unknown | Role::Bias)) && (LIMITS.contains(&value) || is_power())
}
