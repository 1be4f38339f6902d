//! Codes without their scale: how large they are is not known.

use super::{Rule, Ruling};
use crate::verdict::Finding;

pub(super) const RULE: Rule = Rule::Matrix(|matrix, _| {
    matrix.ternary?.scale.is_none().then(|| Ruling::undecided(Finding::ScaleLost))?
});
