//! What begins at zero by design and has hardly left it: the first steps move each element by a learning rate, so that all
//! of it is tiny, rows may still be alike or zero, and its bias, which began at zero with it, is no larger. What has died
//! keeps a bias of its former size, or is no layer that begins so, or other layers are alive.

use super::{Check, Matrix, Rule, Ruling};
use crate::meaning::role::{Role, is_zero_at_first};
use crate::verdict::{Finding, Verdict, relative_std};

/// The largest element, at most: some steps of the largest usual learning rate.
const NEAR: f64 = 3e-2;
/// std * sqrt(fan_in), at most, where the steps that were taken are not told.
const SMALL: f64 = 3e-2;
/// How many times as large the largest element of its bias may be.
const BIAS: f64 = 10.0;
/// What one step moves at most.
const STEP: f64 = 1e-2;
/// By what factor most matrices are larger than a last layer that began at zero.
const APART: f64 = 2.0;
/// Steps that are the first ones.
const FIRST: u64 = 100;
/// The same where a layer's name does not say that it begins at zero.
const FIRST_FEW: u64 = 10;
/// By what factor the same matrix in other layers may be larger.
const ALIKE: f64 = 100.0;
/// By what factor the matrices beside one are larger that does not say what it is.
const ALONE: f64 = 30.0;

pub(super) const RULE: Rule = Rule {
    name: "hardly-begun",
    summary: "A matrix that is initialised to zero by design is still close to it.",
    levels: &[Verdict::Untrained],
    roles: &[Role::Matrix, Role::Convolution, Role::Head],
    check: Check::Matrix(|matrix, thresholds| {
        (thresholds.are_usual() && has_hardly_begun(matrix)?)
            .then(|| Ruling::new(Verdict::Untrained, Finding::Begun { std: matrix.std }))?
    }),
};

fn has_hardly_begun(matrix: &Matrix<'_>) -> Option<bool> {
    let (network, i) = matrix.among?;
    let most = matrix.stats.abs_max.filter(|most| (0.0..NEAR).contains(most) && !matrix.is_zero())?;
    let judged = matches!(matrix.role(), Role::Matrix | Role::Convolution | Role::Head);
    let steps = network.steps();
    let first = |few: u64| steps.is_some_and(|steps| steps <= few);
    if !judged
        || matrix.ternary.is_some()
        || (steps.is_some() && !first(FIRST))
        || (steps.is_none() && relative_std(matrix.tensor)? >= SMALL)
    {
        return Some(false);
    }
    let siblings = network.siblings(i);
    let largest = siblings.and_then(|siblings| Some(siblings.stds?.1));
    if largest.is_some_and(|largest| largest > ALIKE * matrix.std) {
        return Some(false);
    }
    let name = &matrix.tensor.name;
    let named = is_zero_at_first(name);
    // The first step of some optimizers moves all of it alike.
    if matrix.is_constant() && !named && steps.is_none() && most > STEP {
        return Some(false);
    }
    // What shrank shrank with all else.
    let apart = || named || network.usual().is_none_or(|(usual, _)| usual > APART * matrix.std);
    let first = |few: u64| first(few) && (first(FIRST_FEW) || few < FIRST || apart());
    let bias = name.strip_suffix("weight").and_then(|module| network.named(&format!("{module}bias")));
    let of_bias = bias.map(|bias| bias.stats.as_ref().and_then(|stats| stats.abs_max));
    if !named && !matrix.is_last() {
        // The last matrix of a branch, of which all else is as large as it begins.
        let everywhere = siblings.is_some_and(|siblings| siblings.alive > 1 && siblings.zero == 0);
        let alone = network.least_beside(i).is_some_and(|least| least > ALONE * matrix.std);
        let with_bias = of_bias.flatten().is_some_and(|of_bias| of_bias > 0.0 && of_bias <= BIAS * most);
        return Some(everywhere && alone && (with_bias || first(FIRST_FEW)));
    }
    Some(match of_bias {
        None => (named && network.trained() != Some(true)) || first(FIRST),
        // Where points are looked for begins as a grid, which is in the bias.
        Some(_) if name.contains("sampling_offsets") => true,
        Some(of_bias) => match of_bias? {
            0.0 => named || first(FIRST),
            of_bias => of_bias <= BIAS * most || first(FIRST_FEW),
        },
    })
}
